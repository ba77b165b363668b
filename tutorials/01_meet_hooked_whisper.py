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
# **What happens inside Whisper between a sound and a word, and how do I get my hands on it?**
#
# We transcribe a clip, look at any activation by its name, change one, and see the text change. Everything runs on the
# packaged demo model, a small Whisper trained on a spoken world of 232 words; one line takes you to the real one.

# %%
import matplotlib.pyplot as plt
import torch
from IPython.display import Audio, display
from whisper import DecodingOptions

from hooked_whisper import HookedWhisper
from hooked_whisper.interventions import outcome, replace_encoder
from hooked_whisper.speech import SpokenWorld

MODEL = "demo"  # or "tiny" ... "large-v3", "turbo", "openai/whisper-tiny", a .pt file, a folder
plt.rcParams.update({"figure.dpi": 80, "figure.figsize": (7, 2.6)})

model = HookedWhisper.from_pretrained(MODEL)
model

# %% [markdown]
# ## A clip, and what the model writes
#
# Packaged clips come with the truth: every word and phone with its times. Any file of yours works in their place:
# `model.to_mel("speech.wav")` reads wav, flac, mp3, ogg without ffmpeg.

# %%
clip = SpokenWorld.default().clips()[1]
print("said:   ", clip.text)
mel = model.to_mel(clip.audio)
options = DecodingOptions(language="en", without_timestamps=True, fp16=False)  # openai-whisper's own
print("written:", model.decode(mel, options)[0].text)
Audio(clip.audio, rate=16000)

# %% [markdown]
# ## From sound to tokens: the shapes
#
# A mel frame lasts 10 ms, an encoder position 20 ms, and Whisper always sees 30 s: 3000 frames, 1500 positions.

# %%
tokens = model.to_tokens(f" {clip.text}", language="en")
print("mel   ", tuple(mel.shape), "[batch, mel, frame]")
print("tokens", model.to_str_tokens(tokens[0]))

fig, ax = plt.subplots()
seconds = len(clip.audio) / 16000
ax.imshow(mel[0, :, : int(100 * seconds)], origin="lower", aspect="auto", extent=(0, seconds, 0, mel.shape[1]))
for word in clip.alignment.words:
    ax.axvline(word.start, color="white", lw=0.6)
    ax.text((word.start + word.end) / 2, mel.shape[1] * 0.9, word.label, color="white", ha="center")
ax.set(xlabel="time (s)", ylabel="mel bin", title="Log-mel spectrogram, words where they are said")
plt.show()

# %% [markdown]
# ## Names for everything
#
# `run_with_cache` keeps activations by name. A name may be exact, a glob, a regular expression, a function, or a list.
# Names of published work resolve too: `encoder.blocks.2.mlp.1` is the neurons' output.

# %%
logits, cache = model.run_with_cache(
    mel,
    tokens,
    names=["encoder.blocks.2.mlp.1", "encoder.blocks.*.hook_resid_post", "decoder.*.cross_attn.hook_pattern"],
)
print(cache)

# %% [markdown]
# The cross-attention pattern of the last block says where in the sound each token looks. Patterns sum to 1 over the
# 1500 positions; we draw those within the clip.

# %%
pattern = cache["decoder", "cross_pattern", -1][0].mean(0)  # mean over heads: [token, position]
fig, ax = plt.subplots()
ax.imshow(pattern[:, : int(50 * seconds)], aspect="auto", extent=(0, seconds, len(tokens[0]) - 0.5, -0.5))
ax.set_yticks(range(len(tokens[0])), model.to_str_tokens(tokens[0]), fontsize=7)
ax.set(xlabel="time (s)", title="Cross-attention of the last block, mean over heads")
plt.show()

# %% [markdown]
# ## A hook is causal
#
# A hook gets the activation and may return another; the model goes on with what it returned. As controls: a hook that
# returns what it got changes nothing, to the bit, and noise of the same size as the change is not the same change.


# %%
def halve(resid):
    return 0.5 * resid


def identity(resid):
    return resid


generator = torch.Generator().manual_seed(0)


def noise(resid):
    step = torch.randn(resid.shape, generator=generator)
    return resid + step * (0.5 * resid.norm() / step.norm())


name = "encoder.blocks.1.hook_resid_post"
for hook in (identity, halve, noise):
    changed = model.run_with_hooks(mel, tokens, fwd_hooks=[(name, hook)])
    with model.hooks(fwd_hooks=[(name, hook)]):  # hooks stay live while decoding
        text = model.decode(mel, options)[0].text
    print(f"{hook.__name__:9} logits moved by {(changed - logits).abs().mean():.3f}; written: {text[:60]}")

# %% [markdown]
# ## A mistake is told in words
#
# An unknown name suggests the near ones. A hook that returns another shape is told the point and its axes.

# %%
for wrong in ([("encoder.blocks.2.hook_resid_pots", halve)], [(name, lambda x: x[:, :7])]):
    try:
        model.run_with_hooks(mel, tokens, fwd_hooks=wrong)
    except Exception as error:
        print(f"{type(error).__name__}: {error}\n")

# %% [markdown]
# ## Hear what the model hears
#
# Half of the clip's encoder output replaced by that of silence: the words of that half are lost to the decoder, though
# the sound is the same. Tutorial 3 goes on from here.

# %%
half = seconds / 2
result = outcome(model, mel, encoder_edit=replace_encoder(model, (half, seconds), "padding", unit="seconds"))
display(result)
Audio(clip.audio[: int(16000 * half)], rate=16000)

# %% [markdown]
# ## Exercises
#
# 1. List the hook points of one decoder block: `model.hook_names("decoder.blocks.0.*")`. Which of them are computed only
#    when somebody listens (`model.hook_dict[name].optional`)?
# 2. Keep the same cache for three clips in one batch: `model.to_mel([a, b, c])`. Which axis grew?
# 3. Halve each encoder block's residual stream in turn and plot how far the logits move. Do the same with noise.
# 4. Set `MODEL = "tiny"` and give it a recording of your own voice. Which cell needs another text?
