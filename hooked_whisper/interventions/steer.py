"""Steering: add vectors to activations, such as the difference of two class means, and compare with random vectors.

Sources: github.com/er537/whisper_interpretability (language steering of the encoder, ``h += f (mean_fr - mean_de)``,
with means per position); Turner et al. 2023 (arXiv 2308.10248); Rimsky et al. 2023 (arXiv 2312.06681).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.heatmap import line_chart
from hooked_whisper._support.plotly_figures import Backend, check_backend
from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper._support.showing import Summary, Tabular, counted
from hooked_whisper.corpora import Recording
from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import HookPoint
from hooked_whisper.interventions.ablate import position_mask
from hooked_whisper.interventions.activation_values import Clips, means
from hooked_whisper.interventions.comparison import clean_transcripts
from hooked_whisper.interventions.transcript_changes import TranscriptChanges
from hooked_whisper.model import WhisperCore
from hooked_whisper.patching.positions import UNITS, PositionsLike, point_positions, span_label
from hooked_whisper.protocols import Positions

FwdHooks = list[tuple[str, Any]]
Vector = Float[Tensor, "*axes d"]


@renamed_arguments(where="positions")
def steer(
    model: WhisperCore,
    name: str,
    vector: Vector,
    coefficient: float | int = 1.0,
    *,
    positions: PositionsLike = None,
    unit: str = "positions",
) -> FwdHooks:
    """Return hooks that add ``coefficient * vector`` at one point.

    Args:
        vector: ``[d]``, or ``[head, d]`` where the point has heads; with one more axis in front, one vector per
            position (:func:`position_mean`).
        positions, unit: steer only here; see :func:`hooked_whisper.patching.read_positions`. Default: everywhere,
            including padding.

    Raises:
        PatchError: the vector does not fit, the point has no positions or tokens, or a position does not exist.
    """
    check_option("unit", unit, UNITS, PatchError)
    names = model.hook_names(name)
    if len(names) != 1:
        raise PatchError(f"{name!r} names {len(names)} points: give one (hooks for several can be concatenated)")
    point = model.hook_dict[names[0]]
    axis = point.sequence_axis
    if axis is None or point.axes[0] != "batch" or "key" in point.axes or point.axes[-1] == axis:
        raise PatchError(f"{point.name} {list(point.axes)} has no vector per position or token to add to")
    time_axis = point.axes.index(axis)
    read = point_positions(model, point, positions, unit)
    step = coefficient * vector
    inner = [name for name in point.axes[1:] if name != axis]
    if vector.dim() not in (1, len(inner), len(inner) + 1):
        raise PatchError(
            f"{point.name} {list(point.axes)} needs a vector [d], [{', '.join(inner)}] or [{axis}, "
            f"{', '.join(inner)}], got one with {vector.dim()} axes"
        )
    return [(point.name, _Steering(step, read, time_axis, per_position=vector.dim() == len(inner) + 1))]


@dataclass(frozen=True, eq=False, repr=False)
class _Steering:
    """Hook that adds a vector, or one vector per position, at some positions."""

    step: Vector
    positions: Positions
    time_axis: int
    per_position: bool

    def __call__(self, x: Tensor, hook: HookPoint) -> Tensor:
        step = self.step
        if step.shape[-1] != x.shape[-1]:
            raise PatchError(f"{hook.name}: the vector has {step.shape[-1]} entries, activations have {x.shape[-1]}")
        mask = position_mask(self.positions, x, hook, self.time_axis).to(x)
        if not self.per_position:
            return x + step.to(x) * mask
        numbers = hook.first_index + torch.arange(x.shape[self.time_axis], device=x.device)
        if int(numbers[-1]) >= len(step):
            raise PatchError(f"{hook.name}: there are vectors for {len(step)} positions, none for number {numbers[-1]}")
        return x + step.to(x)[numbers] * mask

    def __repr__(self) -> str:
        where = span_label(self.positions)
        return f"<add a vector of norm {float(self.step.norm()):.4g} {list(self.step.shape)} at positions: {where}>"


@renamed_arguments(mels="clips")
def class_mean(
    model: HookedWhisper,
    clips: Clips,
    name: str,
    *,
    tokens: Int[Tensor, "clip token"] | None = None,
    n_valid: Sequence[int] | None = None,
) -> Vector:
    """Return the mean activation of a class's clips at one point, over positions that are not padding (in the decoder,
    over all tokens); arguments as for :func:`means`.

    Raises:
        PatchError: ``name`` names several points; as :func:`means`.
    """
    by_point = means(model, clips, name, tokens=tokens, n_valid=n_valid).values
    if len(by_point) != 1:
        raise PatchError(f"{name!r} names {len(by_point)} points: give one")
    return next(iter(by_point.values()))


@renamed_arguments(mels_a="clips_a", mels_b="clips_b")
def mean_difference(
    model: HookedWhisper,
    clips_a: Float[Tensor, "clip_a mel frame"] | Sequence[Recording],
    clips_b: Float[Tensor, "clip_b mel frame"] | Sequence[Recording],
    name: str,
    *,
    tokens_a: Int[Tensor, "clip_a token"] | None = None,
    tokens_b: Int[Tensor, "clip_b token"] | None = None,
    n_valid_a: Sequence[int] | None = None,
    n_valid_b: Sequence[int] | None = None,
) -> Vector:
    """Return the mean of class a minus the mean of class b: the direction from b to a."""
    a = class_mean(model, clips_a, name, tokens=tokens_a, n_valid=n_valid_a)
    return a - class_mean(model, clips_b, name, tokens=tokens_b, n_valid=n_valid_b)


def random_control(vector: Vector, seed: int) -> Vector:
    """Return a vector of the same norm (per head or position) in a random direction."""
    direction = torch.randn(vector.shape, generator=torch.Generator().manual_seed(seed)).to(vector)
    return direction * vector.norm(dim=-1, keepdim=True) / direction.norm(dim=-1, keepdim=True)


@dataclass(frozen=True, repr=False)
class SteerSweep(Tabular):
    """Transcript changes of a vector at each coefficient, and of random vectors of the same norm (controls)."""

    name: str
    coefficients: tuple[float | int, ...]
    steered: tuple[TranscriptChanges, ...]
    controls: tuple[tuple[TranscriptChanges, ...], ...]  # [control][coefficient]

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per coefficient: WER and mean log-probability change (nats) of the vector, and the means of
        both over the controls."""
        rows = []
        for k, (coefficient, changes) in enumerate(zip(self.coefficients, self.steered, strict=True)):
            random = [control[k] for control in self.controls]
            n = max(len(random), 1)
            rows.append(
                {
                    "coefficient": coefficient,
                    "wer": changes.wer,
                    "logprob_change": changes.logprob_change,
                    "control_wer": sum(r.wer for r in random) / n if random else float("nan"),
                    "control_logprob_change": sum(r.logprob_change for r in random) / n if random else float("nan"),
                }
            )
        return rows

    def summary(self) -> Summary:
        sizes = f"{counted(len(self.steered), 'coefficient')}, {counted(len(self.controls), 'control')}"
        title = f"SteerSweep at {self.name}: {sizes}"
        notes = ("log-probability change: mean per word of the unedited text (nats)",)
        rows = self.to_rows()
        columns = ("coefficient", "WER", "log-prob change", "WER of controls", "log-prob change of controls")
        return Summary(title, notes, columns, tuple(tuple(row.values()) for row in rows))

    def plot(self, title: str = "", *, backend: Backend = "matplotlib") -> Any:
        """Draw the log-probability change over the coefficient, with the mean of the controls."""
        check_backend(backend)
        rows = self.to_rows()
        coefficients = [row["coefficient"] for row in rows]
        lines: dict[str, Any] = {"vector": (coefficients, [row["logprob_change"] for row in rows])}
        if self.controls:
            lines["random vectors"] = (coefficients, [row["control_logprob_change"] for row in rows])
        return line_chart(
            lines,
            title=title or f"Steering at {self.name}",
            x="coefficient",
            y="log-probability change per word (nats)",
            facecolor="white",
            backend=backend,
        )


