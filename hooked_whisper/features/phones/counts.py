"""Counts of features by label, and the measures computed from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

import numpy as np
from jaxtyping import Float

from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper._support.showing import Showing
from hooked_whisper.features.phones.articulation import classes
from hooked_whisper.features.phones.joint_histogram import JointCounts
from hooked_whisper.features.phones.onsets import OnsetAverages, latency
from hooked_whisper.features.phones.selectivity import Selectivity, cross_selectivity
from hooked_whisper.features.phones.top_examples import Purity, TopExamples, purity
from hooked_whisper.protocols import SILENCE


@dataclass(frozen=True, eq=False, repr=False)
class FeatureCounts(Showing):
    """Counts of the features of one basis; measures are computed on first use.

    Attributes:
        folds: counts of each group of speakers.
        shifted: the same with circularly shifted labels.
        top: strongest example of each utterance; labeling 0 has the true labels, labeling 1 the shifted ones.
        min_tokens: instances that a label needs to be searched.
        average_onsets: function that computes ``onsets``.
    """

    folds: tuple[JointCounts, ...]
    shifted: tuple[JointCounts, ...]
    top: TopExamples
    min_tokens: int
    average_onsets: Callable[[], OnsetAverages]

    @property
    def names(self) -> tuple[str, ...]:
        return self.folds[0].names

    @cached_property
    def onsets(self) -> OnsetAverages:
        """Mean activation around onsets."""
        return self.average_onsets()

    @cached_property
    def counts(self) -> JointCounts:
        """Counts of all speakers."""
        return reduce(add, self.folds)

    @cached_property
    def shifted_counts(self) -> JointCounts:
        """Counts of all speakers with shifted labels."""
        return reduce(add, self.shifted)

    @cached_property
    def phones(self) -> Selectivity:
        """Selectivity for phones on held-out speakers."""
        return cross_selectivity(self.folds, self.min_tokens, self.shifted_counts)

    @cached_property
    def classes(self) -> Selectivity:
        """Selectivity for narrow articulatory classes."""
        return self._by_class(self.folds)

    @cached_property
    def shifted_phones(self) -> Selectivity:
        """The control: the same search on shifted labels."""
        return cross_selectivity(self.shifted, self.min_tokens)

    @cached_property
    def shifted_classes(self) -> Selectivity:
        return self._by_class(self.shifted)

    @renamed_arguments(labelling="labeling")
    def purity(self, labeling: int = 0) -> Purity:
        """Purity of the top examples for phones; labeling 1 is the control. Silence cannot be the majority."""
        return purity(self.top.ids(labeling), self.names, without=frozenset([SILENCE]))

    @renamed_arguments(labelling="labeling")
    def class_purity(self, labeling: int = 0) -> Purity:
        """Purity of the top examples for narrow articulatory classes."""
        return purity(self.top.ids(labeling), self.names, classes(self.names))

    @cached_property
    def latency(self) -> Float[np.ndarray, "feature"]:
        """Positions from the onset of each feature's phone to the feature's peak."""
        return latency(self.onsets, self.phones.best, self.phones.sign)

    def _by_class(self, folds: Sequence[JointCounts]) -> Selectivity:
        groups = classes(self.names)
        return cross_selectivity([fold.grouped(groups) for fold in folds], self.min_tokens)
