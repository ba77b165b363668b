"""Attention masks: what a user may give, and how it is cut to the queries and keys of one pass.

A mask is a bool tensor (True = may attend), an additive float tensor, or a rule such as :func:`local_window` that is
asked for the positions at hand. Tensors broadcast to ``[batch, head, query, key]``. Masks are combined with each other
and with the decoder's causal mask; a query that may attend to nothing gets a zero output row.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hooked_whisper._support.indices import read_indices
from hooked_whisper.errors import MaskError, closest

Kind = Literal["encoder", "decoder", "cross"]
MaskRule = Callable[[Int[Tensor, "query"], Int[Tensor, "key"]], Tensor]
Mask = Tensor | MaskRule


@dataclass(frozen=True)
class LocalWindow:
    """Query i may attend to key j when ``|i - j| <= k``; only in query rows below ``n_rows``, if that is given."""

    k: int
    n_rows: int | None = None

    def __post_init__(self) -> None:
        if self.k < 0:
            raise MaskError(f"local_window: k must be at least 0, got {self.k}")
        if self.n_rows is not None and self.n_rows < 0:
            raise MaskError(f"local_window: n_rows must be at least 0, got {self.n_rows}")

    def __call__(self, query: Int[Tensor, "query"], key: Int[Tensor, "key"]) -> Bool[Tensor, "query key"]:
        near = (query[:, None] - key[None, :]).abs() <= self.k
        return near if self.n_rows is None else near | (query[:, None] >= self.n_rows)


def local_window(k: int, n_rows: int | None = None) -> LocalWindow:
    """Band mask of half-width ``k`` positions (20 ms each in the encoder).

    ``n_rows`` leaves query rows from that position on unmasked (the padding after speech). With ``k`` at least
    the number of positions it is no mask at all.
    """
    return LocalWindow(k, n_rows)


@dataclass(frozen=True)
class MaskEntry:
    """One mask on one attention module; ``heads`` None means all of them."""

    mask: Mask
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Pass:
    """What one attention call looks like: the first query's absolute index, and sizes."""

    name: str
    kind: Kind
    batch: int
    n_heads: int
    start: int
    n_query: int
    n_key: int
    device: torch.device


def combine_masks(entries: Sequence[MaskEntry], causal: bool, now: Pass) -> Tensor | None:
    """One mask from all: bool if all are bool, else additive float; ``None`` if there is nothing to mask."""
    masks = [_on_heads(_evaluate(e, now), e.heads, now) for e in entries]
    if causal and now.n_query > 1:
        query = torch.arange(now.start, now.start + now.n_query, device=now.device)
        masks.append(query[:, None] >= torch.arange(now.n_key, device=now.device)[None, :])
    return merge_masks(masks) if masks else None


def merge_masks(masks: Sequence[Tensor]) -> Tensor:
    """What all of them allow: bool if all are bool, else additive float."""
    allowed = [m for m in masks if m.dtype == torch.bool]
    additive = [m for m in masks if m.dtype != torch.bool]
    if not additive:
        return reduce(torch.logical_and, allowed)
    total = reduce(torch.add, additive)
    return torch.where(reduce(torch.logical_and, allowed), total, -torch.inf) if allowed else total


def _evaluate(entry: MaskEntry, now: Pass) -> Tensor:
    if isinstance(entry.mask, Tensor):
        return _cut(entry.mask.to(now.device), now, now.start, fixed=False)
    query = torch.arange(now.start, now.start + now.n_query, device=now.device)
    mask = entry.mask(query, torch.arange(now.n_key, device=now.device))
    if not isinstance(mask, Tensor):
        raise MaskError(f"the mask rule for {now.name} returned {type(mask).__name__}, not a tensor")
    _check_dtype(mask, now.name)
    return _cut(mask, now, 0, fixed=True)


def _cut(mask: Tensor, now: Pass, start: int, fixed: bool) -> Tensor:
    """The queries (from ``start`` on) and keys of this pass, with at least these two axes.

    In the decoder a mask may be larger than the tokens so far, unless it is ``fixed``: made for this pass by a rule.
    """
    if mask.dim() > 4 or mask.dim() < 1:
        raise MaskError(f"mask for {now.name}: needs 1 to 4 axes [batch, head, query, key], got {tuple(mask.shape)}")
    if mask.dim() == 1:
        mask = mask[None]
    if mask.shape[-1] != 1:
        _check_size(mask, -1, "key", now.n_key, growing=now.kind == "decoder" and not fixed, now=now)
        mask = mask[..., : now.n_key]
    if mask.shape[-2] != 1:
        stop = start + now.n_query
        _check_size(mask, -2, "query", stop, growing=now.kind != "encoder" and not fixed, now=now)
        mask = mask[..., start:stop, :]
    for axis, what, size in ((-3, "head", now.n_heads), (-4, "batch", now.batch)):
        if mask.dim() >= -axis and mask.shape[axis] not in (1, size):
            raise MaskError(f"mask for {now.name}: axis {what} has {mask.shape[axis]} entries, needs 1 or {size}")
    return mask


