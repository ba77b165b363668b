"""Unlearning: latents of silence or of noise are erased, while the probes of phones should lose nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_whisper.corpora import Clip
from hooked_whisper.errors import AudioError, ShapeError, check_option
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.phones.labeled_rows import Track, collect_rows
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.patching.corruptions import add_noise
from sae_lens_audio.benchmark.data import BenchmarkData
from sae_lens_audio.benchmark.erasure_effects import Erasures, ProbedRows, ProbeF1, mean_estimate
from sae_lens_audio.benchmark.metric import BenchmarkMetric, Score
from sae_lens_audio.benchmark.probing_counts import defined_mean
from sae_lens_audio.benchmark.probing_latents import phone_truth
from sae_lens_audio.benchmark.subjects import Subject

SNR_DB = 10.0
Noise = Literal["white", "pink"]
SOURCE = "the unlearning metric of SAEBench, with probes in place of questions"


@dataclass(frozen=True, eq=False)
class Unlearning:
    """What a linear probe of silence, or of noise, loses when its latents are erased, minus what phone probes lose.

    Losses and selection are those of :class:`~sae_lens_audio.benchmark.erasure.TargetedErasure`.

    Attributes:
        n: number of latents.
        noisy: activations of the same clips with noise (:func:`noisy_rows`); without them, only silence is scored.
    """

    n: int = 16
    noisy: Mapping[str, Float[Tensor, "row _"]] | None = None
    needs_decode = False
    needs_labels = True

    @cached_property
    def metrics(self) -> tuple[BenchmarkMetric, ...]:
        return (
            self._metric("silence", "silence from speech"),
            *((self._metric("noise", "speech with noise from clean speech"),) if self.noisy is not None else ()),
        )

    def _metric(self, name: str, told: str) -> BenchmarkMetric:
        return BenchmarkMetric(
            f"unlearning_{name}",
            f"unlearning of {name}",
            "higher",
            "share",
            f"Loss of a linear probe that tells {told} when the {self.n} latents that raise its score most on other "
            "speakers are erased from the activation, minus the mean loss of the probes of phones. A loss is the share "
            "of the probe's F1; parts: both losses.",
            SOURCE,
        )

    def measure(self, subject: Subject, data: BenchmarkData) -> Mapping[str, Score]:
        phones = phone_truth(data)
        silence = ProbedRows.of(subject, data, _beside(phones, torch.from_numpy(data.silent)))
        rows = {"silence": silence, "noise": self._noise_rows(subject, data)}
        scores = {name: self._score(subject, part) for name, part in rows.items() if part is not None}
        return {f"unlearning_{name}": score for name, score in scores.items() if score is not None}

    def _noise_rows(self, subject: Subject, data: BenchmarkData) -> ProbedRows | None:
        """Return the clean rows, then the noisy ones, where both are speech."""
        if self.noisy is None or not {subject.hook, subject.writes} <= set(data.rows) & set(self.noisy):
            return None
        _check_rows(self.noisy[subject.hook], data)
        speech = torch.from_numpy(np.flatnonzero(data.labeled))
        encoded, written = (
            torch.cat([data.at(hook)[speech], self.noisy[hook][speech].float()])
            for hook in (subject.hook, subject.writes)
        )
        noise = torch.arange(2 * len(speech)) >= len(speech)
        truth = _beside(phone_truth(data)[speech].repeat(2, 1), noise)
        fold, speaker = (np.tile(x[speech.numpy()], 2) for x in (data.fold, data.speaker))
        return ProbedRows(encoded, written, truth, fold, speaker)

    def _score(self, subject: Subject, rows: ProbedRows) -> Score | None:
        """Score the erasure of the last class."""
        erasures = Erasures.of(subject, rows, [rows.truth.shape[1] - 1], self.n)
        if erasures is None:
            return None
        loss = ProbeF1.of(erasures.margins, rows).loss(ProbeF1.of(erasures.erased(0, self.n), rows))
        target, phones = loss[:, -1:], defined_mean(loss[:, :-1])[:, None]
        if not np.isfinite(target[0] - phones[0]).all():
            return None
        parts = {"erased": float(target[0, 0]), "phones": float(phones[0, 0])}
        return Score(mean_estimate(target - phones), parts)


def _beside(phones: Bool[Tensor, "row phone"], other: Bool[Tensor, "row"]) -> Bool[Tensor, "row probe"]:
    return torch.cat([phones, other[:, None]], 1)


def _check_rows(noisy: Float[Tensor, "row d"], data: BenchmarkData) -> None:
    if len(noisy) != data.n_rows:
        raise ShapeError(
            f"{len(noisy)} rows of noisy speech for {data.n_rows} rows of clean speech: pass the same clips, packed in "
            "the same way, to noisy_rows"
        )


@torch.no_grad()
def noisy_rows(
    model: HookedWhisper,
    clips: Sequence[Clip],
    hooks: Sequence[str],
    *,
    snr_db: float | int = SNR_DB,
    kind: Noise = "pink",
    seed: int = 0,
    track: Track | None = None,
    room: float | None = None,
) -> dict[str, Float[Tensor, "row _"]]:
    """Return activations of clips with added noise, in the order of the rows of
    :func:`~sae_lens_audio.benchmark.data.benchmark_data` of the same clips.

    Args:
        snr_db: signal-to-noise ratio of each clip.
        room: as for ``benchmark_data``, with the same value.

    Raises:
        AudioError: a clip is digital silence; the message names it.
        CacheSizeError, PatchError: as of :func:`~hooked_whisper.features.phones.labeled_rows.collect_rows`.
    """
    check_option("kind", kind, get_args(Noise))
    for clip in clips:
        if not clip.samples.any():
            raise AudioError(f"{clip.alignment.utterance!r} is digital silence, which has no SNR: leave it out")
    noisy = [
        replace(clip, samples=add_noise(clip.samples, snr_db, kind, seed=seed + i).corrupt)
        for i, clip in enumerate(clips)
    ]
    points = [name for hook in dict.fromkeys(hooks) for name in model.hook_names(hook)]
    with collect_rows(model, noisy, points, track=track, room=room) as rows:
        return {
            point: torch.cat([rows.features(HookBasis(point), i) for i in range(len(noisy))]).float()
            for point in points
        }
