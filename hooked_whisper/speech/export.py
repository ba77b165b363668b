"""Package a trained model: half-precision weights with their history, the grammar, and clips to listen to."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.speech.checkpoint import checkpoints, load_checkpoint
from hooked_whisper.speech.corpus import Corpus
from hooked_whisper.speech.grammar import Grammar
from hooked_whisper.speech.recipe import TrainConfig
from hooked_whisper.speech.records import to_dict, write_atomic
from hooked_whisper.speech.sounds import Sounds
from hooked_whisper.speech.voices import SAMPLE_RATE, speakers
from hooked_whisper.weights import save_pretrained

CLIP_SPLITS = ("sentences", "speakers")


def load_run(run: Path) -> tuple[HookedWhisper, TrainConfig, int]:
    """The newest weights of a training run, its settings, and the steps it has done."""
    found = checkpoints(run)
    if not found:
        raise FileNotFoundError(f"no checkpoint in {run}: run `python -m hooked_whisper.speech train` first")
    _, facts = load_checkpoint(found[-1], {})
    settings: dict[str, Any] = facts["config"] | {"betas": tuple(facts["config"]["betas"])}
    config = TrainConfig(**settings)
    model = HookedWhisper(config.model_config())
    steps, _ = load_checkpoint(found[-1], {"model": model})
    return model.eval(), config, steps


def export(run: Path, world: Path, folder: Path, metrics: Mapping[str, Any] | None, clips: int = 24) -> dict[str, Any]:
    """Write weights, ``grammar.*``, ``sounds.json``, ``train_bigram_counts.npy`` and ``clips/`` to ``folder``."""
    model, config, steps = load_run(run)
    metadata = describe(config, steps, metrics)
    save_pretrained(model, folder, metadata, dtype=torch.float16)
    Grammar.load(world).save(folder)
    Sounds.load(world).save(folder)
    counts = world / "train_bigram_counts.npy"
    write_atomic(folder / counts.name, counts.read_bytes())
    names = _export_clips(world, folder / "clips", clips)
    return {"folder": str(folder), "megabytes": _megabytes(folder), "clips": len(names), **metadata}


def describe(config: TrainConfig, steps: int, metrics: Mapping[str, Any] | None) -> dict[str, str]:
    """What the weights' metadata say: strings only, as safetensors wants them."""
    seed = f" --seed {config.seed}" if config.seed else ""
    return {
        "command": f"python -m hooked_whisper.speech build{seed} && python -m hooked_whisper.speech train{seed} "
        f"--steps {config.steps} --lr {config.lr:g} && python -m hooked_whisper.speech evaluate && "
        "python -m hooked_whisper.speech export",
        "seed": str(config.seed),
        "commit": _commit(),
        "steps": str(steps),
        "recipe": config.describe(),
        "train_speakers": ", ".join(s.id for s in speakers("train")),
        "held_out_speakers": ", ".join(s.id for s in speakers("held-out")),
        "wer": json.dumps(dict(metrics)) if metrics else "not measured",
    }


def _commit() -> str:
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=folder, capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _megabytes(folder: Path) -> float:
    return round(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6, 2)


def _export_clips(world: Path, folder: Path, count: int) -> list[str]:
    """Half of known speakers, half of unknown ones, longer sentences first in line, every speaker in turn."""
    rows, names = [], []
    for split in CLIP_SPLITS:
        corpus = Corpus(world, split)
        for number, index in enumerate(_choose(corpus, count // len(CLIP_SPLITS))):
            alignment = corpus.alignment(index)
            name = f"{split}-{number:02d}.flac"
            buffer = io.BytesIO()
            pcm = np.round(corpus.audio(index) * 32768).clip(-32768, 32767).astype(np.int16)
            soundfile.write(buffer, pcm, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
            write_atomic(folder / name, buffer.getvalue())
            named = replace(alignment, utterance=name.removesuffix(".flac"))
            rows.append({"file": name, "split": split, "alignment": to_dict(named)})
            names.append(name)
    write_atomic(folder / "clips.json", json.dumps(rows, indent=1, ensure_ascii=False).encode())
    return names


def _choose(corpus: Corpus, count: int) -> list[int]:
    """Sentences of four to eight words, going round the speakers."""
    by_speaker: dict[str, list[int]] = {}
    for index in range(len(corpus)):
        if 4 <= len(corpus.texts[index].split()) <= 8:
            by_speaker.setdefault(corpus.alignment(index).speaker, []).append(index)
    queues = [by_speaker[name] for name in sorted(by_speaker)]
    depth = max(map(len, queues), default=0)
    turns = [queue[k] for k in range(depth) for queue in queues if k < len(queue)]
    return turns[:count]
