"""``hooked-whisper scan``: write tables of what the features of hook points respond to."""

from __future__ import annotations

import argparse
import sys

from hooked_whisper.cli.corpus_arguments import add_corpus, corpus_of, report_failures, texts_of
from hooked_whisper.cli.model_arguments import add_model, check_language, load_model, not_negative, positive

SPOKEN = 300


def add_scan(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``scan``."""
    add_model(parser)
    parser.add_argument(
        "--hook",
        action="append",
        dest="hooks",
        required=True,
        metavar="NAME",
        help="hook point of the encoder, such as encoder.blocks.2.mlp.1; repeat it to scan several in one pass",
    )
    add_corpus(parser, sentences=SPOKEN, speakers="held-out", alignments=False)
    parser.add_argument(
        "--language", default="en", metavar="L", help="language of the recordings, for --texts own (default: en)"
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
    parser.add_argument("--seed", type=not_negative, default=0, metavar="S", help="seed of sentences and samples (0)")


def run_scan(parsed: argparse.Namespace, arguments: list[str]) -> int:
    """Scan with all processes that ``torchrun`` started, and print a summary."""
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
    with torchrun_ranks(torch.device("cpu")) as ranks:  # the processes only wait for each other
        first = ranks is None or ranks.rank == 0
        if first:
            print(f"scanning {described}", file=sys.stderr)
        corpus = texts_of(parsed, model, corpus, ranks)
        result = scan(model, corpus, parsed.hooks, parsed.out, options, progress=sys.stderr.isatty(), ranks=ranks)
    if not first:
        return 0
    for name, basis in result.bases.items():
        print(f"{name}: {basis.n_features} features, {basis.positions} positions")
    if "texts" in result.header:
        print(f"texts: {result.header['texts']}")
    print(f"open with hooked_whisper.features.load_scan({str(parsed.out)!r})")
    failures = [(failure["id"], failure["reason"]) for failure in result.failures]
    return report_failures(failures, len(corpus), "scan.json lists all")
