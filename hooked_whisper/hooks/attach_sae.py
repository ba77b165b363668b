"""A dictionary in the middle of a pass: the activation of a hook point is replaced by what its features say of it.

``with model.attach_sae(sae, hook="encoder.blocks.2"):`` adds, behind the point, points of the dictionary's own:

    <hook>.hook_sae_input       the activation that is encoded                     [axes of the point]
    <hook>.hook_sae_acts_post   its features (latents)                             [.., d_sae]
    <hook>.hook_sae_recons      what they decode to                                [axes of the point replaced]
    <hook>.hook_sae_error       what they leave out; with ``use_error_term`` alone     [axes of the point replaced]
    <hook>.hook_sae_output      what the model goes on with                        [axes of the point replaced]

They are points like all others: cached, hooked, causal. The splice comes before every hook of the point itself,
whichever was there first: these hooks, and caches of the point, get the spliced activation, and what they return is
final. What the dictionary gets is changed at ``hook_sae_input``.

Names of the points, and an error term that does not mask edits: SAELens (``HookedSAETransformer``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

from hooked_whisper._support.indices import Selection
from hooked_whisper._support.renamed import renamed_arguments, renamed_method
from hooked_whisper.config import WhisperConfig
from hooked_whisper.errors import HookedWhisperError, PatchError
from hooked_whisper.hooks.attach_layout import Chosen, Layout, fitting, sae_positions
from hooked_whisper.hooks.hook_names import SPLICED
from hooked_whisper.hooks.hook_point import HookPoint
from hooked_whisper.hooks.root_module import HookedModule
from hooked_whisper.protocols import AttachableSAE

Model = TypeVar("Model", bound="SplicingMixin")


class SAEHookPoint(HookPoint):
    """A point of a splice. It is no part of the model: not in its modules, copies or weights."""

    def __init__(self, name: str, at: HookPoint, axes: tuple[str, ...], **sizes: int) -> None:
        super().__init__(*axes)
        self.name = name
        self.clock = at.clock
        self.sizes = sizes
        self._site = at.name

    @property
    def site(self) -> str:
        return self._site


class SplicingMixin(HookedModule):
    """``splice`` for a hooked model."""

    cfg: WhisperConfig

    splice = renamed_method("splice", "attach_sae")

    @renamed_arguments(error_term="use_error_term")
    @contextmanager
    def attach_sae(
        self: Model,
        sae: AttachableSAE,
        hook: str,
        *,
        use_error_term: bool = False,
        hook_out: str | None = None,
        positions: Selection | Bool[Tensor, "row place"] | None = None,
    ) -> Iterator[Model]:
        """Replace an activation by a dictionary's reconstruction of it, for a block of code. Gives the model.

        Several splices at different points may be open, and be left in any order.

        Args:
            sae: anything with ``encode`` and ``decode`` (or ``decode_like(features, activation)``): it takes the
                vectors along the point's last axis, or those of all heads as one where it is as wide as they are
                together. The reconstruction is cast to the activation's dtype.
            hook: one hook point, by name or published name.
            use_error_term: add what the reconstruction leaves out, as a constant: the output is then the activation,
                bit for bit, until a hook edits a point of the splice. An edit of the latents adds
                ``decode(edited) - decode(latents)``, one of the input ``decode(encode(edited)) - decode(encode(x))``.
                Gradients pass through the dictionary, not past it.
            hook_out: for transcoders, the later point of the same stack whose activation is replaced.
            positions: only there; elsewhere the activation passes as it is, and latents and error read 0. Absolute
                encoder positions (decoder: tokens) in any form of :func:`hooked_whisper._support.indices.read_indices`,
                or a mask of booleans ``[row, place]``: a row per clip, or one for all; as long as the pass.

        Raises:
            UnknownHookError: no such point; names the closest.
            PatchError: a point without vectors of the dictionary's width, a point where one is spliced in already, a
                transcoder without ``hook_out``, a crosscoder, positions that are none.
        """
        reads = self._one_point(hook)
        writes = reads if hook_out is None else self._one_point(hook_out)
        splice = _plan(self, sae, reads, writes, hook_out is not None, use_error_term, positions)
        with ExitStack() as stack:
            stack.callback(splice.close)
            points = splice.points
            stack.callback(self._drop_points, points)
            behind = [p.name for p in self._hook_dict.values() if p.site == reads.name and p.site != writes.name]
            self._place_points(points[:2], after=behind[-1] if behind else reads.name)
            self._place_points(points[2:], after=points[1].name if writes is reads else writes.name)
            if writes is not reads:
                stack.callback(reads.add_reader(splice.take).remove)
            writes._splice = splice.replace if writes is reads else splice.replace_later
            yield self

    def _one_point(self, name: str) -> HookPoint:
        found = self.hook_points(name)
        if len(found) != 1:
            raise PatchError(f"{name!r} names {len(found)} points: splice one dictionary in at one of them")
        if found[0].site != found[0].name:
            raise PatchError(f"{found[0].name} belongs to a splice itself: splice at a point of the model")
        return found[0]


@dataclass(frozen=True, eq=False)
class _Read:
    """One pass's activation on its way through the dictionary; rows are all vectors, or the chosen ones alone."""

    given: Tensor  # rows, as the model has them
    seen: Tensor  # rows, as the hooks at the input left them
    latents: Tensor  # rows of features, before hooks
    edited: Tensor  # and after
    chosen: Tensor | None  # bool over the axes before the vector


