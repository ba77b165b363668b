"""``hooked-whisper scan``: what the units of some hook points respond to, as tables."""

from __future__ import annotations

import argparse
import sys

from hooked_whisper.cli.corpus_arguments import add_corpus, corpus_of, report_failures, texts_of
from hooked_whisper.cli.model_arguments import add_model, check_language, load_model, not_negative, positive

SPOKEN = 300


def add_scan(parser: argparse.ArgumentParser) -> None:
    """All arguments of the command."""
    add_model(parser)
    parser.add_argument(
        "--hook",
        action="append",
        dest="hooks",
        required=True,
        metavar="NAME",
        help="hook point of the encoder, such as encoder.blocks.2.mlp.1; may be repeated, for one pass",
    )
    add_corpus(parser, sentences=SPOKEN, speakers="held-out", alignments=False)
    parser.add_argument(
        "--language", default="en", metavar="L", help="of the recordings, for --texts own (default: en)"
    )
    parser.add_argument("--out", default="scan", metavar="PLACE", help="folder or URL (default: scan)")
    parser.add_argument("--top", type=positive, default=20, metavar="K", help="largest examples of each unit (20)")
    parser.add_argument("--context", type=float, default=1.0, metavar="S", help="seconds kept around each (1)")
    parser.add_argument("--ranges", type=positive, default=10, metavar="N", help="activation ranges (10)")
    parser.add_argument("--per-range", type=positive, default=5, metavar="N", help="examples from each range (5)")
    parser.add_argument("--batch", type=positive, default=4, metavar="N", help="windows encoded together (4)")
    parser.add_argument(
        "--chunk", type=positive, default=32, metavar="N", help="recordings that a process takes at a time (32)"
    )
    parser.add_argument("--seed", type=not_negative, default=0, metavar="S", help="of sentences and samples (0)")


def run_scan(parsed: argparse.Namespace, arguments: list[str]) -> int:
    """Scan, by as many processes as ``torchrun`` started, and say what is there."""
    import torch

    from hooked_whisper._support.ranks import torchrun_ranks
    from hooked_whisper.features.scan import ScanOptions, scan

    options = ScanOptions(
        k=parsed.top,
        context_s=parsed.context,
        ranges=parsed.ranges,
        per_range=parsed.per_range,
        batch=parsed.batch,
        chunk=parsed.chunk,
        seed=parsed.seed,
    )
    corpus, described = corpus_of(parsed)
    model, _ = load_model(parsed)
    check_language(model, parsed.language)
    with torchrun_ranks(torch.device("cpu")) as ranks:  # they only wait for each other
        first = ranks is None or ranks.rank == 0
        if first:
            print(f"scanning {described}", file=sys.stderr)
        corpus = texts_of(parsed, model, corpus, ranks)
        found = scan(model, corpus, parsed.hooks, parsed.out, options, progress=sys.stderr.isatty(), ranks=ranks)
    if not first:
        return 0
    for name, site in found.sites.items():
        print(f"{name}: {site.n_features} units, {site.positions} positions")
    if "texts" in found.header:
        print(f"texts: {found.header['texts']}")
    print(f"open with hooked_whisper.features.load_scan({str(parsed.out)!r})")
    failures = [(one["id"], one["reason"]) for one in found.failures]
    return report_failures(failures, len(corpus), "scan.json says why")
