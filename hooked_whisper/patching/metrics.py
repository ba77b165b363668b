"""What a patch is measured by: one number per row of next-token logits.

Source of the choice: Zhang & Nanda 2023 (arXiv 2309.16042): logit differences are linear in the residual and do not
saturate as probabilities do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import PatchError
from hooked_whisper.model import WhisperCore

Logits = Float[Tensor, "row at vocab"]


@runtime_checkable
class Metric(Protocol):
    """``at``: indices of the tokens whose next-token logits are read. ``vocab``: the only ids it needs, or ``None``
    for all; a metric that needs two ids costs two rows of the unembedding and not 51,865."""

    @property
    def at(self) -> tuple[int, ...]: ...

    @property
    def vocab(self) -> tuple[int, ...] | None: ...

    @property
    def unit(self) -> str: ...

    def __call__(self, logits: Logits) -> Float[Tensor, "row"]: ...


@dataclass(frozen=True)
class LogitDifference:
    """``logit(answer) - logit(foil)`` after the token at index ``index``."""

    answer: int
    foil: int
    index: int
    unit: str = "logits"

    @property
    def at(self) -> tuple[int, ...]:
        return (self.index,)

    @property
    def vocab(self) -> tuple[int, ...]:
        return (self.answer, self.foil)

    def __call__(self, logits: Logits) -> Float[Tensor, "row"]:
        return logits[:, 0, 0] - logits[:, 0, 1]


@dataclass(frozen=True)
class WordLogProb:
    """Log-probability of a word of one or more tokens; ``index`` is that of the token before it. The decoder input
    must hold the word (teacher forcing), all but its last token at least."""

    word: tuple[int, ...]
    index: int
    unit: str = "nats"

    @property
    def at(self) -> tuple[int, ...]:
        return tuple(range(self.index, self.index + len(self.word)))

    @property
    def vocab(self) -> None:
        return None

    def __call__(self, logits: Logits) -> Float[Tensor, "row"]:
        ids = torch.tensor(self.word, device=logits.device)
        chosen = logits.log_softmax(-1).gather(-1, ids.expand(len(logits), -1)[..., None])
        return chosen[..., 0].sum(-1)


@dataclass(frozen=True, eq=False)
class KLDivergence:
    """``KL(reference || row)`` of next-token distributions, mean over the tokens at ``indices``."""

    reference: Float[Tensor, "at vocab"]  # logits
    indices: tuple[int, ...]
    unit: str = "nats"

    @property
    def at(self) -> tuple[int, ...]:
        return self.indices

    @property
    def vocab(self) -> None:
        return None

    def __call__(self, logits: Logits) -> Float[Tensor, "row"]:
        p = self.reference.log_softmax(-1)
        return (p.exp() * (p - logits.log_softmax(-1))).sum(-1).mean(-1)


def read_metric(model: WhisperCore, hidden: Float[Tensor, "row token d_model"], metric: Metric) -> Float[Tensor, "row"]:
    """The metric of rows of the decoder's last hidden state; unembeds the tokens and the ids it needs, no others.

    Raises:
        PatchError: the metric reads a token that is not in the input.
    """
    n = hidden.shape[1]
    if not metric.at or min(metric.at) < 0 or max(metric.at) >= n:
        raise PatchError(f"the metric reads after tokens {list(metric.at)}, but the decoder input has {n} tokens")
    read = hidden[:, list(metric.at)]
    unembed = model.decoder.unembed
    listened = unembed.hook_in.active or unembed.hook_out.active
    if metric.vocab is None or listened:
        logits = model.decoder.to_logits(read)
        return metric(logits if metric.vocab is None else logits[..., list(metric.vocab)])
    weight = model.decoder.token_embedding.weight if unembed.weight is None else unembed.weight
    ids = torch.tensor(metric.vocab, device=hidden.device)
    logits = read @ weight[ids].to(read.dtype).T
    return metric(logits if unembed.bias is None else logits + unembed.bias[ids].to(read.dtype))


def first_difference(
    answer: Int[Tensor, "token"] | Sequence[int], foil: Int[Tensor, "token"] | Sequence[int]
) -> LogitDifference:
    """Logit difference at the first token in which two teacher-forced texts (prompt included) differ.

    Raises:
        PatchError: no token differs, or the very first does.
    """
    for index, (a, b) in enumerate(zip(answer, foil, strict=False)):
        if int(a) != int(b):
            if index == 0:
                raise PatchError("the texts differ in their first token: give both the same prompt")
            return LogitDifference(int(a), int(b), index - 1)
    raise PatchError("the texts have no token that differs")


def localisation(
    effect: Sequence[float],
    spans: Sequence[tuple[float | int, float | int]],
    word: tuple[float | int, float | int],
    tolerance_s: float = 0.1,
) -> float:
    """Share of the absolute effect in spans whose middle lies within ``tolerance_s`` of the word (all in seconds).

    NaN if there is no effect at all.
    """
    sizes = [abs(float(e)) for e in effect]
    start, stop = word[0] - tolerance_s, word[1] + tolerance_s
    near = [s for s, (a, b) in zip(sizes, spans, strict=True) if start <= (a + b) / 2 <= stop]
    return sum(near) / sum(sizes) if sum(sizes) > 0 else float("nan")
