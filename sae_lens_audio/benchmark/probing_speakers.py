"""Speakers read from a few latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper._support.showing import counted
from sae_lens_audio.benchmark.data import BenchmarkData
from sae_lens_audio.benchmark.metric import BenchmarkMetric, Score, estimate_by_speaker
from sae_lens_audio.benchmark.probes import logistic_probes
from sae_lens_audio.benchmark.probing_latents import LatentSums, encoded_blocks
from sae_lens_audio.benchmark.subjects import Subject

CLIP_FOLDS = 4


@dataclass(frozen=True)
class SpeakerProbing:
    """Who speaks, from means of a few latents over a second of speech, on held-out clips of the same speakers.

    Each speaker has a logistic regression against the others; the largest log-odds is the answer.

    Attributes:
        ks: numbers of latents of each speaker's probe.
        span: positions of speech whose mean is read; spans of less than half of it are left out.
    """

    ks: tuple[int, ...] = (1, 5, 16)
    span: int = 50
    needs_decode = False
    needs_labels = False

    @cached_property
    def metrics(self) -> tuple[BenchmarkMetric, ...]:
        return tuple(
            BenchmarkMetric(
                f"speaker_probe_k{k}",
                f"speaker probe, {counted(k, 'latent')} each",
                "higher",
                "share",
                f"Share of spans of {0.02 * self.span:g} s of speech, in clips that the probe was not fitted on, whose "
                f"speaker is told by {counted(k, 'latent')} of each speaker. Chance is 1 over the number of "
                "speakers.",
                "sparse probing of SAEBench",
            )
            for k in self.ks
        )

    def measure(self, subject: Subject, data: BenchmarkData) -> Mapping[str, Score]:
        fold_of_clip = _clip_folds(data)
        if fold_of_clip is None:
            return {}
        spans, index = _spans(data, self.span)
        latents = _means(subject, data.at(subject.hook), index, len(spans))
        speaker, fold = spans[:, 0], fold_of_clip[spans[:, 1]]
        y = torch.from_numpy(speaker[:, None] == np.arange(len(data.speakers)))
        sums = LatentSums.zero(CLIP_FOLDS, len(data.speakers), latents.shape[1])
        sums.add_(latents, fold, y)
        return {
            f"speaker_probe_k{k}": _score(_hits(latents, y, fold, sums, k), speaker, data)
            for k in self.ks
            if k <= latents.shape[1]
        }


def _clip_folds(data: BenchmarkData) -> Int[np.ndarray, "clip"] | None:
    """Return the fold of each clip, so that every speaker is in every fold; ``None`` with fewer clips."""
    clips, first = np.unique(data.clip, return_index=True)
    fold = np.zeros(clips.max() + 1, dtype=np.int64)
    for speaker in range(len(data.speakers)):
        mine = clips[data.speaker[first] == speaker]
        if len(mine) < CLIP_FOLDS:
            return None
        fold[mine] = np.arange(len(mine)) % CLIP_FOLDS
    return fold


def _spans(data: BenchmarkData, length: int) -> tuple[Int[np.ndarray, "span 2"], Int[np.ndarray, "row"]]:
    """Return speaker and clip of each span of speech, and the span of each row or -1."""
    index = np.full(data.n_rows, -1)
    spans: list[tuple[int, int]] = []
    for clip in np.unique(data.clip):
        rows = np.flatnonzero((data.clip == clip) & ~data.silent)
        for start in range(0, len(rows), length):
            part = rows[start : start + length]
            if len(part) >= length / 2:
                index[part] = len(spans)
                spans.append((int(data.speaker[part[0]]), int(clip)))
    return np.array(spans, dtype=np.int64).reshape(-1, 2), index


def _means(
    subject: Subject, x: Float[Tensor, "row d"], index: Int[np.ndarray, "row"], n: int
) -> Float[Tensor, "span n"]:
    sums, counts = torch.zeros(n, subject.basis.n_features), torch.zeros(n)
    span = torch.from_numpy(index)
    for part, latents in encoded_blocks(subject, x):
        rows = span[part] >= 0
        sums.index_add_(0, span[part][rows], latents[rows])
        counts += torch.bincount(span[part][rows], minlength=n)
    return sums / counts.clamp_min(1)[:, None]


def _hits(
    latents: Float[Tensor, "span n"],
    y: Bool[Tensor, "span speaker"],
    fold: Int[np.ndarray, "span"],
    sums: LatentSums,
    k: int,
) -> Bool[np.ndarray, "span"]:
    right = np.zeros(len(latents), dtype=bool)
    for i in range(CLIP_FOLDS):
        train, test = torch.from_numpy(fold != i), torch.from_numpy(fold == i)
        top = sums.most_different(i, k)
        probes = logistic_probes(latents[train][:, top].transpose(0, 1), y[train].T)
        answer = probes.scores(latents[test][:, top].transpose(0, 1)).argmax(0)
        right[test.numpy()] = y[test].gather(1, answer[:, None])[:, 0].numpy()
    return right


def _score(right: Bool[np.ndarray, "span"], speaker: Int[np.ndarray, "span"], data: BenchmarkData) -> Score:
    n = len(data.speakers)
    hits, spans = np.bincount(speaker[right], minlength=n), np.bincount(speaker, minlength=n)
    estimate = estimate_by_speaker(np.stack([hits, spans], 1), lambda drawn: drawn[:, 0] / drawn[:, 1])
    parts = {name: float(share) for name, share in zip(data.speakers, hits / np.maximum(spans, 1), strict=True)}
    return Score(estimate, parts)
