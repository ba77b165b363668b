"""How well activations are reconstructed, by how many latents, and how fast."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.findings.core.finding import Estimate
from sae_lens_audio.benchmark.data import BenchmarkData
from sae_lens_audio.benchmark.metric import BenchmarkMetric, Score, estimate_by_speaker
from sae_lens_audio.benchmark.subjects import BLOCK_ROWS, Subject

CURVE = (4, 8, 16, 32, 64, 128)
_TIMED_ROWS, _REPEATS = 1500, 5  # a window of 30 s

L0 = BenchmarkMetric("l0", "L0", "neither", "latents", "Latents that are not 0, mean over positions.")
DEAD = BenchmarkMetric("dead", "dead", "lower", "share", "Share of latents that are 0 at all positions of the speech.")
EXPLAINED = BenchmarkMetric(
    "explained_variance",
    "explained variance",
    "higher",
    "share",
    "1 minus the squared error over the squared distance from the mean of the scored positions. Its parts are the "
    "same with only the k latents of each position that contribute most: the curve of fidelity against sparsity.",
    "SAEBench, core metrics",
)
COSINE = BenchmarkMetric(
    "cosine", "cosine", "higher", "cosine", "Between activation and reconstruction, mean over positions.", "SAEBench"
)
LATENCY = BenchmarkMetric(
    "latency",
    "latency",
    "lower",
    "ms per 30 s",
    f"Encoding and decoding {_TIMED_ROWS:,} positions, as many as a 30 s window has: the median of {_REPEATS} runs on "
    "this machine.",
)


@dataclass(frozen=True)
class Fidelity:
    """Sparsity, reconstruction and latency of a subject that decodes.

    curve: numbers of latents to keep at each position, for the curve of fidelity against sparsity.
    """

    curve: Sequence[int] = CURVE

    metrics = (L0, DEAD, EXPLAINED, COSINE, LATENCY)
    needs_decode = True
    needs_labels = False

    @torch.no_grad()
    def measure(self, subject: Subject, data: BenchmarkData) -> Mapping[str, Score]:
        x, target = data.at(subject.hook), data.at(subject.writes)
        counted = _count(subject, x, target, data)

        def ratio(sums: np.ndarray, above: int, below: int) -> np.ndarray:
            return np.divide(sums[:, above], sums[:, below], out=np.full(len(sums), np.nan), where=sums[:, below] > 0)

        explained = estimate_by_speaker(counted, lambda sums: 1 - ratio(sums, 2, 3))
        return {
            L0.name: Score(estimate_by_speaker(counted, lambda sums: ratio(sums, 1, 0))),
            DEAD.name: Score(Estimate(float((~_fired(subject, x)).mean()))),
            EXPLAINED.name: Score(explained, self._curve(subject, x, target)),
            COSINE.name: Score(estimate_by_speaker(counted, lambda sums: ratio(sums, 4, 0))),
            LATENCY.name: Score(latency(subject, x)),
        }

    def _curve(self, subject: Subject, x: Float[Tensor, "row d"], target: Float[Tensor, "row out"]) -> dict[str, float]:
        """Return the explained variance with the k latents of each position that contribute most, by ``"k=4"``."""
        mean = target.double().mean(0)
        spread = float((target.double() - mean).square().sum())
        norms = 1.0 if subject.directions is None else subject.directions.norm(dim=1)
        sizes = [k for k in self.curve if k <= subject.basis.n_features]
        errors = dict.fromkeys(sizes, 0.0)
        for rows, aim in _blocks(x, target):
            latents = subject.encode(rows)
            order = (latents.abs() * norms).topk(max(sizes), dim=1)
            for k in sizes:
                index = order.indices[:, :k]
                sparse = torch.zeros_like(latents).scatter(1, index, latents.gather(1, index))
                errors[k] += float((aim.double() - subject.decode(sparse, rows).double()).square().sum())
        return {f"k={k}": 1 - error / spread for k, error in errors.items()} if spread else {}


def latency(subject: Subject, x: Float[Tensor, "row d"]) -> Estimate:
    """Return milliseconds to encode and decode as many positions as a window has; low and high are the extremes."""
    rows = x[np.arange(_TIMED_ROWS) % len(x)]
    seconds = []
    for _ in range(_REPEATS + 1):
        began = time.perf_counter()
        subject.decode(subject.encode(rows), rows)
        seconds.append(1000 * (time.perf_counter() - began))
    measured = seconds[1:]  # the first run warms up
    return Estimate(float(np.median(measured)), min(measured), max(measured))


def _count(
    subject: Subject, x: Float[Tensor, "row d"], target: Float[Tensor, "row out"], data: BenchmarkData
) -> Float[np.ndarray, "speaker 5"]:
    """Return positions, active latents, squared error, squared distance from the mean, and cosines, by speaker."""
    mean = target.double().mean(0)
    parts = []
    for rows, aim in _blocks(x, target):
        latents = subject.encode(rows)
        y, y_hat = aim.double(), subject.decode(latents, rows).double()
        parts.append(
            torch.stack(
                [
                    torch.ones(len(y), dtype=torch.float64),
                    (latents != 0).sum(1).double(),
                    (y - y_hat).square().sum(1),
                    (y - mean).square().sum(1),
                    torch.nn.functional.cosine_similarity(y, y_hat, dim=1),
                ],
                dim=1,
            )
        )
    by_row = torch.cat(parts).numpy()
    counted = np.zeros((len(data.speakers), by_row.shape[1]))
    np.add.at(counted, data.speaker, by_row)
    return counted


def _fired(subject: Subject, x: Float[Tensor, "row d"]) -> np.ndarray:
    fired = torch.zeros(subject.basis.n_features, dtype=torch.bool)
    for rows in x.split(BLOCK_ROWS):
        fired |= (subject.encode(rows) != 0).any(0)
    return fired.numpy()


def _blocks(x: Float[Tensor, "row d"], target: Float[Tensor, "row out"]) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(x.split(BLOCK_ROWS), target.split(BLOCK_ROWS), strict=True)
