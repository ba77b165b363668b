"""Interventions on the latents of an attached SAE, and attribution of a metric to latents.

Interventions are lists of hooks for ``model.hooks``, ``run_with_cache`` and
:func:`hooked_whisper.interventions.transcript_changes`, inside ``with model.attach_sae(...)``; they also act during
decoding. Join several with ``+``. With ``use_error_term=True`` only the latents' part of the activation changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper._support.heatmap import bar_chart
from hooked_whisper._support.indices import Selection, is_integer
from hooked_whisper._support.plotly_figures import Backend, check_backend
from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper._support.showing import Summary, Tabular, counted
from hooked_whisper.audio import TimeMap
from hooked_whisper.errors import ArgumentError, PatchError, ShapeError, check_option
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import HookPoint
from hooked_whisper.interventions.ablate import position_mask
from hooked_whisper.model.names import canonical_name, is_per_clip
from hooked_whisper.patching.metrics import Metric, read_metric
from hooked_whisper.patching.positions import PositionsLike, read_positions
from hooked_whisper.protocols import AttachableSAE, Positions

FwdHooks = list[tuple[str, Callable[[Tensor, HookPoint], Tensor | None]]]
Site = str | Sequence[str]
Latents = int | Sequence[int] | Int[Tensor, "latent"]
Numbers = float | int | Sequence[float | int] | Float[Tensor, "latent"]
Unit = Literal["positions", "seconds", "tokens"]

_ACTS, _ERROR = ".hook_sae_acts_post", ".hook_sae_error"


@renamed_arguments(where="positions")
def ablate_latents(hook: Site, latents: Latents, positions: PositionsLike = None, unit: Unit = "positions") -> FwdHooks:
    """Return hooks that set latents to 0; arguments as for :func:`clamp_latents`."""
    return clamp_latents(hook, latents, 0.0, positions, unit)


@renamed_arguments(where="positions")
def clamp_latents(
    hook: Site, latents: Latents, values: Numbers, positions: PositionsLike = None, unit: Unit = "positions"
) -> FwdHooks:
    """Return hooks that set latents to fixed values, active or not.

    Args:
        hook: the hook point where the SAE is attached (its name, published name, or that of its latents); for a
            crosscoder, the list of its hook points, or the first of them.
        latents: indices.
        values: one for all, or one per latent, in the scale of the latents.
        positions, unit: where to act, see :func:`hooked_whisper.patching.read_positions`: encoder positions or seconds,
            or decoder ``"tokens"``; ``None``: everywhere, padding included.

    Raises:
        ArgumentError: an unknown unit, a latent that is given twice, or values that are not finite.
        ShapeError: the number of values differs from the number of latents.
        PatchError: positions or a unit that the hook point does not have; when the model runs, latents that the SAE
            does not have.
    """
    check_option("unit", unit, get_args(Unit))
    indices = _indices(latents)
    new_values = _per_latent(values, indices)
    return _edit(hook, indices, lambda old: new_values.to(old).expand_as(old), positions, unit)


@renamed_arguments(where="positions")
def steer_latents(
    hook: Site,
    latents: Latents,
    coefficient: Numbers,
    by: Literal["add", "scale"] = "add",
    positions: PositionsLike = None,
    unit: Unit = "positions",
) -> FwdHooks:
    """Return hooks that add to latents (``f + coefficient``) or scale them (``coefficient * f``).

    Adding also changes inactive latents and can make latents negative; scaling changes only active ones.
    ``coefficient`` is one for all, or one per latent. Other arguments and errors as for :func:`clamp_latents`.
    """
    check_option("by", by, ("add", "scale"))
    check_option("unit", unit, get_args(Unit))
    indices = _indices(latents)
    coefficients = _per_latent(coefficient, indices)
    if by == "add":
        return _edit(hook, indices, lambda old: old + coefficients.to(old), positions, unit)
    return _edit(hook, indices, lambda old: old * coefficients.to(old), positions, unit)


@dataclass(frozen=True, eq=False, repr=False)
class LatentAttribution(Tabular):
    """First-order attribution of a metric to the latents of an SAE.

    values: gradient times latent, ``[row, position, d_sae]``; 0 where a latent is inactive.
    latents: activations of the latents. gradients: of the metric; with ``steps`` their mean along the path.
    error: gradient times SAE error, ``[row, position]``, summed over the hook points of a crosscoder; ``None`` without
        an error term, and with ``steps``.
    metric: with unchanged latents, ``[row]``. unit: of the metric and of ``values``.
    axes: names of the axes of ``values``.
    """

    values: Float[Tensor, "row *position d_sae"]
    latents: Float[Tensor, "row *position d_sae"]
    gradients: Float[Tensor, "row *position d_sae"]
    error: Float[Tensor, "row *position"] | None
    metric: Float[Tensor, "row_out"]
    unit: str
    axes: tuple[str, ...]

    def by_latent(self) -> Float[Tensor, "row d_sae"]:
        """Return the sum over positions."""
        return self.values if self.values.dim() == 2 else self.values.flatten(1, -2).sum(1)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per row and latent with an attribution: row, latent, attribution (summed over positions)."""
        total = self.by_latent()
        return [
            {"row": int(row), "latent": int(latent), "attribution": float(total[row, latent])}
            for row, latent in total.nonzero().tolist()
        ]

    def summary(self) -> Summary:
        total = self.by_latent()
        sizes = f"{counted(len(total), 'row')}, {counted(total.shape[1], 'latent')}"
        active = int((total != 0).any(0).sum())
        notes = (
            f"metric {float(self.metric.double().mean()):.4g} {self.unit}; {counted(active, 'latent')} with an effect; "
            "first-order estimates, summed over positions, of row 0:",
        )
        rows = tuple((latent, value) for latent, value in self.top(10))
        return Summary(f"LatentAttribution: {sizes}", notes, ("latent", f"attribution ({self.unit})"), rows, active)

    def plot(self, most: int = 20, row: int = 0, title: str = "", *, backend: Backend = "matplotlib") -> Any:
        """Draw the latents with the largest attributions as bars. ``backend="plotly"`` returns a plotly figure."""
        check_backend(backend)
        largest = self.top(most, row)
        return bar_chart(
            [f"latent {latent}" for latent, _ in largest],
            np.array([value for _, value in largest], dtype=float),
            title=title or "Attribution to latents (first-order estimate)",
            unit=self.unit,
            facecolor="white",
            backend=backend,
        )

    def top(self, k: int = 10, row: int = 0) -> list[tuple[int, float]]:
        """Return the latents of largest absolute attribution, summed over positions: ``(index, attribution)``."""
        total = self.by_latent()[row]
        largest = total.abs().topk(min(k, len(total))).indices
        return [(int(n), float(total[n])) for n in largest]