class _Splice:
    """What a splice does in a pass."""

    def __init__(
        self,
        sae: AttachableSAE,
        reads: HookPoint,
        writes: HookPoint,
        layout_in: Layout,
        layout_out: Layout,
        n_features: int,
        use_error_term: bool,
        chosen: Chosen | None,
    ) -> None:
        self.sae, self.reads, self.writes = sae, reads, writes
        self.layout_in, self.layout_out, self.chosen = layout_in, layout_out, chosen
        self.plain = Layout(layout_in.axes, n_features)

        def point(what: str, at: HookPoint, axes: tuple[str, ...], **sizes: int) -> SAEHookPoint:
            return SAEHookPoint(f"{reads.name}{SPLICED}{what}", at, axes, **sizes)

        self.input = point("input", reads, reads.axes)
        self.acts = point("acts_post", reads, (*layout_in.axes, "d_sae"), d_sae=n_features)
        self.recons = point("recons", writes, writes.axes)
        self.error = point("error", writes, writes.axes) if use_error_term else None
        self.output = point("output", writes, writes.axes)
        self._taken: _Read | None = None

    @property
    def points(self) -> list[SAEHookPoint]:
        """In the order in which they fire."""
        all_of_them = (self.input, self.acts, self.recons, self.error, self.output)
        return [point for point in all_of_them if point is not None]

    def close(self) -> None:
        """Let go of the point replaced; nobody else can have it before."""
        self.writes._splice = self._taken = None

    def replace(self, x: Tensor) -> Tensor:
        """For one point that is read and replaced."""
        return self._write(x, self._read(x))

    def take(self, x: Tensor, point: HookPoint) -> None:
        """For a transcoder: the activation it reads goes by."""
        self._taken = self._read(x)

    def replace_later(self, x: Tensor) -> Tensor:
        """For a transcoder: the activation it predicts."""
        taken, self._taken = self._taken, None
        if taken is None:
            raise HookedWhisperError(
                f"{self.writes.name} is to be replaced by a dictionary that reads {self.reads.name}, but that did not "
                "run before it in this pass: run the model from there on"
            )
        return self._write(x, taken)

    def _read(self, x: Tensor) -> _Read:
        chosen = None if self.chosen is None else self.chosen.at(x, self.reads, self.layout_in.axes)
        given = self.layout_in.vectors(_picked(x, chosen))
        seen = _past(self.input, given, chosen, self.layout_in, lambda: x)
        latents = self._encode(seen)
        edited = _past(
            self.acts, latents, chosen, self.plain, lambda: latents.new_zeros(*_lead(chosen), latents.shape[-1])
        )
        return _Read(given, seen, latents, edited, chosen)

    def _write(self, x: Tensor, read: _Read) -> Tensor:
        chosen, layout = read.chosen, self.layout_out
        own = layout.vectors(_picked(x, chosen))
        made = self._decode(read.edited, read.seen, own)
        recons = _past(self.recons, made, chosen, layout, lambda: x)
        out = recons if self.error is None else self._with_error(own, read, made, recons, x)
        out = layout.tensor(out)
        return self.output(out if chosen is None else x.index_put((chosen,), out))

    def _with_error(self, own: Tensor, read: _Read, made: Tensor, recons: Tensor, x: Tensor) -> Tensor:
        """The activation, plus what hooks changed. Written as differences, so that nothing changed leaves every bit."""
        assert self.error is not None
        with torch.no_grad():
            clean = self._clean(read, made, own)
            error = own - clean
        out = own.detach() - (clean - recons)
        if self.error.active:
            if torch.is_grad_enabled() and (x.requires_grad or recons.requires_grad):
                error.requires_grad_()  # a constant for the rest of the graph, but its own gradient can be read
            after = _past(self.error, error, read.chosen, self.layout_out, lambda: torch.zeros_like(x))
            out = out - (error.detach() - after)
        return out

    def _clean(self, read: _Read, made: Tensor, own: Tensor) -> Tensor:
        """The reconstruction without any hook. Encoded and decoded again only where hooks made a difference."""
        same_input = _same(read.given, read.seen)
        if same_input and _same(read.latents, read.edited):
            return made.detach()
        latents = read.latents if same_input else self._encode(read.given)
        return self._decode(latents, read.given, own)

    def _encode(self, rows: Tensor) -> Tensor:
        return self._of_dictionary(lambda: self.sae.encode(rows), (*rows.shape[:-1], self.plain.width), "encode")

    def _decode(self, latents: Tensor, rows: Tensor, like: Tensor) -> Tensor:
        return self._of_dictionary(lambda: _decoded(self.sae, latents, rows), tuple(like.shape), "decode").to(like)

    def _of_dictionary(self, call: Callable[[], Any], shape: tuple[int, ...], what: str) -> Tensor:
        where = f"the dictionary spliced in at {self.reads.described()}"
        try:
            found = call()
        except Exception as error:
            error.add_note(f"raised in {what} of {where}")
            raise
        if not isinstance(found, Tensor) or tuple(found.shape) != shape:
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise PatchError(f"{what} of {where} gave {got}, but {list(shape)} is needed")
        return found


