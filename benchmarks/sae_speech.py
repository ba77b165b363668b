"""What more and what better training speech is worth to an SAE: scores on human speech against hours and kind.

    python -m benchmarks.sae_speech --acts STORE --human TIMIT [--steps 1000] [--json docs/data/sae_speech.json]

Trains one TopK SAE per condition (recipe ``topk-x8``), with the same number of steps, on some hours of one kind of
speech or on all, and scores it on recordings with labeled phones of people whom no SAE has heard. STORE is what
``python -m sae_lens_audio.pretrained`` collected. An interrupted run resumes: SAEs are kept in ``--runs``.
"""

from __future__ import annotations

import argparse
import json
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
from sae_lens_audio.activations import ActivationStore, StoredActivations, open_store
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
HOURS = {"flite": (0.5, 1.0, 2.0, 3.5), "kokoro": (0.5, 1.5), "human": (0.5, 1.9)}


@dataclass(frozen=True)
class Condition:
    """Some hours of one kind of speech; ``"all"``: of every kind."""

    kind: str
    hours: float

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.hours:g}h"


def conditions(store: ActivationStore) -> list[Condition]:
    """Return the conditions that the store has the speech for, and everything."""
    train = split_off_speakers(store).train
    seconds = {kind: sum(store.recordings[k].seconds for k in train if _kind(store, k) == kind) for kind in HOURS}
    enough = [Condition(kind, h) for kind, hours in HOURS.items() for h in hours if seconds[kind] >= 0.97 * h * 3600]
    return [*enough, Condition(ALL, round(sum(seconds.values()) / 3600, 1))]


def recordings_of(condition: Condition, store: ActivationStore) -> Int[np.ndarray, "recording"]:
    """Return the first recordings of a kind, up to the hours: more hours contain fewer hours."""
    selected, seconds = [], 0.0
    for k in split_off_speakers(store).train:
        if condition.kind not in (ALL, _kind(store, k)):
            continue
        if seconds >= condition.hours * 3600:
            break
        selected.append(k)
        seconds += store.recordings[k].seconds
    return np.array(selected)


def train(condition: Condition, store: ActivationStore, hook: str, block: int, folder: Path, steps: int) -> SAE:
    """Train the SAE of a condition, or load it if it is finished."""
    if not (folder / "sae" / "cfg.json").is_file():
        settings = read_recipe(RECIPE).settings(store.width(hook), block, steps=steps)
        rows = StoredActivations(store, hook, recordings_of(condition, store), SHARDS_TOGETHER)
        with trainer_of(settings, TrainingRows(rows, store), folder) as trainer:
            trainer.fit(progress=False)
    return load_sae(folder / "sae").sae


def scores_of(sae: SAE, data: BenchmarkData) -> dict[str, Any]:
    """Return explained variance and the F1 of phones, with 95 % intervals by speaker."""
    subject = Subject("sae", "SAE", sae, data.hook, {})
    scores = {**Fidelity(curve=(1,)).measure(subject, data), **PhoneRecovery().measure(subject, data)}
    return {metric.name: asdict(scores[metric.name].estimate) for metric in (EXPLAINED, PHONE_F1)}


def _kind(store: ActivationStore, recording: int) -> str:
    return store.recordings[recording].speaker.partition("-")[0]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--acts", type=Path, required=True, metavar="STORE", help="folder of a store")
    parser.add_argument("--human", required=True, metavar="PLACE", help="recordings with labeled phones")
    parser.add_argument("--runs", type=Path, default=Path("runs/sae_speech"), metavar="DIR", help="work folder")
    parser.add_argument("--block", type=int, default=2, metavar="N")
    parser.add_argument("--steps", type=int, default=1000, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="output file (default: the screen)")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    store = open_store(parsed.acts, verify=False)
    hook = store.hook_names(f"encoder.blocks.{parsed.block}")[0]
    model_name = json.loads((parsed.acts / "manifest.json").read_text())["header"]["model"]
    model = HookedWhisper.from_pretrained(model_name, device="cpu")
    corpus = open_corpus(parsed.human)
    data = benchmark_data(model, labeled_clips(model, corpus, len(corpus), phones_only=True).clips, [hook], {})
    rows = []
    for condition in conditions(store):
        sae = train(condition, store, hook, parsed.block, parsed.runs / condition.name, parsed.steps)
        rows.append({"kind": condition.kind, "hours": condition.hours, **scores_of(sae, data)})
        print(rows[-1], flush=True)
    training = read_recipe(RECIPE).settings(store.width(hook), parsed.block, steps=parsed.steps).training
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
