"""The edits of a clip on the page: as interventions, and as Python code for the same interventions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.explorer.clips import MOST_SECONDS, HeardClip
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions import (
    TranscriptChange,
    ablate_heads,
    ablate_neurons,
    compare_transcript,
    replace_encoder,
    window_masks,
)

STACKS = ("encoder", "decoder", "cross")
MOST_EDITS = 200
Head = tuple[str, int, int]


@dataclass(frozen=True)
class Swap:
    """Replace the encoder output in ``[start, end)`` seconds with that of ``clip`` from second ``begin`` on."""

    start: float
    end: float
    clip: str
    begin: float


@dataclass(frozen=True)
class Edits:
    """All edits of a clip.

    cuts, swaps: spans of the encoder's output, in seconds.
    window: half-width of the attention window in every encoder block, in positions.
    heads, units: heads as (stack, block, head) and encoder neurons as (block, neuron), which are set to zero.
    """

    cuts: tuple[tuple[float, float], ...] = ()
    swaps: tuple[Swap, ...] = ()
    window: int | None = None
    heads: tuple[Head, ...] = ()
    units: tuple[tuple[int, int], ...] = ()

    @classmethod
    def from_json(cls, data: Any) -> Edits:
        """Read the edits that the page sends.

        Raises:
            HookedWhisperError: if the data are not valid edits.
        """
        if not isinstance(data, Mapping):
            raise HookedWhisperError(f"edits must be an object, got {type(data).__name__}")
        unknown = set(data) - {"cuts", "swaps", "window", "heads", "units"}
        if unknown:
            raise HookedWhisperError(
                f"unknown edit {sorted(unknown)[0]!r}: expected cuts, swaps, window, heads or units"
            )
        window = data.get("window")
        return cls(
            cuts=tuple(_span(row, "a cut") for row in _rows(data, "cuts")),
            swaps=tuple(_swap(row) for row in _rows(data, "swaps")),
            window=None if window is None else _whole(window, "window"),
            heads=tuple(dict.fromkeys(_head(row) for row in _rows(data, "heads"))),
            units=tuple(dict.fromkeys(_unit(row) for row in _rows(data, "units"))),
        )

    @property
    def inside(self) -> bool:
        """Whether the edits change the encoder, so that it must run again."""
        return bool(self.window is not None or self.units or any(stack == "encoder" for stack, _, _ in self.heads))

    def apply(
        self, model: HookedWhisper, clip: HeardClip, clips: Callable[[str], HeardClip], language: str = "en"
    ) -> TranscriptChange:
        """What the model writes now. Raises ``HookedWhisperError`` for places, heads or neurons that do not exist."""
        edits = [self._swapped(model, swap, clips(swap.clip)) for swap in self.swaps]
        if self.cuts:
            edits.append(replace_encoder(model, list(self.cuts), "padding", unit="seconds"))

        def edit(x: Tensor) -> Tensor:
            for step in edits:
                x = step(x)
            return x

        hooks = [h for stack, heads in self._by_stack().items() for h in ablate_heads(model, heads, stack=stack)]  # type: ignore[arg-type]
        if self.units:
            hooks += ablate_neurons(model, list(self.units))
        masks = {} if self.window is None else window_masks(model, self.window)
        with torch.no_grad():
            return compare_transcript(
                model,
                clip.mel if self.inside else clip.encoded,
                fwd_hooks=hooks,
                attn_masks=masks,
                encoder_edit=edit if edits else None,
                language=language,
                alignment=clip.alignment,
            )

    def python(self, source: str, clip: HeardClip, clips: Callable[[str], HeardClip], language: str = "en") -> str:
        """Return a script that makes the same edits. ``source`` is the argument of ``from_pretrained``."""
        names = ["compare_transcript"]
        steps: list[str] = []
        arguments: list[str] = []
        edits: list[str] = []
        sources = [clip.source]
        for i, swap in enumerate(self.swaps, 1):
            other = clips(swap.clip)
            sources.append(other.source)
            steps += [
                f"other_{i} = model.embed_audio(model.to_mel({other.source}))",
                f"shift = model.time.position({swap.start:g}) - model.time.position({swap.begin:g})",
                f"swap_{i} = replace_encoder(model, ({swap.start:g}, {swap.end:g}), other_{i}.roll(shift, 1), "
                'unit="seconds")',
            ]
            edits.append(f"swap_{i}")
        if self.cuts:
            spans = ", ".join(f"({a:g}, {b:g})" for a, b in self.cuts)
            steps.append(f'cut = replace_encoder(model, [{spans}], "padding", unit="seconds")')
            edits.append("cut")
        if edits:
            names.append("replace_encoder")
            nested = "x"
            for name in edits:
                nested = f"{name}({nested})"
            arguments.append(f"encoder_edit={edits[0] if len(edits) == 1 else f'lambda x: {nested}'}")
        hooks = [f'ablate_heads(model, {heads}, stack="{stack}")' for stack, heads in self._by_stack().items()]
        names += ["ablate_heads"] if hooks else []
        if self.units:
            names.append("ablate_neurons")
            hooks.append(f"ablate_neurons(model, {list(self.units)})")
        if hooks:
            steps.append(f"hooks = {' + '.join(hooks)}")
            arguments.append("fwd_hooks=hooks")
        if self.window is not None:
            names.append("window_masks")
            arguments.append(f"attn_masks=window_masks(model, {self.window})")
        if language != "en":
            arguments.append(f"language={language!r}")
        uses_synthetic = any("SyntheticCorpus" in expression for expression in sources)
        return "\n".join(
            [
                "from hooked_whisper import HookedWhisper",
                f"from hooked_whisper.interventions import {', '.join(sorted(names))}",
                *(["from hooked_whisper.synthetic import SyntheticCorpus"] if uses_synthetic else []),
                "",
                f"model = HookedWhisper.from_pretrained({source!r})",
                f"mel = model.to_mel({clip.source})",
                *steps,
                f"print(compare_transcript({', '.join(['model', 'mel', *arguments])}))",
                "",
            ]
        )

    def _by_stack(self) -> dict[str, list[tuple[int, int]]]:
        return {
            stack: heads
            for stack in STACKS
            if (heads := [(block, head) for kind, block, head in self.heads if kind == stack])
        }

    @staticmethod
    def _swapped(model: HookedWhisper, swap: Swap, other: HeardClip) -> Callable[[Tensor], Tensor]:
        shift = model.time.position(swap.start) - model.time.position(swap.begin)
        return replace_encoder(model, (swap.start, swap.end), other.encoded.roll(shift, 1), unit="seconds")


def _rows(data: Mapping[str, Any], key: str) -> Sequence[Any]:
    rows = data.get(key) or []
    if not isinstance(rows, list):
        raise HookedWhisperError(f"{key} must be a list, got {rows!r}")
    if len(rows) > MOST_EDITS:
        raise HookedWhisperError(f"got {len(rows)} {key}; the page accepts at most {MOST_EDITS}")
    return rows


def _seconds(x: Any, what: str) -> float:
    if isinstance(x, bool) or not isinstance(x, int | float) or not 0 <= x <= MOST_SECONDS:
        raise HookedWhisperError(f"{what} must be from 0 to {MOST_SECONDS:.0f} seconds, got {x!r}")
    return round(float(x), 3)


def _span(row: Any, what: str) -> tuple[float, float]:
    if not isinstance(row, list) or len(row) != 2:
        raise HookedWhisperError(f"{what} must be [start, end] in seconds, got {row!r}")
    start, end = (_seconds(x, what) for x in row)
    if not start < end:
        raise HookedWhisperError(f"{what} must end after it starts, got [{start}, {end}]")
    return start, end


def _swap(row: Any) -> Swap:
    if not isinstance(row, Mapping) or set(row) != {"start", "end", "clip", "begin"}:
        raise HookedWhisperError(f"a swap must have start, end, clip and begin, got {row!r}")
    start, end = _span([row["start"], row["end"]], "a swap")
    begin = _seconds(row["begin"], "a swap's begin")
    if begin + end - start > MOST_SECONDS:
        raise HookedWhisperError(
            f"the window of the other clip ends less than {end - start:.2f} s after second {begin}"
        )
    return Swap(start, end, str(row["clip"]), begin)


def _whole(x: Any, what: str) -> int:
    if isinstance(x, bool) or not isinstance(x, int) or x < 0:
        raise HookedWhisperError(f"{what} must be a whole number of at least 0, got {x!r}")
    return x


def _head(row: Any) -> Head:
    if not isinstance(row, list) or len(row) != 3 or row[0] not in STACKS:
        raise HookedWhisperError(
            f"a head must be [stack, block, head] with a stack of {', '.join(STACKS)}, got {row!r}"
        )
    return row[0], _whole(row[1], "a block"), _whole(row[2], "a head")


def _unit(row: Any) -> tuple[int, int]:
    if not isinstance(row, list) or len(row) != 2:
        raise HookedWhisperError(f"a neuron must be [block, number], got {row!r}")
    return _whole(row[0], "a block"), _whole(row[1], "a neuron")
