"""Package a trained model: half-precision weights with their history, the grammar, and audio clips."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from hooked_whisper._support.storage import write_atomic
from hooked_whisper.corpora import to_dict
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.loading import save_pretrained
from hooked_whisper.synthetic.alignment_heads import UTTERANCES, choose_alignment_heads, with_alignment_heads
from hooked_whisper.synthetic.checkpoint import checkpoints, load_checkpoint
from hooked_whisper.synthetic.corpus import Corpus
from hooked_whisper.synthetic.grammar import Grammar
from hooked_whisper.synthetic.recipe import TrainConfig
from hooked_whisper.synthetic.sounds import Sounds
from hooked_whisper.synthetic.synthetic_corpus import SyntheticCorpus
from hooked_whisper.synthetic.voices import SAMPLE_RATE

CLIP_SPLITS = ("sentences", "speakers")


@dataclass(frozen=True, eq=False)
class Run:
    """The newest weights of a training run, with its settings and number of steps.

    history: (last step, settings) of the earlier runs from which it started, oldest first.
    """

    model: HookedWhisper
    config: TrainConfig
    steps: int
    history: tuple[tuple[int, TrainConfig], ...] = ()


def load_run(run: Path) -> Run:
    """Load the newest checkpoint of a run.

    Raises:
        FileNotFoundError: the folder has no checkpoint.
    """
    saved = checkpoints(run)
    if not saved:
        raise FileNotFoundError(
            f"there is no checkpoint in {run}: run `python -m hooked_whisper.synthetic train` first"
        )
    _, facts = load_checkpoint(saved[-1], {})
    config = TrainConfig.from_dict(facts["config"])
    model = HookedWhisper(config.model_config())
    steps, _ = load_checkpoint(saved[-1], {"model": model})
    history = tuple(
        (int(part["until_step"]), TrainConfig.from_dict(part["config"])) for part in facts.get("history", [])
    )
    return Run(model.eval(), config, steps, history)


def export(
    run: Path,
    corpus_folder: Path,
    folder: Path,
    metrics: Mapping[str, Any] | None,
    clips: int = 24,
    note: str = "",
    align_on: int = UTTERANCES,
) -> dict[str, Any]:
    """Write weights, ``grammar.*``, ``sounds.json``, ``train_bigram_counts.npy`` and ``clips/`` to ``folder``.

    Args:
        align_on: number of utterances on which the alignment heads are chosen. With 0, word times use all heads of the
            second half of the blocks.
    """
    trained = load_run(run)
    if align_on:
        spoken = SyntheticCorpus(Grammar.load(corpus_folder), Sounds.load(corpus_folder), corpus_folder)
        with_alignment_heads(trained.model, choose_alignment_heads(trained.model, spoken, align_on))
    metadata = describe(trained, metrics)
    if note:
        metadata["note"] = note
    for split, name in (("train", "train_speakers"), ("speakers", "held_out_speakers")):
        metadata[name] = ", ".join(sorted(set(Corpus(corpus_folder, split).speakers)))
    save_pretrained(trained.model, folder, metadata, dtype=torch.float16)
    Grammar.load(corpus_folder).save(folder)
    Sounds.load(corpus_folder).save(folder)
    counts = corpus_folder / "train_bigram_counts.npy"
    write_atomic(folder / counts.name, counts.read_bytes())
    names = _export_clips(corpus_folder, folder / "clips", clips)
    return {"folder": str(folder), "megabytes": _megabytes(folder), "clips": len(names), **metadata}


def describe(trained: Run, metrics: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the metadata of the weights as strings."""
    config = trained.config
    return {
        "command": " && ".join(f"python -m hooked_whisper.synthetic {command}" for command in _commands(trained)),
        "seed": str(config.seed),
        "commit": _commit(),
        "steps": str(trained.steps),
        "recipe": _recipe(trained),
        "settings": json.dumps(asdict(config)),
        "wer": json.dumps(dict(metrics)) if metrics else "not measured",
    }


def _recipe(trained: Run) -> str:
    """Return a description of the phases of training, over all parts of the run."""
    ends = [*trained.history, (trained.steps, trained.config)]
    starts = [0, *(until for until, _ in trained.history)]
    parts = [(start, until, c) for start, (until, c) in zip(starts, ends, strict=True)]
    ctc = max((min(until, c.ctc_steps) for start, until, c in parts if start < c.ctc_steps), default=0)
    full = [(max(start, c.full_window_step), until) for start, until, c in parts if until > c.full_window_step]
    on_full = " and ".join(f"{start}-{until}" for start, until in full) or "none"
    return (
        f"steps 0-{ctc}: next-token loss + CTC on letters, annealed to zero at the end of its part; "
        f"steps {ctc}-{trained.steps}: next-token loss alone; full 30 s windows in steps: {on_full}, short windows "
        f"elsewhere; parts with schedules of {', '.join(str(c.steps) for _, _, c in parts)} steps. No phone labels."
    )


def _commands(trained: Run) -> list[str]:
    """Return the commands that reproduce the weights, in order."""
    commands, earlier = [f"build --seed {trained.config.seed}"], ""
    for number, (until, config) in enumerate(trained.history):
        folder = f"runs/part{number}"
        commands.append(f"train{_flags(config)} --stop-at {until} --run {folder}{earlier}")
        earlier = f" --start-from {folder}"
    unfinished = f" --stop-at {trained.steps}" if trained.steps < trained.config.steps else ""
    commands.append(f"train{_flags(trained.config)}{unfinished}{earlier}")
    return [*commands, "evaluate", "export"]


def _flags(config: TrainConfig) -> str:
    """Return the command-line options of ``train`` for these settings."""
    defaults = TrainConfig()
    names = (
        "seed",
        "batch",
        "lr",
        "clean",
        "snr_high",
        "speed_low",
        "tilt",
        "equaliser",
        "flite_weight",
        "drop_silenced",
        "mask_all",
        "empty",
        "bare_share",
        "full_window_start",
    )
    changed = [name for name in names if getattr(config, name) != getattr(defaults, name)]
    options = [f" --{name.replace('_', '-')} {getattr(config, name):g}" for name in changed]
    return f" --steps {config.steps}{''.join(options)}"


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


def _export_clips(corpus_folder: Path, folder: Path, count: int) -> list[str]:
    """Write clips, half by training speakers and half by held-out speakers, and return their names. The speakers take
    turns."""
    rows, names = [], []
    for split in CLIP_SPLITS:
        corpus = Corpus(corpus_folder, split)
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
    """Return the indices of ``count`` sentences of four to eight words, with the speakers taking turns."""
    by_speaker: dict[str, list[int]] = {}
    for index in range(len(corpus)):
        if 4 <= len(corpus.texts[index].split()) <= 8:
            by_speaker.setdefault(corpus.alignment(index).speaker, []).append(index)
    queues = [by_speaker[name] for name in sorted(by_speaker)]
    depth = max(map(len, queues), default=0)
    turns = [queue[k] for k in range(depth) for queue in queues if k < len(queue)]
    return turns[:count]
