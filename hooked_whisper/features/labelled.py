"""Labelled clips through a model once, for many bases of features at many hook points: counts by fold of speakers with
true and with shifted labels, averages round onsets, top examples."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import AlignmentError, AudioError, CacheSizeError, PatchError
from hooked_whisper.features.baselines import MelBands, shifted_labels
from hooked_whisper.features.cells import Cells
from hooked_whisper.features.examples import Purity, TopExamples, purity
from hooked_whisper.features.joint import COARSE, JointCounter, JointCounts
from hooked_whisper.features.labels import UNLABELLED, PositionLabels, label_names, label_positions
from hooked_whisper.features.onsets import OnsetAverages, latency
from hooked_whisper.features.phones import classes
from hooked_whisper.features.selectivity import MIN_TOKENS, Selectivity, cross_selectivity
from hooked_whisper.features.sites import Site
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import SILENCE, Alignment

BATCH = 8  # clips encoded together
Track = Callable[[Sequence[list[int]]], Iterable[list[int]]]
Positions = Literal["all", "inner"]


@dataclass(frozen=True, eq=False)
class LabelledClip:
    """16 kHz samples of at most one window, what was said when, and by whom.

    speaker: clips without one each count as a speaker of their own.
    offset: where the samples begin within the alignment's recording, seconds.
    """

    audio: Float[np.ndarray, "sample"]
    alignment: Alignment
    speaker: str
    offset: float | int = 0.0


@dataclass(frozen=True, eq=False)
class SiteCounts:
    """What was counted at one site, and what follows from it (computed when first asked for).

    Attributes:
        folds: counts of each group of speakers.
        shifted: the same with circularly shifted labels.
        onsets: mean activation round onsets.
        top: strongest example of each utterance; labelling 0 is the true one, 1 the shifted one.
        min_tokens: of a label that is searched.
    """

    folds: tuple[JointCounts, ...]
    shifted: tuple[JointCounts, ...]
    onsets: OnsetAverages
    top: TopExamples
    min_tokens: int

    @property
    def names(self) -> tuple[str, ...]:
        return self.folds[0].names

    @cached_property
    def counts(self) -> JointCounts:
        """All speakers together."""
        return reduce(add, self.folds)

    @cached_property
    def phones(self) -> Selectivity:
        return cross_selectivity(self.folds, self.min_tokens, reduce(add, self.shifted))

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


def speaker_folds(speakers: Sequence[str], folds: int) -> Int[np.ndarray, "clip"]:
    """A fold for every clip; a speaker's clips share one, and folds have nearly equal numbers of clips.

    The speaker with most clips first, each into the smallest fold. Empty names are speakers of their own.

    Raises:
        AlignmentError: fewer than two speakers, or than two folds.
    """
    own = [name or f"\0{i}" for i, name in enumerate(speakers)]
    counts = sorted(Counter(own).items(), key=lambda item: (-item[1], item[0]))
    n = min(folds, len(counts))
    if n < 2:
        raise AlignmentError(
            f"{len(counts)} speakers in {folds} folds: thresholds need other speakers, give clips of two or more"
        )
    sizes = [(0, i) for i in range(n)]
    fold_of = {}
    for name, size in counts:
        already, fold = heapq.heappop(sizes)
        fold_of[name] = fold
        heapq.heappush(sizes, (already + size, fold))
    return np.array([fold_of[name] for name in own])


def evaluate_sites(
    model: HookedWhisper,
    clips: Sequence[LabelledClip],
    sites: Mapping[str, Site],
    *,
    names: tuple[str, ...] | None = None,
    folds: int = 4,
    k: int = 20,
    positions: Positions = "all",
    min_tokens: int = MIN_TOKENS,
    cells: Cells = COARSE,
    seed: int = 0,
    track: Track | None = None,
    max_bytes: int = 4 << 30,
) -> dict[str, SiteCounts]:
    """Run every clip through the encoder once and count at all sites. An untrained model's sites are a second call.

    Args:
        sites: name to hook point and basis; ``Site("encoder.hook_mel", mel_bands(model))`` is the spectral baseline.
        names: labels (default: all phones of the clips).
        folds: groups of speakers (fewer if there are fewer speakers): thresholds for each come from the others.
        k: top examples of each feature, one per utterance.
        positions: ``"inner"`` leaves positions within 20 ms of a boundary out of the counts (not of the top examples).
        track: wraps the batches, say in a progress bar.
        max_bytes: refuse to count if the counts would take more memory.

    Raises:
        AlignmentError: fewer than two speakers; overlapping intervals.
        AudioError: a clip longer than the window.
        CacheSizeError: too many features, labels, cells or folds for ``max_bytes``.
        PatchError: a site that has no features of its own at every position; NaN in an activation.
    """
    if positions not in ("all", "inner"):
        raise PatchError(f"positions are 'all' or 'inner', not {positions!r}")
    fold = speaker_folds([clip.speaker for clip in clips], folds)
    labels = label_names(clip.alignment for clip in clips) if names is None else names
    n_folds = int(fold.max()) + 1
    made: dict[str, _Site] = {}
    for index, found in _encode(model, clips, sites, track):
        true = label_positions(
            clips[index].alignment, len(next(iter(found.values()))), labels, model.time, clips[index].offset
        )
        rng = np.random.default_rng([seed, index])
        turned = shifted_labels([true.ids], rng)[0]
        kept = ~true.edge if positions == "inner" else np.ones(len(true.ids), dtype=bool)
        counted = np.where(kept, true.ids, UNLABELLED)
        control = shifted_labels([counted], rng)[0] if positions == "inner" else turned
        tokens = true.tokens(kept)
        if not made:
            _check_size({name: x.shape[1] for name, x in found.items()}, len(labels), cells, n_folds, max_bytes)
            made = {name: _Site(x.shape[1], labels, cells, n_folds, k) for name, x in found.items()}
        for name, x in found.items():
            made[name].add(int(fold[index]), x, true, turned, counted, control, tokens)
    return {name: site.result(min_tokens) for name, site in made.items()}


def activations(
    model: HookedWhisper, clips: Sequence[LabelledClip], hook: str, most: int = 20_000, seed: int = 0
) -> Float[Tensor, "row d"]:
    """Activations of clips without padding, at most so many rows, drawn evenly: what :func:`pca` is fitted on."""
    rows = site_activations(model, clips, {"rows": Site(hook)})["rows"]
    if len(rows) <= most:
        return rows
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:most].sort().values]


def site_activations(
    model: HookedWhisper, clips: Sequence[LabelledClip], sites: Mapping[str, Site]
) -> dict[str, Float[Tensor, "row feature"]]:
    """Features of some sites at every position of the clips, one clip after another, without padding: all in memory.

    Raises:
        AudioError: a clip longer than the window.
        PatchError: a site that has no features of its own at every position.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in sites}
    for _, found in _encode(model, clips, sites, None):
        for name, x in found.items():
            parts[name].append(x.cpu())
    return {name: torch.cat(some) for name, some in parts.items()}


