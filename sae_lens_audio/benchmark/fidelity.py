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
POSITIONS, ACTIVE, ERROR, SPREAD, COSINES = range(5)  # columns of the sums
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
        mean = target.double().mean(0)
        sizes = [k for k in self.curve if k <= subject.basis.n_features]
        errors = dict.fromkeys(sizes, 0.0)
        fired = torch.zeros(subject.basis.n_features, dtype=torch.bool)
        parts = []
        for rows, aim in zip(x.split(BLOCK_ROWS), target.double().split(BLOCK_ROWS), strict=True):
            latents = subject.encode(rows)
            fired |= (latents != 0).any(0)
            parts.append(_by_row(latents, aim, subject.decode(latents, rows).double(), mean))
            for k, sparse in _with_largest(latents, subject, sizes):
                errors[k] += float((aim - subject.decode(sparse, rows).double()).square().sum())
        by_row = torch.cat(parts).numpy()
        counted = np.zeros((len(data.speakers), by_row.shape[1]))
        np.add.at(counted, data.speaker, by_row)
        spread = float(by_row[:, SPREAD].sum())
        curve = {f"k={k}": 1 - error / spread for k, error in errors.items()} if spread else {}
        return {
            L0.name: Score(estimate_by_speaker(counted, lambda sums: _ratio(sums, ACTIVE, POSITIONS))),
            DEAD.name: Score(Estimate(float((~fired).float().mean()))),
            EXPLAINED.name: Score(estimate_by_speaker(counted, lambda sums: 1 - _ratio(sums, ERROR, SPREAD)), curve),
            COSINE.name: Score(estimate_by_speaker(counted, lambda sums: _ratio(sums, COSINES, POSITIONS))),
            LATENCY.name: Score(latency(subject, x)),
        }


def _by_row(
    latents: Float[Tensor, "row n"], y: Float[Tensor, "row out"], y_hat: Float[Tensor, "row out"], mean: Tensor
) -> Float[Tensor, "row 5"]:
    """Return 1, the number of active latents, squared error, squared distance from the mean, and cosine of each row."""
    columns = {
        POSITIONS: torch.ones(len(y), dtype=torch.float64),
        ACTIVE: (latents != 0).sum(1).double(),
        ERROR: (y - y_hat).square().sum(1),
        SPREAD: (y - mean).square().sum(1),
        COSINES: torch.nn.functional.cosine_similarity(y, y_hat, dim=1),
    }
    return torch.stack([columns[i] for i in range(len(columns))], dim=1)


def _with_largest(
    latents: Float[Tensor, "row n"], subject: Subject, sizes: Sequence[int]
) -> Iterator[tuple[int, Float[Tensor, "row n"]]]:
    """Yield the latents with only the k of each position that contribute most, for each size k."""
    if not sizes:
        return
    norms = 1.0 if subject.directions is None else subject.directions.norm(dim=1)
    order = (latents.abs() * norms).topk(max(sizes), dim=1).indices
    for k in sizes:
        index = order[:, :k]
        yield k, torch.zeros_like(latents).scatter(1, index, latents.gather(1, index))


def _ratio(sums: Float[np.ndarray, "draw 5"], above: int, below: int) -> Float[np.ndarray, "draw"]:
    return np.divide(sums[:, above], sums[:, below], out=np.full(len(sums), np.nan), where=sums[:, below] > 0)


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
