"""What attached SAEs and crosscoders share: their hook points, hooks at selected positions, and the error term."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from hooked_whisper.errors import PatchError
from hooked_whisper.hooks.attach_layout import VectorLayout
from hooked_whisper.hooks.hook_names import SAE_PART, Names
from hooked_whisper.hooks.hook_point import HookPoint
from hooked_whisper.hooks.root_module import HookedRootModule
from hooked_whisper.protocols import AttachableSAE

Rows = Shaped[Tensor, "... width"]
Mask = Bool[Tensor, "..."] | None  # over the axes before the vector; None: all positions


class SAEHookPoint(HookPoint):
    """A hook point of an attached SAE. It is not part of the model's modules, weights or copies.

    span: names of the first and the last point that the SAE reads or replaces.
    read_twice: blocks that run twice in a pass, because the point belongs to a crosscoder.
    """

    read_twice: range = range(0)

    def __init__(self, name: str, site: HookPoint, axes: tuple[str, ...], span: tuple[str, str], **sizes: int) -> None:
        sizes = {**site.sizes, **sizes}
        super().__init__(*axes, sizes=sizes, per_clip=site._declared_per_clip, shared=site.shared)
        self.name = name
        self.clock = site.clock
        self.span = span
        self._site = site.name

    @property
    def site(self) -> str:
        return self._site


def single_point(model: HookedRootModule, name: Names) -> HookPoint:
    """Return the point of the model that ``name`` selects.

    Raises:
        PatchError: it selects several points, or a point of an attached SAE.
    """
    points = model.hook_points(name)
    if len(points) != 1:
        raise PatchError(f"{name!r} names {len(points)} points: attach an SAE at one point")
    if points[0].site != points[0].name:
        raise PatchError(f"{points[0].name} belongs to an attached SAE: attach at a point of the model")
    return points[0]


def check_free(model: HookedRootModule, reads: list[HookPoint], writes: list[HookPoint]) -> None:
    """
    Raises:
        PatchError: an SAE already reads or replaces one of the points.
    """
    names = [point.name for point in reads if f"{point.name}{SAE_PART}input" in model.hook_dict]
    names += [point.name for point in writes if point._replacement is not None]
    if names:
        raise PatchError(f"{names[-1]} already has an SAE attached: leave that context first")


def declared_size(sae: AttachableSAE, name: str) -> int | None:
    """Return a size that an SAE or its config (``cfg`` in SAELens) declares, if any."""
    for holder in (sae, getattr(sae, "config", None), getattr(sae, "cfg", None)):
        value = getattr(holder, name, None)
        if isinstance(value, int):
            return value
    return None


def call_sae(call: Callable[[], Any], shape: tuple[int, ...], description: str) -> Tensor:
    """Return what a method of the SAE returns.

    description: of the method and the SAE, for errors.

    Raises:
        PatchError: not a tensor of this shape.
    """
    try:
        output = call()
    except Exception as error:
        error.add_note(f"raised in {description}")
        raise
    if not isinstance(output, Tensor) or tuple(output.shape) != shape:
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise PatchError(f"{description} gave {got}, but {list(shape)} is needed")
    return output


def decode_with(sae: AttachableSAE, latents: Tensor, activations: Tensor) -> Tensor:
    """Return the reconstruction, by ``decode_like`` if the SAE has it."""
    decode_like = getattr(sae, "decode_like", None)
    return sae.decode(latents) if decode_like is None else decode_like(latents, activations)  # type: ignore[union-attr]


def selected(x: Tensor, mask: Mask) -> Tensor:
    """Return the entries at the selected positions."""
    return x if mask is None else x[mask]


def inserted(x: Tensor, mask: Mask, rows: Rows) -> Tensor:
    """Return ``x`` with ``rows`` at the selected positions."""
    return rows if mask is None else x.index_put((mask,), rows)


def through(point: HookPoint, rows: Rows, mask: Mask, layout: VectorLayout, background: Callable[[], Tensor]) -> Rows:
    """Return rows after the hooks of a point, which sees them at their positions in the whole tensor.

    background: the tensor at all other positions; made only if the point has hooks.
    """
    if not point.active:
        return rows
    if mask is None:
        return layout.vectors(point(layout.tensor(rows)))
    whole = inserted(background(), mask, layout.tensor(rows))
    return layout.vectors(point(whole)[mask])


def with_error(
    activation: Rows, clean: Rows, recons: Rows, point: HookPoint, mask: Mask, layout: VectorLayout, x: Tensor
) -> Rows:
    """Return the activation plus the changes that hooks made.

    Written as differences, so that the activation is unchanged bit for bit where no hook changed anything.

    clean: the reconstruction without hooks. recons: with them. point: of the error. x: the whole tensor.
    """
    with torch.no_grad():
        error = activation - clean
    out = activation.detach() - (clean - recons)
    if point.active:
        if torch.is_grad_enabled() and (x.requires_grad or recons.requires_grad):
            error.requires_grad_()  # a constant for the rest of the graph, but its gradient can be read
        edited = through(point, error, mask, layout, lambda: torch.zeros_like(x))
        out = out - (error.detach() - edited)
    return out


def equal(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are the same or have equal values."""
    return a is b or torch.equal(a, b)