@renamed_arguments(error_term="use_error_term")
def latent_attribution(
    model: HookedWhisper,
    sae: AttachableSAE,
    hook: Site,
    mel: Float[Tensor, "clip mel frame"],
    tokens: Int[Tensor, "row token"],
    metric: Metric,
    *,
    use_error_term: bool = True,
    hook_out: Site | None = None,
    positions: Selection | Bool[Tensor, "row position"] | None = None,
    steps: int | None = None,
) -> LatentAttribution:
    """Attribute a metric to every latent at every position: gradient times activation, with one backward pass.

    Each value estimates the effect of setting the latent to 0. It is exact if the model after the hook point is linear.

    Args:
        sae, hook, use_error_term, hook_out, positions: as for ``model.attach_sae``, which this function calls. With the
            error term the metric is that of the unchanged model.
        tokens: decoder input. If several rows share one clip, their metrics are summed at encoder points.
        steps: use integrated gradients from zero latents to the actual ones: the mean gradient at the midpoints of
            ``steps`` equal steps, one pass each. With more steps, the sum of a row's values approaches the change of
            the metric along the path.

    Raises:
        ArgumentError: ``steps`` is below 1.
        PatchError: as for ``model.attach_sae``, or the metric reads a token beyond the input.

    Sources: Marks et al. 2024 (arXiv 2403.19647), for both on sparse features and error terms; Sundararajan et al. 2017
    (arXiv 1703.01365), for integrated gradients.
    """
    if steps is not None and steps < 1:
        raise ArgumentError(f"integrated gradients need at least 1 step, got {steps}")
    site = _site(hook)
    with (
        torch.enable_grad(),
        model.attach_sae(
            sae,
            site if isinstance(hook, str) else hook,
            use_error_term=use_error_term,
            hook_out=hook_out,
            positions=positions,
        ),
    ):
        run = _Run(model, site, mel, tokens, metric, use_error_term and steps is None)
        if steps is None:
            result = run(1.0)
            mean = result.gradient
        else:
            result = run(1.0, backward=False)
            mean = torch.stack([run((step + 0.5) / steps).gradient for step in range(steps)]).mean(0)
        axes = model.hook_dict[f"{site}{_ACTS}"].axes
    return LatentAttribution(
        mean * result.latents, result.latents, mean, result.error, result.metric, metric.unit, axes
    )


