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
# We put activations of one run into the other and watch the decision between the two words: stretches of time, blocks,
# heads. Then we estimate all patches at once from one gradient and ask how far the estimate can be trusted.

# %%
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Audio, display
from scipy.stats import spearmanr

from hooked_whisper import HookedWhisper
from hooked_whisper.interventions import (
    Inputs,
    Pair,
    Span,
    agreement,
    attribute_pairs,
    first_difference,
    interval_spans,
    patch_cross_heads,
    patch_encoder_out,
    patch_encoder_resid,
    token_spans,
    window_spans,
    with_spans,
)
from hooked_whisper.speech import SpokenWorld

MODEL = "demo"  # or "tiny" ... "large-v3"
plt.rcParams.update({"figure.dpi": 80, "figure.figsize": (7, 2.8)})
model = HookedWhisper.from_pretrained(MODEL)

# %% [markdown]
# ## Pairs
#
# The spoken world says a sentence twice, the second time with a word that differs by one phone, fitted into the same
# slot: outside it the two sounds are the same, sample by sample. The metric is the logit of the word that was said less
# that of the other one, where the two texts part. A pair that the model cannot tell apart has nothing to restore: such
# pairs are left out, so that what follows is about words that the model does tell apart.

# %%
spoken = [one for one in SpokenWorld.default().minimal_pairs(14) if one.index > 0]  # something stands before the word


def make_pair(one):
    clean, corrupt = one.corruption().mels(model)  # log-mels with one reference maximum
    a, b = (model.to_tokens(f" {text}", language="en")[0] for text in (one.text_a, one.text_b))
    metric = first_difference(a, b)
    tokens = a[None, : metric.index + 1]  # what both texts begin with
    word = interval_spans([one.span], model.time, margin=5)[0]
    end = model.time.n_positions(len(one.clean) / 16000)
    edges = [0, word.start, word.stop, end, model.time.n_ctx]
    spans = tuple(map(Span, ("before", "word", "after", "padding"), edges, edges[1:]))
    return Pair(Inputs(tokens, mel=clean), Inputs(tokens, mel=corrupt), metric, spans, f"{one.a}/{one.b}")


pairs = [make_pair(one) for one in spoken]
at_output = patch_encoder_out(model, pairs)
gap = (at_output.source - at_output.base).flatten()
kept = [i for i in range(len(pairs)) if gap[i] > 2]
pairs, spoken = [pairs[i] for i in kept], [spoken[i] for i in kept]
print(f"{len(pairs)} of {len(gap)} pairs differ by more than 2 logits:", ", ".join(pair.label for pair in pairs))
print(spoken[0].text_a, "/", spoken[0].text_b)
display(Audio(spoken[0].clean, rate=16000), Audio(spoken[0].corrupt, rate=16000))

# %% [markdown]
# ## Which stretch of the encoder's output?
#
# The effect of a patch is the share of the gap between the runs that it restores: 0, nothing happened; 1, as in the other
# run. The stretches before and after the word, and the padding, are the controls.

# %%
at_output = patch_encoder_out(model, pairs)
low, high = at_output.interval()
for k, label in enumerate(at_output.axes[0].labels):
    print(f"{label:8} {at_output.mean[k]:5.2f} [{low[k]:.2f}, {high[k]:.2f}]")

# %% [markdown]
# ## Which block?
#
# The same at the residual stream that enters each encoder block. If the word's stretch restores everything at the last
# block too, later blocks have not moved it elsewhere. Restored at block 0 it must restore all: that is a check.

# %%
some = pairs[:5]
by_block = patch_encoder_resid(model, some)
low, high = by_block.interval()
for block in range(len(low)):
    print(
        f"block {block}: the word's stretch restores {by_block.mean[block, 1]:.2f} [{low[block, 1]:.2f}, {high[block, 1]:.2f}]"
    )
fig, ax = plt.subplots()
for k, label in enumerate(by_block.axes[1].labels):
    ax.plot(range(by_block.mean.shape[0]), by_block.mean[:, k], "o-", label=label)
