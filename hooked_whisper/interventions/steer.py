"""Steering: adding vectors to activations, such as the difference between two classes' means, beside random controls.

Sources: github.com/er537/whisper_interpretability (language steering of the encoder: ``h += f (mean_fr - mean_de)``,
means kept per position); Turner et al. 2023 (arXiv 2308.10248); Rimsky et al. 2023 (arXiv 2312.06681).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.audio import TimeMap
from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import HookPoint
from hooked_whisper.interventions.ablate import CLIPS_AT_ONCE, means, place_mask
from hooked_whisper.interventions.positions import UNITS, Where, places
from hooked_whisper.interventions.transcript_changes import Outcomes, outcomes
from hooked_whisper.model import WhisperCore
from hooked_whisper.patching.grid import PLACES

FwdHooks = list[tuple[str, Any]]
Vector = Float[Tensor, "*where d"]


def steer(
    model: WhisperCore,
    name: str,
    vector: Vector,
    coefficient: float | int = 1.0,
    *,
    where: Where = None,
    unit: str = "positions",
) -> FwdHooks:
    """Hooks that add ``coefficient * vector`` at one point.

    Args:
        vector: ``[d]``, or with a head axis in front of it where the point has one; a further axis in front is one
            vector per position (:func:`position_mean`).
        where, unit: at these places only, see :func:`hooked_whisper.interventions.positions.places`; ``None``:
            everywhere, padding included.

    Raises:
        PatchError: a vector that does not fit, a point without positions or tokens, places that do not exist.
    """
    check_option("unit", unit, UNITS, PatchError)
    names = model.hook_names(name)
    if len(names) != 1:
        raise PatchError(f"{name!r} names {len(names)} points: steer at one (hooks of several can be added up)")
    point = model.hook_dict[names[0]]
    axis = next((a for a in PLACES if a in point.axes), None)
    if axis is None or point.axes[0] != "batch" or "key" in point.axes or point.axes[-1] == axis:
        raise PatchError(f"{point.name} {list(point.axes)} has no vector per position or token to add to")
    place = point.axes.index(axis)
    of_tokens = axis == "token"
    at = places(
        where,
        unit,
        n=model.cfg.decoder.n_ctx if of_tokens else model.cfg.encoder.n_ctx,
        time=None if of_tokens else TimeMap(n_ctx=model.cfg.encoder.n_ctx),
    )
    step = coefficient * vector
    rest = [a for a in point.axes[1:] if a != axis]
    if vector.dim() not in (1, len(rest), len(rest) + 1):
        raise PatchError(
            f"{point.name} {list(point.axes)} needs a vector [d], [{', '.join(rest)}] or [{axis}, {', '.join(rest)}], "
            f"not one with {vector.dim()} axes"
        )
    by_place = vector.dim() == len(rest) + 1

    def add(x: Tensor, hook: HookPoint) -> Tensor:
        if vector.shape[-1] != x.shape[-1]:
            raise PatchError(f"{hook.name}: a vector of {vector.shape[-1]} numbers, activations of {x.shape[-1]}")
        chosen = place_mask(at, x, hook, place).to(x)
        if not by_place:
            return x + step.to(x) * chosen
        numbers = hook.first_place + torch.arange(x.shape[place], device=x.device)
        if int(numbers[-1]) >= len(step):
            raise PatchError(f"{hook.name}: vectors for {len(step)} places, but there is one with number {numbers[-1]}")
        return x + step.to(x)[numbers] * chosen

    return [(point.name, add)]


def class_mean(
    model: WhisperCore,
    mels: Float[Tensor, "clip mel frame"],
    name: str,
    *,
    tokens: Int[Tensor, "clip token"] | None = None,
    n_valid: Sequence[int] | None = None,
) -> Vector:
    """Mean activation of a class's clips at one point, over the positions that are not padding (all tokens, in the
    decoder); arguments as for :func:`hooked_whisper.interventions.ablate.means`."""
    found = means(model, mels, name, tokens=tokens, n_valid=n_valid).values
    if len(found) != 1:
        raise PatchError(f"{name!r} names {len(found)} points: give one")
    return next(iter(found.values()))


@torch.no_grad()
def position_mean(
    model: WhisperCore, mels: Float[Tensor, "clip mel frame"], name: str
) -> Float[Tensor, "position *where"]:
    """Mean over clips, position by position (padding included, as it was published): for steering with one vector per
    position."""
    if len(model.hook_names(name)) != 1 or "position" not in model.hook_points(name)[0].axes[:2]:
        raise PatchError(f"{name!r} is not one point with a position axis")
    total: Tensor | None = None
    for some in mels.split(CLIPS_AT_ONCE):
        _, cache = model.run_with_cache(some, names=name, return_type=None)
        part = cache[model.hook_names(name)[0]].sum(0)
        total = part if total is None else total + part
    if total is None:
        raise PatchError("there are no clips to take the mean of")
    return total / len(mels)


def mean_difference(
    model: WhisperCore,
    mels_a: Float[Tensor, "clip_a mel frame"],
    mels_b: Float[Tensor, "clip_b mel frame"],
    name: str,
    *,
    tokens_a: Int[Tensor, "clip_a token"] | None = None,
    tokens_b: Int[Tensor, "clip_b token"] | None = None,
    n_valid_a: Sequence[int] | None = None,
    n_valid_b: Sequence[int] | None = None,
) -> Vector:
    """Mean of class a less that of class b: the direction from b to a."""
    a = class_mean(model, mels_a, name, tokens=tokens_a, n_valid=n_valid_a)
    return a - class_mean(model, mels_b, name, tokens=tokens_b, n_valid=n_valid_b)


def random_control(vector: Vector, seed: int) -> Vector:
    """A vector of the same norm in a random direction (of each head or position, where there are several)."""
    drawn = torch.randn(vector.shape, generator=torch.Generator().manual_seed(seed)).to(vector)
    return drawn * vector.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True)


@dataclass(frozen=True)
class SteerSweep:
    """Outcomes of a vector at each coefficient, and of random vectors of the same norm beside it."""

    name: str
    coefficients: tuple[float | int, ...]
    steered: tuple[Outcomes, ...]
    controls: tuple[tuple[Outcomes, ...], ...]  # [control][coefficient]

    def to_rows(self) -> list[dict[str, Any]]:
        """One dict per coefficient: WER and mean log-probability change (nats) of the vector, and both as the mean over
        the controls."""
        rows = []
        for k, (coefficient, one) in enumerate(zip(self.coefficients, self.steered, strict=True)):
            random = [control[k] for control in self.controls]
            n = max(len(random), 1)
            rows.append(
                {
                    "coefficient": coefficient,
                    "wer": one.wer,
                    "logprob_change": one.logprob_change,
                    "control_wer": sum(r.wer for r in random) / n if random else float("nan"),
                    "control_logprob_change": sum(r.logprob_change for r in random) / n if random else float("nan"),
                }
            )
        return rows


def sweep_coefficients(
    model: HookedWhisper,
    clips: Float[Tensor, "clip mel frame"] | Float[Tensor, "clip position d_model"],
    name: str,
    vector: Vector,
    coefficients: Sequence[float | int],
    *,
    controls: int = 1,
    seed: int = 0,
    where: Where = None,
    unit: str = "positions",
    **outcome_options: Any,
) -> SteerSweep:
    """Steer with every coefficient, and with ``controls`` random vectors of the same norm.

    ``outcome_options`` are those of :func:`hooked_whisper.interventions.transcript_changes.outcomes` (references,
    texts, ...).
    """
    if not coefficients:
        raise PatchError("give at least one coefficient")

    def run(v: Vector) -> tuple[Outcomes, ...]:
        return tuple(
            outcomes(model, clips, fwd_hooks=steer(model, name, v, c, where=where, unit=unit), **outcome_options)
            for c in coefficients
        )

    random = tuple(run(random_control(vector, seed + k)) for k in range(controls))
    return SteerSweep(name, tuple(coefficients), run(vector), random)
