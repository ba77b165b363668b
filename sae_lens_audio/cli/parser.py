"""``sae-lens-audio``: collect activations, train SAEs on them, score them, browse their features.

Exit codes: 0 done; 1 done, but some recordings could not be read; 2 a wrong argument or file, nothing done; 130
interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from hooked_whisper.cli.running import Parser, version
from hooked_whisper.cli.running import run as run_parser
from sae_lens_audio.cli.collect import add_collect, run_collect
from sae_lens_audio.cli.evaluate import add_evaluate, run_evaluate
from sae_lens_audio.cli.features import add_features, run_features
from sae_lens_audio.cli.train import add_train, run_train

Run = Callable[[argparse.Namespace, list[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_parser(_parser(), list(sys.argv[1:] if argv is None else argv))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="sae-lens-audio",
        description="Train and evaluate sparse autoencoders, transcoders and crosscoders of speech models.",
        epilog="Example: `sae-lens-audio collect --hook encoder.blocks.2 --out acts`, then `sae-lens-audio train "
        "topk.toml`, `sae-lens-audio evaluate runs/topk/sae`, `sae-lens-audio features runs/topk/sae`. Training in "
        "several processes: `torchrun --nproc-per-node N -m sae_lens_audio train topk.toml`.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="collect|train|evaluate|features")
    _add(
        commands, "collect", add_collect, _collect,
        "write the activations of a corpus to a folder",
        "Run the model over recordings, up to the last hook point, and write the activations as shuffled, checksummed "
        "shards. Run the same command again to resume after an interruption.",
        old_name="harvest",
    )  # fmt: skip
    _add(
        commands, "train", add_train, lambda parsed, _: run_train(parsed),
        "train an SAE from a settings file",
        "Train an SAE from a TOML file. A run that was stopped resumes in the same folder.",
    )  # fmt: skip
    _add(
        commands, "evaluate", add_evaluate, lambda parsed, _: run_evaluate(parsed),
        "score SAEs beside neurons, principal and random directions",
        "Score reconstruction, the model with the SAE attached, and phones on held-out speakers: one JSON file and one "
        "sheet of figures.",
    )  # fmt: skip
    _add(
        commands, "features", add_features, run_features,
        "write a browsable site about the features of an SAE, with sound",
        "The same pages as `hooked-whisper features` writes about neurons.",
    )  # fmt: skip
    return parser


def _add(
    commands: Any, name: str, add: Callable[[Any], None], run: Run, short: str, long: str, old_name: str = ""
) -> None:
    parser = commands.add_parser(name, help=short, description=long)
    add(parser)
    parser.set_defaults(run=run)
    if old_name:  # of version 0.1, not listed
        old = commands.add_parser(old_name, description=long)
        add(old)
        old.set_defaults(run=run)


def _collect(parsed: argparse.Namespace, _: list[str]) -> int:
    if parsed.command == "harvest":
        print("`sae-lens-audio harvest` is now called `sae-lens-audio collect`", file=sys.stderr)
    return run_collect(parsed)


if __name__ == "__main__":
    sys.exit(main())
