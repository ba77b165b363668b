"""How often each value of a feature meets each label: a histogram, from which every measure of selectivity follows.

Memory does not grow with the corpus, counts of parts add up to those of the whole, and values within one bin are ties.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import AlignmentError, PatchError, closest
from hooked_whisper.features.histogram_bins import HistogramBins

#: 257 bins: eight per octave, so that values that differ by an eighth are told apart, from 1/128 to 512.
COARSE = HistogramBins(bits=3, lowest=-7, highest=9)
_CHUNK = 1 << 20  # values turned into bins at once
_TABLE = 1 << 19  # entries counted into at once: 4 MB, which caches hold
_MOST = 2**31 - 1


@dataclass(frozen=True, eq=False)
class JointCounts:
    """Rows (encoder positions) by feature, bin of its value, and label.

    Attributes:
        counts: ``[feature, bin, label]``, int32.
        totals: rows by feature and bin, whatever their label; the sum over labels, unless labels overlap (classes).
        tokens: how many instances (phones said, not positions) of each label are in it.
        names: of the labels.
        bins: edges of the bins.
    """

    counts: Int[np.ndarray, "feature bin label"]
    totals: Int[np.ndarray, "feature bin"]
    tokens: Int[np.ndarray, "label"]
    names: tuple[str, ...]
    bins: HistogramBins

    @property
    def n_features(self) -> int:
        return len(self.counts)

    @property
    def rows(self) -> int:
        """Labelled rows counted; each feature has as many."""
        return int(self.totals[0].sum(dtype=np.int64)) if len(self.totals) else 0

    def __add__(self, other: JointCounts) -> JointCounts:
        """Counts of both parts of a corpus together. Raises :class:`PatchError` if they count different things."""
        check_alike(self, other)
        if self.rows + other.rows > _MOST:
            raise PatchError(f"{self.rows + other.rows} rows do not fit in 32 bits: evaluate parts of the corpus")
        return JointCounts(
            self.counts + other.counts,
            self.totals + other.totals,
            self.tokens + other.tokens,
            self.names,
            self.bins,
        )

    def at(self, features: slice) -> JointCounts:
        """Some features only; shares memory."""
        return JointCounts(self.counts[features], self.totals[features], self.tokens, self.names, self.bins)

    def grouped(self, classes: Mapping[str, Set[str]]) -> JointCounts:
        """The same for classes of labels, which may overlap or leave labels out.

        Raises:
            AlignmentError: a class with a member that is no label here.
        """
        member = membership(self.names, classes)
        counts = (self.counts.astype(np.float64) @ member.astype(np.float64)).astype(np.int32)  # exact below 2**53
        return JointCounts(counts, self.totals, self.tokens @ member, tuple(classes), self.bins)


class JointCounter:
    """Counts rows as they come.

    Args:
        n_features: features of every row.
        names: labels; an id is an index into them.
        bins: resolution; the default tells values apart that differ by 12 % or more.
    """

    def __init__(self, n_features: int, names: tuple[str, ...], bins: HistogramBins = COARSE) -> None:
        self.names, self.bins = tuple(names), bins
        self._counts = torch.zeros(n_features, bins.n, len(names), dtype=torch.int32)
        self._tokens = np.zeros(len(names), dtype=np.int64)
        self._rows = 0

    def add(
        self,
        features: Float[Tensor, "row feature"],
        ids: Int[np.ndarray, "row"],
        tokens: Int[np.ndarray, "label"] | None = None,
    ) -> None:
        """Count some rows; those with id -1 are skipped.

        tokens: how many instances of each label these rows hold (:meth:`PositionLabels.tokens`). Default: each run of
            one id counts as an instance.

        Raises:
            PatchError: another number of features, a value that is not finite, an id that is no label.
        """
        self.add_bins(self.bins_of(features), ids, tokens)

    def bins_of(self, features: Float[Tensor, "row feature"]) -> Int[Tensor, "row feature"]:
        """Bins of values, for counting them with several sets of labels. Raises :class:`PatchError` for NaN."""
        if features.shape[1] != len(self._counts):
            raise PatchError(f"rows of {features.shape[1]} features, the counts are of {len(self._counts)}")
        if not torch.isfinite(features).all():
            bad = int((~torch.isfinite(features)).any(0).nonzero()[0])
            raise PatchError(f"feature {bad} is NaN or infinite: look at the activations before counting them")
        return self.bins.of(features.detach().cpu())

    def add_bins(
        self,
        bins: Int[Tensor, "row feature"],
        ids: Int[np.ndarray, "row"],
        tokens: Int[np.ndarray, "label"] | None = None,
    ) -> None:
        """:meth:`add` of values that are in bins already."""
        if len(ids) and not (ids.min() >= -1 and ids.max() < len(self.names)):
            raise PatchError(f"ids are -1 or 0 to {len(self.names) - 1}, got {ids.min()} to {ids.max()}")
        there = ids >= 0
        if self._rows + int(there.sum()) > _MOST:
            raise PatchError("more rows than fit in 32 bits: evaluate parts of the corpus")
        self._rows += int(there.sum())
        self._tokens += _runs(ids, len(self.names)) if tokens is None else tokens
        chosen = bins[torch.from_numpy(there)].T  # feature by feature: one feature's counts stay in the CPU's cache
        label = torch.from_numpy(ids[there].astype(np.int64))
        step = max(1, _CHUNK // max(1, len(label)))
        for at in range(0, len(chosen), step):
            part = self._counts[at : at + step]
            first = torch.arange(len(part))[:, None] * self.bins.n
            index = ((chosen[at : at + step] + first) * len(self.names) + label).reshape(-1)
            part.view(-1).scatter_add_(0, index, torch.ones(1, dtype=torch.int32).expand(len(index)))

    def result(self) -> JointCounts:
        """What has been counted so far; shares memory with what comes."""
        counts = self._counts.numpy()
        return JointCounts(counts, counts.sum(axis=2, dtype=np.int32), self._tokens, self.names, self.bins)


def count_by_fold(
    bins: Int[Tensor, "feature row"],
    ids: Int[np.ndarray, "row"],
    fold: Int[np.ndarray, "row"],
    tokens: Int[np.ndarray, "fold label"],
    names: tuple[str, ...],
    grid: HistogramBins = COARSE,
) -> tuple[JointCounts, ...]:
    """Counts of each fold's rows; those with id -1 are skipped.

    Args:
        bins: of every value, feature by feature (``grid.of``).
        tokens: instances of each label in each fold.

    Raises:
        PatchError: an id that is no label, or more rows than 32 bits count.
    """
    if len(ids) and not (ids.min() >= -1 and ids.max() < len(names)):
        raise PatchError(f"ids are -1 or 0 to {len(names) - 1}, got {ids.min()} to {ids.max()}")
    if len(ids) > _MOST:
        raise PatchError(f"{len(ids)} rows do not fit in 32 bits: evaluate parts of the corpus")
    n_folds, n_labels = tokens.shape
    counts = np.zeros((len(bins), n_folds, n_labels, grid.n), dtype=np.int32)
    there = np.flatnonzero(ids >= 0)
    first = torch.from_numpy((fold[there] * n_labels + ids[there]) * grid.n)  # of each row's bins
    size = n_folds * n_labels * grid.n
    step = max(1, _TABLE // max(1, size))
    at = torch.from_numpy(there)
    for start in range(0, len(bins), step):
        part = bins[start : start + step].index_select(1, at)
        index = (part + (first + torch.arange(len(part))[:, None] * size)).reshape(-1).numpy()
        table = np.bincount(index, minlength=len(part) * size)
        counts[start : start + step] = table.reshape(len(part), n_folds, n_labels, grid.n)
    return tuple(
        JointCounts(
            counts[:, k].transpose(0, 2, 1), counts[:, k].sum(axis=1, dtype=np.int32), tokens[k], tuple(names), grid
        )
        for k in range(n_folds)
    )


def count(
    features: Float[Tensor, "row feature"],
    ids: Int[np.ndarray, "row"],
    names: tuple[str, ...],
    bins: HistogramBins = COARSE,
) -> JointCounts:
    """Counts of rows that are all there at once."""
    counter = JointCounter(features.shape[1], names, bins)
    counter.add(features, ids)
    return counter.result()


def membership(names: tuple[str, ...], classes: Mapping[str, Set[str]]) -> Int[np.ndarray, "label group"]:
    """1 where a label is in a class. Raises :class:`AlignmentError` for a member that is no label."""
    for group, members in classes.items():
        if unknown := sorted(set(members) - set(names)):
            near = closest(unknown[0], names)
            raise AlignmentError(f"class {group!r} has {unknown[0]!r}, which is no label here; near: {near}")
    found = [[name in members for members in classes.values()] for name in names]
    return np.array(found, dtype=np.int64).reshape(len(names), len(classes))


def check_alike(a: JointCounts, b: JointCounts) -> None:
    """Raises :class:`PatchError` unless both count the same features, bins and labels."""
    if a.names != b.names or a.bins != b.bins or a.counts.shape != b.counts.shape:
        raise PatchError(
            f"counts of {a.n_features} features and {len(a.names)} labels do not fit counts of {b.n_features} and "
            f"{len(b.names)}, or their bins differ: count both with the same names and bins"
        )


def _runs(ids: Int[np.ndarray, "row"], n_labels: int) -> Int[np.ndarray, "label"]:
    begins = np.append(True, ids[1:] != ids[:-1])[: len(ids)] & (ids >= 0)
    return np.bincount(ids[begins], minlength=n_labels).astype(np.int64)
