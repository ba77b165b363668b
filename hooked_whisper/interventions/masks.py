"""Attention masks by purpose: local windows, attention knockout, no attention to padding; and masks as hooks.

Every builder returns what ``model.hooks(attn_masks=...)`` takes; :func:`join_masks` combines several. Query and key
indices are absolute, so masks also work on live decoding, which sees one token at a time.

Attention knockout (:func:`knock_out`) forbids chosen queries to attend to chosen keys: Geva et al. 2023 (arXiv
2304.14767), section 3. Windows of ``k`` positions, also per head: github.com/er537/whisper_interpretability and
comments on its LessWrong post.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper._support.heads import n_blocks_and_heads, read_heads
from hooked_whisper._support.indices import read_indices
from hooked_whisper.audio import TimeMap
from hooked_whisper.errors import MaskError, PatchError, check_option
from hooked_whisper.hooks import HookPoint
from hooked_whisper.model import WhisperCore
from hooked_whisper.model.attention import Attention
from hooked_whisper.model.masks import (
    AttentionPass,
    LocalWindow,
    Mask,
    MaskEntry,
    check_mask,
    combine_masks,
    local_window,
    merge_masks,
    resolve_target,
)
from hooked_whisper.patching.positions import UNITS, PositionsLike, read_positions
from hooked_whisper.protocols import STACKS, HeadLike, HeadRef, Positions, Stack, attention_name

AttnMasks = dict[Any, Mask]  # target -> mask, for model.hooks(attn_masks=...)
Rule = Bool[Tensor, "#clip #head #query #key"]
_UNLIMITED = 1 << 30  # a half-width larger than any window


@dataclass(frozen=True)
class HeadWindows:
    """Query i may attend to key j if ``|i - j| <= k``, with one ``k`` per head (``None``: no window).

    n_rows: query rows of each clip that are masked (its speech); later rows see everything. ``None``: all rows.
    """

    k: tuple[int | None, ...]
    n_rows: tuple[int, ...] | None = None

    def __call__(self, query: Int[Tensor, "query"], key: Int[Tensor, "key"]) -> Rule:
        k = torch.tensor([_UNLIMITED if width is None else width for width in self.k], device=query.device)
        near = (query[:, None] - key[None, :]).abs() <= k[:, None, None]  # [head, query, key]
        if self.n_rows is None:
            return near[None]
        rows = torch.tensor(self.n_rows, device=query.device)
        return near[None] | (query[None, :] >= rows[:, None])[:, None, :, None]


@dataclass(frozen=True)
class KnockOut:
    """No query of ``queries`` attends to a key of ``keys``, in the heads flagged by ``heads`` (``None``: all)."""

    queries: Positions
    keys: Positions
    heads: tuple[bool, ...] | None = None

    def __call__(self, query: Int[Tensor, "query"], key: Int[Tensor, "key"]) -> Rule:
        cut = (self.queries.mask(query)[:, None] & self.keys.mask(key)[None, :])[None, None]
        return ~_in_heads(cut, self.heads)


@dataclass(frozen=True)
class NoPadding:
    """No query attends to keys after its clip, which fills ``n_keys`` positions.

    clip_rows: mask only the queries of the clip, not those of the padding.
    """

    n_keys: tuple[int, ...]
    clip_rows: bool = False
    heads: tuple[bool, ...] | None = None

    def __call__(self, query: Int[Tensor, "query"], key: Int[Tensor, "key"]) -> Rule:
        ends = torch.tensor(self.n_keys, device=key.device)[:, None]
        cut = (key[None, :] >= ends)[:, None, None, :]  # [clip, 1, 1, key]
        if self.clip_rows:
            cut = cut & (query[None, :] < ends)[:, None, :, None]
        return ~_in_heads(cut, self.heads)


def _in_heads(cut: Tensor, heads: tuple[bool, ...] | None) -> Tensor:
    return cut if heads is None else cut & torch.tensor(heads, device=cut.device)[None, :, None, None]


def window_masks(
    model: WhisperCore,
    k: int | Mapping[Any, int],
    *,
    stack: Stack = "encoder",
    blocks: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    n_speech: Sequence[int] | None = None,
) -> AttnMasks:
    """Return local windows: query i attends to key j only if ``|i - j| <= k``.

    Args:
        k: half-width in positions of 20 ms (tokens in the decoder); or ``{head: k}``, with heads such as
            ``"encoder 2.3"`` or ``(block, head)`` of ``stack``; other heads are not masked.
        blocks, heads: where a single ``k`` applies; default: everywhere.
        n_speech: positions that each clip of the batch fills. Only these query rows are masked, and padding rows see
            everything. Default: all rows.

    Raises:
        MaskError: a block or head does not exist; ``k`` is negative; the stack is ``"cross"``, whose queries and keys
            are on different axes.
    """
    _check_stack(stack)
    if isinstance(k, Mapping):
        if blocks is not None or heads is not None:
            raise MaskError("the keys of {head: k} name blocks and heads: leave out blocks= and heads=")
        widths = dict(zip(read_heads(k, model.cfg, stack, MaskError), k.values(), strict=True))
    else:
        widths = {
            HeadRef(stack, block, head): k
            for block in _blocks(model, stack, blocks)
            for head in _heads(model, stack, heads)
        }
    rows = None if n_speech is None else tuple(int(n) for n in n_speech)
    for ref, width in widths.items():
        if ref.stack == "cross":
            raise MaskError("cross-attention has no local window (tokens attend to positions): use knock_out")
        if width < 0:
            raise MaskError(f"the window of head {ref} must be at least 0, got {width}")
    masks: AttnMasks = {}
    for attention in dict.fromkeys((ref.stack, ref.block) for ref in widths):
        n_heads = n_blocks_and_heads(model.cfg, attention[0])[1]
        per_head = tuple(widths.get(HeadRef(*attention, head)) for head in range(n_heads))
        if rows is None or len(set(rows)) == 1:  # plain windows, for which attention skips the hidden keys
            masks |= _plain_windows(attention_name(*attention), per_head, None if rows is None else rows[0])
        else:
            masks[attention_name(*attention)] = HeadWindows(per_head, rows)
    return masks


def _plain_windows(name: str, widths: Sequence[int | None], n_rows: int | None) -> Iterator[tuple[Any, LocalWindow]]:
    """One window for the whole attention if its heads agree, else one per width."""
    for k in dict.fromkeys(width for width in widths if width is not None):
        heads = tuple(head for head, width in enumerate(widths) if width == k)
        yield (name if len(heads) == len(widths) else (name, heads)), local_window(k, n_rows)


def knock_out(
    model: WhisperCore,
    queries: PositionsLike = None,
    keys: PositionsLike = None,
    *,
    stack: Stack = "encoder",
    blocks: Sequence[int] | None = None,
    heads: Sequence[int] | Sequence[HeadLike] | None = None,
    unit: str = "positions",
) -> AttnMasks:
    """Return an attention knockout: no attention from these queries to these keys.

    Args:
        queries, keys: as for :func:`hooked_whisper.patching.read_positions`; ``None`` for all.
        blocks, heads: where; default: everywhere. ``heads`` may also be ``["cross 1.0", ...]``, without ``blocks``.
        unit: ``"seconds"`` applies to encoder positions: queries and keys of the encoder, keys of cross-attention.
            Decoder tokens are always numbers.

    A query that is left without keys gets a zero output.

    Raises:
        MaskError: a position, block or head does not exist.
    """
    _check_stack(stack)
    check_option("unit", unit, UNITS, MaskError)
    attentions = _attentions(model, stack, blocks, heads)
    n, n_tokens = model.cfg.encoder.n_ctx, model.cfg.decoder.n_ctx
    time = TimeMap(n_ctx=n)
    masks: AttnMasks = {}
    for (attn_stack, block), flags in attentions.items():
        try:
            if attn_stack == "decoder":
                key_positions = read_positions(keys, unit, n=n_tokens)
            else:
                key_positions = read_positions(keys, unit, n=n, time=time)
            if attn_stack == "encoder":
                query_positions = read_positions(queries, unit, n=n, time=time)
            else:
                query_positions = read_positions(queries, n=n_tokens)
        except PatchError as error:
            raise MaskError(str(error)) from error
        masks[attention_name(attn_stack, block)] = KnockOut(query_positions, key_positions, flags)
    return masks


def cut_padding(
    model: WhisperCore,
    n_speech: Sequence[int],
    *,
    stack: Stack = "encoder",
    blocks: Sequence[int] | None = None,
    heads: Sequence[int] | Sequence[HeadLike] | None = None,
    rows: Literal["all", "speech"] = "all",
) -> AttnMasks:
    """Return masks that forbid attention to the padding after a clip.

    Args:
        n_speech: positions that each clip fills: one number per clip, or one for all.
        blocks, heads: as for :func:`knock_out`.
        rows: ``"speech"`` (encoder) masks only queries of the clip; queries of the padding still see everything.

    Raises:
        MaskError: the stack is ``"decoder"``, which has no padding, or ``n_speech`` exceeds the window.
    """
    _check_stack(stack)
    check_option("rows", rows, ("all", "speech"), MaskError)
    ends, n = tuple(int(k) for k in n_speech), model.cfg.encoder.n_ctx
    if not ends or min(ends) < 0 or max(ends) > n:
        raise MaskError(f"n_speech needs one number from 0 to {n} per clip, got {list(ends)}")
    masks: AttnMasks = {}
    for (attn_stack, block), flags in _attentions(model, stack, blocks, heads).items():
        if attn_stack == "decoder":
            raise MaskError("the decoder's tokens have no padding: give stack='encoder' or 'cross'")
        if rows == "speech" and attn_stack == "cross":
            raise MaskError("rows='speech' is for the encoder: queries of cross-attention are tokens")
        masks[attention_name(attn_stack, block)] = NoPadding(ends, rows == "speech", flags)
    return masks


def join_masks(model: WhisperCore, *masks: Mapping[Any, Mask]) -> AttnMasks:
    """Combine several masks: an attention named by more than one allows what all of them allow."""
    joined: AttnMasks = {}
    for (name, heads), same_target in _resolved(model, masks).items():
        target = name if heads is None else (name, heads)
        joined[target] = same_target[0] if len(same_target) == 1 else _Joined(tuple(same_target))
    return joined


@dataclass(frozen=True, eq=False)
class _Joined:
    masks: tuple[Mask, ...]

    def __call__(self, query: Int[Tensor, "query"], key: Int[Tensor, "key"]) -> Tensor:
        parts = []
        for mask in self.masks:
            if isinstance(mask, Tensor):
                mask = mask if mask.shape[-1] == 1 else mask[..., : len(key)]
                if mask.dim() > 1 and mask.shape[-2] != 1:
                    mask = mask[..., int(query[0]) : int(query[0]) + len(query), :]
                parts.append(mask.to(query.device))
            else:
                parts.append(mask(query, key))
        return merge_masks(parts)


def mask_hooks(model: WhisperCore, attn_masks: Mapping[Any, Mask]) -> list[tuple[str, Any]]:
    """Return the same masks as hooks on ``hook_attn_scores``, for ``model.hooks(fwd_hooks=...)``.

    Hooks can be mixed with others in any order. Masks are faster, since hooks make all scores explicit.
    """
    modules = model.attention_modules()
    entries: dict[str, list[MaskEntry]] = {}
    for (name, heads), masks in _resolved(model, [attn_masks]).items():
        entries.setdefault(name, []).extend(MaskEntry(mask, heads) for mask in masks)
    return [(f"{name}.hook_attn_scores", _score_hook(modules[name], of_module)) for name, of_module in entries.items()]


def _score_hook(attn: Attention, entries: Sequence[MaskEntry]) -> Any:
    def mask_scores(scores: Float[Tensor, "batch head query key"], hook: HookPoint) -> Tensor:
        batch, n_heads, n_query, n_key = scores.shape
        start = 0 if attn.kind == "encoder" else hook.offset
        now = AttentionPass(attn.name, attn.kind, batch, n_heads, start, n_query, n_key, scores.device)
        mask = combine_masks(entries, False, now)
        assert mask is not None
        return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.to(scores.dtype)

    return mask_scores


def _resolved(
    model: WhisperCore, masks: Sequence[Mapping[Any, Mask]]
) -> dict[tuple[str, tuple[int, ...] | None], list[Mask]]:
    """Masks by module name and heads."""
    modules = model.attention_modules()
    n_heads = {name: attn.n_heads for name, attn in modules.items()}
    resolved: dict[tuple[str, tuple[int, ...] | None], list[Mask]] = {}
    for by_target in masks:
        for target, mask in by_target.items():
            check_mask(mask, str(target))
            for name, heads in resolve_target(target, list(modules), n_heads).items():
                resolved.setdefault((name, heads), []).append(mask)
    return resolved


def _check_stack(stack: Any) -> None:
    check_option("stack", stack, STACKS, MaskError)


def _attentions(
    model: WhisperCore,
    stack: Stack,
    blocks: Sequence[int] | None,
    heads: Sequence[int] | Sequence[HeadLike] | None,
) -> dict[tuple[Stack, int], tuple[bool, ...] | None]:
    """Return the attention modules to mask, and their heads (``None``: all)."""
    if isinstance(heads, list | tuple) and any(isinstance(head, HeadRef | str | tuple) for head in heads):
        if blocks is not None:
            raise MaskError("heads such as 'encoder 2.3' name their block: leave out blocks=")
        refs = read_heads(heads, model.cfg, stack, MaskError)  # type: ignore[arg-type]
        numbers: dict[tuple[Stack, int], set[int]] = {}
        for ref in refs:
            numbers.setdefault((ref.stack, ref.block), set()).add(ref.head)
        return {target: _flags(model, target[0], of_target) for target, of_target in numbers.items()}
    flags = None if heads is None else _flags(model, stack, set(_heads(model, stack, heads)))  # type: ignore[arg-type]
    return {(stack, block): flags for block in _blocks(model, stack, blocks)}


def _flags(model: WhisperCore, stack: Stack, heads: set[int]) -> tuple[bool, ...]:
    return tuple(head in heads for head in range(n_blocks_and_heads(model.cfg, stack)[1]))


def _blocks(model: WhisperCore, stack: Stack, blocks: Sequence[int] | None) -> list[int]:
    return list(read_indices(blocks, n_blocks_and_heads(model.cfg, stack)[0], f"blocks of {stack}", MaskError))


def _heads(model: WhisperCore, stack: Stack, heads: Sequence[int] | None) -> list[int]:
    return list(read_indices(heads, n_blocks_and_heads(model.cfg, stack)[1], f"heads of {stack}", MaskError))
