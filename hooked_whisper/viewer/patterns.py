"""Attention patterns of the heads of a stack, cut to the clip and pooled over time, one head at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import ArgumentError, check_option
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import ActivationCache, HookPoint
from hooked_whisper.protocols import STACKS, HeadRef, Stack, attention_name
from hooked_whisper.viewer.packing import PackedMap

_BYTES_PER_CELL = 1.0  # typical, compressed, as base64
_LEAST_COLUMNS = 12  # a map with fewer columns of time shows nothing
_POOLED_AXES: dict[Stack, int] = {"encoder": 2, "cross": 1, "decoder": 0}

Visitor = Callable[[int, Tensor], None]
"""Takes the number of a block and its patterns ``[head, query, key]``."""
PatternSource = Callable[[Visitor], None]
"""Calls a visitor for every block."""


@dataclass(frozen=True, eq=False)
class HeadMap:
    """The map of one head.

    Attributes:
        cells: attention of the queries of a row, on average, to all keys of a column.
        outside: attention of each row to keys after the end of the clip.
    """

    cells: PackedMap
    outside: PackedMap

    @property
    def n_bytes(self) -> int:
        """Bytes of both on the page."""
        return len(self.cells.text) + len(self.outside.text)

    def scaled_as(self, other: HeadMap) -> HeadMap:
        """Return the map in the other's steps, if they are larger, so that both have the same scale of colors."""
        cells = PackedMap.pack(self.cells.values(), other.cells.largest)
        return HeadMap(cells, PackedMap.pack(self.outside.values(), other.outside.largest))


def collect_maps(
    sources: Sequence[PatternSource], heads: Sequence[HeadRef], n_rows: int, n_columns: int, max_bytes: int
) -> tuple[list[dict[HeadRef, HeadMap]], int]:
    """Return the map of every head from each source, and the number of encoder positions per cell: as few as
    ``max_bytes`` allows.

    Args:
        n_rows, n_columns: queries and keys within the clip.
        max_bytes: of all maps together.

    Raises:
        ArgumentError: the maps do not fit.
    """
    stack = heads[0].stack
    n_axes = _POOLED_AXES[stack]
    width = 1
    if n_axes and max_bytes > 0:
        excess = max(1.0, len(sources) * len(heads) * n_rows * n_columns * _BYTES_PER_CELL / max_bytes)
        width = math.ceil(excess ** (1 / n_axes) - 1e-9)
    while max_bytes > 0 and (width == 1 or n_columns / width >= _LEAST_COLUMNS):
        maps = [_pooled_maps(source, heads, n_rows, n_columns, width) for source in sources]
        size = sum(head_map.n_bytes for by_head in maps for head_map in by_head.values())
        if size <= max_bytes:
            return maps, width
        if not n_axes:
            break
        width = max(width + 1, math.ceil(width * (size / max_bytes) ** (1 / n_axes)))
    room = f"{max(max_bytes, 0) / 1e6:.2g} MB"
    raise ArgumentError(
        f"the maps of {len(heads)} head{'' if len(heads) == 1 else 's'} with {n_rows} x {n_columns} cells do not fit "
        f"into the {room} that the page has left for them: choose fewer heads with heads=[...], or raise max_megabytes"
    )


def _pooled_maps(
    source: PatternSource, heads: Sequence[HeadRef], n_rows: int, n_columns: int, width: int
) -> dict[HeadRef, HeadMap]:
    maps: dict[HeadRef, HeadMap] = {}

    def visit(block: int, patterns: Float[Tensor, "head query key"]) -> None:
        for head in heads:
            if head.block == block:
                if not torch.isfinite(patterns[head.head]).all():
                    raise ArgumentError(f"the attention of {head} has NaN or infinite values: repair hooks and weights")
                maps[head] = _pooled_map(patterns[head.head], head.stack, n_rows, n_columns, width)

    source(visit)
    return maps


