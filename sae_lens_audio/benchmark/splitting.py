"""Feature splitting and absorption: whether one latent stands for a phone, or several, with gaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from sae_lens_audio.benchmark.data import BenchmarkData
from sae_lens_audio.benchmark.metric import BenchmarkMetric, Score, estimate_by_speaker
from sae_lens_audio.benchmark.probes import LinearProbe, best_thresholds, linear_probe, logistic_probes
from sae_lens_audio.benchmark.probing_counts import by_phone, defined_mean, f1_of, hit_counts
from sae_lens_audio.benchmark.probing_latents import LatentColumns, LatentSums, encoded_blocks, phone_truth
from sae_lens_audio.benchmark.subjects import Subject

RISE = 0.03  # of the F1 that shows that a phone is split over a further latent
MOST = 6  # latents of a phone
CANDIDATES = 16
DETECTED = 0.3  # F1 of the main latents, below which a phone has none
COSINE = 0.025  # of an absorbing latent with the probe
SHARE = 0.4  # of the probe's score that an absorbing latent accounts for
SPARSE = 0.25  # largest share of active values of features that can be silent

SOURCE = "Chanin et al. 2024, A is for Absorption (arXiv 2409.14507), and SAEBench's absorption"
SPLITTING = BenchmarkMetric(
    "phone_splitting",
    "latents per phone",
    "lower",
    "latents",
    f"Number of latents that a phone is split over: how often the held-out F1 of a logistic regression rises by more "
    f"than {RISE:g} with a further latent, plus 1. Mean over phones whose main latents reach an F1 of {DETECTED:g}.",
    SOURCE,
)
ABSORPTION = BenchmarkMetric(
    "phone_absorption",
    "absorbed phones",
    "lower",
    "share",
    "Share of positions of a phone at which all of its main latents are silent although a linear probe of the "
    f"activation tells the phone, and a single other latent (cosine with the probe {COSINE:g} or more) accounts for "
    f"{100 * SHARE:g} % of the probe's score or more. Mean over the same phones; sparse latents only.",
    SOURCE,
)


@dataclass(frozen=True)
class Splitting:
    """Latents of each phone, added one at a time, and positions at which another latent takes their place.

    Latents are added in the order in which they explain what the regression so far gets wrong, on training speakers.
    """

    metrics = (SPLITTING, ABSORPTION)
    needs_decode = False
    needs_labels = True

    def measure(self, subject: Subject, data: BenchmarkData) -> Mapping[str, Score]:
        x, y = data.at(subject.hook), phone_truth(data)
        sums = LatentSums.of(subject, x, data.fold, y)
        pools = [sums.most_raised(fold, CANDIDATES) for fold in range(data.n_folds)]
        columns = LatentColumns.of(subject, x, torch.stack(pools))
        order, hits = _added(columns, pools, y, data)
        n_latents = split_over(hits.sum(0))
        estimate = estimate_by_speaker(hits, lambda drawn: defined_mean(split_over(drawn)))
        scores = {SPLITTING.name: Score(estimate, by_phone(data, n_latents))}
        if subject.directions is not None and subject.directions.shape[1] == x.shape[1] and sums.density <= SPARSE:
            counts = _absorbed(subject, x, y, order, n_latents, data)
            estimate = estimate_by_speaker(counts, lambda drawn: defined_mean(_share(drawn)))
            scores[ABSORPTION.name] = Score(estimate, by_phone(data, _share(counts.sum(0))))
        return {name: score for name, score in scores.items() if score.estimate.value is not None}


def split_over(hits: Num[np.ndarray, "*draw step 3 phone"]) -> Float[np.ndarray, "*draw phone"]:
    """Return the number of latents of each phone; NaN for a phone that they do not detect."""
    f1 = np.nan_to_num(f1_of(hits))
    rises = np.cumprod(np.diff(f1, axis=-2) > RISE, axis=-2)
    n = rises.sum(-2)
    reached = np.take_along_axis(f1, n[..., None, :], axis=-2)[..., 0, :]
    return np.where(reached >= DETECTED, n + 1.0, np.nan)


def _added(
    columns: LatentColumns, pools: list[Int[Tensor, "phone pool"]], y: Bool[Tensor, "row phone"], data: BenchmarkData
) -> tuple[list[Int[Tensor, "phone step"]], Int[np.ndarray, "speaker step 3 phone"]]:
    """Return the latents of each phone in the order in which they were added, by fold, and their held-out hits."""
    n_steps = min(MOST, pools[0].shape[1])
    predicted = np.zeros((n_steps, *y.shape), dtype=bool)
    orders = []
    for fold, pool in enumerate(pools):
        train, test = (torch.from_numpy(np.flatnonzero(mask)) for mask in (data.fold != fold, data.fold == fold))
        x, truth, held_out = columns.at(train, pool), y[train].T, columns.at(test, pool)
        deviation = x.std(1).clamp_min(1e-12)
        residual = truth.float() - truth.float().mean(1, keepdim=True)
        order = torch.zeros(len(pool), 0, dtype=torch.long)
        for step in range(n_steps):
            gain = (torch.einsum("prk,pr->pk", x, residual).abs() / deviation).scatter(1, order, -1.0)
            order = torch.cat([order, gain.argmax(1, keepdim=True)], 1)
            features = _columns(x, order)
            probes = logistic_probes(features, truth)
            odds = probes.scores(features)
            residual = truth.float() - odds.sigmoid()
            threshold, _ = best_thresholds(odds, truth)
            scores = probes.scores(_columns(held_out, order))
            predicted[step, test.numpy()] = (scores > threshold[:, None]).T.numpy()
        orders.append(pool.gather(1, order))
    hits = [hit_counts(mask, y.numpy(), data.speaker, len(data.speakers)) for mask in predicted]
    return orders, np.stack(hits, 1)


def _columns(x: Float[Tensor, "phone row pool"], index: Int[Tensor, "phone k"]) -> Float[Tensor, "phone row k"]:
    return x.gather(2, index[:, None].expand(-1, x.shape[1], -1))


def _absorbed(
    subject: Subject,
    x: Float[Tensor, "row d"],
    y: Bool[Tensor, "row phone"],
    order: list[Int[Tensor, "phone step"]],
    n_latents: Float[np.ndarray, "phone"],
    data: BenchmarkData,
) -> Int[np.ndarray, "speaker 2 phone"]:
    """Count absorbed positions, and all positions of the phone that the probe tells, on held-out speakers."""
    absorbed, told = np.zeros(y.shape, dtype=bool), np.zeros(y.shape, dtype=bool)
    directions = subject.directions
    assert directions is not None
    judged = np.isfinite(n_latents)
    for fold, latents_of in enumerate(order):
        train, test = torch.from_numpy(data.fold != fold), np.flatnonzero(data.fold == fold)
        probe = linear_probe(x[train], y[train])
        threshold, _ = best_thresholds(probe.scores(x[train]).T, y[train].T)
        said = ((probe.scores(x[torch.from_numpy(test)]) > threshold) & y[torch.from_numpy(test)]).numpy() & judged
        rows, phone = (index for index in np.nonzero(said))
        told[test[rows], phone] = True
        mask = _absorbed_rows(
            subject,
            x[torch.from_numpy(test[rows])],
            torch.from_numpy(phone),
            probe,
            x[train].mean(0),
            [latents_of[p, : int(n_latents[p])] if judged[p] else latents_of[p, :0] for p in range(len(judged))],
            directions,
        )
        absorbed[test[rows[mask]], phone[mask]] = True
    of_speaker = (data.speaker == np.arange(len(data.speakers))[:, None]).astype(np.float32)
    return np.rint(np.stack([of_speaker @ absorbed, of_speaker @ told], 1)).astype(np.int64)


def _absorbed_rows(
    subject: Subject,
    x: Float[Tensor, "row d"],
    phone: Int[Tensor, "row"],
    probe: LinearProbe,
    mean: Float[Tensor, "d"],
    main: list[Int[Tensor, "_"]],
    directions: Float[Tensor, "n d"],
) -> Bool[np.ndarray, "row"]:
    """Return at which rows the main latents of the row's phone are silent and another latent takes their place."""
    unit = probe.weight / probe.weight.norm(dim=1, keepdim=True)
    effect = directions @ unit.T
    cosine = effect / directions.norm(dim=1, keepdim=True).clamp_min(1e-12)
    is_main = torch.zeros(len(probe.weight), len(directions), dtype=torch.bool)
    for p, latents in enumerate(main):
        is_main[p, latents] = True
    parts = []
    for part, latents in encoded_blocks(subject, x):
        of_row = phone[part]
        silent = ~((latents != 0) & is_main[of_row]).any(1)
        adds = (latents * effect.T[of_row]).masked_fill(is_main[of_row], 0.0)
        largest, which = adds.max(1)
        projection = ((x[part] - mean) * unit[of_row]).sum(1)
        aligned = cosine[which, of_row] >= COSINE
        parts.append(silent & aligned & (projection > 0) & (largest >= SHARE * projection))
    return torch.cat(parts).numpy() if parts else np.zeros(0, dtype=bool)


def _share(counts: Num[np.ndarray, "*draw 2 phone"]) -> Float[np.ndarray, "*draw phone"]:
    part, whole = counts[..., 0, :], counts[..., 1, :]
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
