"""What probes of an activation read after latents were erased from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper.findings.core.finding import Estimate
from sae_lens_audio.benchmark.data import BenchmarkData
from sae_lens_audio.benchmark.metric import speaker_weights
from sae_lens_audio.benchmark.probes import LinearProbe, best_thresholds, linear_probe
from sae_lens_audio.benchmark.probing_counts import defined_mean, f1_of, hit_counts
from sae_lens_audio.benchmark.probing_latents import LatentColumns, LatentSums
from sae_lens_audio.benchmark.subjects import Subject

READABLE = 0.1  # smallest F1 of a probe that is judged, above that of predicting its class everywhere


@dataclass(frozen=True, eq=False)
class ProbedRows:
    """Labeled activations for probes.

    Attributes:
        encoded: activations that latents are computed from.
        written: activations that latents write to, which the probes read; the same for SAEs.
        truth: what each probe is to tell.
        fold, speaker: of each row.
    """

    encoded: Float[Tensor, "row d"]
    written: Float[Tensor, "row out"]
    truth: Bool[Tensor, "row probe"]
    fold: Int[np.ndarray, "row"]
    speaker: Int[np.ndarray, "row"]

    @classmethod
    def of(cls, subject: Subject, data: BenchmarkData, truth: Bool[Tensor, "row probe"]) -> ProbedRows | None:
        """Return the rows of the subject's hook points; ``None`` if what it writes to was not collected."""
        if subject.writes not in data.rows:
            return None
        return cls(data.at(subject.hook), data.at(subject.writes), truth, data.fold, data.speaker)

    def probe(self, fold: int) -> LinearProbe:
        """Fit the probes on the other folds. Scores above 0 have the best F1 there."""
        train = torch.from_numpy(self.fold != fold)
        x, truth = self.written[train], self.truth[train]
        probe = linear_probe(x, truth)
        thresholds, _ = best_thresholds(probe.scores(x).T, truth.T)
        return LinearProbe(probe.weight, probe.bias - thresholds)


@dataclass(frozen=True, eq=False)
class ProbeF1:
    """F1 of every probe by bootstrap sample of the speakers; the first sample is the data.

    Attributes:
        chance: F1 of predicting the class everywhere.
    """

    values: Float[np.ndarray, "draw probe"]
    chance: Float[np.ndarray, "draw probe"]

    @classmethod
    def of(cls, margins: Float[np.ndarray, "row probe"], rows: ProbedRows) -> ProbeF1:
        """Predict a class where its score is above the threshold, which the ``margins`` are relative to."""
        n, truth = int(rows.speaker.max()) + 1, rows.truth.numpy()
        weights = speaker_weights(n)
        counts, everywhere = (
            (weights @ hit_counts(predicted, truth, rows.speaker, n).reshape(n, -1)).reshape(len(weights), 3, -1)
            for predicted in (margins > 0, np.ones_like(truth))
        )
        return cls(f1_of(counts), f1_of(everywhere))

    def loss(self, after: ProbeF1) -> Float[np.ndarray, "draw probe"]:
        """Return the share of each probe's F1 that is lost; NaN for a class that the probe does not tell."""
        readable = self.values[0] - self.chance[0] >= READABLE
        loss = 1 - np.divide(after.values, self.values, out=np.full(self.values.shape, np.nan), where=self.values > 0)
        return np.where(readable, loss, np.nan)


@dataclass(frozen=True, eq=False)
class Erasures:
    """Latents that promote each target, by fold, and what they add to every probe.

    Attributes:
        order: the latents of each fold, those that promote the target most first.
        effects: what a unit of each latent adds to each probe, by fold.
        margins: scores of the probes above their thresholds, before anything is erased.
        scale: what the decoder's output is multiplied by in each row.
    """

    rows: ProbedRows
    columns: LatentColumns
    order: list[Int[Tensor, "target n"]]
    effects: list[Float[Tensor, "latent probe"]]
    margins: Float[np.ndarray, "row probe"]
    scale: Float[Tensor, "row"]

    @classmethod
    def of(cls, subject: Subject, rows: ProbedRows, targets: Sequence[int], n: int) -> Erasures | None:
        """Fit probes, and select up to ``n`` latents of each target, on the other folds.

        ``None`` if the latents have no directions at the activations that the probes read.
        """
        directions = subject.directions
        if directions is None or directions.shape[1] != rows.written.shape[1]:
            return None
        sums = LatentSums.of(subject, rows.encoded, rows.fold, rows.truth)
        margins = np.zeros(tuple(rows.truth.shape), dtype=np.float32)
        orders, effects = [], []
        for fold in range(int(rows.fold.max()) + 1):
            probe, test = rows.probe(fold), rows.fold == fold
            margins[test] = probe.scores(rows.written[torch.from_numpy(test)]).numpy()
            effect = directions @ probe.weight.T
            promotion = _promotion(sums, fold, effect)[list(targets)]
            orders.append(promotion.topk(min(n, len(effect)), dim=1).indices)
            effects.append(effect)
        columns = LatentColumns.of(subject, rows.encoded, torch.stack(orders))
        return cls(rows, columns, orders, effects, margins, _row_scale(subject, rows.encoded))

    def erased(self, target: int, n: int) -> Float[np.ndarray, "row probe"]:
        """Return the margins of all probes without the first ``n`` latents of a target, given by its place.

        The part of the activation that the SAE does not reconstruct stays: ``x - sum of a_j d_j``.
        """
        margins = self.margins.copy()
        for fold, (order, effect) in enumerate(zip(self.order, self.effects, strict=True)):
            test = torch.from_numpy(np.flatnonzero(self.rows.fold == fold))
            latents = order[target, :n]
            values = self.columns.at(test, latents[None])[0] * self.scale[test, None]
            margins[test.numpy()] -= (values @ effect[latents]).numpy()
        return margins


def _promotion(sums: LatentSums, fold: int, effect: Float[Tensor, "latent probe"]) -> Float[Tensor, "probe latent"]:
    """Return by how much each latent raises the score of each probe on its class, compared with the other rows.

    0 for latents that lower the score on the class: those of other classes.
    """
    of_class, of_others = sums.means(fold)
    return torch.where(of_class * effect.T > 0, (of_class - of_others) * effect.T, 0.0)


@torch.no_grad()
def _row_scale(subject: Subject, x: Float[Tensor, "row d"]) -> Float[Tensor, "row"]:
    """Return 1, or the scale of each row if the SAE normalizes its input by row."""
    inner = getattr(subject.basis, "inner", subject.basis)
    if inner is subject.basis or subject.directions is None:
        return torch.ones(len(x))
    parts = []
    for block in x.split(4096):
        latents = subject.encode(block)
        change = subject.decode(latents, block) - subject.decode(torch.zeros_like(latents), block)
        plain = latents @ subject.directions
        parts.append((change * plain).sum(1) / plain.square().sum(1).clamp_min(1e-12))
    return torch.cat(parts)


def mean_estimate(values: Float[np.ndarray, "draw n"]) -> Estimate:
    """Return the mean over the defined values, with the interval of the bootstrap samples."""
    means = defined_mean(values)
    return Estimate.of(means[0], means[1:])
