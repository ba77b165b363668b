"""Next-token loss and accuracy, and the outputs that a forward pass can return."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper.errors import ArgumentError

ReturnType = Literal["logits", "loss", "both"]


class Output(NamedTuple):
    """Logits ``[batch, token, vocab]`` and the loss, as ``return_type="both"`` gives them."""

    logits: Tensor
    loss: Tensor


def lm_cross_entropy_loss(
    logits: Float[Tensor, "batch token vocab"],
    tokens: Int[Tensor, "batch token"],
    attention_mask: Int[Tensor, "batch token"] | Bool[Tensor, "batch token"] | None = None,
    per_token: bool = False,
    *,
    first_token: int = 1,
) -> Float[Tensor, ""] | Float[Tensor, "batch predicted"]:
    """Return the cross-entropy (nats) of each next token: the mean, or ``per_token`` ``[batch, token - first_token]``.

    Args:
        logits, tokens: of one pass. Logits at token ``k`` predict token ``k + 1``; those of the last token are unused.
        attention_mask: tokens that count; a prediction counts if both its tokens do.
        first_token: index of the first predicted token that counts. 1 counts all, as in TransformerLens: also those of
            the prompt. Pass the length of the prompt for the loss of the text.

    Raises:
        ArgumentError: logits, tokens and mask have different shapes, there is no token to predict, or none counts.
    """
    n = tokens.shape[-1]
    if logits.shape[:-1] != tokens.shape:
        raise ArgumentError(f"logits {tuple(logits.shape)} and tokens {tuple(tokens.shape)} are not of one pass")
    if attention_mask is not None and attention_mask.shape != tokens.shape:
        raise ArgumentError(
            f"attention_mask {tuple(attention_mask.shape)} and tokens {tuple(tokens.shape)} must have the same shape"
        )
    if n < 2:
        raise ArgumentError(f"the loss needs a token to predict: give at least 2 tokens per row, not {n}")
    if not 1 <= first_token < n:
        raise ArgumentError(f"the loss needs a token to predict: first_token is 1 to {n - 1}, not {first_token}")
    predicted, targets = logits[:, first_token - 1 : -1], tokens[:, first_token:].to(logits.device)
    losses = -predicted.log_softmax(-1).gather(-1, targets[..., None].long())[..., 0]
    if attention_mask is None:
        return losses if per_token else losses.mean()
    mask = attention_mask.bool().to(logits.device)
    counted = (mask[:, :-1] & mask[:, 1:])[:, first_token - 1 :]
    if not bool(counted.any()):
        raise ArgumentError("attention_mask leaves no token to predict: a prediction counts if both its tokens do")
    losses = torch.where(counted, losses, torch.zeros_like(losses))
    return losses if per_token else losses.sum() / counted.sum()


def lm_accuracy(
    logits: Float[Tensor, "batch token vocab"], tokens: Int[Tensor, "batch token"], per_token: bool = False
) -> Float[Tensor, ""] | Bool[Tensor, "batch predicted"]:
    """Return the fraction of next tokens that have the largest logit, or ``per_token`` whether each has."""
    correct = logits[:, :-1].argmax(-1) == tokens[:, 1:].to(logits.device)
    return correct if per_token else correct.float().mean()
