"""Checks of optimized inputs (F16): does the activation exceed the data set, and which phone is named in the input?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_whisper.features import LinearBasis
from hooked_whisper.features.phones.classifier import PhoneClassifier
from hooked_whisper.features.visualize_with_priors import (
    MelPrior,
    Visualization,
    activation_in_window,
    ascend,
    visualize_features,
)
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.phones.visualization_targets import (
    PADDING,
    Speech,
    Target,
    named_phones,
    near_log_probs,
)
from hooked_whisper.hooked import HookedWhisper

FIRST, POSITIONS = 25, 24  # 0.48 s of mel, half a second into the window
STEPS, SEEDS = 32, 3  # steps and random starts; most controls have one start


@dataclass(frozen=True, eq=False)
class VisualizationChecks:
    """Checks of visualizations, by feature and random start.

    Attributes:
        exceeds: whether the activation exceeds ``largest``, the largest one in the data set.
        names: phone that the classifier names. named: whether it is the target.
    """

    exceeds: Bool[np.ndarray, "feature seed"]
    names: tuple[tuple[str, ...], ...]
    named: Bool[np.ndarray, "feature seed"]
    activation: Float[np.ndarray, "feature seed"]
    largest: Float[np.ndarray, "feature"]

    @classmethod
    def of(
        cls,
        features: Sequence[Target],
        names: Sequence[Sequence[str]],
        activation: Float[np.ndarray, "feature seed"],
        largest: Float[np.ndarray, "feature"],
    ) -> VisualizationChecks:
        named = np.array([[name == t.phone for name in row] for row, t in zip(names, features, strict=True)])
        return cls(activation > largest[:, None], tuple(map(tuple, names)), named, activation, largest)

    @property
    def both(self) -> Bool[np.ndarray, "feature seed"]:
        return self.exceeds & self.named

    def with_targets_of_others(self, features: Sequence[Target]) -> VisualizationChecks:
        """Return the same checks with the phone of the previous feature as the target of each feature."""
        others = [features[k - 1] for k in range(len(features))]
        return VisualizationChecks.of(others, self.names, self.activation, self.largest)


def visualize_and_check(
    model: HookedWhisper,
    classifier: PhoneClassifier,
    features: Sequence[Target],
    bases: Mapping[str, LinearBasis],
    speech: Speech,
    prior: MelPrior,
    seed: int,
    **options: Any,
) -> VisualizationChecks:
    """Visualize every feature, and check both conditions of the claim.

    Args:
        speech: values of the features on speech.
        options: passed to :func:`~hooked_whisper.features.visualize_with_priors.visualize_features`.
    """
    options = {"steps": STEPS, "n_seeds": SEEDS, "seed": seed} | options
    n_seeds = int(options["n_seeds"])
    activation = np.zeros((len(features), n_seeds))
    names: list[tuple[str, ...]] = [()] * len(features)
    for hook in dict.fromkeys(t.hook for t in features):
        rows = [k for k, t in enumerate(features) if t.hook == hook]
        units = [features[k].unit for k in rows]
        mels = visualize_features(model, hook, bases[hook], units, prior, first_position=FIRST, **options).mel
        of_rows = [unit for unit in units for _ in range(n_seeds)]
        held = activation_in_window(model, hook, bases[hook], of_rows, mels.flatten(0, 1), FIRST, _padding(model))
        activation[rows] = held.reshape(-1, n_seeds).cpu().numpy()
        for k, mel in zip(rows, mels, strict=True):
            names[k] = named_phones(classifier, mel, POSITIONS)  # the middle frame
    return VisualizationChecks.of(features, names, activation, np.array([speech.largest(t) for t in features]))


def _padding(model: HookedWhisper) -> int:
    return min(PADDING, model.cfg.encoder.n_ctx - FIRST - POSITIONS)


def named_planted(
    classifier: PhoneClassifier, other: PhoneClassifier, phones: Sequence[str], prior: MelPrior, seed: int
) -> Bool[np.ndarray, "phone seed"]:
    """Return whether the classifier names the phones of inputs that are optimized for ``other``, a classifier that was
    trained on other clips."""
    known = [p for p in phones if p in other.labels]
    number = torch.tensor([other.labels.index(p) for p in known]).repeat_interleave(SEEDS)[:, None]

    def objective(mel: Tensor, shift: int) -> Float[Tensor, "row"]:
        log_probs = near_log_probs(other, mel, np.full(len(mel), POSITIONS + shift))
        return log_probs.gather(1, number)[:, 0]

    visualization: Visualization = ascend(objective, prior, len(known), steps=STEPS, n_seeds=SEEDS, seed=seed)
    names = [named_phones(classifier, mel, POSITIONS) for mel in visualization.mel]
    return np.array([[name == p for name in row] for row, p in zip(names, known, strict=True)])


def real_moments(
    context: Context, classifier: PhoneClassifier, features: Sequence[Target], speech: Speech
) -> tuple[VisualizationChecks, Float[np.ndarray, "feature"]]:
    """Check the speech at each neuron's largest activation in the utterances on which the classifier was not trained.
    Also return 1 for each neuron whose target is said there, else 0."""
    held = np.flatnonzero(np.isin(speech.utterance, np.unique(speech.utterance)[1::2]))
    names, activation, said = [], [], []
    for target in features:
        values = speech.values[target.hook][:, target.unit]
        top = int(held[values[held].argmax()])
        mel = context.mels([int(speech.utterance[top])])
        names.append(named_phones(classifier, mel, 2 * int(speech.position[top])))
        activation.append([values[top]])
        said.append(float(speech.phone[top] == target.phone))
    largest = np.array([speech.largest(t) for t in features])
    return VisualizationChecks.of(features, names, np.array(activation, dtype=float), largest), np.array(said)