ax.set(xlabel="encoder block whose input is patched", ylabel="share of the gap restored", ylim=(-0.1, 1.1))
ax.set_xticks(range(by_block.mean.shape[0]))
ax.legend()
plt.show()

# %% [markdown]
# ## Which heads of cross-attention bring it over?
#
# The decoder decides at the last token of what both texts begin with. One patch per head there, all in one batch. As a
# control, the same heads at the first token of the prompt, where no word has been asked for.

# %%
last, first = [], []
for pair in pairs:
    labels = model.to_str_tokens(pair.clean.tokens[0])
    at_last = token_spans(labels, start=pair.metric.index)
    last.append(patch_cross_heads(model, [pair], token_spans=at_last).mean[:, 0])
    first.append(patch_cross_heads(model, [pair], token_spans=token_spans(labels[:1])).mean[:, 0])
by_head = np.mean([np.asarray(x) for x in last], 0)
control = np.mean([np.asarray(x) for x in first], 0)
fig, axes = plt.subplots(1, 2, layout="constrained")
for ax, values, title in zip(axes, (by_head, control), ("at the last token", "at the first token"), strict=True):
    image = ax.imshow(values, cmap="RdBu", vmin=-0.5, vmax=0.5)
    ax.set(xlabel="head", ylabel="decoder block", title=title)
fig.colorbar(image, ax=axes, label="share of the gap restored")
plt.show()
best = np.unravel_index(by_head.argmax(), by_head.shape)
print(
    f"strongest: block {best[0]} head {best[1]} with {by_head.max():.2f}; at the first token at most {control.max():.2f}"
)

# %% [markdown]
# ## All patches at once, estimated
#
# Attribution patching is the first-order estimate `(source - base) * gradient`: two forward passes and one backward for
# any number of patches. For windows of 100 ms of the encoder's output, beside exact patching; the agreement is their
# rank correlation, pair by pair. The control compares a pair's estimate with another pair's exact effects. Look at the
# worst pair, not only at the mean: an estimate that is mostly right has to be checked where it matters.

# %%
end = min(pair.spans[2].stop for pair in pairs)
windows = with_spans(pairs, window_spans(end, 5))
exact = patch_encoder_out(model, windows)
guess = attribute_pairs(model, windows, "encoder.hook_out", "encoder")
rank = np.asarray(agreement(exact, guess))
effects, guesses = (np.asarray(r.effect).reshape(len(pairs), -1) for r in (exact, guess))
crossed = [spearmanr(effects[i], guesses[i - 1]).statistic for i in range(len(pairs))]
print("agreement of attribution with exact patching:", np.sort(rank).round(2), f"mean {rank.mean():.2f}")
print("with another pair's effects:                 ", np.sort(crossed).round(2), f"mean {np.mean(crossed):.2f}")

fig, ax = plt.subplots()
times = 0.1 * np.arange(effects.shape[1])
ax.step(times, effects[0], where="post", label="exact")
ax.step(times, guesses[0], where="post", label="attribution")
ax.axvspan(spoken[0].span.start, spoken[0].span.end, alpha=0.2, label=f"“{spoken[0].a}”")
ax.set(xlabel="window begins at (s)", ylabel="share of the gap", title=pairs[0].label)
ax.legend()
plt.show()

# %% [markdown]
# ## Exercises
#
# 1. Patch the other way round (`direction="noise"`): corrupt activations into the clean run. Are the numbers the same?
# 2. Use the metric `WordLogProb` in place of the logit difference. Does another head come first?
# 3. Patch with a third word's recording (`SpokenWorld.third_words`, `SpokenPair.with_word`): it must not restore the gap.
# 4. Follow the path from the strongest head to the output, and to the blocks behind it (`path_patch_pairs`).
# 5. Set `MODEL = "tiny"`. Do its words differ by a single first token? Pairs of your own recordings come from
#    `hooked_whisper.interventions.corruptions.swap_word`.
