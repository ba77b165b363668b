"""Replace encoder outputs over spans of time: cut words out, or splice in others.

Source of the experiment: "chopping" in github.com/er537/whisper_interpretability (``docs/index.md``) and its blog post,
section 2.2: ``enc_out[a:b] = enc_out_for_padding_only[a:b]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.indices import read_indices
from hooked_whisper.audio import TimeMap
from hooked_whisper.audio.mel import Number
from hooked_whisper.errors import HookedWhisperError, PatchError, check_option
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions.baseline_inputs import BASELINE_INPUTS, baseline_encoding
from hooked_whisper.patching.positions import UNITS, PositionsLike, read_positions
from hooked_whisper.protocols import Positions


def replace_span(
    encoder_out: Float[Tensor, "batch position d_model"],
    start: Number,
    stop: Number,
    source: Float[Tensor, "#batch position d_model"] | Float[Tensor, "position d_model"],
    *,
    unit: str = "positions",
    time: TimeMap | None = None,
) -> Float[Tensor, "batch position d_model"]:
    """Return a copy of ``encoder_out`` with ``[start, stop)`` taken from the same positions of ``source``.

    Args:
        start, stop: half-open; encoder positions, or seconds with ``unit="seconds"``.
        source: another encoder output, of one clip (for all rows) or with one clip per row.
        unit: ``"positions"``, or ``"seconds"``: every position that overlaps the span.
        time: time map of the model (``model.time``) for seconds; default: 20 ms per position.

    Raises:
        PatchError: the span lies outside the window or ends before it starts.
    """
    check_option("unit", unit, UNITS, PatchError)
    n = encoder_out.shape[1]
    span = read_positions((start, stop), unit, n=n, time=time or TimeMap(n_ctx=n))
    out = encoder_out.clone()
    out[:, span.start : span.stop] = source[..., span.start : span.stop, :].to(out)
    return out


def replace_spans(
    encoder_out: Float[Tensor, "position d_model"],
    spans: Sequence[slice],
    source: Float[Tensor, "position d_model"],
) -> Float[Tensor, "row position d_model"]:
    """Return one row per span: many replacements of one clip's encoder output, to decode as one batch."""
    rows = encoder_out.expand(len(spans), -1, -1).clone()
    for row, span in zip(rows, spans, strict=True):
        indices = read_indices(span, len(encoder_out), "positions of this encoder output", PatchError, clamp=False)
        row[list(indices)] = source[list(indices)].to(row)
    return rows


@dataclass(frozen=True, eq=False)
class EncoderEdit:
    """A replacement of encoder outputs.

    Call it on an encoder output, pass it to :func:`compare_transcripts` as ``encoder_edit=``, or make it live with
    ``model.hooks(fwd_hooks=edit.hooks)``.

    source: ``[1 or clip, position, d_model]``. rows: positions to replace, in all clips (key ``None``) or by clip.
    """

    source: Float[Tensor, "clip position d_model"] = field(repr=False)
    rows: Mapping[int | None, Positions]
    name: str

    def __call__(self, encoder_out: Float[Tensor, "batch position d_model"]) -> Float[Tensor, "batch position d_model"]:
        batch, n = encoder_out.shape[:2]
        if self.source.shape[1:] != encoder_out.shape[1:] or self.source.shape[0] not in (1, batch):
            raise HookedWhisperError(
                f"the source is {list(self.source.shape)}, the encoder output {list(encoder_out.shape)}: "
                "give a source of the same size, of one clip or of the same number of clips"
            )
        numbers = torch.arange(n, device=encoder_out.device)
        mask = torch.zeros(batch, n, dtype=torch.bool, device=encoder_out.device)
        for row, positions in self.rows.items():
            if row is not None and not 0 <= row < batch:
                raise HookedWhisperError(f"there is no clip {row} in this batch of {batch}: give 0 to {batch - 1}")
            mask[slice(None) if row is None else row] = positions.mask(numbers)
        return torch.where(mask[..., None], self.source.to(encoder_out), encoder_out)

    @property
    def hooks(self) -> list[tuple[str, Any]]:
        """The edit at ``encoder.hook_out``."""
        return [("encoder.hook_out", lambda x: self(x))]


def replace_encoder(
    model: HookedWhisper,
    spans: PositionsLike | Mapping[int, PositionsLike],
    source: str | Float[Tensor, "#clip position d_model"] | Float[Tensor, "position d_model"] = "padding",
    *,
    unit: str = "positions",
    clips: Float[Tensor, "other position d_model"] | None = None,
) -> EncoderEdit:
    """Return an edit that replaces encoder outputs over spans of time.

    Args:
        spans: as for :func:`hooked_whisper.patching.read_positions` (a tuple is one span, a list holds several), for
            every clip; or ``{clip: spans}``, which leaves other clips unchanged.
        source: ``"padding"`` (the encoder output of 30 s of zero samples, as published), a name of
            :data:`BASELINE_INPUTS`, ``"mean"`` (of ``clips``, position by position), or an encoder output.
        unit: of the spans: ``"positions"``, or ``"seconds"``: every position that overlaps them.
        clips: encoder outputs for ``"mean"``.

    Raises:
        HookedWhisperError: the source is unknown or has another size, or a span lies outside the window.
    """
    check_option("unit", unit, UNITS, PatchError)
    names = {"padding": "zero audio", "mean": "mean encoding"}
    if isinstance(source, str):
        kind = names.get(source, source)
        check_option("source, if it is a name,", source, [*names, *BASELINE_INPUTS], PatchError)
        encoding, name = baseline_encoding(model, kind, clips), kind
    else:
        encoding, name = (source if source.dim() == 3 else source[None]), "array"
    n, time = model.cfg.encoder.n_ctx, model.time
    by_row: dict[int | None, PositionsLike] = {**spans} if isinstance(spans, Mapping) else {None: spans}  # type: ignore[dict-item]
    rows = {row: read_positions(positions, unit, n=n, time=time) for row, positions in by_row.items()}
    return EncoderEdit(encoding, rows, name)
