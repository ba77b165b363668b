"""Attention masks by what they are for: narrow windows, knocked-out pairs, no padding. And the same masks as hooks.

Every builder returns what the ``attn_masks=`` argument of ``model.hooks`` takes; :func:`join_masks` puts several
together. Query and key indices are absolute, so masks work on live decoding too, where one token is seen at a time.

Sources: windows of ``k`` positions and their variant per head: github.com/er537/whisper_interpretability and comments
on its LessWrong post; knock-out of attention edges: Geva et al. 2023 (arXiv 2304.14767), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper._support.indices import read_indices
from hooked_whisper.audio import TimeMap
from hooked_whisper.errors import MaskError, PatchError, check_option
from hooked_whisper.hooks import HookPoint
from hooked_whisper.interventions.positions import UNITS, Places, Where, places
from hooked_whisper.model import WhisperCore
from hooked_whisper.model.attention import Attention
from hooked_whisper.model.masks import (
    Kind,
    LocalWindow,
    Mask,
    MaskEntry,
    Pass,
    check_mask,
    combine_masks,
    local_window,
    merge_masks,
    resolve_target,
)

AttnMasks = dict[Any, Mask]  # target -> mask, as model.hooks(attn_masks=...) takes it
Rule = Bool[Tensor, "#clip #head #query #key"]
FREE = 1 << 30  # a half-width wider than any window


@dataclass(frozen=True)
class HeadWindows:
    """Query i may attend to key j when ``|i - j| <= k``, with a ``k`` for each head (``None``: no window).

    n_rows: query rows of each clip that are masked (its speech); rows behind them see everything. ``None``: all rows.
    """

    k: tuple[int | None, ...]
    n_rows: tuple[int, ...] | None = None

    def __call__(self, query: Int[Tensor, "query"], key: Int[Tensor, "key"]) -> Rule:
        k = torch.tensor([FREE if one is None else one for one in self.k], device=query.device)
        near = (query[:, None] - key[None, :]).abs() <= k[:, None, None]  # [head, query, key]
        if self.n_rows is None:
            return near[None]
        rows = torch.tensor(self.n_rows, device=query.device)
        return near[None] | (query[None, :] >= rows[:, None])[:, None, :, None]


@dataclass(frozen=True)
class KnockOut:
    """No query of ``queries`` attends to a key of ``keys``; ``heads`` says in which (``None``: all)."""

    queries: Places
    keys: Places
    heads: tuple[bool, ...] | None = None

    def __call__(self, query: Int[Tensor, "query"], key: Int[Tensor, "key"]) -> Rule:
        cut = (self.queries.of(query)[:, None] & self.keys.of(key)[None, :])[None, None]
        return ~_in_heads(cut, self.heads)


@dataclass(frozen=True)
class NoPadding:
    """No query attends to keys behind its clip, which fills ``n_keys`` positions. ``clip_rows`` spares the queries of
    the padding itself."""

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
    k: int | Mapping[tuple[int, int], int],
    *,
    stack: Kind = "encoder",
    blocks: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    n_speech: Sequence[int] | None = None,
) -> AttnMasks:
    """Local windows: query i attends to key j only if ``|i - j| <= k``.

    Args:
        k: half-width in positions of 20 ms (tokens, in the decoder); or ``{(block, head): k}``, all others untouched.
        blocks, heads: where one ``k`` applies (default: everywhere).
        n_speech: positions that each clip of the batch fills: only these query rows are masked, and padding rows
            see everything. Default: all rows.

    Raises:
        MaskError: a block or head that does not exist, a negative ``k``, windows in cross-attention (its queries and
            keys are not on one axis).
    """
    _check_stack(stack)
    if stack == "cross":
        raise MaskError("cross-attention has no local window: tokens and positions are not on one axis; use knock_out")
    n_heads = _sizes(model, stack)[1]
    if isinstance(k, Mapping):
        if blocks is not None or heads is not None:
            raise MaskError("blocks and heads are in the keys of {(block, head): k} already: leave them out")
        chosen = {(int(b), int(h)): width for (b, h), width in k.items()}
    else:
        chosen = {(b, h): k for b in _blocks(model, stack, blocks) for h in _heads(model, stack, heads)}
    rows = None if n_speech is None else tuple(int(n) for n in n_speech)
    for (block, head), width in chosen.items():
        _blocks(model, stack, [block]), _heads(model, stack, [head])
        if width < 0:
            raise MaskError(f"the window of block {block}, head {head} must be at least 0, got {width}")
    by_block = {b: tuple(chosen.get((b, h)) for h in range(n_heads)) for b, _ in chosen}
    if rows is None or len(set(rows)) == 1:  # plain windows, which attention computes without what they hide
        end = None if rows is None else rows[0]
        return {key: mask for b, ks in by_block.items() for key, mask in _plain(attention_name(stack, b), ks, end)}
    return {attention_name(stack, b): HeadWindows(ks, rows) for b, ks in by_block.items()}


def _plain(name: str, ks: Sequence[int | None], end: int | None) -> Iterator[tuple[Any, LocalWindow]]:
    """One window for the whole attention if its heads agree, else one for the heads of each width."""
    for k in dict.fromkeys(k for k in ks if k is not None):
        heads = tuple(h for h, own in enumerate(ks) if own == k)
        yield (name if len(heads) == len(ks) else (name, heads)), local_window(k, end)


def knock_out(
    model: WhisperCore,
    queries: Where = None,
    keys: Where = None,
    *,
    stack: Kind = "encoder",
    blocks: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    unit: str = "positions",
) -> AttnMasks:
    """No attention from these queries to these keys (each: span, list of positions or spans, ``None`` for all).

    ``unit="seconds"`` is for encoder positions: queries and keys of the encoder, keys of cross-attention; decoder
    tokens are always numbers. A query that is left with no key gets a zero output.

    Raises:
        MaskError: a place outside the window, a block or head that does not exist.
    """
    _check_stack(stack)
    check_option("unit", unit, UNITS, MaskError)
    n, time = model.cfg.encoder.n_ctx, TimeMap(n_ctx=model.cfg.encoder.n_ctx)
    tokens = model.cfg.decoder.n_ctx
    try:
        at_keys = places(keys, unit, n=tokens) if stack == "decoder" else places(keys, unit, n=n, time=time)
        query_unit = unit if stack == "encoder" else "positions"
        at_queries = places(queries, query_unit, n=n if stack == "encoder" else tokens, time=time)
    except PatchError as error:
        raise MaskError(str(error)) from error
    rule = KnockOut(at_queries, at_keys, _flags(model, stack, heads))
    return {attention_name(stack, b): rule for b in _blocks(model, stack, blocks)}


def cut_padding(
    model: WhisperCore,
    n_speech: Sequence[int],
    *,
    stack: Kind = "encoder",
    blocks: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    rows: Literal["all", "speech"] = "all",
) -> AttnMasks:
    """Nobody attends to the padding behind a clip, which fills ``n_speech`` positions (one number per clip, or one).

    ``rows="speech"`` (encoder) spares the padding's own queries: they go on seeing everything.

    Raises:
        MaskError: the decoder's self-attention, which has no padding; more positions than the window has.
    """
    _check_stack(stack)
    check_option("rows", rows, ("all", "speech"), MaskError)
    if stack == "decoder":
        raise MaskError("the decoder's tokens have no padding: stack is 'encoder' or 'cross'")
    ends, n = tuple(int(k) for k in n_speech), model.cfg.encoder.n_ctx
    if not ends or min(ends) < 0 or max(ends) > n:
        raise MaskError(f"n_speech needs one number from 0 to {n} per clip, got {list(ends)}")
    if rows == "speech" and stack == "cross":
        raise MaskError("rows='speech' is for the encoder: cross-attention's rows are tokens")
    rule = NoPadding(ends, rows == "speech", _flags(model, stack, heads))
    return {attention_name(stack, b): rule for b in _blocks(model, stack, blocks)}


def join_masks(model: WhisperCore, *masks: Mapping[Any, Mask]) -> AttnMasks:
    """Several masks as one: an attention named by more than one of them allows what all of them allow."""
    joined: AttnMasks = {}
    for (name, heads), found in _entries(model, masks).items():
        key = name if heads is None else (name, heads)
        joined[key] = found[0] if len(found) == 1 else _Joined(tuple(found))
    return joined


@dataclass(frozen=True, eq=False)
class _Joined:
    masks: tuple[Mask, ...]

    def __call__(self, query: Int[Tensor, "query"], key: Int[Tensor, "key"]) -> Tensor:
        found = []
        for mask in self.masks:
            if isinstance(mask, Tensor):
                mask = mask if mask.shape[-1] == 1 else mask[..., : len(key)]
                if mask.dim() > 1 and mask.shape[-2] != 1:
                    mask = mask[..., int(query[0]) : int(query[0]) + len(query), :]
                found.append(mask.to(query.device))
            else:
                found.append(mask(query, key))
        return merge_masks(found)


def mask_hooks(model: WhisperCore, attn_masks: Mapping[Any, Mask]) -> list[tuple[str, Any]]:
    """The same masks as hooks on ``hook_attn_scores``, for ``model.hooks(fwd_hooks=...)``.

    They make every score explicit, so masks are the faster way; hooks can be mixed with others in a chosen order.
    """
    modules = model.attention_modules()
    entries: dict[str, list[MaskEntry]] = {}
    for (name, heads), found in _entries(model, [attn_masks]).items():
        entries.setdefault(name, []).extend(MaskEntry(mask, heads) for mask in found)
    return [(f"{name}.hook_attn_scores", _score_hook(modules[name], some)) for name, some in entries.items()]


def _score_hook(attn: Attention, entries: Sequence[MaskEntry]) -> Any:
    def masked(scores: Float[Tensor, "batch head query key"], hook: HookPoint) -> Tensor:
        batch, n_heads, n_query, n_key = scores.shape
        start = 0 if attn.kind == "encoder" else hook.offset
        now = Pass(attn.name, attn.kind, batch, n_heads, start, n_query, n_key, scores.device)
        mask = combine_masks(entries, False, now)
        assert mask is not None
        return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.to(scores.dtype)

    return masked


def _entries(
    model: WhisperCore, masks: Sequence[Mapping[Any, Mask]]
) -> dict[tuple[str, tuple[int, ...] | None], list[Mask]]:
    modules = model.attention_modules()
    n_heads = {name: attn.n_heads for name, attn in modules.items()}
    found: dict[tuple[str, tuple[int, ...] | None], list[Mask]] = {}
    for one in masks:
        for target, mask in one.items():
            check_mask(mask, str(target))
            for name, heads in resolve_target(target, list(modules), n_heads).items():
                found.setdefault((name, heads), []).append(mask)
    return found


def attention_name(stack: Kind, block: int) -> str:
    """``("cross", 1) -> "decoder.blocks.1.cross_attn"``"""
    _check_stack(stack)
    return f"decoder.blocks.{block}.cross_attn" if stack == "cross" else f"{stack}.blocks.{block}.attn"


def _check_stack(stack: Any) -> None:
    check_option("stack", stack, get_args(Kind), MaskError)


def _sizes(model: WhisperCore, stack: Kind) -> tuple[int, int]:
    """Blocks and heads."""
    _check_stack(stack)
    cfg = model.cfg.encoder if stack == "encoder" else model.cfg.decoder
    return cfg.n_layers, cfg.n_heads


def _blocks(model: WhisperCore, stack: Kind, blocks: Sequence[int] | None) -> list[int]:
    return _checked(blocks, _sizes(model, stack)[0], "block", stack)


def _heads(model: WhisperCore, stack: Kind, heads: Sequence[int] | None) -> list[int]:
    return _checked(heads, _sizes(model, stack)[1], "head", stack)


def _checked(chosen: Sequence[int] | None, n: int, what: str, stack: str) -> list[int]:
    return list(read_indices(chosen, n, f"{what}s of {stack}", MaskError))


def _flags(model: WhisperCore, stack: Kind, heads: Sequence[int] | None) -> tuple[bool, ...] | None:
    if heads is None:
        return None
    some = set(_heads(model, stack, heads))
    return tuple(h in some for h in range(_sizes(model, stack)[1]))
