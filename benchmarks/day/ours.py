"""The jobs as a user of this project writes them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.day.settings import BATCH, CLIPS, FACTOR, LR, STEPS_PER_WINDOW, K
from benchmarks.day.speech import read_pairs
from hooked_whisper.corpora import Recording, audio_folder
from hooked_whisper.features.scan import scan
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.patching import CleanCorruptPair, LogitDifference, RunInputs, patch, token_spans
from hooked_whisper.protocols import Positions
from hooked_whisper.report.units import build_site
from sae_lens_audio.activations import StoredActivations, collect_activations
from sae_lens_audio.architectures import TopK, TopKConfig
from sae_lens_audio.training import Trainer, TrainingConfig


def patches(model: HookedWhisper, folder: Path, n: int) -> dict[str, Any]:
    values = []
    for number, words in enumerate(read_pairs(folder)[:n]):
        tokens = model.to_tokens(words["before"])
        answer, foil = (int(model.to_tokens(words[name], prompt=False)[0, 0]) for name in ("answer", "foil"))
        runs = [
            RunInputs(tokens, model.to_mel(folder / "pairs" / f"{number:04d}-{name}.wav"))
            for name in ("clean", "corrupt")
        ]
        word = Positions(((int(words["start"] * 50), int(words["end"] * 50) + 1),), words["answer"])
        pair = CleanCorruptPair(*runs, LogitDifference(answer, foil, tokens.shape[1] - 1), (word,))
        each_token = token_spans([""] * tokens.shape[1])
        row = [
            patch(model, [pair], "resid_post", "encoder", over=("block", "span")),
            patch(model, [pair], "resid_post", "decoder", over=("block", "span"), token_spans=each_token),
            patch(model, [pair], "z", "cross", over=("block", "head")),
        ]
        values.append(np.concatenate([result.values.ravel() for result in row]).tolist())
    return {"values": values}


def scanned(model: HookedWhisper, folder: Path, n: int) -> dict[str, Any]:
    result = scan(model, windows(folder, n), [_neurons(model)], _fresh(folder / "scan"), progress=False)
    return {"largest": result[_neurons(model)].top.values[:64].tolist()}


def pages(model: HookedWhisper, folder: Path, n: int) -> dict[str, Any]:
    out = _fresh(folder / "pages")
    build_site(model, windows(folder, CLIPS), _neurons(model), out, units=range(n), progress=False)
    from hooked_whisper.features.scan import load_scan

    (result,) = load_scan(out / "scan").bases.values()
    return {"largest": result.top.values[:64, :10].tolist()}


def sae(model: HookedWhisper, folder: Path, n: int) -> dict[str, Any]:
    hook = f"encoder.blocks.{model.cfg.encoder.n_layers // 2}"
    store = collect_activations(model, windows(folder, n), hook, _fresh(folder / "store"), progress=False)
    (width,) = store.widths
    dictionary = TopK(TopKConfig(width, FACTOR * width, k=K))
    rows = StoredActivations(store, store.hooks)
    with Trainer(dictionary, rows, TrainingConfig(STEPS_PER_WINDOW * n, batch=BATCH, lr=LR)) as trainer:
        trainer.fit()
        finished = trainer.finished()
    with torch.no_grad():
        x = rows.chunk(0, 0).rows[0][::16].float()
        error = (finished(x) - x).square().sum() / (x - x.mean(0)).square().sum()
    return {"explained": 1 - float(error)}


def transcribed(model: HookedWhisper, folder: Path, n: int) -> dict[str, Any]:
    files = sorted((folder / "files").glob("*.wav"))[:n]
    return {"texts": [result.text.strip() for result in model.transcribe(files, language="en")]}


def windows(folder: Path, n: int) -> list[Recording]:
    return audio_folder(folder / "hour")[:n]


def _neurons(model: HookedWhisper) -> str:
    return f"encoder.blocks.{model.cfg.encoder.n_layers // 2}.mlp.hook_post"


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder
