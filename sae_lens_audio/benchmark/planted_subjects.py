"""Subjects whose quality is known: the true dictionary, damaged by degrees, and SAEs trained on planted activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_audio.activations import TensorActivations
from sae_lens_audio.architectures import JumpReLU, JumpReLUConfig, TopK, TopKConfig
from sae_lens_audio.benchmark.planted import HOOK, PlantedSpeech
from sae_lens_audio.benchmark.subjects import Kind, Subject
from sae_lens_audio.evals.baselines import random_directions
from sae_lens_audio.training import Trainer, TrainingConfig

TRUE, MIXED, MISSING, SPLIT, ABSORBED, RANDOM, TRAINED = (
    "true", "mixed", "missing", "split", "absorbed", "random", "trained",
)  # fmt: skip
MIXED_COSINES = (0.95, 0.8, 0.6, 0.3)  # with the true directions
SHARES = (0.25, 0.5, 0.75)  # of the features that are missing, split or absorbed
_THRESHOLDS = 24  # tried for each latent
_RIDGE = 1e-3


class GatedJumpReLU(JumpReLU):
    """A JumpReLU SAE with two more conditions under which a latent is active, for planted damage.

    Attributes:
        side: a vector for each latent, which is active only where the activation's product with it is not negative; 0
            has no effect.
        silenced_by: ``[latent, other]``: whether activity of ``other`` turns a latent off.
    """

    side: Tensor
    silenced_by: Tensor

    def __init__(self, config: JumpReLUConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.register_buffer("side", torch.zeros(config.d_sae, config.d_in))
        self.register_buffer("silenced_by", torch.zeros(config.d_sae, config.d_sae, dtype=torch.bool))

    def encode(self, activations: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        latents = super().encode(activations)
        latents = latents * (self.centered(activations) @ self.side.T >= 0)
        silenced = (latents > 0).to(latents.dtype) @ self.silenced_by.T.to(latents.dtype) > 0
        return latents.masked_fill(silenced, 0)


@dataclass(frozen=True, eq=False)
class _Weights:
    """Weights of the true dictionary, which damage changes."""

    W_enc: Float[Tensor, "d latent"]
    b_enc: Float[Tensor, "latent"]
    W_dec: Float[Tensor, "latent d"]
    threshold: Float[Tensor, "latent"]
    side: Float[Tensor, "latent d"]
    silenced_by: Bool[Tensor, "latent other"]

    def sae(self, b_dec: Float[Tensor, "d"]) -> GatedJumpReLU:
        sae = GatedJumpReLU(JumpReLUConfig(*self.W_enc.shape)).eval()
        with torch.no_grad():
            for name in ("W_enc", "b_enc", "W_dec", "threshold", "side", "silenced_by"):
                getattr(sae, name).copy_(getattr(self, name))
            sae.b_dec.copy_(b_dec)
        return sae


@torch.no_grad()
def true_weights(speech: PlantedSpeech) -> _Weights:
    """Return the true directions as decoder rows, with the linear encoder that predicts the true activations best and
    the threshold of each latent that detects its feature best, on the fitted rows."""
    features, truth = speech.features, speech.fitted_truth
    x = (speech.fitted - features.offset).double()
    design = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    gram = design.T @ design + _RIDGE * len(x) * torch.eye(design.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, design.T @ truth.double())
    predicted = design @ weights
    active = truth > 0
    # least squares shrinks: scale each latent so that its mean, where the feature is active, is right
    scale = _mean_where(truth.double(), active) / _mean_where(predicted, active).clamp_min(1e-3)
    predicted, weights = predicted * scale, weights * scale
    n, d = features.directions.shape
    return _Weights(
        weights[:-1].float(),
        weights[-1].float(),
        features.directions.clone(),
        _best_thresholds(predicted, active),
        torch.zeros(n, d),
        torch.zeros(n, n, dtype=torch.bool),
    )


def _best_thresholds(
    predicted: Float[Tensor, "row latent"], active: Bool[Tensor, "row latent"]
) -> Float[Tensor, "latent"]:
    """Return the threshold of each latent with the best F1."""
    levels = torch.linspace(0.05, 1.0, _THRESHOLDS, dtype=predicted.dtype)
    f1 = []
    for level in levels:
        fired = predicted > level
        f1.append(2 * (fired & active).sum(0) / (fired.sum(0) + active.sum(0)).clamp_min(1))
    return levels[torch.stack(f1).argmax(0)].float()


def graded_names() -> list[str]:
    """Return the names of :func:`graded_subjects`; the first word is the kind of damage."""
    return [
        TRUE,
        *(f"{MIXED} {cosine:g}" for cosine in MIXED_COSINES),
        *(f"{damage} {share:g}" for damage in (MISSING, SPLIT, ABSORBED) for share in SHARES),
        RANDOM,
    ]


def graded_subjects(speech: PlantedSpeech, seed: int = 0) -> list[Subject]:
    """Return the true dictionary and its damaged copies: directions mixed with random ones, features that are missing,
    split or absorbed, and random directions. ``facts`` has the kind of damage."""
    weights, rng = true_weights(speech), np.random.default_rng([seed, 233])
    order = rng.permutation(len(speech.features))  # nested: what is damaged at one degree is damaged at the next
    children = [speech.features.children[i] for i in rng.permutation(len(speech.features.children))]
    graded = [weights, *(_mixed(weights, cosine, speech, seed) for cosine in MIXED_COSINES)]
    graded += [_missing(weights, order[: round(share * len(order))]) for share in SHARES]
    graded += [_split(weights, order[: round(share * len(order))], seed) for share in SHARES]
    graded += [_absorbed(weights, children[: round(share * len(children))], speech) for share in SHARES]
    graded.append(_mixed(weights, 0.0, speech, seed))
    return [
        Subject(name, "SAE", damaged.sae(speech.features.offset), HOOK, {"planted": name.split()[0]})
        for name, damaged in zip(graded_names(), graded, strict=True)
    ]


def _mixed(weights: _Weights, cosine: float, speech: PlantedSpeech, seed: int) -> _Weights:
    """Mix each true direction with a random one, to this cosine with the true one; the encoder is mixed alike.

    Each latent is active as often as its feature, and as strongly on average.
    """
    n, d = weights.W_dec.shape
    random = random_directions(n, d, seed + 2)
    random -= (random * weights.W_dec).sum(1, keepdim=True) * weights.W_dec
    random /= random.norm(dim=1, keepdim=True)
    sine = (1 - cosine**2) ** 0.5
    W_enc = cosine * weights.W_enc + sine * random.T * weights.W_enc.norm(dim=0)
    b_enc = cosine * weights.b_enc
    values = (speech.fitted - speech.features.offset) @ W_enc + b_enc
    active = speech.fitted_truth > 0
    threshold = torch.stack([values[:, i].quantile(1 - float(active[:, i].float().mean())) for i in range(n)])
    fired = values > threshold.clamp_min(1e-3)
    scale = _mean_where(speech.fitted_truth, active) / _mean_where(values, fired).clamp_min(1e-3)
    return replace(
        weights,
        W_dec=cosine * weights.W_dec + sine * random,
        W_enc=W_enc * scale,
        b_enc=b_enc * scale,
        threshold=threshold.clamp_min(1e-3) * scale,
    )


def _mean_where(values: Float[Tensor, "row latent"], mask: Bool[Tensor, "row latent"]) -> Float[Tensor, "latent"]:
    return (values * mask).sum(0) / mask.sum(0).clamp_min(1)


def _missing(weights: _Weights, latents: np.ndarray) -> _Weights:
    """Let these latents never fire."""
    threshold = weights.threshold.clone()
    threshold[torch.from_numpy(latents)] = torch.inf
    return replace(weights, threshold=threshold)


def _split(weights: _Weights, latents: np.ndarray, seed: int) -> _Weights:
    """Split each of these features in two latents, which are active on opposite sides of a random plane."""
    index = torch.from_numpy(latents)
    n = len(weights.W_dec)
    planes = random_directions(len(index), weights.W_dec.shape[1], seed + 1)
    planes -= (planes * weights.W_dec[index]).sum(1, keepdim=True) * weights.W_dec[index]
    side = torch.cat([weights.side, -planes])
    side[index] = planes
    silenced = torch.zeros(n + len(index), n + len(index), dtype=torch.bool)
    return _Weights(
        torch.cat([weights.W_enc, weights.W_enc[:, index]], dim=1),
        torch.cat([weights.b_enc, weights.b_enc[index]]),
        torch.cat([weights.W_dec, weights.W_dec[index]]),
        torch.cat([weights.threshold, weights.threshold[index]]),
        side,
        silenced,
    )


def _absorbed(weights: _Weights, pairs: Sequence[tuple[int, int]], speech: PlantedSpeech) -> _Weights:
    """Let children absorb their parents: the child's row includes the parent's direction, and the parent's latent is
    silent where the child's is active."""
    silenced, rows = weights.silenced_by.clone(), weights.W_dec.clone()
    level = _mean_where(speech.fitted_truth, speech.fitted_truth > 0)
    for parent, child in pairs:
        silenced[parent, child] = True
        if level[child] > 0:
            rows[child] += level[parent] / level[child] * weights.W_dec[parent]
    return replace(weights, silenced_by=silenced, W_dec=rows)


