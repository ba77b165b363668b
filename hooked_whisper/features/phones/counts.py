"""What was counted at a site, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

import numpy as np
from jaxtyping import Float

from hooked_whisper.features.phones.articulation import classes
from hooked_whisper.features.phones.joint_histogram import JointCounts
from hooked_whisper.features.phones.onsets import OnsetAverages, latency
from hooked_whisper.features.phones.selectivity import Selectivity, cross_selectivity
from hooked_whisper.features.phones.top_examples import Purity, TopExamples, purity
from hooked_whisper.protocols import SILENCE


@dataclass(frozen=True, eq=False)
class FeatureCounts:
    """What was counted at one site, and what follows from it (computed when first asked for).

    Attributes:
        folds: counts of each group of speakers.
        shifted: the same with circularly shifted labels.
        top: strongest example of each utterance; labelling 0 is the true one, 1 the shifted one.
        min_tokens: of a label that is searched.
        average_onsets: makes ``onsets``.
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
        """All speakers together."""
        return reduce(add, self.folds)

    @cached_property
    def shifted_counts(self) -> JointCounts:
        """The same with shifted labels."""
        return reduce(add, self.shifted)

    @cached_property
    def phones(self) -> Selectivity:
        return cross_selectivity(self.folds, self.min_tokens, self.shifted_counts)

    @cached_property
    def classes(self) -> Selectivity:
        """For narrow articulatory classes."""
        return self._by_class(self.folds)

    @cached_property
    def shifted_phones(self) -> Selectivity:
        """The control: the same search on shifted labels."""
        return cross_selectivity(self.shifted, self.min_tokens)

    @cached_property
    def shifted_classes(self) -> Selectivity:
        return self._by_class(self.shifted)

    def purity(self, labelling: int = 0) -> Purity:
        """Of the top examples, for phones; 1 is the control with shifted labels. Silence is no majority."""
        return purity(self.top.ids(labelling), self.names, without=frozenset([SILENCE]))

    def class_purity(self, labelling: int = 0) -> Purity:
        """The same for narrow articulatory classes."""
        return purity(self.top.ids(labelling), self.names, classes(self.names))

    @cached_property
    def latency(self) -> Float[np.ndarray, "feature"]:
        """Positions from the onset of each feature's phone to its peak."""
        return latency(self.onsets, self.phones.best, self.phones.sign)

    def _by_class(self, folds: Sequence[JointCounts]) -> Selectivity:
        groups = classes(self.names)
        return cross_selectivity([fold.grouped(groups) for fold in folds], self.min_tokens)
