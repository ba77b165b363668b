"""F1 of neurons as detectors of word classes, and the thresholds that maximize it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float


def best_thresholds(
    values: Float[np.ndarray, "token neuron"], member: Bool[np.ndarray, "token label"]
) -> tuple[Float[np.ndarray, "neuron label"], Float[np.ndarray, "neuron label"]]:
    """Return the highest F1 of firing at or above a threshold, for each neuron and class, and the threshold."""
    order = np.argsort(-values, axis=0, kind="stable")
    ordered = np.take_along_axis(values, order, axis=0)
    hits = np.cumsum(member[order], axis=0, dtype=np.float32)  # [token, neuron, label]
    fired = np.arange(1, len(values) + 1, dtype=np.float32)[:, None, None]
    f1 = 2 * hits / (fired + member.sum(0))
    # A threshold cannot separate equal values, so only the last of them counts.
    last = np.append(ordered[1:] != ordered[:-1], np.ones((1, values.shape[1]), dtype=bool), axis=0)
    f1 = np.where(last[..., None], f1, -1)
    best = f1.argmax(0)  # [neuron, label]
    return f1.max(0), ordered[best, np.arange(values.shape[1])[:, None]]


def f1_of(fires: Bool[np.ndarray, "token neuron"], member: Bool[np.ndarray, "token neuron"]) -> np.ndarray:
    """Return the F1 of each neuron for its class, or 0 if it never fires and the class never occurs."""
    both = (fires & member).sum(0)
    total = fires.sum(0) + member.sum(0)
    return 2 * both / np.maximum(total, 1)
