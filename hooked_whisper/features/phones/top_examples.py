"""The strongest examples of each feature, one per utterance, and how pure their labels are."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper.errors import PatchError
from hooked_whisper.features.phones.joint_histogram import membership
from hooked_whisper.features.phones.measures import wilson

ABSENT = -2  # no such example: fewer utterances than examples asked for


class TopExamples:
    """Keeps the ``k`` largest values of each feature, at most one per utterance; the earlier one among equals.

    Each example has ids of its position: one of every labelling given to :meth:`add` (say true and shifted labels).
    """

    def __init__(self, n_features: int, k: int, labellings: int = 1) -> None:
        if k < 1:
            raise PatchError(f"top examples need k of 1 or more, not {k}")
        self.k = k
        self._values = torch.full((n_features, k), -torch.inf)
        self._ids = torch.full((labellings + 1, n_features, k), ABSENT)  # the last one: which utterance
        self._seen = 0
        self._new: list[tuple[Tensor, Tensor]] = []  # sorted in together: once every k utterances

    def add(self, features: Float[Tensor, "position feature"], *ids: Int[np.ndarray, "position"]) -> None:
        """One utterance: its positions' values and labels (-1 = unlabelled). Without positions it adds nothing."""
        if len(features):
            largest, at = features.detach().cpu().float().max(dim=0)
            labels = [torch.from_numpy(one.astype(np.int64))[at] for one in ids]
            self._new.append((largest, torch.stack([*labels, torch.full_like(at, self._seen)])))
        self._seen += 1
        if len(self._new) >= max(8, self.k):
            self._merge()

    @property
    def values(self) -> Float[np.ndarray, "feature k"]:
        """Largest first; minus infinity where there are fewer than k utterances."""
        self._merge()
        return self._values.numpy()

    def ids(self, labelling: int = 0) -> Int[np.ndarray, "feature k"]:
        self._merge()
        return self._ids[:-1][labelling].numpy()

    @property
    def utterances(self) -> Int[np.ndarray, "feature k"]:
        """Which of the utterances, in the order in which they were added; :data:`ABSENT` where there are fewer."""
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


@dataclass(frozen=True, eq=False)
class Purity:
    """Labels of the top examples of each feature.

    Attributes:
        names: labels or classes.
        majority: the label most of the examples have, the first among equals; -1 without examples.
        hits, n: examples with that label, and examples; unlabelled ones count among the latter.
    """

    names: tuple[str, ...]
    majority: Int[np.ndarray, "feature"]
    hits: Int[np.ndarray, "feature"]
    n: Int[np.ndarray, "feature"]

    @property
    def purity(self) -> Float[np.ndarray, "feature"]:
        """Share of the examples that have the majority label (precision at k); NaN without examples."""
        return np.divide(self.hits, self.n, out=np.full(len(self.n), np.nan), where=self.n > 0)

    @property
    def interval(self) -> tuple[Float[np.ndarray, "feature"], Float[np.ndarray, "feature"]]:
        """95 % Wilson interval. It does not know that the label was picked as the commonest one."""
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
    """Purity of examples' labels, or of classes of them.

    Args:
        ids: index into ``names``, -1 for unlabelled, :data:`ABSENT` for no example.
        classes: judge these (they may overlap) rather than the labels.
        without: labels that cannot be a majority (silence); examples with them count as others.

    Raises:
        AlignmentError: a class with a member that is no label.
        PatchError: an id that is no label.
    """
    if ids.size and not (ids.min() >= ABSENT and ids.max() < len(names)):
        raise PatchError(f"ids are {ABSENT} to {len(names) - 1}, got {ids.min()} to {ids.max()}")
    there: Bool[np.ndarray, "feature k"] = ids >= 0
    counts = np.zeros((len(ids), len(names)), dtype=np.int64)
    np.add.at(counts, (np.nonzero(there)[0], ids[there]), 1)
    chosen = {name: frozenset([name]) for name in names} if classes is None else classes
    chosen = {name: members for name, members in chosen.items() if not members & without}
    by_group = counts @ membership(names, chosen)
    n = (ids != ABSENT).sum(axis=1)
    if not by_group.shape[1]:
        return Purity((), np.full(len(ids), -1), np.zeros(len(ids), dtype=np.int64), n)
    return Purity(tuple(chosen), np.where(n > 0, by_group.argmax(axis=1), -1), by_group.max(axis=1), n)
