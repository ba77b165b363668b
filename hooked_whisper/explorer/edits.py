"""The edits of a clip on the page, as interventions. :mod:`hooked_whisper.explorer.code` writes them as Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import ArgumentError, HookedWhisperError
from hooked_whisper.explorer.clips import MOST_SECONDS, HeardClip
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions import TranscriptChange, ablate_heads, ablate_neurons, replace_encoder, window_masks
from hooked_whisper.interventions.replace import WORD_MARGIN
from hooked_whisper.protocols import STACKS, HeadRef

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
    margin: seconds that every cut is longer on each side.
    window: half-width of the attention window in every encoder block, in positions.
    heads, units: heads as (stack, block, head) and encoder neurons as (block, neuron), which are set to zero.
    """

    cuts: tuple[tuple[float, float], ...] = ()
    swaps: tuple[Swap, ...] = ()
    window: int | None = None
    heads: tuple[Head, ...] = ()
    units: tuple[tuple[int, int], ...] = ()
    margin: float = WORD_MARGIN

    @classmethod
    def from_json(cls, data: Any) -> Edits:
        """Read the edits that the page sends.

        Raises:
            HookedWhisperError: if the data are not valid edits.
        """
        if not isinstance(data, Mapping):
            raise HookedWhisperError(f"edits must be an object, got {type(data).__name__}")
        unknown = set(data) - {"cuts", "swaps", "window", "heads", "units", "margin"}
        if unknown:
            raise HookedWhisperError(
                f"unknown edit {sorted(unknown)[0]!r}: expected cuts, margin, swaps, window, heads or units"
            )
        window = data.get("window")
        return cls(
            cuts=tuple(_span(row, "a cut") for row in _rows(data, "cuts")),
            swaps=tuple(_swap(row) for row in _rows(data, "swaps")),
            window=None if window is None else _whole(window, "window"),
            heads=tuple(dict.fromkeys(_head(row) for row in _rows(data, "heads"))),
            units=tuple(dict.fromkeys(_unit(row) for row in _rows(data, "units"))),
            margin=_seconds(data.get("margin", WORD_MARGIN), "margin"),
        )

    @property
    def inside(self) -> bool:
        """Whether the edits change the encoder, so that it must run again."""
        return bool(self.window is not None or self.units or any(stack == "encoder" for stack, _, _ in self.heads))

    def apply(
        self,
        model: HookedWhisper,
        clip: HeardClip,
        clips: Callable[[str], HeardClip],
        silence: Float[Tensor, "1 position d_model"] | None = None,
    ) -> TranscriptChange:
        """Return how the transcript changes. Only what an edit reaches is computed again.

        Args:
            clips: returns another clip by id, for swaps.
            silence: the encoder output that cuts put in place, if it is known: ``shelf.silence``.

        Raises:
            HookedWhisperError: a span, head or neuron does not exist.
        """
        edits = [self._swapped(model, swap, clips(swap.clip)) for swap in self.swaps]
        if self.cuts:
            source = "padding" if silence is None else silence
            edits.append(replace_encoder(model, list(self.cuts), source, unit="seconds", margin=self.margin))

        def edit(x: Tensor) -> Tensor:
            for step in edits:
                x = step(x)
            return x

        hooks = ablate_heads(model, self.head_refs) if self.heads else []
        if self.units:
            hooks += ablate_neurons(model, list(self.units))
        masks = {} if self.window is None else window_masks(model, self.window)
        return clip.clean.compare(
            fwd_hooks=hooks,
            attn_masks=masks,
            encoder_edit=edit if edits else None,
            max_new_tokens=clip.most_tokens,
        )[0]

    def python(self, source: str, clip: HeardClip, clips: Callable[[str], HeardClip], language: str = "en") -> str:
        """Return a Python script that makes the same edits; see :func:`hooked_whisper.explorer.code.python_code`."""
        from hooked_whisper.explorer.code import python_code

        return python_code(self, source, clip, clips, language)

    @property
    def head_refs(self) -> list[HeadRef]:
        """The heads that are switched off, in the order of the stacks."""
        return [HeadRef.parse(head) for stack in STACKS for head in self.heads if head[0] == stack]

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
    """Read a head as the page names it, ``"encoder 2.3"``, or as ``[stack, block, head]``."""
    if isinstance(row, str | list):
        try:
            head = HeadRef.parse(tuple(row) if isinstance(row, list) else row)
        except (ArgumentError, TypeError):
            head = None
        if head is not None and (isinstance(row, str) or len(row) == 3) and min(head.block, head.head) >= 0:
            return head.stack, head.block, head.head
    raise HookedWhisperError(f"a head must be named like 'encoder 2.3' (stacks: {', '.join(STACKS)}), got {row!r}")


def _unit(row: Any) -> tuple[int, int]:
    if not isinstance(row, list) or len(row) != 2:
        raise HookedWhisperError(f"a neuron must be [block, number], got {row!r}")
    return _whole(row[0], "a block"), _whole(row[1], "a neuron")
