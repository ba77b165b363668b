"""Difference between activations of short windows (``window="sound"``) and those of full windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hooked_whisper.activations import deviation
from hooked_whisper.corpora import Recording
from sae_lens_audio.activations.reading import RowReader

Deviation = deviation.Deviation


def measure_deviation(reader: RowReader, corpus: Sequence[Recording], most: int = deviation.SAMPLED) -> dict[str, Any]:
    """Compare at the hook points of a reader, see :func:`hooked_whisper.activations.deviation.measure_deviation`."""
    return deviation.measure_deviation(reader.stream, corpus, most)
