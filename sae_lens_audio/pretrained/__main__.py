"""``python -m sae_lens_audio.pretrained``: train the SAEs of real Whisper again.

Collects activations of the encoder on speech (see ``python -m sae_lens_audio.speech``), then trains an SAE for each
recipe, block and seed, and writes ``RUNS/MODEL/NAME/sae``, a SAELens folder in float16 with scores on held-out
speakers. An interrupted command resumes. ``torchrun`` and ``--device cuda`` work too.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from hooked_whisper._support.ranks import OF_PASSES, OF_STEPS, torchrun_ranks
from hooked_whisper.cli.model_arguments import device_of, not_negative, positive, threads
from hooked_whisper.cli.running import exit_code_of
from hooked_whisper.errors import ConfigError
from hooked_whisper.hooked import HookedWhisper
from sae_lens_audio.pretrained.recipes import BLOCKS, read_recipes, recipe_names
from sae_lens_audio.pretrained.runs import TrainingRun, collect, open_speech, train


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, 2 if something is wrong."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    parsed = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if parsed.threads:
        torch.set_num_threads(parsed.threads)
    command = f"python -m sae_lens_audio.pretrained {' '.join(argv)}"
    return exit_code_of(parser.prog, lambda: _run(parsed, command))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sae_lens_audio.pretrained",
        description=(__doc__ or "").replace("``", "`"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="tiny.en", metavar="NAME", help="tiny.en (default), base, or another")
    parser.add_argument(
        "--audio",
        nargs="+",
        required=True,
        metavar="PLACE",
        help="corpora to train on, such as the folder that sae_lens_audio.speech wrote",
    )
    parser.add_argument("--runs", type=Path, required=True, metavar="DIR", help="output folder")
    parser.add_argument(
        "--recipes", nargs="+", default=[], metavar="R", help=f"some of {', '.join(recipe_names())} (default: all)"
    )
    parser.add_argument(
        "--blocks",
        nargs="+",
        type=not_negative,
        default=[],
        metavar="N",
        help="encoder blocks (default: 0 to 3 of tiny.en, 2 to 5 of base, all of others)",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=not_negative,
        default=[0],
        metavar="S",
        help="seeds of weights and order of rows; one SAE each (default: 0)",
    )
    parser.add_argument(
        "--steps", type=positive, metavar="N", help="number of steps instead of the recipe's, for a quick look"
    )
    parser.add_argument("--acts", type=Path, metavar="DIR", help="activations (default: RUNS/MODEL/activations)")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, ... (default: cuda if available)")
    parser.add_argument("--threads", type=threads, metavar="N", help="CPU threads")
    return parser


def _run(parsed: argparse.Namespace, command: str) -> None:
    recipes = read_recipes(parsed.recipes)  # a wrong name is reported before anything is loaded
    corpora = [open_speech(place) for place in dict.fromkeys(parsed.audio)]
    device = device_of(parsed.device or "")
    model = HookedWhisper.from_pretrained(parsed.model, device=device)
    blocks = _blocks(parsed, model)
    acts = parsed.acts or parsed.runs / parsed.model / "activations"
    with torchrun_ranks(torch.device("cpu"), OF_PASSES) as ranks:
        stores = [collect(model, corpus, recipes, blocks, acts, ranks) for corpus in corpora]
    del model
    runs = [TrainingRun(recipe, block, seed) for recipe in recipes for block in blocks for seed in parsed.seeds]
    with torchrun_ranks(device, OF_STEPS) as ranks:
        for run in runs:
            folder = parsed.runs / parsed.model / run.name
            train(run, stores, folder, command=command, steps=parsed.steps, device=device, ranks=ranks)


def _blocks(parsed: argparse.Namespace, model: HookedWhisper) -> list[int]:
    """Return the blocks of ``--blocks``, else the published ones, else all.

    Raises:
        ConfigError: the model has no such block.
    """
    n = model.cfg.encoder.n_layers
    blocks = list(dict.fromkeys(parsed.blocks)) or list(BLOCKS.get(parsed.model, range(n)))
    if wrong := [block for block in blocks if block >= n]:
        raise ConfigError(f"--blocks {wrong[0]}: the encoder of {parsed.model} has blocks 0 to {n - 1}")
    return blocks


if __name__ == "__main__":
    sys.exit(main())
