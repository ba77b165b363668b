"""Replacing encoder outputs over a stretch of time: cutting words out, splicing others in.

Source of the experiment: "chopping" in github.com/er537/whisper_interpretability (``docs/index.md``) and its blog post,
section 2.2: ``enc_out[a:b] = enc_out_for_padding_only[a:b]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.indices import read_indices
from hooked_whisper.audio import TimeMap
from hooked_whisper.audio.mel import Number
from hooked_whisper.errors import HookedWhisperError, PatchError, check_option
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions.baseline_inputs import NULL_INPUTS, null_encoding
from hooked_whisper.interventions.positions import UNITS, Places, Where, places


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
    check_option("unit", unit, UNITS, PatchError)
    n = encoder_out.shape[1]
    ((begin, end),) = places((start, stop), unit, n=n, time=time or TimeMap(n_ctx=n)).spans or ((0, 0),)
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
        indices = read_indices(span, len(encoder_out), "positions of this encoder output", PatchError, clamp=False)
        row[list(indices)] = source[list(indices)].to(row)
    return rows


@dataclass(frozen=True, eq=False)
class EncoderEdit:
    """A replacement of encoder outputs, ready to be used: called on an encoder output it gives the edited one (for
    ``outcome(..., encoder_edit=edit)``), and ``model.hooks(fwd_hooks=edit.hooks)`` makes it live.

    source: what is put in, ``[1 or clip, position, d_model]``. rows: where, for all clips (key ``None``) or clip by
    clip.
    """

    source: Float[Tensor, "clip position d_model"]
    rows: Mapping[int | None, Places]
    name: str

    def __call__(self, encoder_out: Float[Tensor, "batch position d_model"]) -> Float[Tensor, "batch position d_model"]:
        batch, n = encoder_out.shape[:2]
        if self.source.shape[1:] != encoder_out.shape[1:] or self.source.shape[0] not in (1, batch):
            raise HookedWhisperError(
                f"the source is {list(self.source.shape)}, the encoder output {list(encoder_out.shape)}: "
                "give a source of one clip or of as many, of the same size"
            )
        at = torch.arange(n, device=encoder_out.device)
        chosen = torch.zeros(batch, n, dtype=torch.bool, device=encoder_out.device)
        for row, where in self.rows.items():
            if row is not None and not 0 <= row < batch:
                raise HookedWhisperError(f"there is no clip {row} in this batch of {batch}")
            chosen[slice(None) if row is None else row] = where.of(at)
        return torch.where(chosen[..., None], self.source.to(encoder_out), encoder_out)

    @property
    def hooks(self) -> list[tuple[str, Any]]:
        """The edit at ``encoder.hook_out``."""
        return [("encoder.hook_out", lambda x: self(x))]


def replace_encoder(
    model: HookedWhisper,
    spans: Where | Mapping[int, Where],
    source: str | Float[Tensor, "#clip position d_model"] | Float[Tensor, "position d_model"] = "padding",
    *,
    unit: str = "positions",
    clips: Float[Tensor, "other position d_model"] | None = None,
) -> EncoderEdit:
    """Replace encoder outputs over spans of time.

    Args:
        spans: as for :func:`hooked_whisper.interventions.positions.places` (a tuple is a span, a list holds several),
            for every clip; or ``{clip: spans}``, the other clips staying as they are.
        source: ``"padding"`` (the encoder output of 30 s of zero samples, as published), any name of
            :data:`hooked_whisper.interventions.NULL_INPUTS`, ``"mean"`` (of ``clips``, position by position), or an
            encoder output: another clip's, or any array.
        unit: of the spans: ``"positions"``, or ``"seconds"``: the positions whose cell has a part in them.
        clips: encoder outputs to take the mean of.

    Raises:
        HookedWhisperError: an unknown source, spans outside the window, a source of another size.
    """
    check_option("unit", unit, UNITS, PatchError)
    names = {"padding": "zero audio", "mean": "mean encoding"}
    if isinstance(source, str):
        kind = names.get(source, source)
        check_option("source (or an encoder output)", source, [*names, *NULL_INPUTS], PatchError)
        given, name = null_encoding(model, kind, clips), kind
    else:
        given, name = (source if source.dim() == 3 else source[None]), "array"
    n, time = model.cfg.encoder.n_ctx, model.time
    listed: dict[int | None, Where] = {**spans} if isinstance(spans, Mapping) else {None: spans}  # type: ignore[dict-item]
    return EncoderEdit(given, {row: places(where, unit, n=n, time=time) for row, where in listed.items()}, name)
