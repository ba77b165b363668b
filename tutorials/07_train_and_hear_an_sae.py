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
# You will write activations to the disk, train a TopK dictionary on them, score it beside codes that nobody had to
# train, put it into the model, listen to one of its features, and take that feature away. Not all of the answers are
# yes.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Audio, display

from hooked_whisper import HookedWhisper
from hooked_whisper.audio import clip_around
from hooked_whisper.features import Site, label_names, label_positions, purity, scan
from hooked_whisper.interventions import outcome
from hooked_whisper.speech import SpokenWorld, world_recordings
from sae_lens_audio import TopK, TopKConfig, Trainer, TrainingConfig, ablate_latents, harvest
from sae_lens_audio.activations import StoredBlocks
from sae_lens_audio.evals import EvaluationOptions, PhoneOptions, RandomFeatures, evaluate, labelled_clips
from sae_lens_audio.training import read_metrics

MODEL = "demo"  # or "tiny" ... "large-v3"
plt.rcParams["figure.dpi"] = 80

# %% [markdown]
# Recordings in three parts: some to train on, by the voices that the demo model was trained on too; some to score on
# and the rest to listen to and to edit, by voices that neither the model nor the dictionary hears in training. What is
# picked as the best of many features on the second part is looked at on the third.

# %%
model = HookedWhisper.from_pretrained(MODEL)
hook = f"encoder.blocks.{model.cfg.encoder.n_layers // 2}"  # the residual stream behind this block
world = SpokenWorld.default()
training = world_recordings(world, 40, seed=2, speakers="train")
others = world_recordings(world, 140, seed=2)[40:]  # the same seed gives the same sentences: these were not trained on
scoring = labelled_clips(model, others[:20], 20).clips
looking = others[20:38]
print(f"{len(training)} recordings to train on, {len(scoring)} to score on, {len(looking)} to look at; {hook}")

# %% [markdown]
# ## Harvest
#
# `harvest` runs the model up to the hook point and no further, leaves the padding behind the sound out, and writes
# shuffled rows that can be read again and again. There are few here: a real run takes hours of speech, and everything
# below stays the same.

# %%
folder = tempfile.TemporaryDirectory()
store = harvest(model, training, hook, Path(folder.name) / "activations", progress=False)
d = store.width(hook)
print(f"{store.rows} rows of {d} from {store.seconds:.0f} s of sound, {store.bytes / 2**20:.1f} MiB")
print(f"mean length of a row {store.statistics[store.hooks[0]].mean_norm:.1f}")

# %% [markdown]
# ## Train
#
# Four features for every dimension, 16 of them at a time. The untrained dictionary beside it has the same sizes and
# fresh weights.

# %%
config = TopKConfig(d_in=d, d_sae=4 * d, k=16)
settings = TrainingConfig(steps=300, batch=512, lr=3e-3, warmup_steps=20, decay_steps=100, dead_after=20_000)
run = Path(folder.name) / "run"
trainer = Trainer(TopK(config, seed=0), StoredBlocks(store, hook), settings, run, log_every=20)
sae, untrained = (one.to(model.device) for one in (trainer.fit(progress=False), TopK(config, seed=0).eval()))

metrics = read_metrics(run)
last = metrics[-1]
print(f"step {last['step']}: explained variance of the batch {last['explained_variance']:.3f}, L0 {last['l0']:.0f}")

# %% [markdown]
# ## Score
#
# The training batch says little: with so few rows it was seen dozens of times. `evaluate` takes speech by other voices.
# Rows named `k=16` are the 16 largest coefficients in bases that are complete and orthonormal: principal directions,
# random ones, the dimensions themselves. First table: how much of the activation is there again. Second: what the model
# makes of it, spliced in at the sound's positions, beside setting the activation to its mean or to zero. Third: how
# well single features find phones (F1 on other speakers), beside as many random directions. Square brackets are 95 %
# intervals over clips, features or phones.

# %%
rows = store.read(hook).rows[0]
options = EvaluationOptions(spliced_clips=5, padding_too=False, phones=PhoneOptions(folds=3, min_tokens=10))
scores = evaluate(model, {"trained": sae, "untrained": untrained}, hook, scoring, rows, options)
print(scores)

# %% [markdown]
# Make three comparisons. **Explained variance**: random directions are no rival, but principal directions at the same
# L0 are: what is left between them and the dictionary is what sparse training has earned. **Words**: are the intervals
# of those two apart at all, with so few clips? **Phones**: in the figure on the right, the best feature of each phone
# against the best of as many random directions; in the table (F1 of features), the average feature. A dictionary may
# win the one and lose the other. The left figure shows how far the training batch is from other voices.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
left.plot([m["step"] for m in metrics], [m["explained_variance"] for m in metrics], label="training batch")
equal_l0 = [name for name, basis in scores.baselines.items() if basis in ("pca", "random")][:2]
for k, name in enumerate(("trained", *equal_l0)):
    value = scores.reconstruction[name].explained_variance
    left.axhline(value, color=f"C{k + 1}", linestyle="--", label=f"{name}, other voices")
