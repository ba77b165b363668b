"""Collect the requested activations while a model runs, cut and stored; estimate their size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hooked_whisper._support.indices import Selection, read_indices, take
from hooked_whisper.errors import ArgumentError, CacheSizeError, HookedWhisperError
from hooked_whisper.hooks.hook_point import HookPoint
from hooked_whisper.hooks.root_module import HookedRootModule

Slices = Mapping[str, Selection | None]

DEFAULT_MAX_BYTES = 8 * 2**30


@dataclass(frozen=True)
class Storing:
    """How activations are stored.

    slices: which entries of the axes ``position`` and ``token`` to store; ``query`` is cut like the axis it counts,
        ``key`` stays whole.
    device, dtype: of the stored tensors (default: as they are).
    detach: whether to cut the graph.
    """

    slices: Slices = field(default_factory=dict)
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    detach: bool = True

    def __post_init__(self) -> None:
        if self.device is not None:
            try:
                torch.device(self.device)
            except (RuntimeError, TypeError) as error:
                raise ArgumentError(f"device must be one such as 'cpu' or 'cuda', not {self.device!r:.80}") from error
        if self.dtype is not None and not isinstance(self.dtype, torch.dtype):
            raise ArgumentError(f"dtype must be a torch.dtype such as torch.float16, not {self.dtype!r:.80}")

    def stored(self, x: Tensor, point: HookPoint) -> Tensor:
        """Return the tensor at ``point`` as the cache stores it."""
        if self.detach:
            x = x.detach()
        whole = x
        for axis, dim in zip(_cut_axes(point), range(x.dim()), strict=False):
            if self.slices.get(axis) is not None:
                x = take(x, dim, read_indices(self.slices[axis], x.shape[dim], f"{axis}s of {point.name}"))
        if self.dtype is not None and x.is_floating_point():
            x = x.to(self.dtype)
        if self.device is not None:
            x = x.to(self.device)
        same_memory = x.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
        # A view of a slice would keep the whole tensor alive, and the other holder of a shared tensor may edit it. With
        # the graph, a shared tensor is not copied: the copy would not be on the path to the output.
        return x.clone() if same_memory and (x is not whole or (self.detach and point.shared)) else x

    def count(self, point: HookPoint, lengths: Mapping[str, int]) -> int:
        """Return the number of stored entries in a pass with these axis lengths."""
        count = 1
        for axis, size in zip(_cut_axes(point), point.shape(lengths), strict=True):
            selection = self.slices.get(axis)
            count *= size if selection is None else len(read_indices(selection, size, f"{axis}s of {point.name}"))
        return count


def _cut_axes(point: HookPoint) -> tuple[str, ...]:
    """Axis names as slices use them: ``query`` becomes the axis that it counts."""
    return tuple(point.counts.get(axis, axis) if axis == "query" else axis for axis in point.axes)


class _Stop(Exception):
    """The last requested point has fired, and the output is not needed."""


def collect_activations(
    model: HookedRootModule,
    names: Sequence[str],
    run: Callable[[], Tensor],
    storing: Storing,
    *,
    stop_early: bool = False,
    loss_fn: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Run the model and return ``(output, name -> activation)``, in the order of ``names``.

    run: the forward pass.
    stop_early: stop after the last of ``names``; the output is then ``None``.
    loss_fn: also run backward from ``loss_fn(output)`` and store gradients as ``<name>_grad``.

    Raises:
        HookedWhisperError: a point did not fire in the pass, or the loss has no gradient.
    """
    stored: dict[str, Tensor] = {}
    in_graph: dict[str, Tensor] = {}
    missing = set(names)

    def store(x: Tensor, point: HookPoint) -> None:
        stored[point.name] = storing.stored(x, point)
        missing.discard(point.name)
        if loss_fn is not None and x.requires_grad:
            in_graph[point.name] = x
        if stop_early and not missing:
            raise _Stop

    points = {name: model._hook_dict[name] for name in names}
    output: Tensor | None = None
    with ExitStack() as stack:
        for point in points.values():
            stack.callback(point.add_reader(store).remove)
        try:
            output = run()
        except _Stop:
            output = None
        if loss_fn is not None and output is not None:
            gradients = _gradients(loss_fn(output), in_graph, retain_graph=not storing.detach)
            detached = Storing(storing.slices, storing.device, storing.dtype)
            stored |= {f"{name}_grad": detached.stored(gradient, points[name]) for name, gradient in gradients.items()}
    if missing:
        raise HookedWhisperError(f"these points did not fire in this pass: {sorted(missing)}")
    # a point where an SAE is attached fires after the points of the SAE, though it is listed before them
    return (None if stop_early else output), {name: stored.pop(name) for name in names} | stored


def _gradients(loss: Tensor, activations: Mapping[str, Tensor], retain_graph: bool) -> dict[str, Tensor]:
    """Return the gradients of activations, without changing the ``.grad`` of parameters and inputs."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ArgumentError("loss_fn must return one number (a tensor with one element)")
    if not loss.requires_grad:
        raise HookedWhisperError(
            "the loss has no gradient: run without torch.no_grad and with parameters or mel that require one"
        )
    if not activations:
        return {}
    tensors = list(activations.values())
    gradients = torch.autograd.grad(loss, tensors, retain_graph=retain_graph, materialize_grads=True)
    return dict(zip(activations, gradients, strict=True))


def check_cache_size(
    points: Sequence[HookPoint],
    lengths: Mapping[str, int],
    storing: Storing,
    dtype: torch.dtype,
    with_gradients: bool,
    max_bytes: int,
) -> None:
    """Refuse requests whose estimated size exceeds ``max_bytes``.

    lengths: of the axes, as for :meth:`HookPoint.shape`. dtype: of the model.

    Raises:
        CacheSizeError: the estimate exceeds the limit; the message names the largest point and remedies.
    """
    width = torch.empty(0, dtype=storing.dtype or dtype).element_size() * (2 if with_gradients else 1)
    bytes_of = {point.name: storing.count(point, lengths) * width for point in points}
    total = sum(bytes_of.values())
    if total > max_bytes:
        largest = max(bytes_of, key=lambda name: bytes_of[name])
        raise CacheSizeError(
            f"caching {len(points)} points would take about {total / 2**30:.1f} GiB (limit {max_bytes / 2**30:.2g} "
            f"GiB; the largest is {largest} with {bytes_of[largest] / 2**30:.2f} GiB). Narrow names_filter=, cut with "
            "pos_slice= or token_slice=, store dtype=torch.float16, run fewer clips, or raise max_bytes="
        )
