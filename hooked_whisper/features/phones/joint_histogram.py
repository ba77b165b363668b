"""Joint histogram of a feature's values and labels, from which every measure of selectivity is computed.

Its size does not depend on the corpus, the histograms of two parts of a corpus can be added, and values in one bin are
ties.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.renamed import RenamedWarning
from hooked_whisper._support.showing import Showing
from hooked_whisper.errors import AlignmentError, PatchError, closest
from hooked_whisper.features.histogram_bins import HistogramBins

#: 257 bins, eight per octave from 1/128 to 512: values that differ by an eighth are in different bins.
COARSE = HistogramBins(bits=3, lowest=-7, highest=9)
_CHUNK = 1 << 20  # values per block
_TABLE = 1 << 19  # table entries per block: 4 MB, which fits the cache
_MOST = 2**31 - 1


@dataclass(frozen=True, eq=False, repr=False)
class JointCounts(Showing):
    """Number of rows (encoder positions) by feature, bin of its value, and label.

    Attributes:
        counts: ``[feature, bin, label]``, int32.
        totals: rows by feature and bin: the sum over labels, unless labels overlap (classes).
        tokens: instances of each label (phones, not positions).
        names: labels.
        bins: resolution of the values.
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
        """Number of labeled rows; it is the same for every feature."""
        return int(self.totals[0].sum(dtype=np.int64)) if len(self.totals) else 0

    def __add__(self, other: JointCounts) -> JointCounts:
        """Counts of both parts of a corpus.

        Raises:
            PatchError: features, labels or bins differ.
        """
        check_alike(self, other)
        if self.rows + other.rows > _MOST:
            raise PatchError(f"{self.rows + other.rows} rows overflow 32 bits: evaluate parts of the corpus")
        return JointCounts(
            self.counts + other.counts,
            self.totals + other.totals,
            self.tokens + other.tokens,
            self.names,
            self.bins,
        )

    def select(self, features: slice) -> JointCounts:
        """Return the counts of some features, without a copy."""
        return JointCounts(self.counts[features], self.totals[features], self.tokens, self.names, self.bins)

    def at(self, features: slice) -> JointCounts:
        """The name of :meth:`select` in version 0.1."""
        warnings.warn("JointCounts.at is now called select", RenamedWarning, stacklevel=2)
        return self.select(features)

    def grouped(self, classes: Mapping[str, Set[str]]) -> JointCounts:
        """Sum labels into classes, which may overlap or leave labels out.

        Raises:
            AlignmentError: a class has a member that is not a label.
        """
        member = membership(self.names, classes)
        counts = (self.counts.astype(np.float64) @ member.astype(np.float64)).astype(np.int32)  # exact below 2**53
        return JointCounts(counts, self.totals, self.tokens @ member, tuple(classes), self.bins)


