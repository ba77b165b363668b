"""Interventions on the latents of a spliced-in dictionary, and what each latent adds to a metric.

The interventions are lists of hooks for ``model.hooks``, ``run_with_cache`` and
:func:`hooked_whisper.interventions.transcript_changes`, inside ``with model.attach_sae(...)``; they stay live in decoding.
Several are joined with ``+``. With ``use_error_term=True`` only the latents' part of the activation changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper._support.indices import Selection, is_integer
from hooked_whisper._support.renamed import renamed_arguments
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
Latents = int | Sequence[int] | Int[Tensor, "latent"]
Numbers = float | int | Sequence[float | int] | Float[Tensor, "latent"]
Unit = Literal["positions", "seconds", "tokens"]

_ACTS, _ERROR = ".hook_sae_acts_post", ".hook_sae_error"


@renamed_arguments(where="positions")
def ablate_latents(hook: str, latents: Latents, positions: PositionsLike = None, unit: Unit = "positions") -> FwdHooks:
    """Hooks that set latents to 0; arguments as for :func:`clamp_latents`."""
    return clamp_latents(hook, latents, 0.0, positions, unit)


@renamed_arguments(where="positions")
def clamp_latents(
    hook: str, latents: Latents, values: Numbers, positions: PositionsLike = None, unit: Unit = "positions"
) -> FwdHooks:
    """Hooks that set latents to fixed values, active or not.

    Args:
        hook: the point where the dictionary is spliced in (its name, published name, or that of its latents).
        latents: their numbers.
        values: one for all, or one per latent, in the latents' own scale.
        positions, unit: only here, see :func:`hooked_whisper.patching.read_positions`: encoder positions
            or seconds, decoder ``"tokens"``; ``None``: everywhere, padding included.

    Raises:
        PatchError: latents that do not exist (when the pass runs) or come twice, as many values as latents missing,
            places outside the window, a unit that the point does not have.
    """
    check_option("unit", unit, get_args(Unit))
    numbers = _numbers(latents)
    given = _per_latent(values, numbers)
    return _edit(hook, numbers, lambda old: given.to(old).expand_as(old), positions, unit)


@renamed_arguments(where="positions")
def steer_latents(
    hook: str,
    latents: Latents,
    coefficient: Numbers,
    by: Literal["add", "scale"] = "add",
    positions: PositionsLike = None,
    unit: Unit = "positions",
) -> FwdHooks:
    """Hooks that add to latents (``f + coefficient``) or multiply them (``coefficient * f``: 1 changes nothing).

    Adding moves silent latents too, and is not stopped at 0; scaling moves only those that are active. Other arguments
    as for :func:`clamp_latents`; ``coefficient`` is one for all, or one per latent.
    """
    check_option("by", by, ("add", "scale"))
    check_option("unit", unit, get_args(Unit))
    numbers = _numbers(latents)
    given = _per_latent(coefficient, numbers)
    if by == "add":
        return _edit(hook, numbers, lambda old: old + given.to(old), positions, unit)
    return _edit(hook, numbers, lambda old: old * given.to(old), positions, unit)


@dataclass(frozen=True, eq=False)
class LatentAttribution:
    """What latents add to a metric, to first order.

    values: gradient times latent, ``[row, place, d_sae]``; 0 where a latent is silent.
    latents: the latents themselves. gradients: of the metric; the mean along the path with ``steps``.
    error: gradient times error, ``[row, place]``: what the dictionary leaves out; ``None`` without an error term, and
        with ``steps``.
    metric: of the pass with all latents as they are, ``[row]``. unit: of the metric and of ``values``.
    axes: names of the axes of ``values``.
    """

    values: Float[Tensor, "row *place d_sae"]
    latents: Float[Tensor, "row *place d_sae"]
    gradients: Float[Tensor, "row *place d_sae"]
    error: Float[Tensor, "row *place"] | None
    metric: Float[Tensor, "row_out"]
    unit: str
    axes: tuple[str, ...]

    def by_latent(self) -> Float[Tensor, "row d_sae"]:
        """Summed over places."""
        return self.values if self.values.dim() == 2 else self.values.flatten(1, -2).sum(1)

    def top(self, k: int = 10, row: int = 0) -> list[tuple[int, float]]:
        """The latents that move the metric most, summed over places: ``(number, attribution)``, largest size first."""
        total = self.by_latent()[row]
        chosen = total.abs().topk(min(k, len(total))).indices
        return [(int(n), float(total[n])) for n in chosen]


@renamed_arguments(error_term="use_error_term")
def latent_attribution(
    model: HookedWhisper,
    sae: AttachableSAE,
    hook: str,
    mel: Float[Tensor, "clip mel frame"],
    tokens: Int[Tensor, "row token"],
    metric: Metric,
    *,
    use_error_term: bool = True,
    hook_out: str | None = None,
    positions: Selection | Bool[Tensor, "row place"] | None = None,
    steps: int | None = None,
) -> LatentAttribution:
    """Every latent's share in a metric, at every place: gradient times activation, in one pass forward and one back.

    It estimates what setting the latent to 0 takes away, and is exact where everything behind the splice is linear.

    Args:
        sae, hook, use_error_term, hook_out, positions: as for ``model.attach_sae``, which this does itself. With the error
            term the metric is that of the model as it is.
        tokens: decoder input; one clip may serve several rows, whose metrics are then added up at encoder points.
        steps: integrated gradients instead, from no latents at all to these: the mean gradient at the middles of
            ``steps`` equal steps. The values of a row then add up to the metric's change over that path, the better
            the more steps; each is a pass.

    Raises:
        PatchError: as ``model.attach_sae``; a metric that reads a token that is not there; no steps.

    Sources: Marks et al. 2024 (arXiv 2403.19647), for both on sparse features and error terms; Sundararajan et al. 2017
    (arXiv 1703.01365), for integrated gradients.
    """
    if steps is not None and steps < 1:
        raise ArgumentError(f"integrated gradients need a step at least, not {steps}")
    site = _site(hook)
    with (
        torch.enable_grad(),
        model.attach_sae(sae, site, use_error_term=use_error_term, hook_out=hook_out, positions=positions),
    ):
        run = _Run(model, site, mel, tokens, metric, use_error_term and steps is None)
        if steps is None:
            found = run(1.0)
            mean = found.gradient
        else:
            found = run(1.0, backward=False)
            mean = torch.stack([run((step + 0.5) / steps).gradient for step in range(steps)]).mean(0)
        axes = model.hook_dict[f"{site}{_ACTS}"].axes
    return LatentAttribution(mean * found.latents, found.latents, mean, found.error, found.metric, metric.unit, axes)


@dataclass(frozen=True, eq=False)
class _Found:
    latents: Tensor
    gradient: Tensor
    error: Tensor | None
    metric: Tensor


class _Run:
    """Passes of the spliced model with the latents scaled."""

    def __init__(
        self, model: HookedWhisper, site: str, mel: Tensor, tokens: Tensor, metric: Metric, with_error: bool
    ) -> None:
        self.model, self.site, self.mel, self.tokens, self.metric = model, site, mel, tokens, metric
        self.with_error = with_error
        self.stack = model.hook_dict[site].stack
        with torch.no_grad():  # never encode twice
            self.encoded = None if self.stack == "encoder" else model.embed_audio(mel)

    def __call__(self, scale: float, backward: bool = True) -> _Found:
        leaves: dict[str, Tensor] = {}

        def scaled(x: Tensor, hook: HookPoint) -> Tensor:
            x = x.detach()
            # a product with 1 would be a copy that is not needed, and the clean pass must stay clean
            leaves[hook.name] = (x if scale == 1 or hook.name.endswith(_ERROR) else scale * x).requires_grad_()
            return leaves[hook.name]

        names = [f"{self.site}{_ACTS}", *([f"{self.site}{_ERROR}"] if self.with_error else [])]
        with self.model.hooks(fwd_hooks=[(names, scaled)]):
            value = self._value()
        if not backward:
            return _Found(leaves[names[0]].detach(), torch.zeros(0), None, value.detach())
        gradients = torch.autograd.grad(value.sum(), [leaves[name] for name in names], materialize_grads=True)
        latents = leaves[names[0]].detach()
        error = None
        if self.with_error:
            product = leaves[names[1]].detach() * gradients[1]
            error = product.flatten(latents.dim() - 1).sum(-1)
        return _Found(latents, gradients[0], error, value.detach())

    def _value(self) -> Float[Tensor, "row"]:
        encoded = self.model.embed_audio(self.mel) if self.encoded is None else self.encoded
        hidden = self.model.decoder.hidden(self.tokens, encoded)
        if self.stack != "unembed":
            return read_metric(self.model, hidden, self.metric)
        # all tokens, not those alone that the metric reads: a place of the splice is the token of that number
        logits = self.model.decoder.to_logits(hidden)
        at, n = self.metric.at, hidden.shape[1]
        if not at or min(at) < 0 or max(at) >= n:
            raise PatchError(f"the metric reads after tokens {list(at)}, but the decoder input has {n} tokens")
        read = logits[:, list(at)]
        return self.metric(read if self.metric.vocab is None else read[..., list(self.metric.vocab)])


@dataclass(frozen=True, eq=False)
class _Edit:
    """A hook that changes some latents at some places."""

    numbers: tuple[int, ...]
    change: Callable[[Tensor], Tensor]
    positions: Positions

    def __call__(self, x: Tensor, hook: HookPoint) -> Tensor:
        if max(self.numbers) >= x.shape[-1]:
            raise PatchError(f"{hook.name} has latents 0 to {x.shape[-1] - 1}, not {max(self.numbers)}")
        index = torch.tensor(self.numbers, device=x.device)
        old = x.index_select(-1, index)
        new = self.change(old)
        if self.positions.spans is not None:
            new = torch.where(self._mask(x, hook), new, old)
        return x.index_copy_(-1, index, new)  # a hook is given a copy of its own

    def _mask(self, x: Tensor, hook: HookPoint) -> Tensor:
        place = None if hook.sequence_axis is None else hook.axes.index(hook.sequence_axis)
        if place is None:
            raise PatchError(f"{hook.name} {list(hook.axes)} has no positions to choose from: leave out positions=")
        filled = [span for span in self.positions.spans or () if span[0] < span[1]]
        n = x.shape[place] // hook.steps_per_position
        # decoding sees token by token; the encoder its whole window at once
        if hook.axes[place] != "token" and filled and min(start for start, _ in filled) >= hook.offset + n:
            raise PatchError(f"{hook.name} has {n} positions, none of them in {filled}")
        return position_mask(self.positions, x, hook, place)


def _edit(
    hook: str, numbers: tuple[int, ...], change: Callable[[Tensor], Tensor], positions: PositionsLike, unit: str
) -> FwdHooks:
    site = _site(hook)
    of_tokens = not is_per_clip(site)
    if unit == "tokens":
        if not of_tokens:
            raise PatchError(f"{site} has encoder positions, no tokens: give unit='positions' or 'seconds'")
        unit = "positions"
    read = read_positions(positions, unit, time=None if of_tokens else TimeMap())
    return [(f"{site}{_ACTS}", _Edit(numbers, change, read))]


def _site(hook: str) -> str:
    return canonical_name(hook.removesuffix(_ACTS))


def _numbers(latents: Latents) -> tuple[int, ...]:
    several: list[Any] = [latents]
    if not is_integer(latents) and isinstance(latents, Iterable) and not isinstance(latents, str):
        several = list(latents)
    if not several or not all(is_integer(n) and n >= 0 for n in several) or len(set(map(int, several))) < len(several):
        raise ArgumentError(
            f"latents are whole numbers from 0, at least one and none twice, got {several!s:.80}; of a mask, give "
            "mask.nonzero().flatten()"
        )
    return tuple(int(n) for n in several)


def _per_latent(values: Numbers, numbers: tuple[int, ...]) -> Float[Tensor, "latent"]:
    given = torch.as_tensor(values, dtype=torch.float64)
    if given.dim() > 1 or (given.dim() == 1 and len(given) != len(numbers)):
        raise ShapeError(f"{len(numbers)} latents, but {list(given.shape)} values: give one for all, or one for each")
    if not bool(given.isfinite().all()):
        raise ArgumentError("values of latents must be finite")
    return given.expand(len(numbers))
