"""Every reader of files that others wrote, with a small valid file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from whisper.model import ModelDimensions

from hooked_whisper.audio import load_audio
from hooked_whisper.corpora import manifest, read_alignment, to_ctm, to_json, to_textgrid
from hooked_whisper.loading import save_pretrained
from hooked_whisper.loading.checkpoint import from_core
from hooked_whisper.loading.formats import load_path
from hooked_whisper.protocols import Alignment, Interval
from sae_lens_audio.formats import load_sae, save_sae
from sae_lens_audio.training.settings import read_settings
from tests.audio import surgery
from tests.audio.signals import babble, encoded
from tests.core.twins import random_openai, to_core, to_hf
from tests.loading.ctranslate2_files import convert, save_transformers
from tests.loading.ggml_files import write_ggml
from tests.loading.mlx_files import mlx_arrays, quantized_arrays, write_mlx
from tests.loading.sources import save_openai
from tests.sae.saes import all_of_them, filled


@dataclass(frozen=True)
class Reader:
    """``read`` takes the damaged file's path; the valid one, whose content is damaged, is there to begin with."""

    path: Path
    read: Callable[[Path], Any]


SOUNDS = {
    "wav": ("WAV", "PCM_16"), "adpcm": ("WAV", "IMA_ADPCM"), "rf64": ("RF64", "PCM_16"), "w64": ("W64", "PCM_16"),
    "au": ("AU", "PCM_16"), "sph": ("NIST", "PCM_16"), "aiff": ("AIFF", "PCM_16"), "caf": ("CAF", "PCM_16"),
    "alac": ("CAF", "ALAC_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", None), "voc": ("VOC", None), "avr": ("AVR", None), "mat": ("MAT5", "DOUBLE"),
}  # fmt: skip
SETTINGS = """[activations]
hook = "encoder.blocks.2"
store = "acts"
held_out = 0.1
[sae]
architecture = "topk"
d_sae = 512
k = 8
[training]
steps = 10
[run]
folder = "runs/x"
threads = 1
log = ["tensorboard"]
"""
CHRONOLOGICAL = (
    '"Praat chronological TextGrid text file"\n0 2 ! Time domain.\n2 ! Number of tiers.\n"IntervalTier" "words" 0 2\n'
    '"TextTier" "points" 0 2\n1 0 1\n"say ""it"""\n2 0.5\n"click"\n1 1 2\n"pot"\n'
)


def readers(folder: Path) -> dict[str, Reader]:
    """By kind of file; the valid ones are written to ``folder``."""
    return _sounds(folder) | _texts(folder) | _checkpoints(folder)


def _sounds(folder: Path) -> dict[str, Reader]:
    samples = babble(3000).numpy()
    files = {}
    for name, (format, subtype) in SOUNDS.items():
        files[f"audio {name}"] = _written(folder / f"a.{name}", encoded(samples, 16_000, format, subtype), load_audio)
    bare = surgery.id3v2(40) + surgery.without_tag(encoded(samples, 16_000, "MP3")) + surgery.ape() + surgery.id3v1()
    return files | {"audio tagged mp3": _written(folder / "tagged.mp3", bare, load_audio)}


def _texts(folder: Path) -> dict[str, Reader]:
    words = (Interval(0.0, 1.0, "tea"), Interval(1.0, 2.0, "pot"))
    phones = (Interval(0.0, 0.5, "T"), Interval(0.5, 2.0, "IY"))
    alignment = Alignment("a", "s", "tea pot", 2.0, words, phones)
    short = (
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n1\n<exists>\n1\n'
        '"IntervalTier"\n"words"\n0\n1\n1\n0\n1\n"a"\n'
    )
    segments = {"segments": [{"text": "tea pot", "words": [{"word": "tea", "start": 0.0, "end": 1.0}]}]}
    entries = [{"label": "tea", "start": 0, "end": 1, "tier": "words"}, {"phone": "T", "start": 0, "end": 0.5}]
    files = {
        "long.TextGrid": to_textgrid(alignment),
        "short.TextGrid": short,
        "chronological.TextGrid": CHRONOLOGICAL,
        "words.ctm": to_ctm([alignment], "words"),
        "a.phn": "0 8000 h#\n8000 16000 sh\n",
        "own.json": to_json(alignment),
        "segments.json": json.dumps(segments),
        "list.json": json.dumps(entries),
    }
    kinds = {}
    for name, text in files.items():
        kinds[f"alignment {name}"] = _written(folder / name, text.encode(), read_alignment)
    utf16 = to_textgrid(alignment).encode("utf-16")
    kinds["alignment utf-16"] = _written(folder / "utf16.TextGrid", utf16, read_alignment)
    kinds["settings toml"] = _written(folder / "a.toml", SETTINGS.encode(), read_settings)
    table = 'path,text,speaker,start,end\na.wav,"tea, pot",ann,0,1\nb.wav,,,,\n'
    lines = '{"audio_filepath": "a.wav", "text": "tea", "duration": 1.5}\n{"audio_filepath": "b.wav"}\n'
    kinds["manifest csv"] = _written(folder / "a.csv", table.encode(), manifest)
    kinds["manifest jsonl"] = _written(folder / "a.jsonl", lines.encode(), manifest)
    return kinds


def _checkpoints(folder: Path) -> dict[str, Reader]:
    openai = random_openai(ModelDimensions(80, 6, 32, 2, 1, 30, 5, 32, 2, 1))
    hf, core = to_hf(openai), to_core(openai)
    checkpoint = from_core(core)
    transformers = save_transformers(hf, folder / "transformers")
    ct2 = {kind: convert(transformers, folder / f"ct2-{kind}", kind) for kind in ("float16", "int8")}
    save_pretrained(core, folder / "own")
    arrays = mlx_arrays(checkpoint, np.float32)
    write_mlx(folder / "mlx", checkpoint, arrays)
    scheme = {"quantization": {"bits": 4, "group_size": 32}}
    write_mlx(folder / "mlx4", checkpoint, quantized_arrays(arrays, 4, 32), ".safetensors", **scheme)
    save_sae(filled(all_of_them()[0]), folder / "sae")
    files = {
        "openai pt": save_openai(openai, folder / "mine.pt"),
        "transformers safetensors": transformers / "model.safetensors",
        "transformers config": transformers / "config.json",
        "transformers generation config": transformers / "generation_config.json",
        "own safetensors": folder / "own" / "model.safetensors",
        "own config": folder / "own" / "config.json",
        "mlx npz": folder / "mlx" / "weights.npz",
        "mlx config": folder / "mlx" / "config.json",
        "mlx safetensors": folder / "mlx4" / "weights.safetensors",
        "ctranslate2 float16": ct2["float16"] / "model.bin",
        "ctranslate2 int8": ct2["int8"] / "model.bin",
        "ggml f16": write_ggml(folder / "f16.bin", checkpoint, "f16"),
        "ggml q8_0": write_ggml(folder / "q8.bin", checkpoint, "q8_0"),
    }
    by_kind = {name: Reader(path, _load if path.suffix != ".json" else _load_folder) for name, path in files.items()}
    for name in ("cfg.json", "sae_weights.safetensors"):
        by_kind[f"sae {name}"] = Reader(folder / "sae" / name, lambda path: load_sae(path.parent))
    return by_kind


def _load(path: Path) -> Any:
    return load_path(path, name="tiny")


def _load_folder(path: Path) -> Any:
    return load_path(path.parent, name="tiny")


def _written(path: Path, content: bytes, read: Callable[[Path], Any]) -> Reader:
    path.write_bytes(content)
    return Reader(path, read)
