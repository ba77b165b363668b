"""Labels of the positions of many clips, true and shifted, by fold of speakers, and counts of features by label."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper._support.showing import Showing
from hooked_whisper.audio import TimeMap
from hooked_whisper.corpora import Clip
from hooked_whisper.errors import AlignmentError, PatchError, check_option
from hooked_whisper.features.baselines import shifted_labels
from hooked_whisper.features.histogram_bins import HistogramBins
from hooked_whisper.features.phones.counts import FeatureCounts
from hooked_whisper.features.phones.joint_histogram import COARSE, count_by_fold
from hooked_whisper.features.phones.onsets import OnsetAverages
from hooked_whisper.features.phones.position_labels import UNLABELED, PositionLabels, label_names, label_positions
from hooked_whisper.features.phones.selectivity import MIN_TOKENS
from hooked_whisper.features.phones.top_examples import TopExamples

BLOCK_BYTES = 128 << 20  # of a block's counts
Positions = Literal["all", "inner"]


@dataclass(frozen=True, eq=False)
class CountOptions:
    """How positions are counted.

    Attributes:
        names: labels (default: all phones of the clips).
        folds: groups of speakers, at most one per speaker; thresholds for each group come from the others.
        k: top examples of each feature, one per utterance.
        positions: ``"inner"`` drops positions within 20 ms of a boundary from the counts, not from the top examples.
        min_tokens: instances that a label needs to be searched.
        bins: resolution of the counts.
        seed: of the shifts of the control labels.
    """

    names: tuple[str, ...] | None = None
    folds: int = 4
    k: int = 20
    positions: Positions = "all"
    min_tokens: int = MIN_TOKENS
    bins: HistogramBins = COARSE
    seed: int = 0

    def __post_init__(self) -> None:
        check_option("positions", self.positions, get_args(Positions), PatchError)


if not TYPE_CHECKING:
    CountOptions.__init__ = renamed_arguments(cells="bins")(CountOptions.__init__)


@dataclass(frozen=True, eq=False, repr=False)
class RowLabels(Showing):
    """Labels of every position of some clips, clip after clip.

    Attributes:
        clips: indices of the clips in the :class:`LabeledRows`.
        starts: ``[clip + 1]``, first label of each clip.
        rows: indices of the rows in the :class:`LabeledRows`.
        every: whether these are all rows.
        true: labels of the alignment.
        shifted: labels after a circular shift, for the top examples of the control.
        ids, control: true and shifted labels to count; -1: not counted.
        fold: of each position.
        tokens: instances of each label in each fold.
        size: features per block.
    """

    options: CountOptions
    names: tuple[str, ...]
    clips: tuple[int, ...]
    starts: Int[np.ndarray, "edge"]
    rows: Int[np.ndarray, "position"]
    every: bool
    true: tuple[PositionLabels, ...]
    shifted: tuple[Int[np.ndarray, "_"], ...]
    ids: Int[np.ndarray, "position"]
    control: Int[np.ndarray, "position"]
    fold: Int[np.ndarray, "position"]
    tokens: Int[np.ndarray, "fold label"]
    size: int

    @classmethod
    def of(
        cls,
        corpus: Sequence[Clip],
        edges: Int[np.ndarray, "edge"],
        clips: Sequence[int],
        time: TimeMap,
        options: CountOptions,
    ) -> RowLabels:
        """Label some clips of a corpus, in which clip i has the rows ``edges[i]`` to ``edges[i + 1]``.

        Raises:
            AlignmentError: fewer than two speakers, or overlapping intervals.
        """
        labeled = [corpus[i] for i in clips]
        fold = speaker_folds([clip.speaker for clip in labeled], options.folds)
        names = label_names(clip.alignment for clip in labeled) if options.names is None else options.names
        lengths = [int(edges[i + 1] - edges[i]) for i in clips]
        tokens = np.zeros((int(fold.max()) + 1, len(names)), dtype=np.int64)
        true, shifted, ids, control = [], [], [], []
        for index, (clip, n) in enumerate(zip(labeled, lengths, strict=True)):
            labels = label_positions(clip.alignment, n, names, time, clip.offset)
            rng = np.random.default_rng([options.seed, index])
            inner = options.positions == "inner"
            counted: Bool[np.ndarray, "position"] = ~labels.edge if inner else np.ones(n, dtype=bool)
            true.append(labels)
            shifted.append(shifted_labels([labels.ids], rng)[0])
            ids.append(np.where(counted, labels.ids, UNLABELED))
            control.append(shifted_labels([ids[-1]], rng)[0] if inner else shifted[-1])
            tokens[fold[index]] += labels.tokens(counted)  # the same after a shift
        rows = np.concatenate([np.arange(edges[i], edges[i + 1]) for i in clips])
        per_feature = options.bins.n * max(1, len(names)) * 4 * (2 * len(tokens) + 2)
        return cls(
            options,
            tuple(names),
            tuple(clips),
            np.concatenate([[0], np.cumsum(lengths)]),
            rows,
            np.array_equal(rows, np.arange(edges[-1])),
            tuple(true),
            tuple(shifted),
            np.concatenate(ids),
            np.concatenate(control),
            np.repeat(fold, lengths),
            tokens,
            max(1, BLOCK_BYTES // per_feature),
        )

    def blocks(self, n_features: int) -> list[slice]:
        """Blocks of features that are counted together."""
        return [slice(start, min(start + self.size, n_features)) for start in range(0, n_features, self.size)]

    def count(self, values: Float[Tensor, "position feature"], first: int = 0) -> FeatureCounts:
        """Count some features, with top examples and onsets.

        Args:
            first: index of the first feature, for error messages.

        Raises:
            PatchError: a feature is NaN or infinite.
        """
        finite = torch.isfinite(values).all(0)
        if not finite.all():
            bad = first + int((~finite).nonzero()[0])
            raise PatchError(f"feature {bad} is NaN or infinite: check the activations before counting them")
        by_feature = values.T.contiguous()
        bins = self.options.bins.of(by_feature)
        true, shifted = (
            count_by_fold(bins, ids, self.fold, self.tokens, self.names, self.options.bins)
            for ids in (self.ids, self.control)
        )
        return FeatureCounts(
            true, shifted, self._top(by_feature), self.options.min_tokens, lambda: self._onsets(values)
        )

    def _top(self, by_feature: Float[Tensor, "feature position"]) -> TopExamples:
        """Top examples with true labels, shifted labels, and the index of the position among these labels."""
        top = TopExamples(len(by_feature), self.options.k, labelings=3)
        for i, (labels, shifted) in enumerate(zip(self.true, self.shifted, strict=True)):
            start, stop = self.starts[i], self.starts[i + 1]
            top.add(by_feature[:, start:stop].T, labels.ids, shifted, np.arange(start, stop))
        return top

    def lagged(self, max_lag: int) -> Int[np.ndarray, "lag position"]:
        """True labels at lags from ``-max_lag`` to ``max_lag`` positions; -1 beyond the ends of a clip."""
        lagged = np.full((2 * max_lag + 1, len(self.ids)), UNLABELED, dtype=np.int16)
        for start, stop, labels in zip(self.starts[:-1], self.starts[1:], self.true, strict=True):
            padded = np.pad(labels.ids, max_lag, constant_values=UNLABELED)
            for lag in range(2 * max_lag + 1):
                lagged[lag, start:stop] = padded[lag : lag + stop - start]
        return lagged

    def _onsets(self, values: Float[Tensor, "position feature"]) -> OnsetAverages:
        averages = OnsetAverages(values.shape[1], self.names)
        for i, labels in enumerate(self.true):
            averages.add(values[self.starts[i] : self.starts[i + 1]], labels)
        return averages


def speaker_folds(speakers: Sequence[str], folds: int) -> Int[np.ndarray, "clip"]:
    """Assign every clip to a fold. A speaker's clips share one, and folds have nearly equal numbers of clips.

    Speakers are assigned to the smallest fold, those with most clips first. Every empty name is a separate speaker.

    Raises:
        AlignmentError: fewer than two speakers, or fewer than two folds.
    """
    named = [name or f"\0{i}" for i, name in enumerate(speakers)]
    counts = sorted(Counter(named).items(), key=lambda item: (-item[1], item[0]))
    n = min(folds, len(counts))
    if n < 2:
        raise AlignmentError(
            f"{len(counts)} speakers in {folds} folds, expected at least 2 of each: the thresholds of a fold "
            "come from the other folds"
        )
    sizes = [(0, i) for i in range(n)]
    fold_of = {}
    for name, size in counts:
        clips, fold = heapq.heappop(sizes)
        fold_of[name] = fold
        heapq.heappush(sizes, (clips + size, fold))
    return np.array([fold_of[name] for name in named])