@dataclass(frozen=True, eq=False)
class _Pass:
    latents: Tensor
    gradient: Tensor
    error: Tensor | None
    metric: Tensor


class _Run:
    """Runs the model with the attached SAE and scaled latents."""

    def __init__(
        self, model: HookedWhisper, site: str, mel: Tensor, tokens: Tensor, metric: Metric, with_error: bool
    ) -> None:
        self.model, self.site, self.mel, self.tokens, self.metric = model, site, mel, tokens, metric
        self.with_error = with_error
        self.stack = model.hook_dict[site].stack
        with torch.no_grad():  # encode once
            self.encoded = None if self.stack == "encoder" else model.embed_audio(mel)

    def __call__(self, scale: float, backward: bool = True) -> _Pass:
        leaves: dict[str, Tensor] = {}

        def scaled(x: Tensor, hook: HookPoint) -> Tensor:
            x = x.detach()
            # no product with a scale of 1: it would copy, and could round
            leaves[hook.name] = (x if scale == 1 or hook.name.endswith(_ERROR) else scale * x).requires_grad_()
            return leaves[hook.name]

        span = self.model.hook_dict[f"{self.site}{_ACTS}"].span  # type: ignore[attr-defined]
        errors = [n for n, p in self.model.hook_dict.items() if n.endswith(_ERROR) and p.span == span]  # type: ignore[attr-defined]
        names = [f"{self.site}{_ACTS}", *(errors if self.with_error else [])]
        with self.model.hooks(fwd_hooks=[(names, scaled)]):
            value = self._value()
        if not backward:
            return _Pass(leaves[names[0]].detach(), torch.zeros(0), None, value.detach())
        gradients = torch.autograd.grad(value.sum(), [leaves[name] for name in names], materialize_grads=True)
        latents = leaves[names[0]].detach()
        error = None
        if self.with_error:
            products = [leaves[n].detach() * g for n, g in zip(names[1:], gradients[1:], strict=True)]
            error = sum((product.flatten(latents.dim() - 1).sum(-1) for product in products), torch.tensor(0.0))
        return _Pass(latents, gradients[0], error, value.detach())

    def _value(self) -> Float[Tensor, "row"]:
        encoded = self.model.embed_audio(self.mel) if self.encoded is None else self.encoded
        hidden = self.model.decoder.hidden(self.tokens, encoded)
        if self.stack != "unembed":
            return read_metric(self.model, hidden, self.metric)
        # at unembedding points the SAE has a position per token: compute all logits, not only those the metric reads
        logits = self.model.decoder.to_logits(hidden)
        tokens, n = self.metric.at, hidden.shape[1]
        if not tokens or min(tokens) < 0 or max(tokens) >= n:
            raise PatchError(f"the metric reads after tokens {list(tokens)}, but the decoder input has {n} tokens")
        logits = logits[:, list(tokens)]
        return self.metric(logits if self.metric.vocab is None else logits[..., list(self.metric.vocab)])


