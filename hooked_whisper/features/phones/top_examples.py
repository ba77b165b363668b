"""The strongest examples of each feature, one per utterance, and the purity of their labels."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper._support.showing import Showing
from hooked_whisper.errors import PatchError
from hooked_whisper.features.phones.joint_histogram import membership
from hooked_whisper.features.phones.measures import wilson

ABSENT = -2  # empty slot: there are fewer utterances than examples


class TopExamples:
    """The ``k`` largest values of each feature, at most one per utterance; the earlier of equal values.

    Each example has one label per labeling passed to :meth:`add`, such as true and shifted labels.
    """

    def __init__(self, n_features: int, k: int, labelings: int = 1) -> None:
        if k < 1:
            raise PatchError(f"k is {k}, expected at least 1 example")
        self.k = k
        self._values = torch.full((n_features, k), -torch.inf)
        self._ids = torch.full((labelings + 1, n_features, k), ABSENT)  # the last one holds the utterance
        self._seen = 0
        self._new: list[tuple[Tensor, Tensor]] = []  # merged once every k utterances

    def add(self, features: Float[Tensor, "position feature"], *ids: Int[np.ndarray, "position"]) -> None:
        """Add one utterance: values and labels of its positions (-1: unlabeled)."""
        if len(features):
            largest, position = features.detach().cpu().float().max(dim=0)
            labels = [torch.from_numpy(labeling.astype(np.int64))[position] for labeling in ids]
            self._new.append((largest, torch.stack([*labels, torch.full_like(position, self._seen)])))
        self._seen += 1
        if len(self._new) >= max(8, self.k):
            self._merge()

    @property
    def values(self) -> Float[np.ndarray, "feature k"]:
        """Values, largest first; minus infinity in empty slots."""
        self._merge()
        return self._values.numpy()

    def ids(self, labeling: int = 0) -> Int[np.ndarray, "feature k"]:
        """Labels of the examples; :data:`ABSENT` in empty slots."""
        self._merge()
        return self._ids[:-1][labeling].numpy()

    @property
    def utterances(self) -> Int[np.ndarray, "feature k"]:
        """Index of each example's utterance, in the order of :meth:`add`; :data:`ABSENT` in empty slots."""
        self._merge()
        return self._ids[-1].numpy()

    def _merge(self) -> None:
        if not self._new:
            return
        values = torch.cat([self._values, torch.stack([v for v, _ in self._new], dim=1)], dim=1)
        self._values, order = (x[:, : self.k] for x in values.sort(dim=1, descending=True, stable=True))
        both = torch.cat([self._ids, torch.stack([ids for _, ids in self._new], dim=2)], dim=2)
        self._ids = both.gather(2, order.expand(len(both), -1, -1))
        self._new = []


@dataclass(frozen=True, eq=False, repr=False)
class Purity(Showing):
    """Labels of the top examples of each feature.

    Attributes:
        names: labels or classes.
        majority: most frequent label of the examples (the first of equals); -1 without examples.
        hits: examples with that label.
        n: examples, including unlabeled ones.
    """

    names: tuple[str, ...]
    majority: Int[np.ndarray, "feature"]
    hits: Int[np.ndarray, "feature"]
    n: Int[np.ndarray, "feature"]

    @property
    def purity(self) -> Float[np.ndarray, "feature"]:
        """Share of the examples with the majority label (precision at k); NaN without examples."""
        return np.divide(self.hits, self.n, out=np.full(len(self.n), np.nan), where=self.n > 0)

    @property
    def interval(self) -> tuple[Float[np.ndarray, "feature"], Float[np.ndarray, "feature"]]:
        """95 % Wilson interval. It does not account for the selection of the most frequent label."""
        return wilson(self.hits, self.n)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.names[i] if i >= 0 else "" for i in self.majority)


def purity(
    ids: Int[np.ndarray, "feature k"],
    names: tuple[str, ...],
    classes: Mapping[str, Set[str]] | None = None,
    without: Set[str] = frozenset(),
) -> Purity:
    """Compute the purity of examples' labels, or of classes of labels.

    Args:
        ids: index into ``names``; -1 for unlabeled examples, :data:`ABSENT` for empty slots.
        classes: use these classes, which may overlap, instead of the labels.
        without: labels that cannot be the majority, such as silence.

    Raises:
        AlignmentError: a class has a member that is not in ``names``.
        PatchError: an id is out of range.
    """
    if ids.size and not (ids.min() >= ABSENT and ids.max() < len(names)):
        raise PatchError(f"ids are {ids.min()} to {ids.max()}, expected {ABSENT} to {len(names) - 1}")
    labeled: Bool[np.ndarray, "feature k"] = ids >= 0
    counts = np.zeros((len(ids), len(names)), dtype=np.int64)
    np.add.at(counts, (np.nonzero(labeled)[0], ids[labeled]), 1)
    groups = {name: frozenset([name]) for name in names} if classes is None else classes
    groups = {name: members for name, members in groups.items() if not members & without}
    by_group = counts @ membership(names, groups)
    n = (ids != ABSENT).sum(axis=1)
    if not by_group.shape[1]:
        return Purity((), np.full(len(ids), -1), np.zeros(len(ids), dtype=np.int64), n)
    return Purity(tuple(groups), np.where(n > 0, by_group.argmax(axis=1), -1), by_group.max(axis=1), n)
