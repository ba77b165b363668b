"""A phone classifier that knows nothing of the model: multinomial logistic regression on frames of the log-mel.

It judges sounds that were made to please the model's features; a classifier on the model's own activations would agree
with them by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.audio.mel import HOP, SAMPLE_RATE, Number
from hooked_whisper.errors import AlignmentError
from hooked_whisper.protocols import Alignment

CONTEXT = 5  # frames to either side
RIDGE = 1e-3  # weight decay per frame, on standardised inputs
STEPS = 60  # of LBFGS


@dataclass(frozen=True, eq=False)
class PhoneClassifier:
    """Weights over ``2 * 5 + 1`` standardised frames; ``labels`` are the phones, silence among them."""

    labels: tuple[str, ...]
    mean: Float[Tensor, "mel"]
    scale: Float[Tensor, "mel"]
    weight: Float[Tensor, "label feature"]
    bias: Float[Tensor, "label"]

    def log_probs(self, mel: Float[Tensor, "*batch mel frame"]) -> Float[Tensor, "*batch frame label"]:
        """Log-probability of each phone at each frame; beyond its ends a mel is taken to go on as it ends."""
        stacked = _stacked((mel - self.mean[:, None]) / self.scale[:, None])
        return (stacked @ self.weight.T + self.bias).log_softmax(-1)

    def accuracy(self, mels: Sequence[Float[Tensor, "mel _"]], alignments: Sequence[Alignment]) -> float:
        """Share of labelled frames whose phone is named; a phone that training did not have counts as missed."""
        hits = []
        for mel, alignment in _both(mels, alignments):
            truth = frame_labels(alignment, mel.shape[1], self.labels).to(mel.device)
            hits.append((self.log_probs(mel).argmax(-1) == truth)[truth != UNLABELED])
        return float(torch.cat(hits).float().mean())


UNLABELED, UNKNOWN = -1, -2


def frame_labels(alignment: Alignment, n_frames: int, labels: Sequence[str]) -> Int[Tensor, "frame"]:
    """Number of the phone at the centre of each 10 ms frame; -1 where there is none, -2 for one not in ``labels``."""
    found = torch.full((n_frames,), UNLABELED)
    number = {label: k for k, label in enumerate(labels)}
    seconds = torch.arange(n_frames, dtype=torch.float64) * HOP / SAMPLE_RATE
    for phone in alignment.phones:
        found[(seconds >= phone.start) & (seconds < phone.end)] = number.get(phone.label, UNKNOWN)
    return found


def phone_classifier(
    mels: Sequence[Float[Tensor, "mel _"]], alignments: Sequence[Alignment], ridge: Number = RIDGE
) -> PhoneClassifier:
    """Train on log-mels (of any lengths, not padded) and the phones of their alignments.

    Each frame is judged with five on either side. Weights minimise cross-entropy plus a fixed weight decay, by LBFGS
    from zero: the problem is convex, so there is no seed. ``ridge``: the weight decay; little speech needs more of it.

    Raises:
        AlignmentError: as many mels as alignments missing, or fewer than two phones.
    """
    labels = tuple(sorted({phone.label for a in alignments for phone in a.phones}))
    if len(labels) < 2:
        raise AlignmentError("a phone classifier needs speech with at least two kinds of phones: align it first")
    truth = torch.cat([frame_labels(a, mel.shape[1], labels) for mel, a in _both(mels, alignments)])
    frames = torch.cat([mel.detach().float() for mel in mels], dim=1)
    mean, scale = frames.mean(1), frames.std(1).clamp(min=1e-3)
    x = torch.cat([_stacked((mel.detach().float() - mean[:, None]) / scale[:, None]) for mel in mels])
    known = truth != UNLABELED
    x, y = x[known], truth[known].to(x.device)
    weight = torch.zeros(len(labels), x.shape[1], device=x.device, requires_grad=True)
    bias = torch.zeros(len(labels), device=x.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        with torch.enable_grad():
            value = F.cross_entropy(x @ weight.T + bias, y) + ridge * weight.square().sum() / 2
            value.backward()
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return PhoneClassifier(labels, mean, scale, weight.detach(), bias.detach())


def _both(mels: Sequence[Tensor], alignments: Sequence[Alignment]) -> list[tuple[Tensor, Alignment]]:
    if len(mels) != len(alignments):
        raise AlignmentError(f"{len(mels)} mels but {len(alignments)} alignments: give one for each")
    return list(zip(mels, alignments, strict=True))


def _stacked(mel: Float[Tensor, "*batch mel frame"]) -> Float[Tensor, "*batch frame feature"]:
    """Each frame with its neighbours."""
    flat = mel.reshape(-1, *mel.shape[-2:])
    wide = F.pad(flat, (CONTEXT, CONTEXT), mode="replicate")
    found = wide.unfold(2, 2 * CONTEXT + 1, 1).transpose(1, 2).flatten(2)
    return found.reshape(*mel.shape[:-2], *found.shape[1:])
