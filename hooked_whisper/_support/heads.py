"""Attention heads of a model, in every form in which they can be written."""

from __future__ import annotations

from collections.abc import Iterable

from hooked_whisper._support.indices import read_indices
from hooked_whisper.config import WhisperConfig
from hooked_whisper.errors import ArgumentError, HookedWhisperError, check_option
from hooked_whisper.protocols import STACKS, HeadLike, HeadRef, Stack


def n_blocks_and_heads(
    cfg: WhisperConfig, stack: Stack, error: type[HookedWhisperError] = ArgumentError
) -> tuple[int, int]:
    """Return the number of blocks and of heads per block; those of ``"cross"`` are the decoder's.

    Raises:
        ``error``: the stack is unknown.
    """
    check_option("stack", stack, STACKS, error)
    stack_cfg = cfg.encoder if stack == "encoder" else cfg.decoder
    return stack_cfg.n_layers, stack_cfg.n_heads


def read_heads(
    heads: Iterable[HeadLike] | None,
    cfg: WhisperConfig,
    stack: Stack = "encoder",
    error: type[HookedWhisperError] = ArgumentError,
) -> list[HeadRef]:
    """Return heads that the model has.

    Args:
        heads: each as for :meth:`HeadRef.parse`; ``None`` for all heads of ``stack``, block by block. Negative
            numbers count from the end.
        stack: the stack of plain ``(block, head)`` pairs.
        error: type of the error.

    Raises:
        ``error``: an entry is not a head, or its block or head does not exist.
    """
    check_option("stack", stack, STACKS, error)
    if heads is None:
        n_blocks, n_heads = n_blocks_and_heads(cfg, stack)
        return [HeadRef(stack, block, head) for block in range(n_blocks) for head in range(n_heads)]
    return [_existing(HeadRef.parse(head, stack, error), cfg, error) for head in heads]


def _existing(head: HeadRef, cfg: WhisperConfig, error: type[HookedWhisperError]) -> HeadRef:
    n_blocks, n_heads = n_blocks_and_heads(cfg, head.stack)
    (block,) = read_indices(head.block, n_blocks, f"blocks of {head.stack}", error)
    (number,) = read_indices(head.head, n_heads, f"heads of {head.stack}", error)
    return HeadRef(head.stack, block, number)