class TrainedPlan(NamedTuple):
    """Number of latents, k, seed and share of the steps of one SAE."""

    latents: int
    k: int
    seed: int
    share: float | int


@dataclass(frozen=True)
class PlantedTraining:
    """TopK SAEs to train on planted activations: all seeds of the middle width and k, the other widths at the middle k,
    and the other k at the middle width.

    widths: numbers of latents, as multiples of the number of true features. k: active latents.
    shares: of the steps at which the SAEs of middle width and k are copied, the last 1.
    """

    widths: Sequence[float | int] = (0.5, 1.0, 2.0)
    k: Sequence[int] = (4, 8, 16)
    seeds: Sequence[int] = (0, 1, 2)
    shares: Sequence[float | int] = (1 / 16, 1 / 4, 1.0)
    steps: int = 1600
    batch: int = 256
    lr: float | int = 2e-3

    def plans(self, n_features: int) -> dict[str, TrainedPlan]:
        """Return what is trained, by name: ``"trained 110 k=8 seed 0/at-0.25"``, and ``.../sae`` when finished."""
        middle = self.widths[len(self.widths) // 2], self.k[len(self.k) // 2]
        settings = dict.fromkeys([(width, middle[1]) for width in self.widths] + [(middle[0], k) for k in self.k])
        plans = {}
        for width, k in settings:
            n, several = round(width * n_features), (width, k) == middle
            for seed in self.seeds if several else self.seeds[:1]:
                for share in self.shares if several else (1.0,):
                    last = "sae" if share == 1 else f"at-{share:.4g}"
                    plans[f"{TRAINED} {n} k={k} seed {seed}/{last}"] = TrainedPlan(n, k, seed, share)
        return plans

    def seeds_of(self, n_features: int) -> list[str]:
        """Return the names of the finished SAEs that differ only in their seed."""
        plans = self.plans(n_features)
        early = [plan for plan in plans.values() if plan.share < 1]
        middle = early[0][:2] if early else None
        return [name for name, plan in plans.items() if plan.share == 1 and plan[:2] == middle]


def trained_subjects(speech: PlantedSpeech, options: PlantedTraining | None = None) -> list[Subject]:
    """Train SAEs on the fitted rows."""
    options = options or PlantedTraining()
    plans = options.plans(len(speech.features))
    subjects = []
    for run in dict.fromkeys(plan[:3] for plan in plans.values()):
        stops = {round(plan.share * options.steps): name for name, plan in plans.items() if plan[:3] == run}
        n, k, seed = run
        subjects += _trained(speech, TopKConfig(speech.config.d, n, k=k), seed, stops, options)
    return subjects


def _trained(
    speech: PlantedSpeech, config: TopKConfig, seed: int, stops: Mapping[int, str], options: PlantedTraining
) -> list[Subject]:
    """Train one SAE; return copies at these steps, with these names."""
    training = TrainingConfig(
        options.steps, options.batch, lr=options.lr, warmup_steps=options.steps // 40, decay_steps=options.steps // 4,
        seed=seed,
    )  # fmt: skip
    subjects = []
    with Trainer(TopK(config, seed), TensorActivations(speech.fitted), training) as trainer:
        for step in range(1, max(stops) + 1):
            trainer.step()
            if step in stops:
                kind: Kind = "SAE" if step == options.steps else "checkpoint"
                facts = {"planted": TRAINED, "latents": config.d_sae, "k": config.k, "seed": seed, "step": step}
                subjects.append(Subject(stops[step], kind, trainer.finished(), HOOK, facts))
    return subjects
