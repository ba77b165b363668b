"""Attach an SAE: replace the activation at a hook point by the SAE's reconstruction of it.

``with model.attach_sae(sae, hook="encoder.blocks.2"):`` adds hook points after the one named:

    <hook>.hook_sae_input       the activation that is encoded                     [axes of the point]
    <hook>.hook_sae_acts_post   its feature activations (latents)                  [.., d_sae]
    <hook>.hook_sae_recons      the reconstruction                                 [axes of the point replaced]
    <hook>.hook_sae_error       the reconstruction error; with ``use_error_term``  [axes of the point replaced]
    <hook>.hook_sae_output      what the model uses                                [axes of the point replaced]

They are points like all others: cached, hooked, causal. The SAE runs before every hook of the point itself, even
one that was added earlier. These hooks, and caches of the point, therefore see the reconstruction, and the model uses
what they return. Hooks at ``hook_sae_input`` change what the SAE encodes.

Crosscoders, which read several points: :mod:`hooked_whisper.hooks.attach_crosscoder`.

Names of the points, and an error term that does not mask edits: SAELens (``HookedSAETransformer``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from hooked_whisper._support.indices import Selection
from hooked_whisper.config import WhisperConfig
from hooked_whisper.errors import HookedWhisperError, PatchError
from hooked_whisper.hooks.attach_crosscoder import attached_crosscoder
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
from hooked_whisper.hooks.root_module import HookedRootModule
from hooked_whisper.protocols import AttachableSAE


@contextmanager
def attached_sae(
    model: HookedRootModule,
    cfg: WhisperConfig,
    sae: AttachableSAE,
    hook: str | Sequence[str],
    *,
    use_error_term: bool,
    hook_out: str | Sequence[str] | None,
    positions: Selection | Bool[Tensor, "row place"] | None,
) -> Iterator[None]:
    """Attach an SAE for a block of code, see :meth:`~hooked_whisper.model.WhisperCore.attach_sae`."""
    if declared_size(sae, "n_blocks") is not None:
        with attached_crosscoder(
            model, cfg, sae, hook, use_error_term=use_error_term, hook_out=hook_out, positions=positions
        ):
            yield
        return
    source = single_point(model, hook)
    target = source if hook_out is None else single_point(model, hook_out)
    attached = _checked_attachment(model, cfg, sae, source, target, hook_out is not None, use_error_term, positions)
    with ExitStack() as stack:
        stack.callback(attached.detach)
        points = attached.points
        stack.callback(model._remove_points, points)
        sae_points = [p.name for p in model.hook_dict.values() if p.site == source.name and p.site != target.name]
        model._insert_points(points[:2], after=sae_points[-1] if sae_points else source.name)
        model._insert_points(points[2:], after=points[1].name if target is source else target.name)
        if target is source:
            target._replacement = attached.replace
        else:
            stack.callback(source.add_reader(attached.read_source).remove)
            target._replacement = attached.replace_target
        yield


@dataclass(frozen=True, eq=False)
class _Encoded:
    """The activation of one pass inside the SAE. Rows are all vectors, or only those at the selected positions."""

    activation: Tensor  # rows of the model
    input: Tensor  # rows after the hooks at the input
    latents: Tensor  # rows of feature activations, before hooks
    edited_latents: Tensor  # and after
    mask: Tensor | None  # bool over the axes before the vector; None: all


class _AttachedSAE:
    """An attached SAE. It reads ``source`` and replaces ``target`` (the same point except for transcoders)."""

    def __init__(
        self,
        sae: AttachableSAE,
        source: HookPoint,
        target: HookPoint,
        layout_in: VectorLayout,
        layout_out: VectorLayout,
        n_features: int,
        use_error_term: bool,
        positions: AttachedPositions | None,
    ) -> None:
        self.sae, self.source, self.target = sae, source, target
        self.layout_in, self.layout_out, self.positions = layout_in, layout_out, positions
        self.latent_layout = VectorLayout(layout_in.axes, n_features)

        def point(part: str, site: HookPoint, axes: tuple[str, ...], **sizes: int) -> SAEHookPoint:
            return SAEHookPoint(f"{source.name}{SAE_PART}{part}", site, axes, (source.name, target.name), **sizes)

        self.input = point("input", source, source.axes)
        self.acts = point("acts_post", source, (*layout_in.axes, "d_sae"), d_sae=n_features)
        self.recons = point("recons", target, target.axes)
        self.error = point("error", target, target.axes) if use_error_term else None
        self.output = point("output", target, target.axes)
        self._encoded: _Encoded | None = None

    @property
    def points(self) -> list[SAEHookPoint]:
        """In the order in which they fire."""
        parts = (self.input, self.acts, self.recons, self.error, self.output)
        return [point for point in parts if point is not None]

    def detach(self) -> None:
        """Stop replacing the target, so that another SAE can be attached there."""
        self.target._replacement = self._encoded = None

    def replace(self, x: Tensor) -> Tensor:
        """Replace the activation of a point that is both read and replaced."""
        return self._decode_into(x, self._encode_from(x))

    def read_source(self, x: Tensor, point: HookPoint) -> None:
        """Encode the activation that a transcoder reads."""
        self._encoded = self._encode_from(x)

    read_source.in_read_pass = True  # type: ignore[attr-defined]  # see ReadPass

    def replace_target(self, x: Tensor) -> Tensor:
        """Replace the activation that a transcoder predicts."""
        encoded, self._encoded = self._encoded, None
        if encoded is None:
            raise HookedWhisperError(
                f"the SAE attached at {self.source.name} replaces {self.target.name}, but the first did not run before "
                "the second in this pass: run the model from there on"
            )
        return self._decode_into(x, encoded)

    def _encode_from(self, x: Tensor) -> _Encoded:
        mask = None if self.positions is None else self.positions.in_tensor(x, self.source, self.layout_in.axes)
        activation = self.layout_in.vectors(selected(x, mask))
        sae_input = through(self.input, activation, mask, self.layout_in, lambda: x)
        latents = self._encode(sae_input)

        def zeros() -> Tensor:
            assert mask is not None
            return latents.new_zeros(*mask.shape, latents.shape[-1])

        edited_latents = through(self.acts, latents, mask, self.latent_layout, zeros)
        return _Encoded(activation, sae_input, latents, edited_latents, mask)

    def _decode_into(self, x: Tensor, encoded: _Encoded) -> Tensor:
        mask, layout = encoded.mask, self.layout_out
        activation = layout.vectors(selected(x, mask))
        decoded = self._decode(encoded.edited_latents, encoded.input, activation)
        recons = through(self.recons, decoded, mask, layout, lambda: x)
        rows = recons
        if self.error is not None:
            clean = self._clean_reconstruction(encoded, decoded, activation)
            rows = with_error(activation, clean, recons, self.error, mask, layout, x)
        return self.output(inserted(x, mask, layout.tensor(rows)))

    @torch.no_grad()
    def _clean_reconstruction(self, encoded: _Encoded, decoded: Tensor, activation: Tensor) -> Tensor:
        """Return the reconstruction without hooks, encoded and decoded again only where hooks changed something."""
        same_input = equal(encoded.activation, encoded.input)
        if same_input and equal(encoded.latents, encoded.edited_latents):
            return decoded.detach()
        latents = encoded.latents if same_input else self._encode(encoded.activation)
        return self._decode(latents, encoded.activation, activation)

    def _encode(self, rows: Tensor) -> Tensor:
        return self._call_sae(lambda: self.sae.encode(rows), (*rows.shape[:-1], self.latent_layout.width), "encode")

    def _decode(self, latents: Tensor, rows: Tensor, like: Tensor) -> Tensor:
        return self._call_sae(lambda: decode_with(self.sae, latents, rows), tuple(like.shape), "decode").to(like)

    def _call_sae(self, call: Callable[[], Any], shape: tuple[int, ...], method: str) -> Tensor:
        return call_sae(call, shape, f"{method} of the SAE attached at {self.source.described()}")


def _checked_attachment(
    model: HookedRootModule,
    cfg: WhisperConfig,
    sae: AttachableSAE,
    source: HookPoint,
    target: HookPoint,
    has_hook_out: bool,
    use_error_term: bool,
    positions: Any,
) -> _AttachedSAE:
    """Check that the SAE fits the points, and return the attachment. The model is not changed yet."""
    kind = type(sae).__name__
    if not hasattr(sae, "encode") or not (hasattr(sae, "decode") or hasattr(sae, "decode_like")):
        raise PatchError(f"{kind} cannot be attached: it needs encode, and decode or decode_like")
    d_out = declared_size(sae, "d_out")
    if d_out is not None and not has_hook_out:
        raise PatchError(
            f"{kind} predicts another point's activation ({d_out} wide) from that at {source.name}: say with hook_out= "
            "which one it replaces"
        )
    check_free(model, [source], [target])
    d_in, n_features = declared_size(sae, "d_in"), declared_size(sae, "n_features")
    d_out = d_in if d_out is None else d_out
    if d_in is None or n_features is None:
        layout_in, n_features, d_out = _tried_sizes(model, sae, source)
    else:
        layout_in = fitting_layout(source, lambda layout: layout.width == d_in, f"the SAE takes d_in = {d_in}")
    requirement = f"the SAE gives {d_out} for each of [{', '.join(layout_in.axes)}]"
    layout_out = fitting_layout(
        target, lambda layout: layout.width == d_out and layout.axes == layout_in.axes, requirement
    )
    if target is not source:
        names = list(model.hook_dict)
        if target.stack != source.stack or names.index(target.name) < names.index(source.name):
            raise PatchError(f"hook_out {target.name} must come after {source.name}, in the same stack")
    places = sae_positions(positions, source, cfg)
    return _AttachedSAE(sae, source, target, layout_in, layout_out, n_features, use_error_term, places)


@torch.no_grad()
def _tried_sizes(model: HookedRootModule, sae: AttachableSAE, source: HookPoint) -> tuple[VectorLayout, int, int]:
    """Return layout, number of features and output width of an SAE that declares none, by encoding one vector."""
    parameter = next(model.parameters())
    sizes: dict[int, tuple[int, int]] = {}
    failures: list[Exception] = []

    def fits(layout: VectorLayout) -> bool:
        row = torch.linspace(-1, 1, layout.width, device=parameter.device, dtype=parameter.dtype)[None]
        try:
            latents = sae.encode(row)
            sizes[layout.width] = latents.shape[-1], decode_with(sae, latents, row).shape[-1]
        except Exception as error:
            failures.append(error)
        return layout.width in sizes

    try:
        layout = fitting_layout(source, fits, "the SAE does not take them")
    except PatchError as error:
        if not failures:
            raise
        raise PatchError(f"{error} ({failures[-1]})") from failures[-1]
    return layout, *sizes[layout.width]
