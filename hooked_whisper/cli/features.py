"""``hooked-whisper features``: write web pages about the features of a hook point."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hooked_whisper.cli.aligned import add_align_option, with_phones
from hooked_whisper.cli.corpus_arguments import add_corpus, report_failures
from hooked_whisper.cli.model_arguments import add_model
from hooked_whisper.cli.prepare import prepare

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper
    from hooked_whisper.protocols import FeatureBasis

SPOKEN = 300
NAMES = {"neurons": "", "both-signs": "the activations and their negatives", "random": "random directions"}
BASES = tuple(NAMES)


def add_features(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``features``."""
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
    add_model(parser)


def add_site(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that select what the pages show."""
    parser.add_argument(
        "--units", type=units, metavar="A:B", help="features that get a page, such as 0:50 or 3,17,40 (default: all)"
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
    add_corpus(parser, sentences=SPOKEN, speakers="held-out", texts="own")
    add_align_option(parser)


def run_features(parsed: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Scan the corpus, write the pages, and print where they are."""
    command = shlex.join(["hooked-whisper", *arguments])
    return write_site(
        parsed,
        command,
        parsed.hook,
        lambda width: _basis(parsed.basis, width, parsed.seed),
        basis_name=NAMES[parsed.basis],
    )


def write_site(
    parsed: argparse.Namespace,
    command: str,
    hook: str | Sequence[str],
    basis_of: Callable[[int], FeatureBasis | None],
    check_model: Callable[[HookedWhisper], None] = lambda model: None,
    basis_name: str = "",
) -> int:
    """Write the pages for the arguments of :func:`add_site`.

    Args:
        hook: the hook point, or the list of a crosscoder's.
        basis_of: returns the basis for activations of a width; ``None`` means the activations themselves.
        check_model: raises if the loaded model is not the right one.
        basis_name: name of the basis on the pages, such as ``"SAE topk-2"``.
    """
    prepared = prepare(parsed)
    from hooked_whisper.features import load_scan
    from hooked_whisper.features.scan.reader import axis_labels, encoder_point
    from hooked_whisper.report.units import PageOptions, build_site

    options = PageOptions(parsed.top, parsed.per_range, parsed.ranges, parsed.labeled, parsed.seed)
    points = [encoder_point(prepared.shapes, name) for name in ([hook] if isinstance(hook, str) else hook)]
    width = len(axis_labels(prepared.shapes, points[0]))
    basis = basis_of(width)
    _check_units(parsed.units, width if basis is None else len(basis.labels), ", ".join(points))
    with prepared.start("scanning", check_model) as session:
        index = build_site(
            session.model,
            with_phones(parsed, session.corpus, session.ranks),
            hook,
            parsed.out,
            units=parsed.units,
            basis=basis,
            basis_name=basis_name,
            options=options,
            described=prepared.described,
            command=command,
            progress=sys.stderr.isatty(),
            ranks=session.ranks,
        )
    if not session.first:
        return 0
    print(f"open {index}")
    failures = [(failure["id"], failure["reason"]) for failure in load_scan(parsed.out / "scan").failures]
    return report_failures(failures, len(session.corpus), f"{parsed.out}/scan/scan.json lists all")


def _basis(name: str, width: int, seed: int) -> FeatureBasis | None:
    from hooked_whisper.features import BothSigns, axes, random_orthonormal

    if name == "neurons":
        return None
    return BothSigns(axes(width)) if name == "both-signs" else random_orthonormal(width, seed=seed)


def _check_units(indices: Sequence[int] | None, n_features: int, hook: str) -> None:
    """Raise ``HookedWhisperError`` if a unit does not exist."""
    from hooked_whisper.errors import HookedWhisperError

    if indices and max(indices) >= n_features:
        raise HookedWhisperError(
            f"--units has {max(indices)}, but {hook} has {n_features} features here, 0 to {n_features - 1}"
        )


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