@renamed_arguments(where="positions")
def sweep_coefficients(
    model: HookedWhisper,
    clips: Float[Tensor, "clip mel frame"] | Float[Tensor, "clip position d_model"],
    name: str,
    vector: Vector,
    coefficients: Sequence[float | int],
    *,
    controls: int = 1,
    seed: int = 0,
    positions: PositionsLike = None,
    unit: str = "positions",
    **comparison_options: Any,
) -> SteerSweep:
    """Steer with every coefficient, and with ``controls`` random vectors of the same norm.

    ``comparison_options`` are those of :func:`compare_transcripts` (references, texts, ...).

    Raises:
        PatchError: there is no coefficient; as :func:`steer`.
    """
    if not coefficients:
        raise PatchError("give at least one coefficient")

    of_clean = {
        option: comparison_options.pop(option)
        for option in ("alignments", "language", "max_new_tokens")
        if option in comparison_options
    }
    clean = clean_transcripts(model, clips, **of_clean)

    def run(v: Vector) -> tuple[TranscriptChanges, ...]:
        return tuple(
            clean.compare(
                fwd_hooks=steer(model, name, v, coefficient, positions=positions, unit=unit), **comparison_options
            )
            for coefficient in coefficients
        )

    random = tuple(run(random_control(vector, seed + k)) for k in range(controls))
    return SteerSweep(name, tuple(coefficients), run(vector), random)
