"""Find the SNR at which a task succeeds about half the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import isotonic_regression

from hooked_whisper._support.heatmap import line_chart
from hooked_whisper._support.plotly_figures import Backend
from hooked_whisper._support.showing import Summary, Tabular
from hooked_whisper.errors import PatchError

SNRS = (-10, -5, 0, 5, 10, 15, 20)


@dataclass(frozen=True, eq=False, repr=False)
class SnrSweep(Tabular):
    """Accuracy at each SNR (dB, rising).

    fitted: isotonic (never falling) least-squares fit of the accuracy.
    snr_db: SNR at which the fit crosses ``target``, linearly interpolated; ``None`` if it does not.
    """

    snrs: tuple[float, ...]
    accuracy: Float[np.ndarray, "snr"]
    fitted: Float[np.ndarray, "snr"]
    target: float
    snr_db: float | None

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per SNR: snr_db, accuracy, fitted."""
        return [
            {"snr_db": snr, "accuracy": float(accuracy), "fitted": float(fitted)}
            for snr, accuracy, fitted in zip(self.snrs, self.accuracy, self.fitted, strict=True)
        ]

    def summary(self) -> Summary:
        crossing = "never" if self.snr_db is None else f"at {self.snr_db:.3g} dB"
        rows = tuple(tuple(row.values()) for row in self.to_rows())
        return Summary(
            f"SnrSweep: accuracy crosses {self.target:g} {crossing}", (), ("SNR (dB)", "accuracy", "fit"), rows
        )

    def plot(self, title: str = "", *, backend: Backend = "matplotlib") -> Any:
        """Draw accuracy and fit against the SNR. ``backend="plotly"`` returns a plotly figure."""
        crossing = "no crossing" if self.snr_db is None else f"{self.snr_db:.3g} dB"
        return line_chart(
            {"measured": (self.snrs, self.accuracy), "isotonic fit": (self.snrs, self.fitted)},
            title=title or f"Accuracy by SNR (crosses {self.target:g}: {crossing})",
            x="SNR (dB)",
            y="accuracy",
            facecolor="white",
            backend=backend,
        )


def find_snr(
    accuracy: Callable[[float], float | int], snrs: Sequence[float | int] = SNRS, target: float = 0.5
) -> SnrSweep:
    """Measure ``accuracy(snr_db)``, from 0 to 1, once per SNR, and find where it crosses ``target``.

    Raises:
        PatchError: there are fewer than two SNRs, or an accuracy is outside 0 to 1.
    """
    levels = sorted({float(s) for s in snrs})
    if len(levels) < 2:
        raise PatchError(f"a sweep needs at least two SNRs, got {levels}")
    measured = np.array([float(accuracy(s)) for s in levels])
    if not ((measured >= 0) & (measured <= 1)).all():
        raise PatchError(f"accuracy must be between 0 and 1, got {measured.tolist()}")
    fitted = np.asarray(isotonic_regression(measured).x)
    above = int(np.searchsorted(fitted, target))
    if above == len(levels) or (above == 0 and fitted[0] > target):
        crossing = None
    elif above == 0 or fitted[above] == target:
        crossing = float(np.mean(np.array(levels)[fitted == target]))
    else:
        share = (target - fitted[above - 1]) / (fitted[above] - fitted[above - 1])
        crossing = float(levels[above - 1] + share * (levels[above] - levels[above - 1]))
    return SnrSweep(tuple(levels), measured, fitted, target, crossing)
