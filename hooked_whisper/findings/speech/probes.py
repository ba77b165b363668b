"""Linear probes in closed form, and cross-validation folds that do not share voices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

PENALTY = 0.01  # share of the variance


@dataclass(frozen=True, eq=False)
class Fold:
    """Masks of the clips on which a probe is trained and tested."""

    train: Bool[np.ndarray, "clip"]
    test: Bool[np.ndarray, "clip"]


def ridge_scores(
    train: Float[np.ndarray, "row feature"],
    targets: Float[np.ndarray, "row target"],
    weights: Float[np.ndarray, "row"],
    test: Float[np.ndarray, "test feature"],
    penalty: float = PENALTY,
) -> Float[np.ndarray, "test target"]:
    """Return the predictions of a weighted ridge regression with an intercept.

    Features are standardized on the training rows and divided by the square root of their number. This makes
    ``penalty`` a share of the variance for any number of features. The system is solved in the smaller dimension (rows
    or features).
    """
    share = (weights / weights.sum())[:, None]
    mean, mean_target = (share * train).sum(0), (share * targets).sum(0)
    scale = np.sqrt((share * (train - mean) ** 2).sum(0))
    scale = np.where(scale > 1e-8, scale, np.inf) * np.sqrt(train.shape[1])
    x, probe = (train - mean) / scale, (test - mean) / scale
    root = np.sqrt(share)
    a, b = root * x, root * (targets - mean_target)
    if len(a) < a.shape[1]:
        solution = a.T @ np.linalg.solve(a @ a.T + penalty * np.eye(len(a)), b)
    else:
        solution = np.linalg.solve(a.T @ a + penalty * np.eye(a.shape[1]), a.T @ b)
    return probe @ solution + mean_target


def one_hot(labels: Int[np.ndarray, "*row"], n: int) -> Float[np.ndarray, "*row class"]:
    """Return labels as one-hot vectors of length ``n``."""
    return np.eye(n)[labels]


def voice_folds(labels: Sequence[str], voices: Sequence[str], most: int = 5) -> list[Fold]:
    """Return folds in which every voice is tested once, and every label in each fold.

    The number of folds is the smallest number of voices of any label, but at most ``most``. Labels with a single voice
    are left out. The list is empty if fewer than two labels have two voices.
    """
    by_label: dict[str, list[str]] = {}
    for label, voice in zip(labels, voices, strict=True):
        if voice not in by_label.setdefault(label, []):
            by_label[label].append(voice)
    usable = {label: names for label, names in by_label.items() if len(names) > 1}
    if len(usable) < 2:
        return []
    n = min(most, *(len(names) for names in usable.values()))
    number = {(label, voice): k % n for label, names in usable.items() for k, voice in enumerate(names)}
    fold_of = np.array([number.get(pair, -1) for pair in zip(labels, voices, strict=True)])
    return [Fold((fold_of >= 0) & (fold_of != k), fold_of == k) for k in range(n)]


def fold_hits(
    features: Float[np.ndarray, "clip row feature"],
    labels: Int[np.ndarray, "labeling clip"],
    folds: Sequence[Fold],
) -> Float[np.ndarray, "labeling clip"]:
    """Return the share of each clip's rows whose predicted label is right, in the folds that test the clip. It is NaN
    if no fold tests the clip.

    One probe is trained per labeling. The first labeling is the truth, by which every probe is tested. Rows are
    weighted so that the true classes have equal weight.
    """
    n_labelings, n_clips = labels.shape
    n_rows = features.shape[1]
    n_classes = int(labels.max()) + 1
    hits, tests = np.zeros((n_labelings, n_clips)), np.zeros(n_clips)
    for fold in folds:
        train, test = np.flatnonzero(fold.train), np.flatnonzero(fold.test)
        sizes = np.bincount(labels[0, train], minlength=n_classes)
        weights = np.repeat(1 / sizes[labels[0, train]], n_rows)
        targets = one_hot(labels[:, train], n_classes)  # [labeling, clip, class]
        targets = np.repeat(targets, n_rows, axis=1).transpose(1, 0, 2).reshape(len(weights), -1)
        scores = ridge_scores(
            features[train].reshape(len(weights), -1), targets, weights, features[test].reshape(len(test) * n_rows, -1)
        )
        answers = scores.reshape(len(test), n_rows, n_labelings, n_classes).argmax(-1)  # [clip, row, labeling]
        hits[:, test] += (answers == labels[0, test][:, None, None]).mean(1).T
        tests[test] += 1
    with np.errstate(invalid="ignore"):
        return np.where(tests > 0, hits / tests, np.nan)