@dataclass(frozen=True, eq=False)
class _Edit:
    """A hook that changes some latents at some positions."""

    latents: tuple[int, ...]
    change: Callable[[Tensor], Tensor]
    positions: Positions

    def __call__(self, x: Tensor, hook: HookPoint) -> Tensor:
        if max(self.latents) >= x.shape[-1]:
            raise PatchError(f"{hook.name} has latents 0 to {x.shape[-1] - 1}, not {max(self.latents)}")
        index = torch.tensor(self.latents, device=x.device)
        old = x.index_select(-1, index)
        new = self.change(old)
        if self.positions.spans is not None:
            new = torch.where(self._mask(x, hook), new, old)
        return x.index_copy_(-1, index, new)  # hooks receive a copy, so this is safe

    def _mask(self, x: Tensor, hook: HookPoint) -> Tensor:
        axis = None if hook.sequence_axis is None else hook.axes.index(hook.sequence_axis)
        if axis is None:
            raise PatchError(f"{hook.name} {list(hook.axes)} has no positions to select: leave out positions=")
        spans = [span for span in self.positions.spans or () if span[0] < span[1]]
        n = x.shape[axis] // hook.steps_per_position
        # decoding runs token by token, but the encoder sees its whole window at once
        if hook.axes[axis] != "token" and spans and min(start for start, _ in spans) >= hook.offset + n:
            raise PatchError(f"{hook.name} has {n} positions, none of them in {spans}")
        return position_mask(self.positions, x, hook, axis)


def _edit(
    hook: Site, latents: tuple[int, ...], change: Callable[[Tensor], Tensor], positions: PositionsLike, unit: str
) -> FwdHooks:
    site = _site(hook)
    of_tokens = not is_per_clip(site)
    if unit == "tokens":
        if not of_tokens:
            raise PatchError(f"{site} has encoder positions, no tokens: use unit='positions' or 'seconds'")
        unit = "positions"
    where = read_positions(positions, unit, time=None if of_tokens else TimeMap())
    return [(f"{site}{_ACTS}", _Edit(latents, change, where))]


def _site(hook: Site) -> str:
    """Return the name of the point whose ``hook_sae_acts_post`` holds the latents."""
    if not isinstance(hook, str) and not hook:
        raise ArgumentError("hook is empty: name the hook point where the SAE is attached")
    return canonical_name((hook if isinstance(hook, str) else hook[0]).removesuffix(_ACTS))


def _indices(latents: Latents) -> tuple[int, ...]:
    indices: list[Any] = [latents]
    if not is_integer(latents) and isinstance(latents, Iterable) and not isinstance(latents, str):
        indices = list(latents)
    if not indices or not all(is_integer(n) and n >= 0 for n in indices) or len(set(map(int, indices))) < len(indices):
        raise ArgumentError(
            f"latents must be distinct whole numbers from 0, at least one, got {indices!s:.80}; for a mask, pass "
            "mask.nonzero().flatten()"
        )
    return tuple(int(n) for n in indices)


def _per_latent(values: Numbers, indices: tuple[int, ...]) -> Float[Tensor, "latent"]:
    tensor = torch.as_tensor(values, dtype=torch.float64)
    if tensor.dim() > 1 or (tensor.dim() == 1 and len(tensor) != len(indices)):
        raise ShapeError(f"{len(indices)} latents, but {list(tensor.shape)} values: give one for all, or one for each")
    if not bool(tensor.isfinite().all()):
        raise ArgumentError("values of latents must be finite")
    return tensor.expand(len(indices))
