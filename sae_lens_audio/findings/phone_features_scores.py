"""Scores of the features of one encoder block on held-out speech, for F6 on released models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from hooked_whisper.corpora import Clip
from hooked_whisper.features.bases import LinearBasis
from hooked_whisper.features.phones.labeled_rows import LabeledRows, collect_rows
from hooked_whisper.features.phones.row_labels import CountOptions
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.finding import Estimate
from hooked_whisper.findings.phones.evaluation import resampled_means
from hooked_whisper.protocols import FeatureBasis
from sae_lens_audio.evals.baselines import RandomFeatures
from sae_lens_audio.evals.phones import PhoneOptions, PhoneScores, phone_scores
from sae_lens_audio.evals.reconstruction import ReconstructionScores
from sae_lens_audio.findings.phone_detectors import Detector, NamedFeature, named_features, phone_detectors
from sae_lens_audio.findings.trained_saes import TIED, TOPK, TrainedBlock

MIN_TOKENS = 20  # of a phone; the usual 50 would exclude half of the English phones in four minutes of speech

UNTRAINED, RANDOM, MANY, AXES, PCA, ORTHONORMAL, MEL = (
    "untrained SAE", "random, as many", "random, as TopK", "residual axes", "principal", "random orthonormal",
    "mel bands",
)  # fmt: skip
SAES = (TIED, TOPK)
SHOWN = (TIED, TOPK, UNTRAINED, RANDOM, MANY, AXES, PCA, ORTHONORMAL, MEL)
AS_MANY = {TIED: RANDOM, TOPK: MANY}
"""Name of the control with as many random directions as the SAE has features."""
_BASES = {AXES: "neurons", PCA: "pca", ORTHONORMAL: "random", MEL: "mel bands"}  # names of the evaluation


@dataclass(frozen=True, eq=False)
class BlockScores:
    """The features of one block by kind (:data:`SHOWN`), and their scores on held-out speech.

    Attributes:
        detectors: the best feature of each phone, by SAE.
        named: the best feature of each published name, by SAE.
    """

    trained: TrainedBlock
    phones: Mapping[str, PhoneScores]
    reconstruction: Mapping[str, ReconstructionScores]
    detectors: Mapping[str, Mapping[str, Detector]]
    named: Mapping[str, Mapping[str, NamedFeature]]

    @property
    def number(self) -> int:
        return self.trained.number

    def f1(self, name: str, shifted: bool = False) -> Float[np.ndarray, "feature"]:
        """Best-phone F1 of the live features of a kind."""
        scores = self.phones[name]
        return (scores.shifted_f1 if shifted else scores.f1)[scores.alive]

    def beyond(self, name: str, basis: str, rng: np.random.Generator, shifted: bool = False) -> Estimate:
        """Return the mean best-phone F1 of a kind of features minus that of a basis, both over live features."""
        f1, basis_f1 = (self.f1(kind, shifted) for kind in (name, basis))
        if not len(f1) or not len(basis_f1):
            return Estimate(None)
        samples = resampled_means(f1, rng) - resampled_means(basis_f1, rng)
        return Estimate.of(float(f1.mean() - basis_f1.mean()), samples)


def score_blocks(context: Context, blocks: Sequence[TrainedBlock], clips: Sequence[Clip]) -> tuple[BlockScores, ...]:
    """Score the SAEs and controls of all blocks on clips."""
    scores = [_phone_scores(context, block, clips) for block in blocks]
    widest = max(sae.n_features for block in blocks for sae in block.saes.values())
    options = CountOptions(min_tokens=MIN_TOKENS, seed=context.seed)
    hooks = [block.hook for block in blocks]
    track = lambda steps: context.track(steps, "phone detectors")  # noqa: E731
    with torch.no_grad(), collect_rows(context.model, clips, hooks, track=track, widest=widest) as rows:
        return tuple(
            BlockScores(block, phones, _reconstruction(context, block), *_detectors(rows, block, phones, options))
            for block, phones in zip(blocks, scores, strict=True)
        )


def _phone_scores(context: Context, block: TrainedBlock, clips: Sequence[Clip]) -> dict[str, PhoneScores]:
    n_tied = block.saes[TIED].n_features
    as_many = RandomFeatures.like(n_tied, block.bases["neurons"].mean, context.seed)
    features: dict[str, FeatureBasis] = {**block.saes, UNTRAINED: block.untrained, RANDOM: as_many}
    scores = phone_scores(
        context.model,
        list(clips),
        block.hook,
        features,
        {**block.bases, "pca": _first(block.bases["pca"], n_tied)},
        PhoneOptions(min_tokens=MIN_TOKENS, seed=context.seed),
        lambda steps: context.track(steps, f"phones, block {block.number}"),
    )
    keys = _BASES | {MANY: f"random x{max(basis.n_features for basis in features.values())}"}
    return {name: scores[keys.get(name, name)] for name in SHOWN}


def _first(basis: LinearBasis, n: int) -> LinearBasis:
    return LinearBasis(basis.directions[:n], basis.mean, basis.labels[:n])


def _reconstruction(context: Context, block: TrainedBlock) -> dict[str, ReconstructionScores]:
    rows = [part.to(context.model.device) for part in block.held_out.split(4096)]
    return {
        name: ReconstructionScores.of(sae, rows, hook=block.hook)
        for name, sae in {**block.saes, UNTRAINED: block.untrained}.items()
    }


def _detectors(
    rows: LabeledRows, block: TrainedBlock, phones: Mapping[str, PhoneScores], options: CountOptions
) -> tuple[dict[str, dict[str, Detector]], dict[str, dict[str, NamedFeature]]]:
    mean = block.bases["neurons"].mean
    detectors = {
        name: phone_detectors(
            rows,
            block.hook,
            block.saes[name],
            dict(zip(phones[name].phones, phones[name].best_feature.tolist(), strict=True)),
            options,
        )
        for name in SAES
    }
    named = named_features(rows, block.hook, block.saes, lambda n: RandomFeatures.like(n, mean, options.seed), options)
    return detectors, named
