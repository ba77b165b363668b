"""Phones and speakers read from a few latents: sparse probing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper._support.showing import counted
from sae_lens_audio.benchmark.data import BenchmarkData
from sae_lens_audio.benchmark.metric import BenchmarkMetric, Score, estimate_by_speaker
from sae_lens_audio.benchmark.probes import RidgeSums, best_thresholds, logistic_probes
from sae_lens_audio.benchmark.probing_counts import (
    by_phone,
    defined_mean,
    f1_of,
    hit_counts,
    precision_of,
    ranked_counts,
)
from sae_lens_audio.benchmark.probing_latents import LatentColumns, LatentSums, encoded_blocks, phone_truth
from sae_lens_audio.benchmark.subjects import Subject

SOURCE = "sparse probing of SAEBench, as in sae-probes (Kantamneni et al. 2025, arXiv 2502.16681)"
SELECTION = (
    "Latents are selected on the other speakers by the difference of their means, relative to their mean size where "
    "they are active; a logistic regression joins them."
)


@dataclass(frozen=True)
class SparseProbing:
    """Probes of each phone against all other positions, with few latents and with all, on held-out speakers.

    Attributes:
        ks: numbers of latents of the probes that are scored by average precision.
        f1_ks: those of ``ks`` that are also scored by F1, with the threshold of the training speakers.
        all_latents: whether to fit a probe of all latents, a ridge regression.
    """

    ks: tuple[int, ...] = (1, 2, 5, 16)
    f1_ks: tuple[int, ...] = (1, 5)
    all_latents: bool = True
    needs_decode = False
    needs_labels = True

    @cached_property
    def metrics(self) -> tuple[BenchmarkMetric, ...]:
        precision = tuple(
            BenchmarkMetric(
                f"phone_probe_k{k}",
                f"phone probe, {counted(k, 'latent')}",
                "higher",
                "AP",
                f"Average precision of a probe with {counted(k, 'latent')} of each phone against all other positions, "
                f"mean over phones; chance is the share of the phone. {SELECTION}",
                SOURCE,
            )
            for k in self.ks
        )
        f1 = tuple(
            BenchmarkMetric(
                f"phone_probe_f1_k{k}",
                f"phone probe, {counted(k, 'latent')}, F1",
                "higher",
                "F1",
                f"F1 of the same probe with {counted(k, 'latent')}; the threshold is the best one for the training "
                "speakers.",
                SOURCE,
            )
            for k in self.ks
            if k in self.f1_ks
        )
        dense = BenchmarkMetric(
            "phone_probe_all",
            "phone probe, all latents",
            "higher",
            "AP",
            "Average precision of a ridge regression on all latents, mean over phones: what few latents could reach.",
        )
        return (*precision, *f1, *((dense,) if self.all_latents else ()))

    def measure(self, subject: Subject, data: BenchmarkData) -> Mapping[str, Score]:
        x, y = data.at(subject.hook), phone_truth(data)
        sums, grams = _sums(subject, x, y, data, self.all_latents)
        tops = [sums.most_different(fold, max(self.ks)) for fold in range(data.n_folds)]
        columns, truth = LatentColumns.of(subject, x, torch.stack(tops)), y.numpy()
        scores = {}
        for k in self.ks:
            if k > subject.basis.n_features:
                continue
            odds, predicted = _cross_fitted(columns, [top[:, :k] for top in tops], truth, data)
            scores[f"phone_probe_k{k}"] = _precision(odds, truth, data)
            if k in self.f1_ks:
                hits = hit_counts(predicted, truth, data.speaker, len(data.speakers))
                estimate = estimate_by_speaker(hits, lambda drawn: defined_mean(f1_of(drawn)))
                scores[f"phone_probe_f1_k{k}"] = Score(estimate, by_phone(data, f1_of(hits.sum(0))))
        if self.all_latents:
            scores["phone_probe_all"] = _precision(_dense(subject, x, grams, data), truth, data)
        return scores


def _sums(
    subject: Subject,
    x: Float[Tensor, "row d"],
    y: Bool[Tensor, "row phone"],
    data: BenchmarkData,
    with_products: bool,
) -> tuple[LatentSums, list[RidgeSums]]:
    """Return the sums by fold, and by fold what a ridge regression needs."""
    n, n_phones = subject.basis.n_features, y.shape[1]
    sums = LatentSums.zero(data.n_folds, n_phones, n)
    grams = [RidgeSums.zero(n, n_phones) for _ in range(data.n_folds if with_products else 0)]
    for part, latents in encoded_blocks(subject, x):
        sums.add_(latents, data.fold[part], y[part])
        for fold, moments in enumerate(grams):
            rows = torch.from_numpy(data.fold[part] == fold)
            moments.add_(latents[rows], y[part][rows])
    return sums, grams


def _cross_fitted(
    columns: LatentColumns, tops: list[Int[Tensor, "phone k"]], truth: np.ndarray, data: BenchmarkData
) -> tuple[Float[np.ndarray, "row phone"], np.ndarray]:
    """Return log-odds, and whether they reach the threshold, of probes that were fitted on the other folds."""
    odds, predicted = np.zeros(truth.shape, dtype=np.float32), np.zeros(truth.shape, dtype=bool)
    for fold, top in enumerate(tops):
        train, test = (torch.from_numpy(np.flatnonzero(mask)) for mask in (data.fold != fold, data.fold == fold))
        x, y = columns.at(train, top), torch.from_numpy(truth[train.numpy()].T)
        probes = logistic_probes(x, y)
        threshold, _ = best_thresholds(probes.scores(x), y)
        scores = probes.scores(columns.at(test, top))
        odds[test.numpy()] = scores.T.numpy()
        predicted[test.numpy()] = (scores > threshold[:, None]).T.numpy()
    return odds, predicted


def _dense(
    subject: Subject, x: Float[Tensor, "row d"], grams: list[RidgeSums], data: BenchmarkData
) -> Float[np.ndarray, "row phone"]:
    total = reduce(add, grams)
    probes = [(total - moments).probe() for moments in grams]
    scores = np.zeros((len(x), len(data.phones)), dtype=np.float32)
    for part, latents in encoded_blocks(subject, x):
        every = torch.stack([probe.scores(latents) for probe in probes]).numpy()
        scores[part] = every[data.fold[part], np.arange(len(latents))]
    return scores


def _precision(scores: Float[np.ndarray, "row phone"], truth: np.ndarray, data: BenchmarkData) -> Score:
    counts = ranked_counts(scores, truth, data.speaker, len(data.speakers))
    estimate = estimate_by_speaker(counts, lambda drawn: defined_mean(precision_of(drawn)))
    return Score(estimate, by_phone(data, precision_of(counts.sum(0))))