def _pooled_map(
    pattern: Float[Tensor, "query key"], stack: Stack, n_rows: int, n_columns: int, width: int = 1
) -> HeadMap:
    """Cut one pattern to the clip and join ``width`` positions to a cell: sum over keys, mean over queries."""
    rows = pattern[:n_rows].float()
    rows = rows.clamp_min(0)  # a hook may have written negative values
    inside, outside = rows[:, :n_columns], rows[:, n_columns:].sum(-1)
    if stack != "decoder":
        inside = _grouped(inside.T, width).T
    if stack == "encoder":
        sizes = _grouped(torch.ones_like(outside), width)
        inside = _grouped(inside, width) / sizes[:, None]
        outside = _grouped(outside, width) / sizes
    return HeadMap(PackedMap.pack(_numpy(inside)), PackedMap.pack(_numpy(outside)))


def _grouped(values: Float[Tensor, "position ..."], width: int) -> Float[Tensor, "cell ..."]:
    """Sum every ``width`` neighbors of the first axis; the last group may be smaller."""
    if width == 1:
        return values
    padding = values.new_zeros(-len(values) % width, *values.shape[1:])
    return torch.cat([values, padding]).unflatten(0, (-1, width)).sum(1)


def _numpy(values: Tensor) -> Float[np.ndarray, "..."]:
    return values.detach().double().cpu().numpy()


def pattern_name(stack: Stack, block: int) -> str:
    """Return the hook point of a block's patterns."""
    return f"{attention_name(stack, block)}.hook_pattern"


def cached_blocks(cache: ActivationCache, stack: Stack, n_blocks: int) -> list[int]:
    """Return the blocks whose patterns are in the cache.

    Raises:
        ArgumentError: there are none.
    """
    check_option("stack", stack, STACKS)
    blocks = [block for block in range(n_blocks) if pattern_name(stack, block) in cache]
    if not blocks:
        names = pattern_name(stack, 0).replace(".0.", ".*.")
        raise ArgumentError(
            f"the cache has no attention pattern of the stack {stack!r}: make it with "
            f"run_with_cache(..., names_filter={names!r})"
        )
    return blocks


def cached_patterns(cache: ActivationCache, heads: Sequence[HeadRef], n_queries: int, n_keys: int) -> PatternSource:
    """Return the source of the patterns in a cache.

    Raises:
        ArgumentError: a pattern is of several clips, or has other numbers of queries and keys.
        UnknownHookError: the block of a head is not in the cache.
    """
    names = {block: pattern_name(heads[0].stack, block) for block in sorted({head.block for head in heads})}
    for name in names.values():
        *batch, _, queries, keys = cache[name].shape
        if batch not in ([], [1]):
            raise ArgumentError(
                f"the cache holds {batch[0]} clips, but the viewer shows one: give cache.slice(batch=0) and its audio"
            )
        if (queries, keys) != (n_queries, n_keys):
            raise ArgumentError(
                f"{name} in the cache has {queries} queries and {keys} keys, expected {n_queries} and {n_keys}: give "
                "the tokens of that pass, and cache it without pos_slice and token_slice"
            )

    def source(visit: Visitor) -> None:
        for block, name in names.items():
            pattern = cache[name]
            visit(block, pattern[0] if pattern.ndim == 4 else pattern)

    return source


def live_patterns(model: HookedWhisper, heads: Sequence[HeadRef], run: Callable[[], object]) -> PatternSource:
    """Return the source that reads the patterns during ``run()``, a pass of the model: one block at a time."""
    names = [pattern_name(heads[0].stack, block) for block in sorted({head.block for head in heads})]

    def source(visit: Visitor) -> None:
        def hook_fn(pattern: Tensor, hook: HookPoint) -> None:
            visit(hook.layer(), pattern[0])

        with torch.no_grad(), model.hooks(fwd_hooks=[(names, hook_fn)]):
            run()

    return source
