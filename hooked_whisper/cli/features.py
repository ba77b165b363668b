"""``hooked-whisper features``: write web pages about the features of a hook point."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hooked_whisper.cli.corpus_arguments import add_corpus, corpus_of, report_failures, texts_of
from hooked_whisper.cli.model_arguments import check_language

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper
    from hooked_whisper.protocols import FeatureBasis

SPOKEN = 300
BASES = ("neurons", "both-signs", "random")


def add_features(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``features`` except those of :func:`add_model`."""
    parser.add_argument(
        "--hook",
        default="encoder.blocks.2.mlp.1",
        metavar="NAME",
        help="hook point of the encoder (default: encoder.blocks.2.mlp.1, the neurons of block 2)",
    )
    parser.add_argument(
        "--basis",
        choices=BASES,
        default="neurons",
        help="features at the hook point: the activations (default), the activations and their negatives, or random "
        "orthonormal directions",
    )
    add_site(parser)


def add_site(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that select what the pages show."""
    parser.add_argument(
        "--units", type=units, metavar="A:B", help="features that get a page, such as 0:50 or 3,17,40 (default: all)"
    )
    add_corpus(parser, sentences=SPOKEN, speakers="held-out")
    parser.add_argument(
        "--language", default="en", metavar="L", help="language of the recordings, for --texts own (default: en)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("features"), metavar="DIR", help="output folder (default: features)"
    )
    parser.add_argument("--top", type=_count, default=8, metavar="N", help="strongest examples of each feature (8)")
    parser.add_argument("--ranges", type=_count, default=5, metavar="N", help="activation ranges of equal width (5)")
    parser.add_argument("--per-range", type=_count, default=2, metavar="N", help="examples from each range (2)")
    parser.add_argument(
        "--labeled",
        "--labelled",
        type=_count,
        default=300,
        metavar="N",
        help="maximum number of aligned windows for counting phones (300)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of all samples (default: 0)")


def run_features(parsed: argparse.Namespace, arguments: Sequence[str], model: HookedWhisper) -> int:
    """Scan the corpus, write the pages, and print where they are."""
    return write_site(parsed, shlex.join(["hooked-whisper", *arguments]), model, parsed.hook, _basis(parsed, model))


def write_site(
    parsed: argparse.Namespace, command: str, model: HookedWhisper, hook: str, basis: FeatureBasis | None
) -> int:
    """Write the pages for the arguments of :func:`add_site`."""
    import torch

    from hooked_whisper._support.ranks import torchrun_ranks
    from hooked_whisper.features import load_scan
    from hooked_whisper.report.units import PageOptions, build_site

    check_language(model, parsed.language)
    corpus, described = corpus_of(parsed)
    options = PageOptions(parsed.top, parsed.per_range, parsed.ranges, parsed.labeled, parsed.seed)
    with torchrun_ranks(torch.device("cpu")) as ranks:  # the processes share the scan
        index = build_site(
            model,
            texts_of(parsed, model, corpus, ranks),
            hook,
            parsed.out,
            units=parsed.units,
            basis=basis,
            options=options,
            described=described,
            command=command,
            progress=sys.stderr.isatty(),
            ranks=ranks,
        )
    if ranks is not None and ranks.rank:
        return 0
    print(f"open {index}")
    failures = [(failure["id"], failure["reason"]) for failure in load_scan(parsed.out / "scan").failures]
    return report_failures(failures, len(corpus), f"{parsed.out}/scan/scan.json lists all")


def _basis(parsed: argparse.Namespace, model: HookedWhisper) -> FeatureBasis | None:
    from hooked_whisper.features import BothSigns, axes, random_orthonormal
    from hooked_whisper.features.scan.reader import axis_labels, encoder_point

    if parsed.basis == "neurons":
        return None
    width = len(axis_labels(model, encoder_point(model, parsed.hook)))
    return BothSigns(axes(width)) if parsed.basis == "both-signs" else random_orthonormal(width, seed=parsed.seed)


def units(text: str) -> list[int]:
    """Parse ``"0:50"``, ``"0:50:5"`` or ``"3,17,40"``."""
    try:
        if ":" in text:
            numbers = list(range(*(int(part) for part in text.split(":"))))
        else:
            numbers = [int(part) for part in text.split(",")]
    except (ValueError, TypeError):
        numbers = []
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"needs units such as 0:50 or 3,17,40, got {text!r}")
    return numbers


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"needs a whole number of at least 0, got {text!r}")
    return int(text)
