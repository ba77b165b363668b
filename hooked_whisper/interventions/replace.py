"""Replacing encoder outputs over a stretch of time: cutting words out, splicing others in.

Source of the experiment: "chopping" in github.com/er537/whisper_interpretability (``docs/index.md``) and its blog post,
section 2.2: ``enc_out[a:b] = enc_out_for_padding_only[a:b]``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.audio import TimeMap
from hooked_whisper.audio.mel import Number
from hooked_whisper.errors import HookedWhisperError


def replace_span(
    encoder_out: Float[Tensor, "batch position d_model"],
    start: Number,
    stop: Number,
    source: Float[Tensor, "#batch position d_model"] | Float[Tensor, "position d_model"],
    *,
    unit: str = "positions",
    time: TimeMap | None = None,
) -> Float[Tensor, "batch position d_model"]:
    """A copy of ``encoder_out`` with ``[start, stop)`` taken from the same positions of ``source``.

    Args:
        start, stop: half-open; encoder positions, or seconds with ``unit="seconds"``.
        source: another encoder output, of one clip (for all rows) or of as many as there are rows.
        unit: ``"positions"``, or ``"seconds"``: the positions whose cell has a part in the interval.
        time: the model's clock (``model.time``) for seconds; default: 20 ms a position from the tensor's length.

    Raises:
        HookedWhisperError: a span outside the window, or that ends before it starts.
    """
    n = encoder_out.shape[1]
    if unit == "seconds":
        span = (time or TimeMap(n_ctx=n)).span(start, stop, rounding="outer")
        begin, end = span.start, span.stop
    elif unit == "positions":
        begin, end = int(start), int(stop)
        if begin != start or end != stop:
            raise HookedWhisperError(f"[{start}, {stop}) are not whole positions: give unit='seconds' for seconds")
    else:
        raise HookedWhisperError(f"unit is 'positions' or 'seconds', not {unit!r}")
    if not 0 <= begin <= end <= n:
        raise HookedWhisperError(f"span [{begin}, {end}) is not inside the {n} positions of this encoder output")
    out = encoder_out.clone()
    out[:, begin:end] = source[..., begin:end, :].to(out)
    return out


def replace_spans(
    encoder_out: Float[Tensor, "position d_model"],
    spans: Sequence[slice],
    source: Float[Tensor, "position d_model"],
) -> Float[Tensor, "row position d_model"]:
    """One row per span: many patches of one clip's encoder output, to decode as one batch."""
    rows = encoder_out.expand(len(spans), -1, -1).clone()
    for row, span in zip(rows, spans, strict=True):
        if span.start < 0 or span.stop > len(encoder_out) or span.stop < span.start:
            raise HookedWhisperError(f"{span} is not inside the {len(encoder_out)} positions of this encoder output")
        row[span] = source[span].to(row)
    return rows


def mean_encoding(
    encoder_out: Float[Tensor, "clip position d_model"],
) -> Float[Tensor, "1 position d_model"]:
    """The mean over clips, position by position: an input that is typical and says nothing."""
    return torch.mean(encoder_out, dim=0, keepdim=True)
