"""The table about the training speech of SAEs, from the file that ``benchmarks.sae_speech`` wrote."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.bench.markdown import table
from hooked_whisper.findings.core.finding import Estimate, format_estimate

_KINDS = {"flite": "flite", "kokoro": "Kokoro", "human": "human prompts", "all": "all"}


def sae_speech_table(path: Path) -> str:
    """Return a table of scores on human speech by kind and hours of training speech."""
    rows = [
        (
            _KINDS[condition["kind"]],
            f"{condition['hours']:g}",
            format_estimate(Estimate(**condition["explained_variance"])),
            format_estimate(Estimate(**condition["phone_f1"])),
        )
        for condition in json.loads(path.read_text(encoding="utf-8"))["conditions"]
    ]
    return table(("training speech", "hours", "explained variance", "F1 of phones"), rows).strip()
