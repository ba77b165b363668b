"""What more and what better training speech is worth to an SAE: scores on human speech against hours and kind.

    python -m benchmarks.sae_speech --acts STORE [STORE ...] --human TIMIT [--steps 1000] [--json FILE]

Trains one TopK SAE per condition (recipe ``topk-x8``), with the same number of steps, on some hours of one kind of
speech or on all, and scores it on recordings with labeled phones of people whom no SAE has heard. The stores are what
``python -m sae_lens_audio.pretrained`` collected. An interrupted run resumes: SAEs are kept in ``--runs``.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from hooked_whisper._support.storage import write_atomic
from hooked_whisper.corpora import open_corpus
from hooked_whisper.features.phones.labeled_clips import labeled_clips
from hooked_whisper.hooked import HookedWhisper
from sae_lens_audio import load_sae
from sae_lens_audio.activations import ActivationStore, JoinedActivations, StoredActivations, open_store
from sae_lens_audio.architectures import SAE
from sae_lens_audio.benchmark.data import BenchmarkData, benchmark_data
from sae_lens_audio.benchmark.fidelity import EXPLAINED, Fidelity
from sae_lens_audio.benchmark.recovery import PHONE_F1, PhoneRecovery
from sae_lens_audio.benchmark.subjects import Subject
from sae_lens_audio.pretrained.recipes import read_recipe
from sae_lens_audio.pretrained.runs import SHARDS_TOGETHER, split_off_speakers
from sae_lens_audio.training.runs import TrainingRows, trainer_of

RECIPE = "topk-x8"
ALL = "all"
HOURS = {"flite": (0.5, 1.0, 2.0, 3.5), "kokoro": (0.5, 1.4), "human": (0.5, 1.9)}


@dataclass(frozen=True)
class Condition:
    """Some hours of one kind of speech; ``"all"``: of every kind."""

    kind: str
    hours: float

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.hours:g}h"


def conditions(stores: Sequence[ActivationStore]) -> list[Condition]:
    """Return the conditions that the stores have the speech for, and everything."""
    seconds: Counter[str] = Counter()
    for recording in _training_recordings(stores):
        seconds[recording.kind] += recording.seconds
    enough = [Condition(kind, h) for kind, hours in HOURS.items() for h in hours if seconds[kind] >= 0.97 * h * 3600]
    return [*enough, Condition(ALL, round(seconds.total() / 3600, 1))]


def recordings_of(condition: Condition, stores: Sequence[ActivationStore]) -> list[Int[np.ndarray, "_"]]:
    """Return recordings of a kind in each store, in random order up to the hours: more hours contain fewer hours."""
    indices: list[list[int]] = [[] for _ in stores]
    seconds = 0.0
    for recording in _training_recordings(stores):
        if condition.kind in (ALL, recording.kind) and (condition.kind == ALL or seconds < condition.hours * 3600):
            indices[recording.store].append(recording.index)
            seconds += recording.seconds
    return [np.array(sorted(numbers), dtype=int) for numbers in indices]


@dataclass(frozen=True)
class _Numbered:
    """A recording to train on: index of its store, index in the store, kind of speech."""

    store: int
    index: int
    kind: str
    seconds: float


def _training_recordings(stores: Sequence[ActivationStore]) -> list[_Numbered]:
    recordings = [
        _Numbered(number, int(k), store.recordings[k].speaker.partition("-")[0], store.recordings[k].seconds)
        for number, (store, split) in enumerate(zip(stores, split_off_speakers(stores), strict=True))
        for k in split.train
    ]
    random.Random(0).shuffle(recordings)
    return recordings


def train(
    condition: Condition, stores: Sequence[ActivationStore], hook: str, block: int, folder: Path, steps: int
) -> SAE:
    """Train the SAE of a condition, or load it if it is finished."""
    if not (folder / "sae" / "cfg.json").is_file():
        pairs = [pair for pair in zip(stores, recordings_of(condition, stores), strict=True) if len(pair[1])]
        rows = JoinedActivations([StoredActivations(store, hook, indices, SHARDS_TOGETHER) for store, indices in pairs])
        settings = read_recipe(RECIPE).settings(rows.widths[0], block, steps=steps)
        with trainer_of(settings, TrainingRows(rows, [store for store, _ in pairs]), folder) as trainer:
            trainer.fit(progress=False)
    return load_sae(folder / "sae").sae


def scores_of(sae: SAE, data: BenchmarkData) -> dict[str, Any]:
    """Return explained variance and the F1 of phones, with 95 % intervals by speaker."""
    subject = Subject("sae", "SAE", sae, data.hook, {})
    scores = {**Fidelity(curve=(1,)).measure(subject, data), **PhoneRecovery().measure(subject, data)}
    return {metric.name: asdict(scores[metric.name].estimate) for metric in (EXPLAINED, PHONE_F1)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--acts", type=Path, nargs="+", required=True, metavar="STORE", help="folders")
    parser.add_argument("--human", required=True, metavar="PLACE", help="recordings with labeled phones")
    parser.add_argument("--runs", type=Path, default=Path("runs/sae_speech"), metavar="DIR", help="work folder")
    parser.add_argument("--block", type=int, default=2, metavar="N")
    parser.add_argument("--steps", type=int, default=1000, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="output file (default: the screen)")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    stores = [open_store(place, verify=False) for place in parsed.acts]
    hook = stores[0].hook_names(f"encoder.blocks.{parsed.block}")[0]
    model_name = stores[0].header["model"]
    model = HookedWhisper.from_pretrained(model_name, device="cpu")
    corpus = open_corpus(parsed.human)
    data = benchmark_data(model, labeled_clips(model, corpus, len(corpus), phones_only=True).clips, [hook], {})
    rows = []
    for condition in conditions(stores):
        sae = train(condition, stores, hook, parsed.block, parsed.runs / condition.name, parsed.steps)
        rows.append({"kind": condition.kind, "hours": condition.hours, **scores_of(sae, data)})
        print(rows[-1], flush=True)
    training = read_recipe(RECIPE).settings(stores[0].width(hook), parsed.block, steps=parsed.steps).training
    result = {
        "model": model_name,
        "hook": hook,
        "recipe": RECIPE,
        "steps": training.steps,
        "trained_rows": training.steps * training.batch,
        "human": {"clips": len(corpus), "speakers": len(data.speakers), "positions": data.n_rows},
        "conditions": rows,
    }
    text = json.dumps(result, indent=1) + "\n"
    if parsed.json:
        write_atomic(parsed.json, text.encode())
    print(text)


if __name__ == "__main__":
    main()
