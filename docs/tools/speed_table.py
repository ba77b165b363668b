"""The README's table of speed, from the files that ``make bench`` and ``make bench-sae`` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.bench.markdown import table

_RESIDUAL = "read one residual of the middle"
# title in the README, size, row and peer in the file
_PASSES = (
    ("encoder", "tiny", "encoder, 30 s", "openai-whisper"),
    ("encoder", "tiny", "encoder, 30 s, beside CTranslate2", "CTranslate2, float32"),
    ("greedy decoding, 32 tokens", "tiny", "greedy decode, 32 tokens", "transformers"),
    ("greedy decoding, 40 tokens", "tiny.en", "greedy decode of one window, 40 tokens", "CTranslate2, float32"),
    (
        _RESIDUAL,
        "tiny",
        "one residual of the middle, no logits",
        "torch hook on openai-whisper",
    ),
    (_RESIDUAL, "tiny", "one residual of the middle, no logits", "nnsight on transformers"),
    (
        "read one attention pattern of the middle",
        "tiny",
        "one attention pattern of the middle, no logits",
        "transformers eager, output_attentions",
    ),
    (
        "encoder with windows of 50 positions to each side",
        "tiny",
        "local window, k=50, every encoder block",
        "ours, full encoder",
    ),
)
_SWEEPS = (
    ("patch every head at every decoder position", "decoder heads"),
    ("patch every encoder head, by span", "encoder heads by span"),
)
_TRAINING = (("topk", "sparsify"), ("topk", "dictionary_learning"), ("standard", "sae-lens"), ("jumprelu", "sae-lens"))
_NAMES = {"topk": "a TopK", "standard": "an L1", "jumprelu": "a JumpReLU"}


def speed_table(path: Path) -> str:
    """Return a table of how many times faster we are, by kind of work and peer.

    path: ``results.json`` of the benchmark; ``sae_training.json`` lies beside it.
    """
    facts = json.loads(path.read_text(encoding="utf-8"))
    training = json.loads(path.with_name("sae_training.json").read_text(encoding="utf-8"))
    rows = [(title, other, _times(1 / _row(facts, size, case, other)["ratio"])) for title, size, case, other in _PASSES]
    sweeps = {sweep["sweep"]: sweep for sweep in facts["passes"]["patches"]}
    rows += [(title, "one full pass per patch", _times(sweeps[name]["ratio"])) for title, name in _SWEEPS]
    trained = {result["name"]: result for result in training["results"]}
    rows += [(f"train {_NAMES[name]} SAE", other, _times(_median(trained[name], other))) for name, other in _TRAINING]
    return table(("work", "against", "times faster"), rows).strip()


def _row(facts: dict[str, Any], size: str, case: str, other: str) -> dict[str, Any]:
    return next(row for row in facts["sizes"][size] if (row["case"], row["other"]) == (case, other))


def _median(result: dict[str, Any], other: str) -> float:
    return next(row for row in result["implementations"] if row["name"] == other)["times_as_long"]["median"]


def _times(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"
