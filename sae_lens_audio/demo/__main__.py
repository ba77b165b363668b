"""``python -m sae_lens_audio.demo``: train the packaged SAEs again, from a seed.

Synthesizes new sentences of the demo model's corpus by its training speakers, collects activations of blocks 2 and 3,
trains both recipes on each and writes the SAEs in half precision. Every step resumes after an interruption.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from hooked_whisper.cli.model_arguments import not_negative, positive
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.synthetic import SyntheticCorpus, synthetic_recordings
from sae_lens_audio.activations import ActivationStore, CollectOptions, collect_activations
from sae_lens_audio.demo import FOLDER, RECIPES
from sae_lens_audio.formats import save_sae
from sae_lens_audio.training.runs import source_of, trainer_of
from sae_lens_audio.training.settings import read_settings

BLOCKS = (2, 3)
SENTENCES, SEED = 8000, 1  # differs from the seed of the sentences that findings use


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sae_lens_audio.demo", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/saes"), metavar="DIR", help="work folder")
    parser.add_argument("--to", type=Path, default=FOLDER, metavar="DIR", help="output folder of the SAEs")
    parser.add_argument("--sentences", type=positive, default=SENTENCES, metavar="N")
    parser.add_argument("--seed", type=not_negative, default=SEED, metavar="S", help="of the sentences")
    parser.add_argument("--threads", type=positive, metavar="N")
    parsed = parser.parse_args()
    if parsed.threads:
        torch.set_num_threads(parsed.threads)
    model = HookedWhisper.from_pretrained("demo", device="cpu")
    corpus = synthetic_recordings(SyntheticCorpus.default(), parsed.sentences, parsed.seed, "train")
    hooks = [f"encoder.blocks.{block}" for block in BLOCKS]
    store = collect_activations(model, corpus, hooks, parsed.runs / "activations", CollectOptions(seed=parsed.seed))
    for recipe in ("topk", "tied"):
        for block in BLOCKS:
            train(store, recipe, block, parsed)


def train(store: ActivationStore, recipe: str, block: int, parsed: argparse.Namespace) -> None:
    """Train one SAE from its recipe and write its folder."""
    settings = read_settings(RECIPES / f"{recipe}.toml")
    settings = replace(settings, activations=replace(settings.activations, hook=f"encoder.blocks.{block}"))
    name = f"{recipe}-{block}"
    origin = {
        "sentences": {"count": parsed.sentences, "seed": parsed.seed},
        "command": f"python -m sae_lens_audio.demo --sentences {parsed.sentences} --seed {parsed.seed}",
    }
    corpus = f"{parsed.sentences} sentences of the synthetic corpus"
    rows = source_of(settings.activations, store=store)
    trainer = trainer_of(settings, rows, parsed.runs / name, corpus=corpus, origin=origin)
    finished = trainer.fit(progress=sys.stderr.isatty())
    save_sae(finished.half(), parsed.to / name, finished.metadata, trainer.dead.log_rates.half())
    print(f"{name}: {finished.metadata.extra['held_out']}")  # noqa: T201


if __name__ == "__main__":
    main()
