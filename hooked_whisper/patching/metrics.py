"""Metrics of a patch: one number per row of next-token logits.

Logit differences are linear in the residual stream and do not saturate as probabilities do (Zhang & Nanda 2023, arXiv
2309.16042).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.indices import is_integer
from hooked_whisper._support.showing import Showing
from hooked_whisper.errors import PatchError, PromptError
from hooked_whisper.model import WhisperCore

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

Logits = Float[Tensor, "row at vocab"]


def token_id(model: Any, token: Any) -> Any:
    """Return the id of a token: a string of one token (``" very"``) or an id. Tensors of ids are returned unchanged.

    Raises:
        PromptError: the string is several tokens, or the id is not in the vocabulary.
    """
    if isinstance(token, str):
        return model.to_single_token(token)
    if isinstance(token, bool):
        raise PromptError(f"a token is a string or an id, not {token}")
    if not is_integer(token):
        return token
    n_vocab = model.cfg.decoder.n_vocab
    if not 0 <= int(token) < n_vocab:
        raise PromptError(f"token id {int(token)} is outside the vocabulary: ids are 0 to {n_vocab - 1}")
    return int(token)


@runtime_checkable
class Metric(Protocol):
    """A function of next-token logits.

    at: indices of the tokens after which logits are read.
    vocab: the token ids that are read, so that no others are unembedded; ``None`` for all.
    """

    @property
    def at(self) -> tuple[int, ...]: ...

    @property
    def vocab(self) -> tuple[int, ...] | None: ...

    @property
    def unit(self) -> str: ...

    def __call__(self, logits: Logits) -> Float[Tensor, "row"]: ...


@dataclass(frozen=True)
class LogitDifference:
    """``logit(answer) - logit(foil)`` after the token at index ``index``. ``answer`` and ``foil`` are token ids; see
    :meth:`of` for strings."""

    answer: int
    foil: int
    index: int
    unit: str = "logits"

    def __post_init__(self) -> None:
        for token in (self.answer, self.foil):
            if not is_integer(token):
                raise PatchError(
                    f"LogitDifference takes token ids, not {token!r:.40}: "
                    "LogitDifference.of(model, answer, foil, index) takes strings"
                )

    @classmethod
    def of(cls, model: HookedWhisper, answer: int | str, foil: int | str, index: int) -> LogitDifference:
        """Make a metric from token ids or strings of one token each (``" very"``).

        Raises:
            PromptError: a string is several tokens.
        """
        return cls(token_id(model, answer), token_id(model, foil), index)

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
    """Log-probability of a word of one or more tokens. ``index`` is that of the token before it.

    The decoder input must contain the word up to its last token but one (teacher forcing).
    """

    word: tuple[int, ...]
    index: int
    unit: str = "nats"

    def __post_init__(self) -> None:
        if isinstance(self.word, str) or not self.word or not all(is_integer(token) for token in self.word):
            raise PatchError(
                f"WordLogProb takes the ids of one or more tokens, not {self.word!r:.40}: "
                "WordLogProb.of(model, word, index) takes a string"
            )

    @classmethod
    def of(cls, model: HookedWhisper, word: str, index: int) -> WordLogProb:
        """Make a metric from a text of any number of tokens (``" mechanical"``).

        Raises:
            PatchError: the text is empty.
        """
        ids = model.to_tokens(word, prompt=False)[0].tolist()
        return cls(tuple(ids), index)

    @property
    def at(self) -> tuple[int, ...]:
        return tuple(range(self.index, self.index + len(self.word)))

    @property
    def vocab(self) -> None:
        return None

    def __call__(self, logits: Logits) -> Float[Tensor, "row"]:
        ids = torch.tensor(self.word, device=logits.device)
        token_logprobs = logits.log_softmax(-1).gather(-1, ids.expand(len(logits), -1)[..., None])
        return token_logprobs[..., 0].sum(-1)


@dataclass(frozen=True, eq=False, repr=False)
class KLDivergence(Showing):
    """``KL(reference || row)`` of next-token distributions, mean over the tokens at ``indices``.

    reference: logits.
    """

    reference: Float[Tensor, "at vocab"]
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
    """Return the metric of rows of the decoder's last hidden state. Only the needed tokens and ids are unembedded.

    Raises:
        PatchError: the metric reads a token that is not in the input.
    """
    n = hidden.shape[1]
    if not metric.at or min(metric.at) < 0 or max(metric.at) >= n:
        raise PatchError(f"the metric reads after tokens {list(metric.at)}, but the decoder input has {n} tokens")
    read = hidden[:, list(metric.at)]
    unembed = model.decoder.unembed
    hooked = unembed.hook_in.active or unembed.hook_out.active
    if metric.vocab is None or hooked:
        with model.decoder.clock.starting_at(0):
            logits = model.decoder.to_logits(read)
        return metric(logits if metric.vocab is None else logits[..., list(metric.vocab)])
    weight = model.decoder.token_embedding.weight if unembed.weight is None else unembed.weight
    ids = torch.tensor(metric.vocab, device=hidden.device)
    logits = read @ weight[ids].to(read.dtype).T
    return metric(logits if unembed.bias is None else logits + unembed.bias[ids].to(read.dtype))


def first_difference(
    answer: Int[Tensor, "token"] | Sequence[int], foil: Int[Tensor, "token"] | Sequence[int]
) -> LogitDifference:
    """Return the logit difference at the first token in which two teacher-forced texts (prompt included) differ.

    Raises:
        PatchError: no token differs, or the first token does.
    """
    for index, (a, b) in enumerate(zip(answer, foil, strict=False)):
        if int(a) != int(b):
            if index == 0:
                raise PatchError("the texts differ in their first token: give both the same prompt")
            return LogitDifference(int(a), int(b), index - 1)
    raise PatchError("the texts do not differ in any token: give two that do")


def localization(
    effect: Sequence[float],
    spans: Sequence[tuple[float | int, float | int]],
    word: tuple[float | int, float | int],
    tolerance_s: float = 0.1,
) -> float:
    """Return the share of the absolute effect in spans whose center lies within ``tolerance_s`` of the word.

    All times are in seconds. NaN if the effect is zero everywhere.
    """
    sizes = [abs(float(e)) for e in effect]
    start, stop = word[0] - tolerance_s, word[1] + tolerance_s
    near = [s for s, (a, b) in zip(sizes, spans, strict=True) if start <= (a + b) / 2 <= stop]
    return sum(near) / sum(sizes) if sum(sizes) > 0 else float("nan")
