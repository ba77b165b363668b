"""Rows of several hook points from log-mels in memory: one pass that stops at the last point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.hooks import HookPoint
from hooked_whisper.model import WhisperCore

Span = tuple[int, int]
OnRows = Callable[[str, Float[Tensor, "row ..."]], None]


def time_axis(point: HookPoint, error: type[Exception] = HookedWhisperError) -> int:
    """Return the index of a point's position, frame or token axis.

    Raises:
        ``error``: the point has no such axis, or no batch axis.
    """
    axes = [axis for axis in ("position", "frame", "token") if axis in point.axes]
    if not axes or point.axes[0] != "batch":
        raise error(
            f"{point.name} {list(point.axes)} has no position, frame or token axis: take a point such as "
            "encoder.blocks.2.mlp.hook_post"
        )
    return point.axes.index(axes[0])


@torch.no_grad()
def read_rows(
    model: WhisperCore,
    mel: Float[Tensor, "window mel frame"],
    hooks: Sequence[str],
    spans: Sequence[Span],
    *,
    token_spans: Sequence[Span] | None = None,
    lengths: Sequence[int] | None = None,
    tokens: Int[Tensor, "window token"] | None = None,
    on_rows: OnRows | None = None,
) -> dict[str, Float[Tensor, "row ..."]]:
    """Run the model on windows and return each point's rows, window after window, in the order of the forward pass.

    Args:
        hooks: canonical names of points with a position, frame or token axis. A position has two frames.
        spans: first and last (exclusive) encoder position of each window to read.
        token_spans: the same in tokens, for points of the decoder; default: all tokens.
        lengths: positions of each window that the encoder computes, default: all; windows of one length run together.
        tokens: decoder input, for decoder points.
        on_rows: receives each point's rows as soon as the model has computed them; the returned dict is then empty.
    """
    n_ctx = model.cfg.encoder.n_ctx
    sizes = [n_ctx] * len(mel) if lengths is None else list(lengths)
    of_tokens = [(0, tokens.shape[1])] * len(mel) if token_spans is None and tokens is not None else token_spans
    by_length = [[row for row, n in enumerate(sizes) if n == length] for length in sorted(set(sizes))]
    axes = {name: time_axis(model.hook_dict[name]) for name in hooks}
    pieces: dict[str, dict[int, Tensor]] = {}
    results: dict[str, Tensor] = {}

    def deliver(hook: str, rows: Tensor) -> None:
        if on_rows is None:
            results[hook] = rows
        else:
            on_rows(hook, rows)

    for group in by_length:

        def collect(x: Tensor, point: HookPoint, group: Sequence[int] = group) -> None:
            x, steps = x.movedim(axes[point.name], 1), point.steps_per_position
            of_point = spans if point.per_clip else of_tokens
            assert of_point is not None, f"{point.name} was computed without tokens"
            bounds = [of_point[row] for row in group]
            parts = [x[k, start * steps : stop * steps] for k, (start, stop) in enumerate(bounds)]
            rows = torch.cat(parts)
            if len(by_length) == 1:
                deliver(point.name, rows)
            else:
                pieces.setdefault(point.name, {}).update(zip(group, rows.split([len(p) for p in parts]), strict=True))

        length = sizes[group[0]]
        if length < n_ctx:
            _run(model, mel[group, :, : 2 * length], hooks, tokens, slice(0, length), collect)
        else:
            _run(model, mel if len(group) == len(mel) else mel[group], hooks, tokens, None, collect)
    for hook, by_window in pieces.items():
        deliver(hook, torch.cat([by_window[row] for row in range(len(sizes))]))
    return results


def _run(
    model: WhisperCore,
    mel: Float[Tensor, "window mel _"],
    hooks: Sequence[str],
    tokens: Int[Tensor, "window token"] | None,
    mel_positions: slice | None,
    collect: Callable[[Tensor, HookPoint], None],
) -> None:
    with ExitStack() as stack:
        for hook in hooks:
            stack.callback(model.hook_dict[hook].add_reader(collect).remove)
        first = slice(0, 1)  # run_with_cache stops the pass after the last point; its cache is not used
        model.run_with_cache(
            mel,
            tokens,
            names_filter=list(hooks),
            stop_early=True,
            pos_slice=first,
            token_slice=first,
            mel_positions=mel_positions,
        )
