"""Collection and scans relative to the bare encoder, and patching sweeps relative to the naive loop."""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from benchmarks import harvesting, patching, scanning
from benchmarks.bench.markdown import table


def sections(args: argparse.Namespace) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the text of the tables, and the numbers."""
    measured = harvesting.measure("tiny", args.clips, 30.0, 8, max(3, args.rounds // 3))
    scanned = scanning.compare("tiny", args.clips, 30.0, max(3, args.rounds // 3))
    swept = patching.measure_all("tiny", max(2, args.rounds // 4), n_naive=3)
    attributed = patching.measure_attribution("tiny", max(2, args.rounds // 4))
    texts = {
        "Harvest of one block, 30 s of sound in each clip": table(
            ("clips", "rate / the bare encoder's to that block, at least 0.95", "quartiles", "by CPU time"),
            [(args.clips, _cell(measured["rate"]), _span(measured["rate"]), _cell(measured["cpu_rate"]))],
        ),
        "Top-k scan of 1,536 neurons": table(
            ("clips", "time / that of a harvest, at most 1.10", "quartiles", "by CPU time"),
            [(scanned["clips"], _cell(scanned["ratio"]), _span(scanned["ratio"]), _cell(scanned["cpu_ratio"]))],
        ),
        "Sweeps of patches": table(
            ("sweep", "patches", "times the naive loop", "range", "at least", "fewer GFLOP by", "deviation, logits"),
            [
                (
                    r["sweep"],
                    r["patches"],
                    f"{r['ratio']:.1f}",
                    "{:.1f} to {:.1f}".format(*r["range"]),
                    f"{r['target']} {'✓' if r['ratio'] >= r['target'] else '✗'}",
                    f"{r['naive_gflop'] / r['gflop']:.1f}",
                    f"{r['deviation']:.0e}",
                )
                for r in swept
            ],
        ),
        "Attribution patching": table(
            ("sweep", "patches", "times one forward and backward pass", "range", "at most"),
            [
                (
                    r["sweep"],
                    f"{r['patches']:,}",
                    f"{r['ratio']:.2f}",
                    "{:.2f} to {:.2f}".format(*r["range"]),
                    f"{r['target']} {'✓' if r['ratio'] <= r['target'] else '✗'}",
                )
                for r in attributed
            ],
        ),
    }
    return texts, {"harvest": measured, "scan": scanned, "patches": swept, "attribution": attributed}


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):.3f}"


def _span(values: list[float]) -> str:
    low, _, high = statistics.quantiles(values, n=4)
    return f"{low:.3f} to {high:.3f}"
