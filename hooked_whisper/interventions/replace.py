"""Replace encoder outputs over spans of time: cut words out, or splice in others.

Source of the experiment: "chopping" in github.com/er537/whisper_interpretability (``docs/index.md``) and its blog post,
section 2.2: ``enc_out[a:b] = enc_out_for_padding_only[a:b]``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.indices import read_indices
from hooked_whisper._support.showing import Showing, Summary
from hooked_whisper.audio import TimeMap
from hooked_whisper.audio.mel import Number
from hooked_whisper.errors import HookedWhisperError, PatchError, check_option
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions.baseline_inputs import BASELINE_INPUTS, baseline_encoding
from hooked_whisper.interventions.named_words import WordName, Words, find_word, is_word_name
from hooked_whisper.patching.positions import UNITS, PositionsLike, read_positions
from hooked_whisper.protocols import Interval, Positions

Spans = PositionsLike | WordName | Sequence[WordName]
WORD_MARGIN = 0.1
"""Seconds that :func:`replace_encoder` adds on each side of a word. Finding F4 measures 0 to 0.2 s."""


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


@dataclass(frozen=True, eq=False, repr=False)
class EncoderEdit(Showing):
    """A replacement of encoder outputs.

    Call it on an encoder output, pass it to :func:`compare_transcripts` as ``encoder_edit=``, or make it live with
    ``model.hooks(fwd_hooks=edit.hooks)``.

    source: ``[1 or clip, position, d_model]``. rows: positions to replace, in all clips (key ``None``) or by clip.
    """

    source: Float[Tensor, "clip position d_model"]
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

    def summary(self) -> Summary:
        time = TimeMap(n_ctx=self.source.shape[1])
        rows = tuple(
            ("all clips" if row is None else f"clip {row}", positions.label, _seconds_text(positions, time))
            for row, positions in self.rows.items()
        )
        title = f"EncoderEdit: encoder output replaced by {self.name!r} {list(self.source.shape)}"
        return Summary(title, columns=("clips", "words", "span"), rows=rows)


def _seconds_text(positions: Positions, time: TimeMap) -> str:
    if positions.spans is None:
        return "the whole window"
    step = time.seconds_per_position
    spans = [f"{step * start:.2f}-{step * stop:.2f} s" for start, stop in positions.spans[:4]]
    return (", ".join(spans) or "nothing") + (", ..." if len(positions.spans) > 4 else "")


def replace_encoder(
    model: HookedWhisper,
    spans: Spans | Mapping[int, Spans],
    source: str | Float[Tensor, "#clip position d_model"] | Float[Tensor, "position d_model"] = "padding",
    *,
    unit: str = "positions",
    margin: Number | None = None,
    alignment: Words | Sequence[Words] | Mapping[int, Words] | None = None,
    clips: Float[Tensor, "other position d_model"] | None = None,
) -> EncoderEdit:
    """Return an edit that replaces encoder outputs over spans of time.

        replace_encoder(model, "country", alignment=alignment)  # cut a word, with 0.1 s on each side
        replace_encoder(model, ("country", 2), alignment=alignment, margin=0)  # its second occurrence, as aligned

    Args:
        spans: as for :func:`hooked_whisper.patching.read_positions` (a tuple is one span, a list holds several), or
            words by name, see :func:`find_word`; for every clip, or ``{clip: spans}``, which leaves other clips
            unchanged.
        source: ``"padding"`` (the encoder output of 30 s of zero samples, as published), a name of
            :data:`BASELINE_INPUTS`, ``"mean"`` (of ``clips``, position by position), or an encoder output.
        unit: of the spans: ``"positions"``, or ``"seconds"``: every position that overlaps them.
        margin: seconds added on each side. Default: 0.1 around words (by name, or an interval of an alignment) and 0
            around spans in numbers. Word times are accurate to about 0.1 s, and a cut of the aligned span alone often
            leaves the word: in F4 on tiny.en and packaged speech, 84 % of the words disappear without a margin, 94 %
            with 0.1 s, and more does not help. A margin also reaches the neighbors: 13 % of them disappear without one,
            50 % with 0.1 s.
        alignment: words with times, to find words by name; with ``{clip: spans}``, one alignment per clip.
        clips: encoder outputs for ``"mean"``.

    Raises:
        HookedWhisperError: the source is unknown or has another size, a span lies outside the window, a word is not
            spoken or is spoken more than once, or ``margin`` is not a number of at least 0.
    """
    check_option("unit", unit, UNITS, PatchError)
    if margin is not None and not _is_margin(margin):
        raise PatchError(f"margin is {margin!r}: give seconds, at least 0")
    if isinstance(alignment, str):
        raise PatchError(
            f"alignment is {alignment!r}: give words with times, such as "
            "hooked_whisper.analysis.align(model, mel, text)"
        )
    names = {"padding": "zero audio", "mean": "mean encoding"}
    if isinstance(source, str):
        kind = names.get(source, source)
        check_option("source, if it is a name,", source, [*names, *BASELINE_INPUTS], PatchError)
        encoding, name = baseline_encoding(model, kind, clips), kind
    else:
        encoding, name = (source if source.dim() == 3 else source[None]), "array"
    by_row: dict[int | None, Spans] = {**spans} if isinstance(spans, Mapping) else {None: spans}  # type: ignore[dict-item]
    rows = {
        row: _read_spans(model.time, of_row, unit, margin, _words_of(alignment, row)) for row, of_row in by_row.items()
    }
    return EncoderEdit(encoding, rows, name)


def _is_margin(margin: Any) -> bool:
    number = isinstance(margin, Real) and not isinstance(margin, bool)
    return number and math.isfinite(margin) and margin >= 0


def _read_spans(time: TimeMap, spans: Spans, unit: str, margin: Number | None, words: Words | None) -> Positions:
    """Return the positions of spans and words, with their margins."""
    entries: list[Any] = spans if isinstance(spans, list) else [spans]
    if not any(isinstance(entry, Interval) or is_word_name(entry) for entry in entries):
        return _widened(read_positions(spans, unit, n=time.n_ctx, time=time), margin or 0, time)  # type: ignore[arg-type]
    around_words = WORD_MARGIN if margin is None else margin
    parts = []
    for entry in entries:
        if is_word_name(entry):
            if words is None:
                raise PatchError(
                    f"{entry!r} is a word by name, which needs word times: give alignment=, such as "
                    "hooked_whisper.analysis.align(model, mel, text)"
                )
            entry = find_word(words, entry)
        if isinstance(entry, Interval):
            start, end = max(0.0, entry.start - around_words), entry.end + around_words
            entry = Interval(start, max(entry.end, min(end, time.duration)), entry.label)
            parts.append(read_positions(entry, n=time.n_ctx, time=time))
        else:
            parts.append(_widened(read_positions(entry, unit, n=time.n_ctx, time=time), margin or 0, time))
    labels = [part.label for part in parts if part.label]
    if any(part.spans is None for part in parts):
        return Positions(None, ", ".join(labels))
    return Positions(tuple(span for part in parts for span in part.spans or ()), ", ".join(labels))


def _widened(positions: Positions, margin: Number, time: TimeMap) -> Positions:
    if not margin or positions.spans is None:
        return positions
    steps = round(margin / time.seconds_per_position)
    spans = ((max(0, start - steps), min(time.n_ctx, stop + steps)) for start, stop in positions.spans)
    return Positions(tuple(spans), positions.label)


def _words_of(alignment: Any, row: int | None) -> Words | None:
    """Return the words of one clip."""
    if alignment is None or hasattr(alignment, "words"):
        return alignment
    if isinstance(alignment, Mapping):
        if row not in alignment:
            raise PatchError(f"alignment= has no clip {row}: give words as {{clip: spans}}, with these clips")
        return alignment[row]
    if not len(alignment) or isinstance(alignment[0], Interval):
        return alignment
    if row is None:
        raise PatchError(f"got {len(alignment)} alignments for all clips: give words as {{clip: spans}}")
    if not 0 <= row < len(alignment):
        raise PatchError(f"there is no alignment for clip {row}: got {len(alignment)}")
    return alignment[row]