def _check_size(mask: Tensor, axis: int, what: str, needed: int, growing: bool, now: Pass) -> None:
    size = mask.shape[axis]
    if size < needed or (size != needed and not growing):
        word = "at least " if growing else ""
        raise MaskError(
            f"mask for {now.name}: axis {what} has {size} entries, needs 1 or {word}{needed} "
            f"(mask shape {tuple(mask.shape)}, axes [batch, head, query, key])"
        )


def _on_heads(mask: Tensor, heads: tuple[int, ...] | None, now: Pass) -> Tensor:
    if heads is None:
        return mask
    chosen = torch.zeros(now.n_heads, 1, 1, dtype=torch.bool, device=now.device)
    chosen[list(heads)] = True
    elsewhere = torch.ones((), dtype=torch.bool, device=now.device)
    if mask.dtype != torch.bool:
        elsewhere = torch.zeros((), dtype=mask.dtype, device=now.device)
    return torch.where(chosen, mask, elsewhere)


def _check_dtype(mask: Tensor, name: str) -> None:
    if mask.dtype != torch.bool and not mask.dtype.is_floating_point:
        raise MaskError(f"mask for {name}: give bool (True = may attend) or additive float, not {mask.dtype}")


def check_mask(mask: Any, target: str) -> Mask:
    """Refuse what is neither a tensor of the right kind nor a rule."""
    if isinstance(mask, Tensor):
        _check_dtype(mask, target)
        if bool(mask.isnan().any()):
            raise MaskError(f"mask for {target} has NaN in it")
        return mask
    if not callable(mask):
        raise MaskError(
            f"mask for {target}: give a tensor or a rule such as local_window(50), not {type(mask).__name__}"
        )
    return mask


_HEAD = re.compile(r"(?P<target>.+)\.head\.(?P<head>\d+)")


def resolve_target(target: Any, names: Sequence[str], n_heads: dict[str, int]) -> dict[str, tuple[int, ...] | None]:
    """Attention names -> heads for what a user wrote.

    ``"encoder"``, ``"decoder"`` (its self-attention), ``"cross_attn"``; one block (``"encoder.blocks.2"``);
    one attention (``"decoder.blocks.1.cross_attn"``); globs of those; any of them with heads: ``(target, 3)``,
    ``(target, (0, 3))``, ``(target, mask)`` or ``"encoder.blocks.2.head.3"``.
    """
    heads: Any = None
    if isinstance(target, tuple) and len(target) == 2:
        target, chosen = target
        heads = chosen
    if not isinstance(target, str):
        raise MaskError(f"an attention mask goes to a name or (name, heads), not {target!r}")
    match = _HEAD.fullmatch(target)
    if match and heads is None:
        target, heads = match["target"], (int(match["head"]),)
    found = [name for name in names if _targets(target, name)]
    if not found:
        near = closest(target, ["encoder", "decoder", "cross_attn", *names])
        raise MaskError(
            f"no attention is named {target!r}{f'; did you mean {near[0]!r}?' if near else ''} "
            "(encoder, decoder, cross_attn, encoder.blocks.L, decoder.blocks.L.cross_attn, or a glob of those)"
        )
    if heads is None:
        return dict.fromkeys(found)
    return {name: tuple(read_indices(heads, n_heads[name], f"heads of {name}", MaskError)) for name in found}


def _targets(target: str, name: str) -> bool:
    groups = {
        "encoder": r"encoder\..*",
        "decoder": r"decoder\..*\.attn",
        "decoder.attn": r"decoder\..*\.attn",
        "cross_attn": r".*\.cross_attn",
        "decoder.cross_attn": r".*\.cross_attn",
    }
    if target in groups:
        return re.fullmatch(groups[target], name) is not None
    if any(c in target for c in "*?["):
        return fnmatch.fnmatchcase(name, target)
    return name in (target, f"{target}.attn")
