"""Tokens as the user writes them (ids, texts, lists, tensors), and their directions in the residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import ArgumentError

TokenIds = str | int | Sequence[int] | Sequence[str] | Int[Tensor, "..."]
"""One token or several: ids, or texts of one token each (``" very"``)."""


def token_ids(model: Any, tokens: TokenIds) -> Int[Tensor, "*shape"]:
    """Return token ids as a checked tensor.

    Args:
        model: its tokenizer reads texts; its vocabulary limits ids.
        tokens: as :data:`TokenIds`.

    Raises:
        ArgumentError: a number is no id, or the model has no tokenizer for texts.
        PromptError: a text is several tokens; lists them.
    """
    n_vocab = model.cfg.decoder.n_vocab
    expected = f"tokens are ids, whole numbers from 0 to {n_vocab - 1}, or texts of one token"
    if isinstance(tokens, str):
        return torch.tensor(_single_token(model, tokens, expected))
    if isinstance(tokens, Sequence) and tokens and all(isinstance(token, str) for token in tokens):
        return torch.tensor([_single_token(model, str(token), expected) for token in tokens])
    try:
        ids = torch.as_tensor(tokens)
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentError(f"{expected}, not {tokens!r:.80}") from None
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool or not ids.numel():
        raise ArgumentError(f"{expected}, got {ids.dtype} {ids.tolist()!s:.80}")
    if not 0 <= int(ids.min()) <= int(ids.max()) < n_vocab:
        raise ArgumentError(f"{expected}, got {ids.tolist()!s:.80}")
    return ids.long()


def _single_token(model: Any, text: str, expected: str) -> int:
    read = getattr(model, "to_single_token", None)
    if read is None:
        raise ArgumentError(f"{expected}; this model has no tokenizer, so {text!r} must be an id")
    return int(read(text))


def directions_like(
    w_u: Float[Tensor, "vocab d_model"], ids: Int[Tensor, "..."], shape: Sequence[int]
) -> Float[Tensor, "... d_model"]:
    """Return the unembedding of tokens so that it broadcasts to ``[*shape, d_model]`` without enlarging it.

    ids: of shape ``[]``, ``shape``, or one entry per row or per position if ``shape`` is ``[batch, pos]``.

    Raises:
        ArgumentError: the shape of ``ids`` does not fit, or fits in two ways.
    """
    batch_and_pos = tuple(shape)
    if ids.dim() == 1 and len(batch_and_pos) == 2 and len(ids) > 1:
        rows, positions = batch_and_pos
        if rows == positions == len(ids):
            raise ArgumentError(
                f"{len(ids)} tokens for components [component, {rows}, {positions}, d_model] could be one per row or "
                "one per position: pass tokens[:, None] (per row) or tokens[None] (per position)"
            )
        if len(ids) == rows:
            ids = ids[:, None]
    try:
        fits = torch.broadcast_shapes(ids.shape, batch_and_pos) == batch_and_pos
    except RuntimeError:
        fits = False
    if not fits:
        raise ArgumentError(
            f"tokens of shape {tuple(ids.shape)} do not fit components of {batch_and_pos} rows and positions: give one "
            "token, one per row, one per position, or one for each"
        )
    return w_u[ids.to(w_u.device)]
