"""A phone classifier that is independent of the model: multinomial logistic regression on frames of the log-mel.

It judges sounds that were optimized for the model's features. A classifier of the model's activations
would agree with these features by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.showing import Showing
from hooked_whisper.audio.mel import HOP, SAMPLE_RATE, Number
from hooked_whisper.errors import AlignmentError
from hooked_whisper.protocols import Alignment

CONTEXT = 5  # frames on either side
RIDGE = 1e-3  # weight decay per frame, on standardized inputs
STEPS = 60  # of LBFGS


@dataclass(frozen=True, eq=False, repr=False)
class PhoneClassifier(Showing):
    """Weights over ``2 * 5 + 1`` standardized frames; ``labels`` are the phones and silence."""

    labels: tuple[str, ...]
    mean: Float[Tensor, "mel"]
    scale: Float[Tensor, "mel"]
    weight: Float[Tensor, "label feature"]
    bias: Float[Tensor, "label"]

    def log_probs(self, mel: Float[Tensor, "*batch mel frame"]) -> Float[Tensor, "*batch frame label"]:
        """Log-probability of each phone at each frame. Frames beyond the ends of the mel repeat the outermost ones."""
        stacked = _stacked((mel - self.mean[:, None]) / self.scale[:, None])
        return (stacked @ self.weight.T + self.bias).log_softmax(-1)

    def accuracy(self, mels: Sequence[Float[Tensor, "mel _"]], alignments: Sequence[Alignment]) -> float:
        """Share of labeled frames that are classified correctly; phones absent from training count as errors."""
        hits = []
        for mel, alignment in _paired(mels, alignments):
            truth = frame_labels(alignment, mel.shape[1], self.labels).to(mel.device)
            hits.append((self.log_probs(mel).argmax(-1) == truth)[truth != UNLABELED])
        return float(torch.cat(hits).float().mean())


UNLABELED, UNKNOWN = -1, -2


def frame_labels(alignment: Alignment, n_frames: int, labels: Sequence[str]) -> Int[Tensor, "frame"]:
    """Index of the phone at the center of each 10 ms frame; -1 for none, -2 for a phone that is not in ``labels``."""
    ids = torch.full((n_frames,), UNLABELED)
    number = {label: k for k, label in enumerate(labels)}
    seconds = torch.arange(n_frames, dtype=torch.float64) * HOP / SAMPLE_RATE
    for phone in alignment.phones:
        ids[(seconds >= phone.start) & (seconds < phone.end)] = number.get(phone.label, UNKNOWN)
    return ids


def phone_classifier(
    mels: Sequence[Float[Tensor, "mel _"]], alignments: Sequence[Alignment], ridge: Number = RIDGE
) -> PhoneClassifier:
    """Train a classifier on log-mels (of any lengths, without padding) and the phones of their alignments.

    Each frame is classified with five frames on either side. LBFGS minimizes cross-entropy plus weight decay, starting
    at zero. The problem is convex, so there is no seed.

    Args:
        ridge: weight decay; less speech needs more.

    Raises:
        AlignmentError: the numbers of mels and alignments differ, or there are fewer than two phones.
    """
    labels = tuple(sorted({phone.label for a in alignments for phone in a.phones}))
    if len(labels) < 2:
        raise AlignmentError(
            f"the alignments have {len(labels)} different phones, expected at least two: align the clips first"
        )
    truth = torch.cat([frame_labels(a, mel.shape[1], labels) for mel, a in _paired(mels, alignments)])
    frames = torch.cat([mel.detach().float() for mel in mels], dim=1)
    mean, scale = frames.mean(1), frames.std(1).clamp(min=1e-3)
    x = torch.cat([_stacked((mel.detach().float() - mean[:, None]) / scale[:, None]) for mel in mels])
    labeled = truth != UNLABELED
    x, y = x[labeled], truth[labeled].to(x.device)
    weight = torch.zeros(len(labels), x.shape[1], device=x.device, requires_grad=True)
    bias = torch.zeros(len(labels), device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            value = F.cross_entropy(x @ weight.T + bias, y) + ridge * weight.square().sum() / 2
            value.backward()
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return PhoneClassifier(labels, mean, scale, weight.detach(), bias.detach())


def _paired(mels: Sequence[Tensor], alignments: Sequence[Alignment]) -> list[tuple[Tensor, Alignment]]:
    if len(mels) != len(alignments):
        raise AlignmentError(f"{len(mels)} mels but {len(alignments)} alignments: give one for each")
    return list(zip(mels, alignments, strict=True))


def _stacked(mel: Float[Tensor, "*batch mel frame"]) -> Float[Tensor, "*batch frame feature"]:
    """Each frame with its neighbors."""
    flat = mel.reshape(-1, *mel.shape[-2:])
    wide = F.pad(flat, (CONTEXT, CONTEXT), mode="replicate")
    stacked = wide.unfold(2, 2 * CONTEXT + 1, 1).transpose(1, 2).flatten(2)
    return stacked.reshape(*mel.shape[:-2], *stacked.shape[1:])
