"""What a metric of the benchmark is, and its scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Float, Num

from hooked_whisper.errors import check_option
from hooked_whisper.findings.core.finding import Estimate
from sae_lens_audio.benchmark.data import BenchmarkData
from sae_lens_audio.benchmark.subjects import Subject

DRAWS = 1000
Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class BenchmarkMetric:
    """Name and meaning of one number.

    Attributes:
        name: key in tables and JSON, such as ``"phone_f1"``.
        title: column head, in a few words.
        better: the direction that is better; ``"neither"`` describes an SAE without judging it, as L0 does.
        unit: such as ``"share"``, ``"nats per token"`` or ``"ms per 1,000 rows"``.
        meaning: what is measured and how, in one or two sentences.
        source: the paper, or the metric of SAEBench, that it follows.
    """

    name: str
    title: str
    better: Better
    unit: str
    meaning: str
    source: str = ""

    def __post_init__(self) -> None:
        check_option("better", self.better, get_args(Better))


@dataclass(frozen=True)
class Score:
    """A number with its 95 % interval, and the numbers that it is a mean of.

    parts: by phone, by number of latents, or the like; plain numbers.
    """

    estimate: Estimate
    parts: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class MetricFamily(Protocol):
    """Metrics that one computation yields.

    A family is a frozen dataclass whose fields are its options. ``measure`` must not change with the other subjects.

    Attributes:
        metrics: what :meth:`measure` returns, in order.
        needs_decode: whether subjects without ``decode`` are skipped.
        needs_labels: whether phones or silence matter, so that shifted labels are a control.
    """

    @property
    def metrics(self) -> tuple[BenchmarkMetric, ...]: ...

    @property
    def needs_decode(self) -> bool: ...

    @property
    def needs_labels(self) -> bool: ...

    def measure(self, subject: Subject, data: BenchmarkData) -> Mapping[str, Score]:
        """Return the scores of one subject by name of metric. A score that cannot be computed is left out."""
        ...


def estimate_by_speaker(
    counts: Num[np.ndarray, "speaker *more"],
    statistic: Callable[[Float[np.ndarray, "draw *more"]], Float[np.ndarray, "draw"]],
    seed: int = 0,
    draws: int = DRAWS,
) -> Estimate:
    """Return a statistic of summed counts with a 95 % interval by bootstrap over speakers.

    Args:
        counts: sufficient statistics of each speaker, which can be added.
        statistic: takes the sums of each bootstrap sample; NaN where it is undefined.
    """
    n = len(counts)
    flat = counts.reshape(n, -1).astype(np.float64)
    values = statistic((speaker_weights(n, seed, draws) @ flat).reshape(-1, *counts.shape[1:]))
    return Estimate.of(values[0], values[1:] if n > 1 else [])


def speaker_weights(n: int, seed: int = 0, draws: int = DRAWS) -> Float[np.ndarray, "draw speaker"]:
    """Return how often each of ``n`` speakers is in each bootstrap sample; in the first row each is in it once."""
    drawn = np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), size=draws)
    return np.concatenate([np.ones((1, n)), drawn])
