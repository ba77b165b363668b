"""Attention masks: the accepted forms, and how they are cut to the queries and keys of one pass.

A mask is a bool tensor (True = may attend), an additive float tensor, or a rule such as :func:`local_window` that is
called with the positions of the pass. Tensors broadcast to ``[batch, head, query, key]``. Masks are combined with each
other and with the decoder's causal mask. A query that may attend to nothing gets a zero output row.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hooked_whisper._support.indices import read_indices
from hooked_whisper.errors import MaskError, closest
from hooked_whisper.model.kernels import Heads
from hooked_whisper.protocols import HeadRef, Stack

MaskRule = Callable[[Int[Tensor, "query"], Int[Tensor, "key"]], Tensor]
Mask = Tensor | MaskRule


@dataclass(frozen=True)
class LocalWindow:
    """Query i may attend to key j if ``|i - j| <= k``. With ``n_rows``, only query rows below it are restricted."""

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
    """Return a band mask of half-width ``k`` positions (20 ms each in the encoder).

    ``n_rows`` restricts only the query rows before that position, such as speech before padding. A ``k`` of at least
    the number of positions masks nothing.
    """
    return LocalWindow(k, n_rows)


@dataclass(frozen=True)
class MaskEntry:
    """One mask on one attention module; ``heads`` None means all of them."""

    mask: Mask
    heads: Heads | None = None


@dataclass(frozen=True)
class AttentionPass:
    """Sizes of one attention call, and the absolute index of its first query (``start``)."""

    name: str
    kind: Stack
    batch: int
    n_heads: int
    start: int
    n_query: int
    n_key: int
    device: torch.device


def combine_masks(entries: Sequence[MaskEntry], causal: bool, this_pass: AttentionPass) -> Tensor | None:
    """Return all masks as one: bool if all are bool, else additive float; ``None`` if nothing is masked."""
    masks = [_on_heads(_evaluate(e, this_pass), e.heads, this_pass) for e in entries]
    if causal and this_pass.n_query > 1:
        query = torch.arange(this_pass.start, this_pass.start + this_pass.n_query, device=this_pass.device)
        masks.append(query[:, None] >= torch.arange(this_pass.n_key, device=this_pass.device)[None, :])
    return merge_masks(masks) if masks else None


def merge_masks(masks: Sequence[Tensor]) -> Tensor:
    """Return the intersection of masks: bool if all are bool, else additive float."""
    allowed = [m for m in masks if m.dtype == torch.bool]
    additive = [m for m in masks if m.dtype != torch.bool]
    if not additive:
        return reduce(torch.logical_and, allowed)
    total = reduce(torch.add, additive)
    return torch.where(reduce(torch.logical_and, allowed), total, -torch.inf) if allowed else total


def _evaluate(entry: MaskEntry, this_pass: AttentionPass) -> Tensor:
    if isinstance(entry.mask, Tensor):
        return _cut(entry.mask.to(this_pass.device), this_pass, this_pass.start, fixed=False)
    query = torch.arange(this_pass.start, this_pass.start + this_pass.n_query, device=this_pass.device)
    mask = entry.mask(query, torch.arange(this_pass.n_key, device=this_pass.device))
    if not isinstance(mask, Tensor):
        raise MaskError(f"the mask rule for {this_pass.name} returned {type(mask).__name__}, not a tensor")
    _check_dtype(mask, this_pass.name)
    return _cut(mask, this_pass, 0, fixed=True)


def _cut(mask: Tensor, this_pass: AttentionPass, start: int, fixed: bool) -> Tensor:
    """Cut a mask to the queries (from ``start`` on) and keys of this pass, with at least these two axes.

    In the decoder a mask may be larger than the tokens so far, unless it is ``fixed`` (computed by a rule for this
    pass).
    """
    if mask.dim() > 4 or mask.dim() < 1:
        raise MaskError(
            f"mask for {this_pass.name}: needs 1 to 4 axes [batch, head, query, key], got {tuple(mask.shape)}"
        )
    if mask.dim() == 1:
        mask = mask[None]
    if mask.shape[-1] != 1:
        _check_size(
            mask, -1, "key", this_pass.n_key, growing=this_pass.kind == "decoder" and not fixed, this_pass=this_pass
        )
        mask = mask[..., : this_pass.n_key]
    if mask.shape[-2] != 1:
        stop = start + this_pass.n_query
        growing = this_pass.kind != "encoder" and not fixed
        _check_size(mask, -2, "query", stop, growing, this_pass)
        mask = mask[..., start:stop, :]
    for axis, what, size in ((-3, "head", this_pass.n_heads), (-4, "batch", this_pass.batch)):
        if mask.dim() >= -axis and mask.shape[axis] not in (1, size):
            raise MaskError(f"mask for {this_pass.name}: axis {what} has {mask.shape[axis]} entries, needs 1 or {size}")
    return mask


def _check_size(mask: Tensor, axis: int, what: str, needed: int, growing: bool, this_pass: AttentionPass) -> None:
    size = mask.shape[axis]
    if size < needed or (size != needed and not growing):
        word = "at least " if growing else ""
        raise MaskError(
            f"mask for {this_pass.name}: axis {what} has {size} entries, needs 1 or {word}{needed} "
            f"(mask shape {tuple(mask.shape)}, axes [batch, head, query, key])"
        )


def _on_heads(mask: Tensor, heads: Heads | None, this_pass: AttentionPass) -> Tensor:
    if heads is None:
        return mask
    on_heads = torch.zeros(this_pass.n_heads, 1, 1, dtype=torch.bool, device=this_pass.device)
    on_heads[list(heads)] = True
    elsewhere = torch.ones((), dtype=torch.bool, device=this_pass.device)
    if mask.dtype != torch.bool:
        elsewhere = torch.zeros((), dtype=mask.dtype, device=this_pass.device)
    return torch.where(on_heads, mask, elsewhere)


def _check_dtype(mask: Tensor, name: str) -> None:
    if mask.dtype != torch.bool and not mask.dtype.is_floating_point:
        raise MaskError(f"mask for {name}: give bool (True = may attend) or additive float, not {mask.dtype}")


def check_mask(mask: Any, target: str) -> Mask:
    """Return the mask, checked: a bool or float tensor, or a rule.

    Raises:
        MaskError: the mask is neither, or contains NaN.
    """
    if isinstance(mask, Tensor):
        _check_dtype(mask, target)
        if bool(mask.isnan().any()):
            raise MaskError(f"mask for {target} has NaN values")
        return mask
    if not callable(mask):
        raise MaskError(
            f"mask for {target}: give a tensor or a rule such as local_window(50), not {type(mask).__name__}"
        )
    return mask


def windows_of_heads(entries: Sequence[MaskEntry], n_heads: int) -> dict[LocalWindow | None, Heads] | None:
    """Return window -> its heads (``None``: all keys), or ``None`` if the masks are not one window per head."""
    windows: list[LocalWindow | None] = [None] * n_heads
    for entry in entries:
        if not isinstance(entry.mask, LocalWindow):
            return None
        for head in range(n_heads) if entry.heads is None else entry.heads:
            window = windows[head]
            if window is not None and window.n_rows != entry.mask.n_rows:
                return None
            windows[head] = entry.mask if window is None or entry.mask.k < window.k else window
    heads_of: dict[LocalWindow | None, Heads] = {}
    for head, window in enumerate(windows):
        heads_of[window] = (*heads_of.get(window, ()), head)
    return heads_of


_HEAD = re.compile(r"(?P<target>.+)\.head\.(?P<head>\d+)")


def resolve_target(target: Any, names: Sequence[str], n_heads: dict[str, int]) -> dict[str, Heads | None]:
    """Resolve a target to attention names and their heads (``None``: all).

    A target is ``"encoder"``, ``"decoder"`` (its self-attention) or ``"cross_attn"``; one block
    (``"encoder.blocks.2"``); one attention (``"decoder.blocks.1.cross_attn"``); a glob of those; any of them with
    heads: ``(target, 3)``, ``(target, (0, 3))``, ``(target, mask)`` or ``"encoder.blocks.2.head.3"``; or a
    :class:`HeadRef` or its name, ``"encoder 2.3"``.

    Raises:
        MaskError: the target matches no attention.
    """
    heads: Any = None
    if HeadRef.is_head(target):
        ref = HeadRef.parse(target, error=MaskError)
        target, heads = ref.attn, ref.head
    elif isinstance(target, tuple) and len(target) == 2:
        target, heads = target
    if not isinstance(target, str):
        raise MaskError(f"the target of an attention mask is a name or (name, heads), not {target!r}")
    match = _HEAD.fullmatch(target)
    if match and heads is None:
        target, heads = match["target"], (int(match["head"]),)
    matches = [name for name in names if _targets(target, name)]
    if not matches:
        near = closest(target, ["encoder", "decoder", "cross_attn", *names])
        raise MaskError(
            f"no attention is named {target!r}{f'; did you mean {near[0]!r}?' if near else ''} "
            "(encoder, decoder, cross_attn, encoder.blocks.L, decoder.blocks.L.cross_attn, or a glob of those)"
        )
    if heads is None:
        return dict.fromkeys(matches)
    return {name: tuple(read_indices(heads, n_heads[name], f"heads of {name}", MaskError)) for name in matches}


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