class JointCounter:
    """Counts rows incrementally.

    Args:
        n_features: features of every row.
        names: labels; an id is an index into them.
        bins: resolution; the default separates values that differ by 12 % or more.
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
        """Count rows; those with id -1 are skipped.

        Args:
            tokens: instances of each label in these rows (:meth:`PositionLabels.tokens`). Default: each run of one id
                is an instance.

        Raises:
            PatchError: the number of features differs, a value is not finite, or an id is out of range.
        """
        self.add_bins(self.bins_of(features), ids, tokens)

    def bins_of(self, features: Float[Tensor, "row feature"]) -> Int[Tensor, "row feature"]:
        """Return the bin of each value, to count the values with several sets of labels.

        Raises:
            PatchError: the number of features differs, or a value is not finite.
        """
        if features.shape[1] != len(self._counts):
            raise PatchError(f"the rows have {features.shape[1]} features, expected {len(self._counts)}")
        if not torch.isfinite(features).all():
            bad = int((~torch.isfinite(features)).any(0).nonzero()[0])
            raise PatchError(f"feature {bad} is NaN or infinite: check the activations before counting them")
        return self.bins.of(features.detach().cpu())

    def add_bins(
        self,
        bins: Int[Tensor, "row feature"],
        ids: Int[np.ndarray, "row"],
        tokens: Int[np.ndarray, "label"] | None = None,
    ) -> None:
        """:meth:`add` for binned values."""
        _check_ids(ids, len(self.names))
        labeled = ids >= 0
        if self._rows + int(labeled.sum()) > _MOST:
            raise PatchError(f"{self._rows + int(labeled.sum())} rows overflow 32 bits: evaluate parts of the corpus")
        self._rows += int(labeled.sum())
        self._tokens += _runs(ids, len(self.names)) if tokens is None else tokens
        by_feature = bins[torch.from_numpy(labeled)].T  # one feature's counts stay in the CPU's cache
        label = torch.from_numpy(ids[labeled].astype(np.int64))
        step = max(1, _CHUNK // max(1, len(label)))
        for start in range(0, len(by_feature), step):
            part = self._counts[start : start + step]
            first = torch.arange(len(part))[:, None] * self.bins.n
            index = ((by_feature[start : start + step] + first) * len(self.names) + label).reshape(-1)
            part.view(-1).scatter_add_(0, index, torch.ones(1, dtype=torch.int32).expand(len(index)))

    def result(self) -> JointCounts:
        """Counts so far. Later calls of :meth:`add` change them: they share memory."""
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
    """Count the rows of each fold; rows with id -1 are skipped.

    Args:
        bins: of every value (``grid.of``).
        tokens: instances of each label in each fold.

    Raises:
        PatchError: an id is out of range, or the number of rows overflows 32 bits.
    """
    _check_ids(ids, len(names))
    if len(ids) > _MOST:
        raise PatchError(f"{len(ids)} rows overflow 32 bits: evaluate parts of the corpus")
    n_folds, n_labels = tokens.shape
    counts = np.zeros((len(bins), n_folds, n_labels, grid.n), dtype=np.int32)
    labeled = np.flatnonzero(ids >= 0)
    first = torch.from_numpy((fold[labeled] * n_labels + ids[labeled]) * grid.n)  # entry of each row's lowest bin
    size = n_folds * n_labels * grid.n
    step = max(1, _TABLE // max(1, size))
    rows = torch.from_numpy(labeled)
    for start in range(0, len(bins), step):
        part = bins[start : start + step].index_select(1, rows)
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
    """Count rows that are all in memory."""
    counter = JointCounter(features.shape[1], names, bins)
    counter.add(features, ids)
    return counter.result()


def membership(names: tuple[str, ...], classes: Mapping[str, Set[str]]) -> Int[np.ndarray, "label group"]:
    """Matrix that is 1 where a label is in a class.

    Raises:
        AlignmentError: a class has a member that is not a label.
    """
    for group, members in classes.items():
        if unknown := sorted(set(members) - set(names)):
            near = closest(unknown[0], names)
            hint = f"did you mean {near[0]!r}?" if near else f"the labels are {', '.join(names)}"
            raise AlignmentError(f"class {group!r} has {unknown[0]!r}, which is not a label: {hint}")
    member = [[name in members for members in classes.values()] for name in names]
    return np.array(member, dtype=np.int64).reshape(len(names), len(classes))


def check_alike(a: JointCounts, b: JointCounts) -> None:
    """Check that two counts can be added.

    Raises:
        PatchError: features, bins or labels differ.
    """
    if a.names != b.names or a.bins != b.bins or a.counts.shape != b.counts.shape:
        raise PatchError(
            f"counts of {a.n_features} features and {len(a.names)} labels cannot be combined with counts of "
            f"{b.n_features} features and {len(b.names)} labels, or their bins differ: count both with the same names "
            "and bins"
        )


def _check_ids(ids: Int[np.ndarray, "row"], n_labels: int) -> None:
    if len(ids) and not (ids.min() >= -1 and ids.max() < n_labels):
        raise PatchError(f"ids are {ids.min()} to {ids.max()}, expected -1 to {n_labels - 1}")


def _runs(ids: Int[np.ndarray, "row"], n_labels: int) -> Int[np.ndarray, "label"]:
    begins = np.append(True, ids[1:] != ids[:-1])[: len(ids)] & (ids >= 0)
    return np.bincount(ids[begins], minlength=n_labels).astype(np.int64)
