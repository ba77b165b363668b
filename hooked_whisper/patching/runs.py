"""Runs of the model that are patched: their inputs, clean and corrupt pairs, and their cached activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.showing import Showing, Summary, counted, described, joined
from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.patching.metrics import Metric
from hooked_whisper.patching.positions import PositionsLike, span_label
from hooked_whisper.patching.results import DIRECTIONS, Direction
from hooked_whisper.protocols import Positions

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper


@dataclass(frozen=True, eq=False, repr=False)
class RunInputs(Showing):
    """Inputs of one run: decoder tokens, and one clip's mel or encoder output.

    Raises:
        PatchError: neither or both of ``mel`` and ``encoder_out`` are given.
    """

    tokens: Int[Tensor, "1 token"]
    mel: Float[Tensor, "1 mel frame"] | None = None
    encoder_out: Float[Tensor, "1 position d_model"] | None = None

    def __post_init__(self) -> None:
        if (self.mel is None) == (self.encoder_out is None):
            raise PatchError("a run needs either a mel or an encoder output")

    def summary(self) -> Summary:
        name, audio = ("mel", self.mel) if self.encoder_out is None else ("encoder_out", self.encoder_out)
        ids = ", ".join(str(token) for token in self.tokens[0, :24].tolist())
        more = ", ..." if self.tokens.shape[1] > 24 else ""
        n_tokens = counted(self.tokens.shape[1], "token")
        rows = (("tokens", f"{n_tokens}: {ids}{more}"), (name, described(audio)))
        return Summary("RunInputs", rows=rows)


@dataclass(frozen=True, eq=False, repr=False)
class CleanCorruptPair(Showing):
    """A clean run and a corrupt run of the same shape, the metric, and the spans of encoder positions to patch.

    spans: each as for :func:`hooked_whisper.patching.read_positions`, such as a word of an alignment.

    Raises:
        PatchError: the runs have different numbers of tokens.
    """

    clean: RunInputs
    corrupt: RunInputs
    metric: Metric
    spans: tuple[PositionsLike, ...] = ()
    label: str = ""

    def __post_init__(self) -> None:
        n_clean, n_corrupt = self.clean.tokens.shape[1], self.corrupt.tokens.shape[1]
        if n_clean != n_corrupt:
            raise PatchError(
                f"pair {self.label!r}: {n_clean} clean and {n_corrupt} corrupt tokens; give the same number of each"
            )

    def summary(self) -> Summary:
        title = f"CleanCorruptPair: {self.label}" if self.label else "CleanCorruptPair"
        spans = joined(span_label(span) if isinstance(span, Positions) else described(span) for span in self.spans)
        runs = (("clean", self.clean), ("corrupt", self.corrupt))
        rows = (
            ("metric", described(self.metric)),
            ("spans", f"{len(self.spans)}: {spans}" if self.spans else "none (patches cover all positions)"),
            *((f"{name} {field}", text) for name, run in runs for field, text in run.summary().rows),
        )
        return Summary(title, rows=rows)

    def runs(self, direction: Direction) -> tuple[RunInputs, RunInputs]:
        """Return the run to patch (base), and the run that the patches come from (source)."""
        check_option("direction", direction, DIRECTIONS, PatchError)
        return (self.corrupt, self.clean) if direction == "denoise" else (self.clean, self.corrupt)


def with_spans(pairs: Sequence[CleanCorruptPair], spans: Sequence[PositionsLike]) -> tuple[CleanCorruptPair, ...]:
    """Return the same pairs with other spans."""
    return tuple(replace(pair, spans=tuple(spans)) for pair in pairs)


@dataclass(frozen=True, eq=False, repr=False)
class PatchedMetric(Showing):
    """The metric of every patch of a grid, of the base run, and of the source run.

    deviation: with ``window="sound"``, the largest difference to the full window among the patches that were also run
        there, in the metric's unit.
    """

    values: Float[Tensor, "patch"]
    base: float
    source: float
    deviation: float | None = None


def cache_run(model: HookedWhisper, inputs: RunInputs, names: Sequence[str]) -> Mapping[str, Tensor]:
    """Return activations of one run, always with ``encoder.hook_out`` and ``unembed.hook_in`` (last hidden state).

    Raises:
        PatchError: a point inside the encoder is named, but the run has only an encoder output.
    """
    names = list(dict.fromkeys([*names, "encoder.hook_out", "unembed.hook_in"]))
    if inputs.encoder_out is None:
        _, cache = model.run_with_cache(inputs.mel, inputs.tokens, names_filter=names, stop_early=True)
        return {name: cache[name] for name in names}
    names.remove("encoder.hook_out")
    inside = [name for name in names if name.startswith("encoder.")]
    if inside:
        raise PatchError(f"{inside[0]} is inside the encoder: give runs with a mel")
    _, cache = model.run_with_cache(
        tokens=inputs.tokens, encoder_out=inputs.encoder_out, names_filter=names, stop_early=True
    )
    return {name: cache[name] for name in names} | {"encoder.hook_out": inputs.encoder_out}
