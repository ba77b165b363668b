"""Attach a crosscoder: replace the activations at several hook points by its reconstructions of them.

A crosscoder encodes the activations at all of its points together, so its latents depend on the last of them, while the
first must be replaced before the model computes the last. The model therefore runs from the first replaced point to the
last point twice:

1. The read pass computes the activations without the crosscoder. They are encoded when the last point is computed.
2. The write pass goes back to the first replaced point and continues with the reconstructions: each replaced point has
   its own, at the selected positions.

With the error term, each point's output is the activation of the read pass plus the change that edits of the latents
make to its reconstruction. An edit of a latent thus changes every replaced point by its own decoder row, once: what
reaches a later point from an earlier one does not count again.

Hooks at points between run in both passes, and caches hold the values of the write pass. Hooks at a replaced point, and
at the points ``hook_sae_*`` of the crosscoder, run once, in the write pass. Where a replaced point holds the residual
stream at all positions, nothing else leads from the replaced points before it to the output, so editing only those
(such as ``hook_sae_recons`` of the first) does not change the output.

If only the last point is replaced, the read pass is the model's own, and nothing runs twice.

While decoding with cached keys and values, the read pass has its own, of tokens read without the crosscoder. Decoding
token by token therefore equals one pass over all tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hooked_whisper.config import WhisperConfig
from hooked_whisper.errors import HookedWhisperError, PatchError
from hooked_whisper.hooks.attach_layout import AttachedPositions, VectorLayout, fitting_layout, sae_positions
from hooked_whisper.hooks.attach_parts import (
    SAEHookPoint,
    call_sae,
    check_free,
    declared_size,
    decode_with,
    equal,
    inserted,
    selected,
    single_point,
    through,
    with_error,
)
from hooked_whisper.hooks.hook_names import SAE_PART
from hooked_whisper.hooks.hook_point import HookPoint
from hooked_whisper.hooks.read_pass import ReadPass
from hooked_whisper.hooks.root_module import HookedRootModule
from hooked_whisper.protocols import AttachableSAE

_BLOCK = re.compile(r"(encoder|decoder)\.blocks\.(\d+)\.")


@contextmanager
def attached_crosscoder(
    model: HookedRootModule,
    cfg: WhisperConfig,
    sae: AttachableSAE,
    hooks: str | Sequence[str],
    *,
    use_error_term: bool,
    hook_out: str | Sequence[str] | None,
    positions: Any,
) -> Iterator[None]:
    """Attach a crosscoder for a block of code, see :meth:`~hooked_whisper.model.WhisperCore.attach_sae`."""
    attached = _checked_crosscoder(model, cfg, sae, hooks, hook_out, use_error_term, positions)
    with ExitStack() as stack:
        stack.callback(attached.detach)
        stack.callback(model._remove_points, attached.all_points)
        after = attached.first.name
        model._insert_points(attached.points_before, after=after)
        after = attached.acts.name
        for slot in attached.written:
            if slot != attached.written[0]:
                after = attached.sites[slot].name
            model._insert_points(attached.points_of(slot), after=after)
        for slot, site in enumerate(attached.sites):
            if slot in attached.written:
                site._replacement = attached.replacement(slot)
            else:
                stack.callback(site.add_reader(attached.reader(slot)).remove)
        stack.enter_context(attached.read_pass.listening())
        yield


@dataclass(frozen=True, eq=False)
class _Encoded:
    """The activations of one pass inside the crosscoder: ``[.., n_blocks, d]``, or only the selected positions."""

    activations: Tensor
    inputs: Tensor  # after the hooks at the inputs
    latents: Tensor
    edited_latents: Tensor  # after the hooks at the latents
    reconstructions: Tensor
    clean: Tensor | None  # reconstructions without hooks, for the error term
    mask: Tensor | None  # bool over the axes before the vector; None: all


class AttachedCrosscoder:
    """An attached crosscoder.

    sites: the points that it reads, in the order of a pass. written: indices of those that it replaces.
    """

    def __init__(
        self,
        model: HookedRootModule,
        sae: AttachableSAE,
        sites: Sequence[HookPoint],
        written: Sequence[int],
        layouts: Sequence[VectorLayout],
        n_features: int,
        use_error_term: bool,
        positions: AttachedPositions | None,
    ) -> None:
        self.sae, self.sites, self.written = sae, tuple(sites), tuple(written)
        self.layouts, self.positions = tuple(layouts), positions
        self.latent_layout = VectorLayout(layouts[0].axes, n_features)
        span = sites[0].name, sites[-1].name

        def point(part: str, site: HookPoint, axes: tuple[str, ...], **sizes: int) -> SAEHookPoint:
            return SAEHookPoint(f"{site.name}{SAE_PART}{part}", site, axes, span, **sizes)

        self.inputs = [point("input", site, site.axes) for site in sites]
        self.acts = point("acts_post", sites[0], (*layouts[0].axes, "d_sae"), d_sae=n_features)
        self.recons = {slot: point("recons", sites[slot], sites[slot].axes) for slot in written}
        self.errors = {slot: point("error", sites[slot], sites[slot].axes) for slot in written if use_error_term}
        self.outputs = {slot: point("output", sites[slot], sites[slot].axes) for slot in written}
        self.read_pass = ReadPass(model, self.first, sites[-1], self._recorders)
        self._read: dict[int, Tensor] = {}
        self._encoded: _Encoded | None = None

    @property
    def first(self) -> HookPoint:
        """The first point that is replaced, where everything is encoded."""
        return self.sites[self.written[0]]

    @property
    def points_before(self) -> list[SAEHookPoint]:
        """The points that fire before the first reconstruction."""
        return [*self.inputs, self.acts]

    def points_of(self, slot: int) -> list[SAEHookPoint]:
        """The points that fire where an activation is replaced."""
        return [parts[slot] for parts in (self.recons, self.errors, self.outputs) if slot in parts]

    @property
    def all_points(self) -> list[SAEHookPoint]:
        return self.points_before + [point for slot in self.written for point in self.points_of(slot)]

    def detach(self) -> None:
        """Stop replacing activations, so that another SAE can be attached."""
        for slot in self.written:
            self.sites[slot]._replacement = None
        self._read, self._encoded = {}, None
        self.read_pass.recorders = dict  # no cycle, which would keep a dropped model alive

    def reader(self, slot: int) -> Callable[[Tensor, HookPoint], None]:
        """Return what reads a point that is not replaced, after its hooks."""
        return _Reader(self, slot)

    def replacement(self, slot: int) -> Callable[[Tensor], Tensor]:
        """Return what replaces the activation of a point."""
        return lambda x: self._replace(slot, x)

    def record(self, slot: int, x: Tensor) -> None:
        self._read[slot] = x

    def _recorders(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Return what records the replaced points in the read pass."""

        def recorder(slot: int) -> Callable[[Tensor], Tensor]:
            def record(x: Tensor) -> Tensor:
                self.record(slot, x)
                return x

            return record

        return {self.sites[slot].name: recorder(slot) for slot in self.written}

    def _replace(self, slot: int, x: Tensor) -> Tensor:
        if slot == self.written[0]:
            self._encoded = None
            self.record(slot, x)
            self.read_pass.run(x)
            self._encoded = self._encode_all(x)
        encoded = self._encoded
        if encoded is None:
            raise self._incomplete(self.sites[slot])
        if slot == self.written[-1]:
            self._encoded = None
            self.read_pass.end()
        return self._write(slot, x, encoded)

    def _incomplete(self, site: HookPoint) -> HookedWhisperError:
        return HookedWhisperError(
            f"the crosscoder attached at {self.sites[0].name} replaces {site.name}, but the first did not run before "
            "the second in this pass: run the model from there on"
        )

    def _encode_all(self, x: Tensor) -> _Encoded:
        axes = self.layouts[0].axes
        mask = None if self.positions is None else self.positions.in_tensor(x, self.first, axes)
        read, self._read = self._read, {}
        if len(read) < len(self.sites):
            raise self._incomplete(self.first)
        rows, edited = [], []
        for slot, (layout, point) in enumerate(zip(self.layouts, self.inputs, strict=True)):
            tensor = read[slot]
            rows.append(layout.vectors(selected(tensor, mask)))
            edited.append(through(point, rows[-1], mask, layout, partial(read.__getitem__, slot)))
        activations = torch.stack(rows, -2)
        same = all(equal(before, after) for before, after in zip(rows, edited, strict=True))
        inputs = activations if all(a is b for a, b in zip(rows, edited, strict=True)) else torch.stack(edited, -2)
        latents = self._encode(inputs)

        def zeros() -> Tensor:
            assert mask is not None
            return latents.new_zeros(*mask.shape, latents.shape[-1])

        edited_latents = through(self.acts, latents, mask, self.latent_layout, zeros)
        decoded = self._decode(edited_latents, inputs)
        clean = None
        if self.errors:
            with torch.no_grad():
                clean = decoded.detach()
                if not same or not equal(latents, edited_latents):
                    clean = self._decode(latents if same else self._encode(activations), activations)
        return _Encoded(activations, inputs, latents, edited_latents, decoded, clean, mask)

    def _write(self, slot: int, x: Tensor, encoded: _Encoded) -> Tensor:
        mask, layout = encoded.mask, self.layouts[slot]
        rows = recons = through(self.recons[slot], encoded.reconstructions[..., slot, :], mask, layout, lambda: x)
        if encoded.clean is not None:
            activation, clean = encoded.activations[..., slot, :], encoded.clean[..., slot, :]
            rows = with_error(activation, clean, recons, self.errors[slot], mask, layout, x)
        return self.outputs[slot](inserted(x, mask, layout.tensor(rows)))

    def _encode(self, rows: Tensor) -> Tensor:
        shape = (*rows.shape[:-2], self.latent_layout.width)
        return call_sae(lambda: self.sae.encode(rows), shape, f"encode of {self._description}")

    def _decode(self, latents: Tensor, rows: Tensor) -> Tensor:
        decoded = call_sae(
            lambda: decode_with(self.sae, latents, rows), tuple(rows.shape), f"decode of {self._description}"
        )
        return decoded.to(rows)

    @property
    def _description(self) -> str:
        return f"the crosscoder attached at {', '.join(site.name for site in self.sites)}"


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads a point that is not replaced, in either pass."""

    crosscoder: AttachedCrosscoder
    slot: int
    in_read_pass = True  # see ReadPass: readers of caches pause there

    def __call__(self, x: Tensor, point: HookPoint) -> None:
        self.crosscoder.record(self.slot, x)


def _checked_crosscoder(
    model: HookedRootModule,
    cfg: WhisperConfig,
    sae: AttachableSAE,
    hooks: str | Sequence[str],
    hook_out: str | Sequence[str] | None,
    use_error_term: bool,
    positions: Any,
) -> AttachedCrosscoder:
    """Check that the crosscoder fits the points, and return the attachment. The model is not changed yet."""
    n_blocks, d_in, n_features = (declared_size(sae, name) for name in ("n_blocks", "d_in", "n_features"))
    if d_in is None or n_features is None or not hasattr(sae, "encode") or not hasattr(sae, "decode"):
        raise PatchError(
            f"{type(sae).__name__} cannot be attached: a crosscoder has d_in, n_features, encode and decode"
        )
    sites = _points(model, hooks)
    if len(sites) != n_blocks:
        raise PatchError(
            f"the crosscoder reads {n_blocks} hook points, not {len(sites)} ({', '.join(s.name for s in sites)}): "
            "pass the list on which it was trained"
        )
    _check_order(model, sites)
    requirement = f"the crosscoder takes d_in = {d_in}"
    layouts = [fitting_layout(site, lambda layout: layout.width == d_in, requirement) for site in sites]
    for site, layout in zip(sites, layouts, strict=True):
        if layout.axes != layouts[0].axes:
            raise PatchError(
                f"{site.name} has vectors for each of [{', '.join(layout.axes)}], {sites[0].name} for each of "
                f"[{', '.join(layouts[0].axes)}]: a crosscoder reads points with the same positions"
            )
    names = [site.name for site in sites]
    outputs = sites if hook_out is None else _points(model, hook_out)
    for output in outputs:
        if output.name not in names:
            raise PatchError(
                f"hook_out {output.name} is not among the points that the crosscoder reads: {', '.join(names)}"
            )
    written = sorted({names.index(output.name) for output in outputs})
    check_free(model, sites, [sites[slot] for slot in written])
    attached = AttachedCrosscoder(
        model, sae, sites, written, layouts, n_features, use_error_term, sae_positions(positions, sites[0], cfg)
    )
    _check_overlap(model, attached)
    return attached


def _points(model: HookedRootModule, hooks: str | Sequence[str]) -> list[HookPoint]:
    if isinstance(hooks, str):
        return [single_point(model, point.name) for point in model.hook_points(hooks) if point.site == point.name]
    return [single_point(model, hook) for hook in hooks]


def _check_order(model: HookedRootModule, sites: Sequence[HookPoint]) -> None:
    """
    Raises:
        PatchError: the points are not inside the blocks of one stack, or not in the order of a pass.
    """
    names = [site.name for site in sites]
    stacks = {match[1] if (match := _BLOCK.match(name)) else name for name in names}
    if not all(map(_BLOCK.match, names)) or len(stacks) > 1:
        raise PatchError(
            f"a crosscoder is attached at points inside the blocks of one stack, not at {', '.join(names)} (the "
            "residual stream before all blocks is encoder.blocks.0.hook_resid_pre)"
        )
    known = list(model.hook_dict)
    order = [known.index(name) for name in names]
    if order != sorted(set(order)):
        raise PatchError(
            f"the hook points of a crosscoder must be listed once each, in the order in which the model computes them, "
            f"and the crosscoder trained in this order; got {', '.join(names)}"
        )


def _check_overlap(model: HookedRootModule, attached: AttachedCrosscoder) -> None:
    """
    Raises:
        PatchError: another crosscoder is attached whose blocks run twice for it too.
    """
    blocks = range(*attached.read_pass.blocks)
    for point in model.hook_dict.values():
        other = point.read_twice if isinstance(point, SAEHookPoint) else range(0)
        if set(blocks) & set(other) and point.stack == attached.first.stack:
            raise PatchError(
                f"the crosscoder at {point.site} already runs the {point.stack}'s blocks {', '.join(map(str, other))} "
                "twice: leave that context first"
            )
    attached.acts.read_twice = blocks
