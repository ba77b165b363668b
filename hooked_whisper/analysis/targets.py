"""Targets of gradients: one number per clip, computed from the encoder output.

The target determines what a relevance map means, so it is always named. The sum of all encoder outputs, which published
code uses, barely depends on the input: the encoder ends in a layer norm, whose outputs sum to a constant if its gains
are equal, so only differences between gains give a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper._support.showing import Showing, Summary, described
from hooked_whisper.errors import check_option
from hooked_whisper.hooked import HookedWhisper

# [clip, position, d_model] -> one number per clip
Scalar = Callable[[Float[Tensor, "clip position d_model"]], Float[Tensor, "clip"]]
Target = Literal["transcript", "encoder_sum"] | Scalar


@dataclass(frozen=True, eq=False, repr=False)
class Transcript(Showing):
    """Log-probability (nats) of teacher-forced text: ``tokens`` from index ``n_prompt``, each given all before it.

    tokens: ``[clip, token]``, or one row for all clips. Tokens after the first end-of-text are padding and do not
        count.

    Raises:
        ValueError: ``n_prompt`` is not an index of ``tokens``, or is 0.
    """

    model: HookedWhisper
    tokens: Int[Tensor, "clip token"]
    n_prompt: int
    name: str = "log-probability of the transcript"

    def __post_init__(self) -> None:
        if not 1 <= self.n_prompt < self.tokens.shape[1]:
            raise ValueError(f"n_prompt must be 1 to {self.tokens.shape[1] - 1}, got {self.n_prompt}")

    def __call__(self, encoder_out: Float[Tensor, "clip position d_model"]) -> Float[Tensor, "clip"]:
        tokens = self.tokens.to(encoder_out.device).expand(len(encoder_out), -1)
        first = self.n_prompt
        log_probs = token_log_probs(self.model, tokens, encoder_out, list(range(first, tokens.shape[1])))
        return (log_probs * _spoken(tokens[:, first:], self.model.tokenizer.eot)).sum(-1)

    def summary(self) -> Summary:
        texts = [self.model.to_string(row[self.n_prompt :]) for row in self.tokens[:8]]
        rows = [("model", repr(self.model)), ("prompt", f"{self.n_prompt} tokens")]
        rows += [(f"text {k}" if len(texts) > 1 else "text", described(text)) for k, text in enumerate(texts)]
        return Summary(f"Transcript: {self.name}", rows=tuple(rows))


@dataclass(frozen=True, eq=False, repr=False)
class OwnTranscript(Showing):
    """Log-probability of the model's own transcript of the encoder output (greedy, without timestamps)."""

    model: HookedWhisper
    language: str = "en"
    max_new_tokens: int = 224
    name: str = "log-probability of the model's own transcript"

    def __call__(self, encoder_out: Float[Tensor, "clip position d_model"]) -> Float[Tensor, "clip"]:
        tokens, n_prompt = own_transcript(self.model, encoder_out.detach(), self.language, self.max_new_tokens)
        return Transcript(self.model, tokens, n_prompt)(encoder_out)


@dataclass(frozen=True)
class EncoderSum:
    """Sum of all encoder outputs after the final norm: the published target, which is degenerate."""

    name: str = "sum of encoder outputs (published, degenerate)"

    def __call__(self, encoder_out: Float[Tensor, "clip position d_model"]) -> Float[Tensor, "clip"]:
        return encoder_out.sum((1, 2))


def resolve_target(model: HookedWhisper, target: Target) -> tuple[Scalar, str]:
    """Return the function of a target, and its name.

    Raises:
        ValueError: a string other than ``"transcript"`` and ``"encoder_sum"``.
    """
    if isinstance(target, str):
        check_option("target (or a function of the encoder output)", target, ("transcript", "encoder_sum"))
        if target == "transcript":
            transcript = OwnTranscript(model)
            return transcript, transcript.name
        return EncoderSum(), EncoderSum().name
    return target, str(getattr(target, "name", getattr(target, "__name__", type(target).__name__)))


@renamed_arguments(at="indices")
def token_log_probs(
    model: HookedWhisper,
    tokens: Int[Tensor, "batch token"],
    encoder_out: Float[Tensor, "clip position d_model"],
    indices: list[int],
) -> Float[Tensor, "batch index"]:
    """Return the log-probability (nats) of the tokens at ``indices``, each given all before it; differentiable.

    Raises:
        ValueError: ``indices`` is empty, or an index is 0 or out of range.
    """
    n = tokens.shape[1]
    if not indices or min(indices) < 1 or max(indices) >= n:
        raise ValueError(f"indices must be 1 to {n - 1} of the {n} tokens, got {indices}")
    index = torch.tensor(indices, device=tokens.device)
    hidden = model.decoder.hidden(tokens[:, : max(indices)], encoder_out)
    logits = model.decoder.to_logits(hidden[:, index - 1])  # [batch, index, vocab]
    return logits.log_softmax(-1).gather(-1, tokens[:, index, None].long())[..., 0]


def own_transcript(
    model: HookedWhisper, encoder_out: Float[Tensor, "clip position d_model"], language: str, max_new_tokens: int
) -> tuple[Int[Tensor, "clip token"], int]:
    """Return greedy transcripts ``[clip, token]`` (prompt, text, end-of-text) and the length of the prompt."""
    prompt = model.to_tokens("", language=language if model.is_multilingual else "en")
    eot, n = model.tokenizer.eot, prompt.shape[1]
    tokens = model.generate(
        prompt.to(encoder_out.device).expand(len(encoder_out), -1).contiguous(),
        encoder_out,
        max_new_tokens=max_new_tokens,
        eot=eot,
        suppress=list(range(eot + 1, model.cfg.decoder.n_vocab)),
    )
    return tokens, n


def _spoken(text: Int[Tensor, "clip token"], eot: int) -> Bool[Tensor, "clip token"]:
    """Mask of the tokens up to and including the first end-of-text."""
    ended = (text == eot).long().cumsum(-1)
    return ended - (text == eot).long() == 0
