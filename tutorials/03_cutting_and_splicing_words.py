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
# # 3. Cutting and splicing words
#
# **Is a word stored in the encoder's output at the time when it was said, so that one can cut it out, or put another in
# its place?**
#
# Published: replacing a word's stretch of encoder outputs by those of silence deletes the word from the transcript. We
# cut, count what else changes, cut elsewhere as a control, and splice words from other recordings.

# %%
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Audio, display

from hooked_whisper import HookedWhisper
from hooked_whisper.interventions import outcome, outcomes, replace_encoder
from hooked_whisper.speech import SpokenWorld
from hooked_whisper.text import bootstrap_interval

MODEL = "demo"  # or "tiny" ... "large-v3"
plt.rcParams.update({"figure.dpi": 80, "figure.figsize": (7, 2.8)})

model = HookedWhisper.from_pretrained(MODEL)
clips = SpokenWorld.default().clips("sentences")[:6]
mels = model.to_mel([clip.audio for clip in clips])
encoded = model.embed_audio(mels)  # once: every cut below starts from here
Audio(clips[1].audio, rate=16000)

# %% [markdown]
# ## One cut
#
# `replace_encoder` takes seconds, a word of an alignment, or positions. `outcome` shows what became of each word, and
# what the change does to the log-probability of the old text, which also tells of changes that are too small to be seen.

# %%
clip = clips[1]
word = clip.alignment.words[-1]
cut = replace_encoder(model, word, "padding")
display(outcome(model, encoded[1:2], encoder_edit=cut, alignment=clip.alignment))

# %% [markdown]
# ## All words, one at a time, and the same cut elsewhere
#
# For every word of every clip: is it gone? Are its neighbours unharmed? The control cuts a stretch of the same length
# from the silence behind the clip.


# %%
def cut_every_word(place):
    """Per clip: targets gone, targets; other words gone, other words. Only clips that the model gets right."""
    rows = []
    for clip, encoding in zip(clips, encoded, strict=True):
        words = clip.alignment.words
        edit = replace_encoder(model, {i: place(clip, word) for i, word in enumerate(words)}, "padding", unit="seconds")
        results = outcomes(  # a row per cut
            model,
            encoding.expand(len(words), -1, -1),
            encoder_edit=edit,
            alignments=[clip.alignment] * len(words),
            max_new_tokens=16,
        )
        if results[0].before.split() != [word.label for word in words]:
            continue
        fates = [[change.fate != "kept" for change in result.words if change.before] for result in results]
        own = sum(fate[i] for i, fate in enumerate(fates))
        rows.append((own, len(words), sum(map(sum, fates)) - own, len(words) * (len(words) - 1)))
    return np.array(rows)


def at_the_word(clip, word):
    return (word.start, word.end)


def in_the_silence(clip, word):
    start = len(clip.audio) / 16000 + 2
    return (start, start + word.end - word.start)


for place in (at_the_word, in_the_silence):
    rows = cut_every_word(place)
    for what, (hits, counts) in {"the word is changed or gone": rows.T[:2], "others are": rows.T[2:]}.items():
        low, high = bootstrap_interval(hits, counts)
        print(f"cut {place.__name__:15} {what:28} {hits.sum() / counts.sum():4.0%} [{low:.0%}, {high:.0%}]")

# %% [markdown]
# Few words survive a cut at their own place, and none suffers from a cut in the silence. But look at what stands there
# now: often the decoder guesses another word, because the words round it ask for one (tutorial 5).
#
# ## How wide must the cut be?
#
# The encoder's blocks mix neighbouring positions, so a word may reach beyond its edges. The cut, grown or shrunk by some
# positions on both sides:

# %%
margins = [-4, 0, 4, 8]
changed, harmed = [], []
for margin in margins:
    s = 0.02 * margin

    def grown(clip, word, s=s):
        middle = (word.start + word.end) / 2
        return (max(0, min(word.start - s, middle - 0.01)), max(word.end + s, middle + 0.01))

    rows = cut_every_word(grown).sum(0)
    changed.append(rows[0] / rows[1])
    harmed.append(rows[2] / rows[3])
fig, ax = plt.subplots()
ax.plot(20 * np.array(margins), changed, "o-", label="the word")
ax.plot(20 * np.array(margins), harmed, "o-", label="other words")
ax.set(xlabel="cut grows on each side by (ms)", ylabel="share changed or gone", ylim=(0, 1.02))
ax.legend()
plt.show()

# %% [markdown]
# ## Splicing
#
# Now the other way round: the stretch of a word from another clip, moved to where ours is said. `roll` brings the source
# to the same positions; as a control, as long a stretch of the padding behind that clip goes in the same place.

# %%
target, donor = 1, 2
place, donors = clips[target].alignment.words[-1], clips[donor].alignment.words
shifts = {word.label: model.time.position(place.start) - model.time.position(word.start) for word in donors}
shifts["(silence)"] = -500  # what stands 10 s later in the donor: its padding
for label, shift in shifts.items():
    swap = replace_encoder(model, place, encoded[donor].roll(shift, 0))
    result = outcome(model, encoded[target : target + 1], encoder_edit=swap, alignment=clips[target].alignment)
    print(f"{label:>9} in place of {place.label!r}: {result.after}")

# %% [markdown]
# The same can be heard: the sound of the spliced clip, joined from the two recordings. The model never heard this; it
# only got the encoder's output.

# %%
word = donors[0]
a, b = clips[target].audio, clips[donor].audio
spliced = np.concatenate([a[: int(16000 * place.start)], b[int(16000 * word.start) : int(16000 * word.end)]])
Audio(spliced, rate=16000)

# %% [markdown]
# ## Exercises
#
# 1. Cut the middle word of each clip by its phones: only the first half, only the second. Which half decides?
# 2. Replace by `"mean encoding"` (give `clips=encoded`) instead of `"padding"`. Does the decoder guess as often?
# 3. Splice a word from a speaker of the split `"speakers"` into a clip of the split `"sentences"`. Does it survive?
# 4. Do all of it by mouse: `hooked-whisper explore` shows the Python for every click.
# 5. Set `MODEL = "tiny"` with a recording of yours, `alignment="attention"` in place of the known words.
