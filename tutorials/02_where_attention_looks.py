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
# # 2. Where attention looks
#
# **Does Whisper's encoder listen to the whole clip, or only to its neighbourhood?**
#
# The published answer: attention is localised up to the end of the audio, and a window of 75 positions (1.5 s) to either
# side is enough. We measure relevance, narrow the windows, and look at single heads; each beside a control.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Audio

from hooked_whisper import HookedWhisper
from hooked_whisper.analysis import encoder_relevance, head_report
from hooked_whisper.interventions import outcomes, window_masks
from hooked_whisper.speech import SpokenWorld

MODEL = "demo"  # or "tiny" ... "large-v3"
plt.rcParams.update({"figure.dpi": 80, "figure.figsize": (7, 2.8)})

model = HookedWhisper.from_pretrained(MODEL)
clips = SpokenWorld.default().clips("sentences")[:6]
mels = model.to_mel([clip.audio for clip in clips])
seconds = [len(clip.audio) / 16000 for clip in clips]
n_speech = [model.time.n_positions(s) for s in seconds]
Audio(clips[1].audio, rate=16000)

# %% [markdown]
# ## Relevance: what an output position is made from
#
# Attention weighted by its gradient, multiplied through the blocks (Chefer et al. 2021). Row *i* says which input
# positions matter for output position *i*. The control is a model of the same architecture with random weights.

# %%
random_model = HookedWhisper(model.cfg)
few = mels[:2]
for name, one in (("trained", model), ("random weights", random_model)):
    relevance = encoder_relevance(one, few).values  # [clip, to, from]
    near = []
    for k, n in enumerate(n_speech[:2]):
        rows = relevance[k, :n]  # from all 1500 positions to those of the clip
        close = (torch.arange(n)[:, None] - torch.arange(rows.shape[1])).abs() <= 25  # half a second
        near.append(float((rows * close).sum() / rows.sum() / close.float().mean()))
    print(
        f"{name:15} relevance within 0.5 s: {np.mean(near):.1f} times what an even spread would give", np.round(near, 1)
    )

figure = encoder_relevance(model, mels[1:2]).draw(until=2 * seconds[1])
figure.set_size_inches(5, 4)
figure

# %% [markdown]
# The figure goes to twice the clip's length. Within the clip relevance lies round the diagonal; the rows of the padding
# behind it look back at the clip.
#
# ## Narrow windows
#
# If nothing beyond *k* positions were needed, a mask that forbids it would cost nothing. `window_masks` makes the masks,
# `outcomes` counts words that change. The control is a window of the same size about a place that is wrong: each row
# sees as many positions, but round a scrambled centre.

# %%
# texts to count errors against, and words with their times (else times are read from attention, which takes longer)
known = {
    "references": [clip.text for clip in clips],
    "alignments": [clip.alignment for clip in clips],
    "max_new_tokens": 16,
}
widths = [5, 10, 25, 75]


def scrambled(k):
    """As many keys per query as the window of k, round another query's place."""
    centre = torch.randperm(model.cfg.encoder.n_ctx, generator=torch.Generator().manual_seed(k))
    return lambda query, key: (centre[query][:, None] - key[None, :]).abs() <= k


wer = {"window": [], "scrambled window": []}
for k in widths:
    wer["window"].append(outcomes(model, mels, attn_masks=window_masks(model, k), **known).wer)
    wer["scrambled window"].append(outcomes(model, mels, attn_masks={"encoder": scrambled(k)}, **known).wer)
unmasked = outcomes(model, mels, **known).wer

fig, ax = plt.subplots()
for name, values in wer.items():
    ax.plot(widths, values, "o-", label=name)
ax.axhline(unmasked, color="grey", ls="--", label="no mask")
ax.set(xscale="log", xlabel="half-width k (positions of 20 ms)", ylabel="word error rate", ylim=(0, None))
ax.legend()
plt.show()

# %% [markdown]
# With 6 clips an error rate is known to some fifteen points; `hooked-whisper reproduce --only F2` takes a hundred and gives
# intervals. Look at where the two curves part: a narrow window hurts less than as few positions elsewhere, if attention
# is local.
#
# ## Single heads
#
# Which heads look far? `head_report` measures every head over the clips, with bootstrap intervals.

# %%
report = head_report(model, mels[:3], alignments=[clip.alignment for clip in clips[:3]])
distance, (low, high) = report.mean("encoder", "distance"), report.interval("encoder", "distance")
for block, head in report.ranked("encoder", "distance")[:3] + report.ranked("encoder", "distance", largest=False)[:3]:
    print(
        f"block {block} head {head}: attends {distance[block, head]:.0f} positions away "
        f"[{low[block, head]:.0f}, {high[block, head]:.0f}]"
    )
figure = report.draw("encoder", "distance")
figure.set_size_inches(4.5, 3)
figure

# %% [markdown]
# ## Do far heads need their reach?
#
# Published: masking the local heads to a narrow window costs little, masking the far ones costs much. We give the four
# nearest and the four farthest heads a window of 10, and, as a control, four drawn at random, twice.

# %%
ranked = report.ranked("encoder", "distance")
rng = np.random.default_rng(0)
sets = {"4 farthest": ranked[:4], "4 nearest": ranked[-4:]}
sets |= {f"4 at random ({i})": [ranked[j] for j in rng.choice(len(ranked), 4, replace=False)] for i in range(2)}
for name, heads in sets.items():
    masks = window_masks(model, dict.fromkeys(heads, 10))
    print(f"{name:16} WER {outcomes(model, mels, attn_masks=masks, **known).wer:.0%} (unmasked {unmasked:.0%})")

# %% [markdown]
# ## Exercises
#
# 1. Draw one head's pattern: `model.run_with_cache(mel, names="encoder.blocks.3.attn.hook_pattern")`. Crop it to the clip.
# 2. Narrow one block at a time (`window_masks(model, 10, blocks=[b])`). Which block needs its reach?
# 3. Keep the padding out with `cut_padding` (also in `hooked_whisper.interventions`): how much do rows of speech use it?
# 4. Mask the heads that look nearest, one after the other, until the error rate doubles; compare with a random order.
# 5. Set `MODEL = "tiny"` with clips of your own. Is 75 enough?
