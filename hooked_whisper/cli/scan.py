"""``hooked-whisper scan``: write tables of what the features of hook points respond to."""

from __future__ import annotations

import argparse
import sys

from hooked_whisper.cli.corpus_arguments import add_corpus, report_failures
from hooked_whisper.cli.model_arguments import add_model, not_negative, positive
from hooked_whisper.cli.prepare import prepare

SPOKEN = 300


def add_scan(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``scan``."""
    parser.add_argument(
        "--hook",
        action="append",
        dest="hooks",
        required=True,
        metavar="NAME",
        help="hook point of the encoder, such as encoder.blocks.2.mlp.1; repeat it to scan several in one pass",
    )
    parser.add_argument("--out", default="scan", metavar="PLACE", help="output folder or URL (default: scan)")
    parser.add_argument("--top", type=positive, default=20, metavar="K", help="largest examples of each feature (20)")
    parser.add_argument(
        "--context", type=float, default=1.0, metavar="S", help="seconds of activations around each example (1)"
    )
    parser.add_argument("--ranges", type=positive, default=10, metavar="N", help="activation ranges (10)")
    parser.add_argument("--per-range", type=positive, default=5, metavar="N", help="examples from each range (5)")
    parser.add_argument("--batch", type=positive, default=4, metavar="N", help="windows encoded together (4)")
    parser.add_argument(
        "--chunk", type=positive, default=32, metavar="N", help="recordings per work unit of a process (32)"
    )
    parser.add_argument(
        "--window",
        choices=("full", "sound"),
        default="full",
        help="input of the encoder: its full window (default), or the sound and a second of padding, which is faster "
        "for short clips but changes the activations; the difference is measured and printed",
    )
    parser.add_argument("--seed", type=not_negative, default=0, metavar="S", help="seed of sentences and samples (0)")
    add_corpus(parser, sentences=SPOKEN, speakers="held-out", alignments=False)
    add_model(parser)


def run_scan(parsed: argparse.Namespace, arguments: list[str]) -> int:
    """Scan with all processes that ``torchrun`` started, and print a summary."""
    prepared = prepare(parsed)
    from hooked_whisper.activations.deviation import deviation_lines
    from hooked_whisper.features.scan import ScanOptions, scan
    from hooked_whisper.features.scan.reader import encoder_point

    options = ScanOptions(
        k=parsed.top,
        context_s=parsed.context,
        ranges=parsed.ranges,
        per_range=parsed.per_range,
        batch=parsed.batch,
        chunk=parsed.chunk,
        seed=parsed.seed,
        window=parsed.window,
    )
    for hook in parsed.hooks:
        encoder_point(prepared.shapes, hook)
    with prepared.start("scanning") as session:
        progress = sys.stderr.isatty()
        result = scan(
            session.model, session.corpus, parsed.hooks, parsed.out, options, progress=progress, ranks=session.ranks
        )
    if not session.first:
        return 0
    for name, basis in result.bases.items():
        print(f"{name}: {basis.n_features} features, {basis.positions} positions")
    for line in deviation_lines(result.deviation):
        print(line)
    if "texts" in result.header:
        print(f"texts: {result.header['texts']}")
    print(f"open with hooked_whisper.features.load_scan({str(parsed.out)!r})")
    failures = [(failure["id"], failure["reason"]) for failure in result.failures]
    return report_failures(failures, len(session.corpus), "scan.json lists all")