def _decoded(sae: AttachableSAE, latents: Tensor, activations: Tensor) -> Tensor:
    like = getattr(sae, "decode_like", None)
    return sae.decode(latents) if like is None else like(latents, activations)  # type: ignore[union-attr]


def _picked(x: Tensor, chosen: Tensor | None) -> Tensor:
    return x if chosen is None else x[chosen]


def _lead(chosen: Tensor | None) -> tuple[int, ...]:
    assert chosen is not None
    return tuple(chosen.shape)


def _past(
    point: HookPoint, rows: Tensor, chosen: Tensor | None, layout: Layout, elsewhere: Callable[[], Tensor]
) -> Tensor:
    """Rows behind a point, which sees them at their places in the whole tensor. Not put there if nobody looks."""
    if not point.active:
        return rows
    if chosen is None:
        return layout.vectors(point(layout.tensor(rows)))
    whole = elsewhere().index_put((chosen,), layout.tensor(rows))
    return layout.vectors(point(whole)[chosen])


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or torch.equal(a, b)


def _plan(
    model: SplicingMixin,
    sae: AttachableSAE,
    reads: HookPoint,
    writes: HookPoint,
    has_out: bool,
    use_error_term: bool,
    positions: Selection | None,
) -> _Splice:
    """The splice, if everything fits; nothing has been touched yet."""
    if not hasattr(sae, "encode") or not (hasattr(sae, "decode") or hasattr(sae, "decode_like")):
        raise PatchError(f"{type(sae).__name__} cannot be spliced in: it needs encode, and decode or decode_like")
    if _declared(sae, "n_blocks") is not None:
        raise PatchError(
            f"{type(sae).__name__} takes {_declared(sae, 'n_blocks')} blocks in one input, which no single point has: "
            "a crosscoder cannot be spliced in"
        )
    if _declared(sae, "d_out") is not None and not has_out:
        raise PatchError(
            f"{type(sae).__name__} predicts another point's activation ({_declared(sae, 'd_out')} wide) from that at "
            f"{reads.name}: say with hook_out= which one it replaces"
        )
    if writes._splice is not None or f"{reads.name}{SPLICED}input" in model.hook_dict:
        taken = reads if writes._splice is None else writes
        raise PatchError(f"{taken.name} has a dictionary spliced in already: leave that splice first")
    d_in, n_features = _declared(sae, "d_in"), _declared(sae, "n_features")
    d_out = _declared(sae, "d_out")
    d_out = d_in if d_out is None else d_out
    if d_in is None or n_features is None:
        layout_in, n_features, d_out = _tried(model, sae, reads)
    else:
        layout_in = fitting(reads, model.cfg, lambda one: one.width == d_in, f"the dictionary takes d_in = {d_in}")
    needs = f"the dictionary gives {d_out} for each of [{', '.join(layout_in.axes)}]"
    layout_out = fitting(writes, model.cfg, lambda one: one.width == d_out and one.axes == layout_in.axes, needs)
    if writes is not reads:
        names = list(model.hook_dict)
        if writes.stack != reads.stack or names.index(writes.name) < names.index(reads.name):
            raise PatchError(f"hook_out {writes.name} must come after {reads.name}, in the same stack")
    chosen = sae_positions(positions, reads, model.cfg)
    return _Splice(sae, reads, writes, layout_in, layout_out, n_features, use_error_term, chosen)


def _declared(sae: AttachableSAE, what: str) -> int | None:
    """A size that a dictionary or its config (``cfg``, in SAELens) names."""
    for place in (sae, getattr(sae, "config", None), getattr(sae, "cfg", None)):
        value = getattr(place, what, None)
        if isinstance(value, int):
            return value
    return None


@torch.no_grad()
def _tried(model: SplicingMixin, sae: AttachableSAE, reads: HookPoint) -> tuple[Layout, int, int]:
    """How a dictionary that does not say its sizes fits, how many features it has and what width it gives."""
    parameter = next(model.parameters())
    found: dict[int, tuple[int, int]] = {}
    why: list[Exception] = []

    def fits(layout: Layout) -> bool:
        row = torch.linspace(-1, 1, layout.width, device=parameter.device, dtype=parameter.dtype)[None]
        try:
            latents = sae.encode(row)
            found[layout.width] = latents.shape[-1], _decoded(sae, latents, row).shape[-1]
        except Exception as error:
            why.append(error)
        return layout.width in found

    try:
        layout = fitting(reads, model.cfg, fits, "the dictionary does not take them")
    except PatchError as error:
        raise (error if not why else PatchError(f"{error} ({why[-1]})")) from (why[-1] if why else None)
    return layout, *found[layout.width]
