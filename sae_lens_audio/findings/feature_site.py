"""Pages of some features of an SAE, written from activations of labeled clips that are already there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from hooked_whisper.corpora import Clip
from hooked_whisper.features.phones.autolabel import Evidence, autolabels
from hooked_whisper.features.phones.counts import FeatureCounts
from hooked_whisper.features.phones.labeled_rows import LabeledRows
from hooked_whisper.features.phones.polyphony import ranges_between
from hooked_whisper.features.phones.row_labels import CountOptions
from hooked_whisper.protocols import FeatureBasis
from hooked_whisper.report.units import (
    ActivationRange,
    Histogram,
    MeanMel,
    PageClip,
    SiteInfo,
    SiteWriter,
    Unit,
    UnitExample,
    UnitStats,
)
from hooked_whisper.report.units.excerpts import Excerpt, captions, excerpt_round
from hooked_whisper.report.units.labeling import Labeling
from hooked_whisper.report.units.neighbors import similar_weights
from sae_lens_audio.findings.moments import FeatureMoment, strongest_moments
from sae_lens_audio.findings.phone_detectors import feature_rows

N_EXAMPLES, N_RANGES, N_BINS = 6, 5, 30
_AROUND = 16  # mel frames on either side of a peak


@dataclass(frozen=True, eq=False)
class FeatureSite:
    """What a site about features shows.

    Attributes:
        hook: hook point. sae: reads it; ``name`` is its name on the pages.
        features: indices of the features that get a page.
        remarks: sentences for the page of a feature, by index.
        facts: rows for the index, ``(name, value)``.
    """

    hook: str
    sae: FeatureBasis
    name: str
    features: tuple[int, ...]
    remarks: Mapping[int, tuple[str, ...]]
    corpus: str
    facts: tuple[tuple[str, str], ...] = ()


class LabeledMels:
    """Log-mels of clips, computed when they are first needed."""

    def __init__(self, rows: LabeledRows) -> None:
        self._rows = rows
        self._mels: dict[int, np.ndarray] = {}

    def of(self, clip: int) -> Float[np.ndarray, "mel frame"]:
        if clip not in self._mels:
            mel = self._rows.model.to_mel([self._rows.clips[clip].samples])[0]
            self._mels[clip] = mel.float().cpu().numpy()
        return self._mels[clip]


def write_feature_site(
    out: Path, site: FeatureSite, rows: LabeledRows, mels: LabeledMels, options: CountOptions
) -> dict[int, str]:
    """Write the pages and their index.

    Returns:
        path of each feature's strongest moment, from ``out``; empty without one.
    """
    model, features = rows.model, list(site.features)
    values = feature_rows(rows, site.hook, site.sae, features)
    counts = rows.labels(options).count(torch.from_numpy(values))
    labeling = _labeling(counts, values)
    labels = [label.text_with_scores if label.label else "" for label in labeling.names]
    info = SiteInfo(
        f"Features of {site.name} at {site.hook} in {model.cfg.name}, the best of every phone",
        model.cfg.name,
        site.hook,
        site.corpus,
        tuple(features),
        site.sae.n_features,
        facts=site.facts,
        noun="feature",
        basis=site.name,
        measure=labeling.measure,
        labels=dict(zip(features, labels, strict=True)),
    )
    writer = SiteWriter(out, info)
    nearest = similar_weights(model, site.hook, site.sae, features)
    for place, feature in enumerate(features):
        unit = _unit(feature, values[:, place], rows, mels, writer)
        unit = replace(unit, nearest=nearest[place], notes=(*site.remarks.get(feature, ()), *unit.notes))
        writer.add_unit(labeling.add_to(unit, place))
    writer.finish()
    return {feature: writer.strongest_sound(feature) for feature in features}


def _labeling(counts: FeatureCounts, values: Float[np.ndarray, "row feature"]) -> Labeling:
    names = autolabels(
        Evidence(counts.phones, counts.purity(), counts.classes, counts.class_purity()),
        Evidence(counts.shifted_phones, counts.purity(1), counts.shifted_classes, counts.class_purity(1)),
    )
    edges = np.stack([_edges(column) for column in values.T])
    return Labeling(counts, tuple(names), ranges_between(counts.counts, edges))


def _edges(values: Float[np.ndarray, "row"]) -> Float[np.ndarray, "edge"]:
    """Edges of activation ranges of equal width above 0."""
    return np.linspace(0.0, max(float(values.max()), 1e-6), N_RANGES + 1)


def _unit(
    feature: int, values: Float[np.ndarray, "row"], rows: LabeledRows, mels: LabeledMels, writer: SiteWriter
) -> Unit:
    largest, edges = float(values.max()), _edges(values)
    is_dead = largest <= 0
    stats = UnitStats(
        float((values > 0).mean()), float(values.mean()), float(values.var()), largest, float(values.min()), is_dead
    )
    if is_dead:
        return Unit(feature, stats, notes=("It was never active on these clips.",))
    positive = values[values > 0]
    heights, bounds = np.histogram(positive, bins=N_BINS, range=(0.0, largest))
    counts, _ = np.histogram(positive, bins=edges)
    moments = strongest_moments(values, rows.starts, N_EXAMPLES)
    return Unit(
        feature,
        stats,
        histogram=Histogram(bounds.astype(float), heights.astype(np.int64)),
        ranges=tuple(
            ActivationRange(float(low), float(high), int(n), (), 0.0)
            for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True)
        ),
        mean_mel=_mean_mel(moments, rows, mels),
        examples=tuple(_example(rank, m, values, rows, mels, writer) for rank, m in enumerate(moments)),
    )


def _example(
    rank: int,
    moment: FeatureMoment,
    values: Float[np.ndarray, "row"],
    rows: LabeledRows,
    mels: LabeledMels,
    writer: SiteWriter,
) -> UnitExample:
    start, stop = (int(edge) for edge in rows.starts[moment.clip : moment.clip + 2])
    excerpt = excerpt_round(moment.clip, moment.position, stop - start, rows.model.time)
    clip = _page_clip(rows, mels, excerpt)
    if not writer.has_clip(clip.id):
        writer.add_clip(clip)
    trace = values[start + excerpt.first : start + excerpt.stop].copy()
    return UnitExample(clip.id, trace, moment.position - excerpt.first, "top", rank=rank)


def _page_clip(rows: LabeledRows, mels: LabeledMels, excerpt: Excerpt) -> PageClip:
    clip, time = rows.clips[excerpt.recording], rows.model.time
    first, stop = (position * time.samples_per_position for position in (excerpt.first, excerpt.stop))
    samples = clip.samples[first:stop]
    frames = slice(time.stride * excerpt.first, time.stride * excerpt.first + -(-len(samples) // time.hop))
    start_s = first / time.sample_rate
    words, phones = captions(
        clip.alignment, clip.offset + start_s, clip.offset + start_s + len(samples) / time.sample_rate
    )
    text = " ".join(word.label for word in words)
    cut = Clip(clip.recording, samples, clip.offset + start_s)
    return PageClip(f"{clip.id}@{start_s:g}", cut, mels.of(excerpt.recording)[:, frames], text, words, phones)


def _mean_mel(moments: Sequence[FeatureMoment], rows: LabeledRows, mels: LabeledMels) -> MeanMel | None:
    """Return the mean log-mel around the moments that are not at the edge of a window."""
    stride = rows.model.time.stride
    patches = []
    for moment in moments:
        mel, frame = mels.of(moment.clip), stride * moment.position
        if _AROUND <= frame < mel.shape[1] - _AROUND:
            patches.append(mel[:, frame - _AROUND : frame + _AROUND + 1])
    return MeanMel(np.mean(patches, axis=0).astype(np.float32), _AROUND) if patches else None
