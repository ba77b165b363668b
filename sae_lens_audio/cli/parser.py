"""``sae-lens-audio``: harvest activations, train dictionaries on them, score them, look at their features.

Exit codes: 0 done; 1 some recordings could not be read (the others are done); 2 a wrong argument or file, nothing
done; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from hooked_whisper.cli.running import Parser, run, version
from sae_lens_audio.cli.collect import add_collect, run_collect
from sae_lens_audio.cli.evaluate import add_evaluate, run_evaluate
from sae_lens_audio.cli.features import add_features, run_features
from sae_lens_audio.cli.train import add_train, run_train

Run = Callable[[argparse.Namespace, list[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run(_parser(), list(sys.argv[1:] if argv is None else argv))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="sae-lens-audio",
        description="Sparse autoencoders and their kin for the activations of speech models.",
        epilog="Example: `sae-lens-audio collect --hook encoder.blocks.2 --out acts`, then `sae-lens-audio train "
        "topk.toml`, `sae-lens-audio evaluate runs/topk/sae`, `sae-lens-audio features runs/topk/sae`. Training in "
        "several processes: `torchrun --nproc-per-node N -m sae_lens_audio train topk.toml`.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="harvest|train|evaluate|features")
    _add(
        commands, "harvest", add_collect, lambda parsed, _: run_collect(parsed),
        "activations of a corpus to a folder",
        "Run the encoder over recordings, no further than the last hook point, and write the activations as shuffled, "
        "checksummed shards. A harvest that was killed goes on.",
    )  # fmt: skip
    _add(
        commands, "train", add_train, lambda parsed, _: run_train(parsed),
        "a dictionary from a settings file",
        "Train a dictionary as a TOML file says. A run that was stopped goes on in the same folder.",
    )  # fmt: skip
    _add(
        commands, "evaluate", add_evaluate, lambda parsed, _: run_evaluate(parsed),
        "score dictionaries beside neurons, principal and random directions",
        "Reconstruction, splices into the model, phones on held-out speakers: one JSON and one sheet of figures.",
    )  # fmt: skip
    _add(
        commands, "features", add_features, run_features,
        "a browsable site about a dictionary's features, with sound",
        "The same pages as `hooked-whisper features` writes about neurons.",
    )  # fmt: skip
    return parser


def _add(commands: Any, name: str, add: Callable[[Any], None], do: Run, short: str, long: str) -> None:
    parser = commands.add_parser(name, help=short, description=long)
    add(parser)
    parser.set_defaults(run=do)


if __name__ == "__main__":
    sys.exit(main())
