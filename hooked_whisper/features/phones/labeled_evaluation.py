"""Evaluate bases of features on labeled clips in one pass, with the counts of all features in memory.

For thousands of features use :mod:`hooked_whisper.features.phones.labeled_rows`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper.corpora import Clip
from hooked_whisper.errors import CacheSizeError
from hooked_whisper.features.histogram_bins import HistogramBins
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.phones.counts import FeatureCounts
from hooked_whisper.features.phones.joint_histogram import COARSE
from hooked_whisper.features.phones.labeled_rows import Track, collect_rows
from hooked_whisper.features.phones.row_labels import CountOptions, Positions, RowLabels, speaker_folds
from hooked_whisper.features.phones.selectivity import MIN_TOKENS
from hooked_whisper.hooked import HookedWhisper

__all__ = [
    "FeatureCounts",
    "Track",
    "activations",
    "evaluate_bases",
    "features_of_clips",
    "speaker_folds",
]


@renamed_arguments(sites="bases", cells="bins")
@torch.no_grad()
def evaluate_bases(
    model: HookedWhisper,
    clips: Sequence[Clip],
    bases: Mapping[str, HookBasis],
    *,
    names: tuple[str, ...] | None = None,
    folds: int = 4,
    k: int = 20,
    positions: Positions = "all",
    min_tokens: int = MIN_TOKENS,
    bins: HistogramBins = COARSE,
    seed: int = 0,
    track: Track | None = None,
    max_bytes: int = 4 << 30,
) -> dict[str, FeatureCounts]:
    """Run every clip through the encoder once and count the features of all bases, by fold of speakers.

    The counts include true and shifted labels, averages around onsets, and top examples. For the control of an
    untrained model, call it with that model. For thousands of features use
    :func:`~hooked_whisper.features.phones.labeled_rows.collect_rows`, which counts by blocks of features.

    Args:
        bases: hook points and bases by name. ``HookBasis("encoder.hook_mel", mel_bands(model))`` is the spectral
            baseline.
        names, folds, k, positions, min_tokens, bins, seed: see :class:`CountOptions`.
        track: wraps the batches, for instance in a progress bar.
        max_bytes: largest memory of the counts.

    Raises:
        AlignmentError: fewer than two speakers, or overlapping intervals.
        AudioError: a clip is longer than the window.
        CacheSizeError: the counts would take more than ``max_bytes``.
        PatchError: a hook point has no vector per encoder position, or an activation is NaN.
    """
    options = CountOptions(names, folds, k, positions, min_tokens, bins, seed)
    with collect_rows(model, clips, _hooks(bases), track=track) as rows:
        labels = rows.labels(options)
        _check_size({name: rows.width(basis) for name, basis in bases.items()}, labels, max_bytes)
        counts = {name: rows.counts(basis, labels) for name, basis in bases.items()}
        for basis_counts in counts.values():
            _ = basis_counts.onsets  # computed now: the rows are freed
    return counts


@renamed_arguments(most="max_rows")
def activations(
    model: HookedWhisper, clips: Sequence[Clip], hook: str, max_rows: int = 20_000, seed: int = 0
) -> Float[Tensor, "row d"]:
    """Return at most ``max_rows`` activations of clips, drawn at random without padding, for example for ``pca``."""
    rows = features_of_clips(model, clips, {"rows": HookBasis(hook)})["rows"]
    if len(rows) <= max_rows:
        return rows
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:max_rows].sort().values]


@torch.no_grad()
def features_of_clips(
    model: HookedWhisper, clips: Sequence[Clip], bases: Mapping[str, HookBasis]
) -> dict[str, Float[Tensor, "row feature"]]:
    """Features of some bases at every position of the clips, clip after clip, without padding.

    Raises:
        AudioError: a clip is longer than the window.
        PatchError: a hook point has no vector per encoder position.
    """
    with collect_rows(model, clips, _hooks(bases)) as rows:
        return {name: torch.cat([rows.features(basis, i) for i in range(len(clips))]) for name, basis in bases.items()}


def _hooks(bases: Mapping[str, HookBasis]) -> list[str]:
    return list(dict.fromkeys(basis.hook for basis in bases.values()))


def _check_size(widths: Mapping[str, int], labels: RowLabels, max_bytes: int) -> None:
    n, bins, folds = sum(widths.values()), labels.options.bins.n, len(labels.tokens)
    need = n * bins * (len(labels.names) + 1) * 4 * folds * 2
    if need > max_bytes:
        raise CacheSizeError(
            f"counts of {n} features, {bins} bins, {len(labels.names)} labels and {folds} folds (true and shifted) "
            f"take {need / 2**30:.1f} GiB, more than {max_bytes / 2**30:.1f} GiB: count by blocks of features "
            "(collect_rows), give fewer bases or folds, or raise max_bytes"
        )
