"""Target neurons of feature visualization, and the phones that the classifier names in a log-mel (F16)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from torch import Tensor

from hooked_whisper.features import LinearBasis
from hooked_whisper.features.phones.classifier import PhoneClassifier, frame_labels
from hooked_whisper.features.visualize_with_priors import read_points
from hooked_whisper.findings.core.context import ENCODER_BATCH, Context
from hooked_whisper.hooked import HookedWhisper

AROUND = 2  # frames on either side of the position at which a phone is named
PADDING = 25  # positions of silence after the longest clip of a batch, and after an optimized mel
LONGEST = 500  # most positions of a clip that are read


@dataclass(frozen=True)
class Target:
    """A feature at a hook point and the phone to which it responds."""

    hook: str
    unit: int
    phone: str
    auc: float


@dataclass(frozen=True, eq=False)
class Speech:
    """Pre-activations at positions of utterances by hook point, and the phone at each position (``""`` if there is
    none)."""

    values: Mapping[str, Float[np.ndarray, "row d"]]
    phone: np.ndarray
    utterance: Int[np.ndarray, "row"]
    position: Int[np.ndarray, "row"]

    def encoded(self, bases: Mapping[str, LinearBasis]) -> Speech:
        """Return the same positions with the features of ``bases`` in place of the neurons."""
        values = {hook: basis.encode(torch.from_numpy(self.values[hook])).numpy() for hook, basis in bases.items()}
        return Speech(values, self.phone, self.utterance, self.position)

    def largest(self, target: Target) -> float:
        """Return the largest pre-activation of a feature."""
        return float(self.values[target.hook][:, target.unit].max())


def phone_aucs(
    values: Float[np.ndarray, "row unit"], phone: np.ndarray, phones: Sequence[str]
) -> Float[np.ndarray, "unit phone"]:
    """Return the probability that a unit is higher at a phone than at other positions. Ties count half."""
    ranks = rankdata(values, axis=0)
    here = np.stack([phone == p for p in phones], axis=1).astype(float)  # [row, phone]
    n = here.sum(0)
    wins = ranks.T @ here - n * (n + 1) / 2
    return wins / np.maximum(n * (len(values) - n), 1)


def targets(aucs: Mapping[str, Float[np.ndarray, "unit phone"]], phones: Sequence[str], count: int) -> list[Target]:
    """Return the ``count`` best units over all hook points, best first: one for each phone, and each unit only once."""
    selected, taken = [], set()
    rows = list(aucs.items())
    best = [max(((float(t[:, p].max()), h, int(t[:, p].argmax())) for h, t in rows)) for p in range(len(phones))]
    for p in sorted(range(len(phones)), key=lambda p: -best[p][0]):
        value, hook, unit = best[p]
        if (hook, unit) not in taken:
            taken.add((hook, unit))
            selected.append(Target(hook, unit, phones[p], value))
    return selected[:count]


def best_phones(
    bases: Mapping[str, LinearBasis], speech: Speech, rows: Bool[np.ndarray, "row"], phones: Sequence[str]
) -> list[Target]:
    """Return every feature of ``bases`` with the phone of its highest AUC. ``speech`` has the values of the
    features."""
    features = []
    for hook in bases:
        table = phone_aucs(speech.values[hook][rows], speech.phone[rows], phones)
        features += [Target(hook, u, phones[int(row.argmax())], float(row.max())) for u, row in enumerate(table)]
    return features


@torch.no_grad()
def read_speech(
    context: Context, hooks: Sequence[str], model: HookedWhisper | None = None, indices: Sequence[int] | None = None
) -> Speech:
    """Return the activations of utterances (default: all) at the positions that their sound fills.

    The encoder of ``model`` (default: the context's model) runs on the clips and half a second of silence, not on its
    whole window.
    """
    model = context.model if model is None else model
    order = sorted(range(len(context.utterances)) if indices is None else indices, key=lambda i: context.n_positions[i])
    values: dict[str, list[np.ndarray]] = {hook: [] for hook in hooks}
    phone, utterance, position = [], [], []
    batches = [order[k : k + ENCODER_BATCH] for k in range(0, len(order), ENCODER_BATCH)]
    for batch in context.track(batches, "F16 speech"):
        lengths = [min(context.n_positions[i], LONGEST) for i in batch]
        window = min(max(lengths) + PADDING, model.cfg.encoder.n_ctx)
        cache = read_points(model, hooks, context.mels(batch)[:, :, : 2 * window])
        for row, (index, n) in enumerate(zip(batch, lengths, strict=True)):
            for hook in hooks:
                values[hook].append(cache[hook][row, :n].float().cpu().numpy())
            phone.append(_phones(context, index, n))
            utterance.append(np.full(n, index))
            position.append(np.arange(n))
    joined = {hook: np.concatenate(rows) for hook, rows in values.items()}
    return Speech(joined, np.concatenate(phone), np.concatenate(utterance), np.concatenate(position))


def _phones(context: Context, index: int, n: int) -> np.ndarray:
    """Return the phone at the center of each position, which is that of every second frame."""
    alignment = context.utterances[index].alignment
    labels = tuple(sorted({p.label for p in alignment.phones}))
    numbers = frame_labels(alignment, 2 * n, labels)[::2].numpy()
    return np.array(["", *labels])[numbers + 1]


def named_phones(
    classifier: PhoneClassifier, mel: Float[Tensor, "row mel frame"], frame: int | Int[np.ndarray, "row"]
) -> tuple[str, ...]:
    """Return the phone with the highest mean log-probability over the five frames around one frame of each row."""
    middle = np.broadcast_to(np.asarray(frame), (len(mel),))
    best = near_log_probs(classifier, mel, middle).argmax(-1)
    return tuple(classifier.labels[int(k)] for k in best)


def near_log_probs(
    classifier: PhoneClassifier, mel: Float[Tensor, "row mel frame"], frame: Int[np.ndarray, "row"]
) -> Float[Tensor, "row label"]:
    """Return the mean log-probability of each phone over the five frames around one frame of each row."""
    near = np.clip(frame[:, None] + np.arange(-AROUND, AROUND + 1), 0, mel.shape[2] - 1)
    return classifier.log_probs(mel)[torch.arange(len(mel))[:, None], torch.from_numpy(near)].mean(1)