class _Site:
    """The counters of one site."""

    def __init__(self, n: int, names: tuple[str, ...], cells: Cells, folds: int, k: int) -> None:
        self.true, self.shifted = ([JointCounter(n, names, cells) for _ in range(folds)] for _ in range(2))
        self.onsets, self.top = OnsetAverages(n, names), TopExamples(n, k, labellings=2)

    def add(
        self,
        fold: int,
        features: Float[Tensor, "position feature"],
        true: PositionLabels,
        turned: Int[np.ndarray, "position"],
        counted: Int[np.ndarray, "position"],
        control: Int[np.ndarray, "position"],
        tokens: Int[np.ndarray, "label"],
    ) -> None:
        cells = self.true[fold].cells_of(features)
        self.true[fold].add_cells(cells, counted, tokens)
        self.shifted[fold].add_cells(cells, control, tokens)  # a shift keeps how many tokens there are
        self.onsets.add(features, true)
        self.top.add(features, true.ids, turned)

    def result(self, min_tokens: int) -> SiteCounts:
        true, shifted = (tuple(c.result() for c in some) for some in (self.true, self.shifted))
        return SiteCounts(true, shifted, self.onsets, self.top, min_tokens)


@torch.no_grad()
def _encode(
    model: HookedWhisper, clips: Sequence[LabelledClip], sites: Mapping[str, Site], track: Track | None
) -> Iterator[tuple[int, dict[str, Float[Tensor, "position feature"]]]]:
    """Clip by clip, the features of every site at the clip's own positions; the encoder stops at the last hook."""
    batches = [list(range(at, min(at + BATCH, len(clips)))) for at in range(0, len(clips), BATCH)]
    hooks = list(dict.fromkeys(site.hook for site in sites.values()))
    lengths = [_n_positions(model, clip) for clip in clips]
    for batch in batches if track is None else track(batches):
        mel = model.to_mel([clips[i].audio for i in batch])
        longest = slice(0, max(lengths[i] for i in batch))
        _, cache = model.run_with_cache(mel, names=hooks, return_type=None, positions=longest)
        for row, i in enumerate(batch):
            yield i, {name: _features(cache[site.hook][row], site, lengths[i]) for name, site in sites.items()}


def _features(x: Tensor, site: Site, n: int) -> Float[Tensor, "position feature"]:
    if isinstance(site.basis, MelBands):
        return site.basis.encode(x)[:n]
    if x.ndim != 2 or len(x) < n:
        raise PatchError(f"{site.hook} has no vector at every position: take mlp.hook_post or a residual")
    return x[:n] if site.basis is None else site.basis.encode(x[:n])


def _n_positions(model: HookedWhisper, clip: LabelledClip) -> int:
    seconds = len(clip.audio) / model.time.sample_rate
    if seconds > model.time.duration:
        raise AudioError(f"{clip.alignment.utterance} lasts {seconds:.1f} s: cut it into windows, with offset")
    return model.time.n_positions(seconds)


def _check_size(sizes: Mapping[str, int], n_labels: int, cells: Cells, folds: int, most: int) -> None:
    need = sum(sizes.values()) * cells.n * (n_labels + 1) * 4 * folds * 2
    if need > most:
        raise CacheSizeError(
            f"counts of {sum(sizes.values())} features, {cells.n} cells, {n_labels} labels and {folds} folds (true and "
            f"shifted) take {need / 2**30:.1f} GiB, the limit is {most / 2**30:.1f}: ask for fewer sites at a time or "
            "fewer folds, or raise max_bytes"
        )
