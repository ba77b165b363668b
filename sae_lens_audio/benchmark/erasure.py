"""Targeted erasure: latents of one phone are erased, and probes of all phones read what remains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hooked_whisper._support.showing import counted
from sae_lens_audio.benchmark.data import BenchmarkData
from sae_lens_audio.benchmark.erasure_effects import Erasures, ProbedRows, ProbeF1, mean_estimate
from sae_lens_audio.benchmark.metric import BenchmarkMetric, Score
from sae_lens_audio.benchmark.probing_counts import defined_mean
from sae_lens_audio.benchmark.probing_latents import phone_truth
from sae_lens_audio.benchmark.subjects import Subject

TARGET, OTHERS = "the phone", "other phones"  # parts of a score
SOURCE = "Targeted Probe Perturbation of SAEBench, changed after Chanin 2026 (arXiv 2605.18229)"


@dataclass(frozen=True)
class TargetedErasure:
    """What a linear probe of a phone loses when the phone's latents are erased, minus what the other probes lose.

    Unlike in SAEBench's Targeted Probe Perturbation, probes have a closed form and no seed, classes keep their true
    frequencies and the score is F1 (the accuracy of a rare class is high without any probe), and losses are relative: 0
    for latents that no probe reads, 1 for erasing all that the probe reads.

    Attributes:
        ns: numbers of latents.
        n_phones: number of phones to erase, the most frequent ones.
    """

    ns: tuple[int, ...] = (1, 5, 16)
    n_phones: int = 20
    needs_decode = False
    needs_labels = True

    @cached_property
    def metrics(self) -> tuple[BenchmarkMetric, ...]:
        return tuple(
            BenchmarkMetric(
                f"erasure_k{n}",
                f"targeted erasure, {counted(n, 'latent')}",
                "higher",
                "share",
                f"Loss of a linear probe of a phone when {counted(n, 'latent')} are erased from the activation, those "
                "that raise its score most on other speakers, minus the mean loss of the other phones' probes. A loss "
                "is the share of the probe's F1. Mean over phones; parts: both losses.",
                SOURCE,
            )
            for n in self.ns
        )

    def measure(self, subject: Subject, data: BenchmarkData) -> Mapping[str, Score]:
        frequent = np.argsort(-np.bincount(data.phone[data.labeled], minlength=len(data.phones)), kind="stable")
        targets = frequent[: self.n_phones].tolist()
        rows = ProbedRows.of(subject, data, phone_truth(data))
        erasures = Erasures.of(subject, rows, targets, max(self.ns)) if rows is not None else None
        if rows is None or erasures is None:
            return {}
        before = ProbeF1.of(erasures.margins, rows)
        scores = {}
        for n in self.ns:
            losses = [before.loss(ProbeF1.of(erasures.erased(i, n), rows)) for i in range(len(targets))]
            target = np.stack([loss[:, t] for loss, t in zip(losses, targets, strict=True)], 1)
            others = np.stack(
                [defined_mean(np.delete(loss, t, axis=1)) for loss, t in zip(losses, targets, strict=True)], 1
            )
            scores[f"erasure_k{n}"] = Score(
                mean_estimate(target - others),
                {TARGET: float(defined_mean(target)[0]), OTHERS: float(defined_mean(others)[0])},
            )
        return {name: score for name, score in scores.items() if score.estimate.value is not None}
