"""Labelled clips through a model once, for many bases of features at many hook points: counts by fold of speakers with
true and with shifted labels, averages around onsets, top examples. All of it at once, for few features; for many see
:mod:`hooked_whisper.features.phones.labeled_rows`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

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


@torch.no_grad()
def evaluate_bases(
    model: HookedWhisper,
    clips: Sequence[Clip],
    sites: Mapping[str, HookBasis],
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
    """Run every clip through the encoder once and count at all sites. An untrained model's sites are a second call.

    The counts of every feature are kept: for thousands of features take
    :func:`~hooked_whisper.features.phones.labeled_rows.collect_rows`, whose counts come by blocks of features.

    Args:
        sites: name to hook point and basis; ``HookBasis("encoder.hook_mel", mel_bands(model))`` is the spectral baseline.
        names, folds, k, positions, min_tokens, bins, seed: see :class:`CountOptions`.
        track: wraps the batches, say in a progress bar.
        max_bytes: refuse to count if the counts would take more memory.

    Raises:
        AlignmentError: fewer than two speakers; overlapping intervals.
        AudioError: a clip longer than the window.
        CacheSizeError: too many features, labels, bins or folds for ``max_bytes``.
        PatchError: a site that has no vector at every position; NaN in an activation.
    """
    options = CountOptions(names, folds, k, positions, min_tokens, bins, seed)
    with collect_rows(model, clips, _hooks(sites), track=track) as rows:
        labels = rows.labels(options)
        _check_size({name: rows.width(site) for name, site in sites.items()}, labels, max_bytes)
        counts = {name: rows.counts(site, labels) for name, site in sites.items()}
        for site_counts in counts.values():
            _ = site_counts.onsets  # now: the rows are gone afterwards
    return counts


def activations(
    model: HookedWhisper, clips: Sequence[Clip], hook: str, most: int = 20_000, seed: int = 0
) -> Float[Tensor, "row d"]:
    """Activations of clips without padding, at most so many rows, drawn evenly: what :func:`pca` is fitted on."""
    rows = features_of_clips(model, clips, {"rows": HookBasis(hook)})["rows"]
    if len(rows) <= most:
        return rows
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:most].sort().values]


@torch.no_grad()
def features_of_clips(
    model: HookedWhisper, clips: Sequence[Clip], sites: Mapping[str, HookBasis]
) -> dict[str, Float[Tensor, "row feature"]]:
    """Features of some sites at every position of the clips, one clip after another, without padding: all in memory.

    Raises:
        AudioError: a clip longer than the window.
        PatchError: a site that has no vector at every position.
    """
    with collect_rows(model, clips, _hooks(sites)) as rows:
        return {name: torch.cat([rows.features(site, i) for i in range(len(clips))]) for name, site in sites.items()}


def _hooks(sites: Mapping[str, HookBasis]) -> list[str]:
    return list(dict.fromkeys(site.hook for site in sites.values()))


def _check_size(widths: Mapping[str, int], labels: RowLabels, most: int) -> None:
    n, bins, folds = sum(widths.values()), labels.options.bins.n, len(labels.tokens)
    need = n * bins * (len(labels.names) + 1) * 4 * folds * 2
    if need > most:
        raise CacheSizeError(
            f"counts of {n} features, {bins} bins, {len(labels.names)} labels and {folds} folds (true and shifted) "
            f"take {need / 2**30:.1f} GiB, the limit is {most / 2**30:.1f}: count by blocks of features "
            "(collect_rows), ask for fewer sites at a time or fewer folds, or raise max_bytes"
        )
