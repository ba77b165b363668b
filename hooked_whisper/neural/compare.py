"""Compare a build with the packaged speech, within the tolerance stated in the metadata."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hooked_whisper.corpora.packaged import read_packaged
from hooked_whisper.neural.build import load
from hooked_whisper.neural.encode import finish
from hooked_whisper.neural.kokoro import FRAME_S
from hooked_whisper.neural.plan import make_plan

STARTS_WITHIN = 0.99  # share of words that start within one frame of the synthesizer
LEAST_SNR_DB = 10.0  # median over recordings; the codec alone leaves about 17


@dataclass(frozen=True)
class Comparison:
    """A comparison of a build with the packaged speech.

    Attributes:
        recordings: number of recordings compared.
        equal: fraction of them with the same length and the same word times.
        within: fraction of all words that start within 25 ms of the packaged time.
        snr_db: signal-to-noise ratio of packaged to built audio, median over recordings of equal length.
    """

    recordings: int
    equal: float
    within: float
    snr_db: float

    @property
    def passes(self) -> bool:
        """Whether the build equals the packaged speech within the tolerance."""
        return self.within >= STARTS_WITHIN and self.snr_db >= LEAST_SNR_DB


def compare(build: Path, folder: Path) -> Comparison:
    """Compare all recordings of a build with a folder of packaged speech.

    Raises:
        AudioError: if a recording has not been built, or the folder is not packaged speech.
    """
    packaged = {recording.id: recording for recording in read_packaged(folder)}
    equal, near, words, ratios = 0, 0, 0, []
    plan = [planned for planned in make_plan() if planned.id in packaged]
    for planned in plan:
        finished, recording = finish(*load(planned, build)), packaged[planned.id]
        alignment, audio = recording.alignment(), recording.audio().numpy()
        assert alignment is not None
        starts, shipped = ([word.start for word in tier] for tier in (finished.times.words, alignment.words))
        words += len(shipped)
        near += int(np.sum(np.abs(np.subtract(starts, shipped)) <= FRAME_S + 1e-6))
        if len(audio) == len(finished.audio):
            equal += starts == shipped
            noise = float(np.mean((audio - finished.audio) ** 2))
            ratios.append(10 * np.log10(float(np.mean(audio**2)) / noise))
    return Comparison(len(plan), equal / len(plan), near / words, float(np.median(ratios)) if ratios else float("-inf"))


def tolerance() -> dict[str, Any]:
    """Return the statement about rebuilding in the metadata."""
    return {
        "rule": f"{STARTS_WITHIN:.0%} of the words start within {1000 * FRAME_S:.0f} ms of the packaged time, and the "
        f"median signal-to-noise ratio against the packaged audio is {LEAST_SNR_DB:.0f} dB or more "
        "(`python -m hooked_whisper.neural compare`)",
        "measured": "On one machine, 1 and 2 threads and all levels of onnxruntime's graph optimization give the same "
        "samples to the bit (8 recordings, 7 voices). Other processors were not tried.",
    }