left.set(xlabel="step", ylabel="explained variance", ylim=(0, 1))
left.legend(fontsize=7, loc="lower right")
for name in ("trained", f"random x{4 * d}", "untrained", "mel bands"):
    right.plot(np.sort(scores.phones[name].best_f1)[::-1], marker=".", label=name)
right.plot(np.sort(scores.phones["trained"].shifted_best_f1)[::-1], ":", color="C0", label="trained, labels shifted")
right.set(xlabel="phones, best found first", ylabel="F1 of the best feature", ylim=(0, 1))
right.legend(fontsize=7)
plt.show()

# %% [markdown]
# ## Into the model
#
# `splice` puts a dictionary at its hook point, decoding included. With its error term the model's output is its own,
# bit for bit or nearly so, until somebody edits a latent; without, everything behind the point sees the reconstruction
# alone. Only positions of the sound are replaced, as in training.

# %%
clip = scoring[1]
mel, text = model.to_mel(clip.audio), clip.alignment.text
tokens = model.to_tokens(f" {text}")
sound = slice(0, model.time.n_positions(clip.alignment.duration))
with torch.no_grad():
    clean = model(mel, tokens)
    written = model.decode(mel, language="en", without_timestamps=True)[0].text
    print(f"said: {text!r}; written without a dictionary: {written!r}")
    for name, one, error in (("trained", sae, True), ("trained", sae, False), ("untrained", untrained, False)):
        with model.splice(one, hook, error_term=error, positions=sound):
            written = model.decode(mel, language="en", without_timestamps=True)[0].text
            moved = (model(mel, tokens) - clean).abs().max().item()
        print(f"{name}, error term {error}: {written!r}, logits moved by up to {moved:.2g}")

# %% [markdown]
# ## Hear a feature
#
# Take the phone for which the dictionary is farthest ahead of the spectrogram's bands (a hiss needs no network), its
# best feature there, and the best of as many random directions for the same phone. `scan` looks for their strongest
# moments in sentences that neither was chosen on. How many of those moments are of the phone? The players have the
# three strongest of each, with the moment itself ten times louder.

# %%
chosen = (scores.phones["trained"].best_f1 - scores.phones["mel bands"].best_f1).argmax()
phone = scores.phones["trained"].phones[chosen]
feature, rival = (int(scores.phones[name].best_feature[chosen]) for name in ("trained", f"random x{4 * d}"))
random = RandomFeatures.like(4 * d, rows.double().mean(0).float(), options.seed)

sites = [Site(hook, sae, "trained"), Site(hook, random, "random")]
found = scan(model, looking, sites, Path(folder.name) / "scan", progress=False)
names = label_names(clip.alignment for clip in scoring)


def phones_of(alignment):
    """Number of the phone at each position of a recording."""
    return label_positions(alignment, model.time.n_positions(alignment.duration), names, model.time).ids


for name, number in (("trained", feature), ("random", rival)):
    top = found[name].top
    there = [r for r in range(10) if top.recordings[number, r] >= 0]
    ids = [phones_of(looking[top.recordings[number, r]].alignment())[top.positions[number, r]] for r in there]
    pure = purity(np.array([ids]), names, without={"SIL"})
    low, high = (float(x[0]) for x in pure.interval)
    print(f"{name} {number}, chosen for /{phone}/: {' '.join(names[i] if i >= 0 else '?' for i in ids)}", end="; ")
    print(f"share of /{pure.labels[0]}/ {pure.purity[0]:.2f} [{low:.2f}, {high:.2f}]")
    moments = [
        clip_around(looking[i].audio(), model.time.seconds(at)).limited
        for i, at in zip(top.recordings[number, there[:3]], top.positions[number, there[:3]], strict=True)
    ]
    print("  the first three:", ", ".join(looking[i].text for i in top.recordings[number, there[:3]]))
    display(Audio(np.concatenate(moments), rate=16000))

# %% [markdown]
# ## Take it away
#
# A feature that goes along with a phone need not be what the model hears the phone by. First the latents that rise most
# during the phone, on the training rows: is it one, or is the phone spread over many?

# %%
block = store.read(hook)
with torch.no_grad():
    latents = sae.encode(block.rows[0].to(model.device)).cpu()
spoken = [phones_of(one.alignment()) if of.rows else () for one, of in zip(training, store.recordings, strict=True)]
ids = [spoken[r][p] for r, p in zip(block.recording.tolist(), block.position.tolist(), strict=True)]
during = torch.tensor(ids) == names.index(phone)
rise = latents[during].mean(0) - latents[~during].mean(0)
order = rise.argsort(descending=True)
print(f"{int(during.sum())} positions of /{phone}/; latents that rise most:", order[:6].tolist())
print("by", " ".join(f"{x:.1f}" for x in rise[order[:6]]), f"; the feature above is number {feature}")

# %% [markdown]
# Now set 1, 4 and 16 of them to zero, with the error term (so that nothing else changes), in sentences that were not
# used yet, and compare the log-probability of every word before and after. Two controls: words without the phone; and a
# change of the same size, at the same positions, along a random direction.

