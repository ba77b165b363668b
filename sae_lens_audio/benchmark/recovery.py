"""Phones that single latents detect, on held-out speakers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from sae_lens_audio.benchmark.binned import (
    BINS,
    LatentBlock,
    average_precision,
    bin_edges,
    latent_blocks,
    of_signed,
    threshold_f1,
)
from sae_lens_audio.benchmark.data import BenchmarkData
from sae_lens_audio.benchmark.metric import BenchmarkMetric, Score, estimate_by_speaker
from sae_lens_audio.benchmark.probing_counts import by_phone, defined_mean, f1_of, hit_counts, precision_of
from sae_lens_audio.benchmark.subjects import Subject

COVERED_F1 = 0.5  # of a phone that a latent detects
DETECTOR_F1 = 0.3  # of a latent that detects a phone, as in finding F6

PHONE_F1 = BenchmarkMetric(
    "phone_f1",
    "F1 of phones",
    "higher",
    "F1",
    "F1 of the best latent of each phone, mean over phones. Latent, sign and threshold are selected on other speakers.",
)
PHONE_AP = BenchmarkMetric(
    "phone_ap",
    "AP of phones",
    "higher",
    "AP",
    "Average precision of the best latent of each phone, mean over phones. Latent and sign are selected on other "
    "speakers. Unlike the AUC, it is not capped by the positions at which a sparse latent is 0.",
)
COVERAGE = BenchmarkMetric(
    "phone_coverage",
    "phones covered",
    "higher",
    "share",
    f"Share of phones with an F1 of {COVERED_F1:g} or more.",
    "finding F6, with the F1 in place of the AUC",
)
DETECTORS = BenchmarkMetric(
    "phone_detectors",
    "latents that detect a phone",
    "higher",
    "share",
    f"Share of live latents with an F1 of {DETECTOR_F1:g} or more for their best phone. Phone, sign and threshold are "
    "selected on other speakers.",
    "finding F6",
)


@dataclass(frozen=True)
class PhoneRecovery:
    """Best latent of each phone, and best phone of each latent, cross-fitted over folds of speakers."""

    metrics = (PHONE_F1, PHONE_AP, COVERAGE, DETECTORS)
    needs_decode = False
    needs_labels = True

    def measure(self, subject: Subject, data: BenchmarkData) -> Mapping[str, Score]:
        latents = subject.encode(data.at(subject.hook))
        best = [_BestLatents.none(len(data.phones)) for _ in range(data.n_folds)]
        detected = []
        for block in latent_blocks(latents, data):
            best = [best_latents.updated(block, fold) for fold, best_latents in enumerate(best)]
            detected.append(_detected(block, data))
        hits, ranked = _hits(latents, best, data), _ranked(latents, best, data)
        detectors = np.concatenate(detected, axis=2)
        f1, ap = f1_of(hits.sum(0)), precision_of(ranked.sum(0))
        return {
            PHONE_F1.name: Score(estimate_by_speaker(hits, lambda sums: defined_mean(f1_of(sums))), by_phone(data, f1)),
            PHONE_AP.name: Score(
                estimate_by_speaker(ranked, lambda sums: defined_mean(precision_of(sums))), by_phone(data, ap)
            ),
            COVERAGE.name: Score(estimate_by_speaker(hits, lambda sums: _share_above(f1_of(sums), COVERED_F1))),
            DETECTORS.name: Score(
                estimate_by_speaker(detectors, lambda sums: _share_above(_detector_f1(sums), DETECTOR_F1))
            ),
        }


@dataclass(frozen=True, eq=False)
class _BestLatents:
    """For each phone: signed number and threshold of the latent with the best F1, and signed number of the one with the
    best average precision, on training speakers."""

    f1: Float[np.ndarray, "phone"]
    latent: Int[np.ndarray, "phone"]
    threshold: Float[np.ndarray, "phone"]
    ap: Float[np.ndarray, "phone"]
    ranked_latent: Int[np.ndarray, "phone"]

    @classmethod
    def none(cls, n_phones: int) -> _BestLatents:
        lowest, zeros = np.full(n_phones, -1.0), np.zeros(n_phones, dtype=np.int64)
        return cls(lowest, zeros, np.full(n_phones, np.inf), lowest, zeros)

    def updated(self, block: LatentBlock, fold: int) -> _BestLatents:
        """Return the better of these and of the latents of a block."""
        n, every = block.others(fold), np.arange(len(self.f1))
        f1 = threshold_f1(n)
        k = f1.max(1).argmax(0)
        bins = f1[k, :, every].argmax(1)
        best_f1 = f1[k, bins, every]
        right = n[..., :-1].transpose(0, 2, 1)
        ap = average_precision(right, np.broadcast_to(n.sum(2)[:, None], right.shape))
        ap = np.where(np.isfinite(ap), ap, -1.0)
        j = ap.argmax(0)
        better, ranked = best_f1 > self.f1, ap[j, every] > self.ap
        return _BestLatents(
            np.where(better, best_f1, self.f1),
            np.where(better, block.signed[k], self.latent),
            np.where(better, block.edges[k, np.minimum(bins, BINS - 1)], self.threshold),
            np.where(ranked, ap[j, every], self.ap),
            np.where(ranked, block.signed[j], self.ranked_latent),
        )


def _detected(block: LatentBlock, data: BenchmarkData) -> Int[np.ndarray, "speaker 3 latent"]:
    """Return true positives, predicted and said positions of each latent for its phone, by held-out speaker; all are 0
    for a latent that is never active. Phone, threshold and sign come from the other folds."""
    n_latents, n_speakers = len(block.signed) // block.signs, len(data.speakers)
    counted = np.zeros((n_speakers, 3, n_latents), dtype=np.int64)
    every = np.arange(len(block.signed))
    alive = np.asarray(block.alive.reshape(block.signs, n_latents).any(0))
    for fold in range(data.n_folds):
        f1 = threshold_f1(block.others(fold))
        flat = f1.reshape(len(every), -1).argmax(1)
        bins, phone = np.divmod(flat, f1.shape[2])
        sign = f1[every, bins, phone].reshape(block.signs, n_latents).argmax(0)
        selected = sign * n_latents + np.arange(n_latents)
        threshold = block.edges[selected, np.minimum(bins[selected], BINS - 1)]
        rows = np.flatnonzero(data.fold == fold)
        predicted = block.values[torch.from_numpy(rows)][:, torch.from_numpy(selected)].numpy() >= threshold
        said = data.phone[rows, None] == phone[selected]
        counted += hit_counts(predicted, said, data.speaker[rows], n_speakers)
    return np.where(alive, counted, 0)


def _hits(
    latents: Float[Tensor, "row n"], best: list[_BestLatents], data: BenchmarkData
) -> Int[np.ndarray, "speaker 3 phone"]:
    """Return true positives, predicted and said positions by held-out speaker."""
    said = data.phone[:, None] == np.arange(len(data.phones))
    predicted = np.zeros_like(said)
    for fold, best_latents in enumerate(best):
        rows = np.flatnonzero(data.fold == fold)
        predicted[rows] = of_signed(latents, rows, best_latents.latent) >= best_latents.threshold
    return hit_counts(predicted, said, data.speaker, len(data.speakers))


def _ranked(
    latents: Float[Tensor, "row n"], best: list[_BestLatents], data: BenchmarkData
) -> Int[np.ndarray, "speaker 2 phone bin"]:
    """Return right and all positions by held-out speaker, phone and bin of the latent that ranks them."""
    n_phones = len(data.phones)
    counted = np.zeros((len(data.speakers), 2, n_phones, BINS + 1), dtype=np.int64)
    for fold, best_latents in enumerate(best):
        rows = np.flatnonzero(data.fold == fold)
        edges = bin_edges(
            torch.from_numpy(of_signed(latents, np.flatnonzero(data.fold != fold), best_latents.ranked_latent))
        )
        values = of_signed(latents, rows, best_latents.ranked_latent)
        bins = np.where(values > 0, (values[:, :, None] < edges).sum(2), BINS)
        said = data.phone[rows, None] == np.arange(n_phones)
        speaker, phone = np.broadcast_arrays(data.speaker[rows, None], np.arange(n_phones))
        np.add.at(counted[:, 1], (speaker, phone, bins), 1)
        np.add.at(counted[:, 0], (speaker[said], phone[said], bins[said]), 1)
    return counted


def _detector_f1(counts: Num[np.ndarray, "draw 3 latent"]) -> Float[np.ndarray, "draw latent"]:
    """Return the F1 of each latent for its phone; NaN for a latent that is never active. A live latent whose phone the
    drawn speakers do not say has 0."""
    both = counts[:, 1] + counts[:, 2]
    return np.divide(2 * counts[:, 0], both, out=np.full(both.shape, np.nan), where=both > 0)


def _share_above(values: Float[np.ndarray, "draw n"], threshold: float) -> Float[np.ndarray, "draw"]:
    return defined_mean(np.where(np.isfinite(values), values >= threshold, np.nan))
