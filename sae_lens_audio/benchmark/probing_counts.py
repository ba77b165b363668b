"""Held-out scores of probes counted by speaker, so that average precision and F1 can be drawn by bootstrap."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from sae_lens_audio.benchmark.binned import average_precision
from sae_lens_audio.benchmark.data import BenchmarkData

RANKS = 48  # bins of scores; each has an equal share of the class


def ranked_counts(
    scores: Float[np.ndarray, "row class"],
    truth: Bool[np.ndarray, "row class"],
    speaker: Int[np.ndarray, "row"],
    n_speakers: int,
) -> Int[np.ndarray, "speaker 2 class rank"]:
    """Count the right and all rows of each speaker by class and by rank of the score.

    Ranks are between quantiles of the scores of the class, pooled over speakers; equal scores have equal ranks.
    """
    n_classes = scores.shape[1]
    counts = np.zeros((n_speakers, 2, n_classes, RANKS + 1), dtype=np.int64)
    for c in range(n_classes):
        right = truth[:, c]
        if not right.any():
            continue
        ordered = np.sort(scores[right, c])
        edges = ordered[(np.arange(RANKS) * len(ordered)) // RANKS]
        rank = RANKS - np.searchsorted(edges, scores[:, c], side="right")  # 0 is the best
        index = speaker * (RANKS + 1) + rank
        size = n_speakers * (RANKS + 1)
        counts[:, 0, c] = np.bincount(index[right], minlength=size).reshape(n_speakers, -1)
        counts[:, 1, c] = np.bincount(index, minlength=size).reshape(n_speakers, -1)
    return counts


def precision_of(counts: Num[np.ndarray, "*draw 2 class rank"]) -> Float[np.ndarray, "*draw class"]:
    """Return the average precision of each class; NaN where a class has no rows."""
    return average_precision(counts[..., 0, :, :], counts[..., 1, :, :])


def hit_counts(
    predicted: Bool[np.ndarray, "row *class"],
    truth: Bool[np.ndarray, "row *class"],
    speaker: Int[np.ndarray, "row"],
    n_speakers: int,
) -> Int[np.ndarray, "speaker 3 *class"]:
    """Count true positives, predicted and true rows of each speaker."""
    masks = np.stack([predicted & truth, predicted, truth], 1).reshape(len(speaker), -1)
    of_speaker = (speaker == np.arange(n_speakers)[:, None]).astype(np.float32)
    counts = np.rint(of_speaker @ masks.astype(np.float32)).astype(np.int64)
    return counts.reshape(n_speakers, 3, *predicted.shape[1:])


def f1_of(counts: Num[np.ndarray, "*draw 3 class"]) -> Float[np.ndarray, "*draw class"]:
    """Return the F1 of each class; NaN where a class has no rows."""
    true, predicted, said = (counts[..., i, :] for i in range(3))
    f1 = np.divide(2 * true, predicted + said, out=np.zeros(true.shape), where=predicted + said > 0)
    return np.where(said > 0, f1, np.nan)


def defined_mean(values: Float[np.ndarray, "*draw n"]) -> Float[np.ndarray, "*draw"]:
    """Return the mean of the values that are not NaN; NaN without any."""
    defined = np.isfinite(values)
    n = defined.sum(-1)
    return np.divide(np.where(defined, values, 0).sum(-1), n, out=np.full(n.shape, np.nan), where=n > 0)


def by_phone(data: BenchmarkData, values: Float[np.ndarray, "phone"]) -> dict[str, float]:
    """Return defined values by name of the phone."""
    return {phone: float(value) for phone, value in zip(data.phones, values, strict=True) if np.isfinite(value)}