# %%
unused = labelled_clips(model, others[38:], 62).clips
with_phone = [clip for clip in unused if any(p.label == phone for p in clip.alignment.phones)][:6]
mels = model.to_mel([clip.audio for clip in with_phone])
texts = [model.to_tokens(f" {clip.alignment.text}")[0] for clip in with_phone]
tokens = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=model.tokenizer.eot)
start, words = len(model.to_tokens("")[0]), []  # a word of this world is one token
for row, clip in enumerate(with_phone):
    for k, word in enumerate(clip.alignment.words):
        inside = {p.label for p in clip.alignment.phones if word.start <= (p.start + p.end) / 2 < word.end}
        words.append((row, start + k, phone in inside))
rows_of, places, has = (np.array(x) for x in zip(*words, strict=True))


def logprobs():
    """Of every word of the sentences, in nats."""
    with torch.no_grad():
        predicted = model(mels, tokens).log_softmax(-1)
    return predicted[rows_of, places - 1, tokens[rows_of, places]].cpu().numpy()


def pushed(chosen, seed=0):
    """A hook: as large a change as taking these latents away, along a random direction."""
    direction = torch.randn(d, generator=torch.Generator().manual_seed(seed)).to(model.device)

    def hook_fn(x):
        part = sae.encode(x)[..., chosen] @ sae.W_dec[chosen]
        return x - part.norm(dim=-1, keepdim=True) * direction / direction.norm()

    return [(hook, hook_fn)]


clean, numbers, changes, controls = logprobs(), (1, 4, 16), [], []
for n in numbers:
    with model.splice(sae, hook, error_term=True), model.hooks(fwd_hooks=ablate_latents(hook, order[:n])):
        changes.append(logprobs() - clean)
    with model.hooks(fwd_hooks=pushed(order[:n])):
        controls.append(logprobs() - clean)
    print(f"{n:2} latents: {has.sum()} words with /{phone}/ {changes[-1][has].mean():+.3f} nats,", end=" ")
    print(f"without {changes[-1][~has].mean():+.3f}, random direction {controls[-1][has].mean():+.3f}")

# %% [markdown]
# Every dot is a word: see whether a mean is the work of many words or of one. If a single latent does next to nothing
# although it finds the phone well, that is the usual result: the error term and the other latents carry the phone too,
# and so do the neighbouring words. Being found by F1 and being needed are two things.

# %%
figure, panel = plt.subplots(figsize=(7, 3), layout="constrained")
groups = (
    (f"words with /{phone}/", [c[has] for c in changes]),
    ("words without it", [c[~has] for c in changes]),
    (f"with /{phone}/, random direction", [c[has] for c in controls]),
)
for k, (label, values) in enumerate(groups):
    for at, one in enumerate(values):
        panel.plot(np.full(len(one), at + 0.22 * (k - 1)), one, ".", color=f"C{k}", alpha=0.6)
    means = [one.mean() for one in values]
    panel.plot(np.arange(3) + 0.22 * (k - 1), means, "_", color=f"C{k}", markersize=16, label=label)
panel.set_xticks(range(3), [str(n) for n in numbers])
panel.set(xlabel="latents taken away", ylabel="change of log-probability (nats)")
panel.legend(fontsize=8, loc="lower left")
plt.show()

# %% [markdown]
# Last, what the model writes. The sentence is the one whose words lose most, so it shows what can happen, not what
# usually does; the random direction is on the same sentence. If the text stays, look at the last column of the table:
# how much less probable each word has become.

# %%
worst = int(rows_of[np.where(has, changes[-1], 0).argmin()])
said, mel, away = with_phone[worst].alignment, mels[worst : worst + 1], ablate_latents(hook, order[:16])
with model.splice(sae, hook, error_term=True):
    display(outcome(model, mel, fwd_hooks=away, reference=said.text, alignment=said, label="16 latents away"))
with model.hooks(fwd_hooks=pushed(order[:16])):
    written = model.decode(mel, language="en", without_timestamps=True)[0].text
print(f"said: {said.text!r}; written after the same push along a random direction: {written!r}")
folder.cleanup()

# %% [markdown]
# ## Exercises
#
# 1. Change `k` to 4 and to 32. Does the distance to the principal directions of equal L0 grow or shrink?
# 2. Change `MODEL` to `"tiny"`. Its residual stream is three times as wide; do 40 recordings still do?
# 3. Load the packaged dictionary (`load_demo("topk-2").sae`: 8,000 sentences, 5,000 steps, 32 features at a time) and
#    add it to `evaluate`. What did the longer training buy: variance, words or phones?
# 4. Replace the random direction by other latents that are as active on the whole (`latents.mean(0)`), then by those of
#    another phone. Which of the three controls is the hardest?
# 5. A small project: train three dictionaries that differ by their seed alone and pass their names as `seeds=` to
#    `evaluate`. What share of the features is found again by the other seeds, and is the feature you listened to among
#    them? Try the same with twice and four times as many recordings.
