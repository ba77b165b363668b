"""``HookPoint``: an identity in the forward pass that hooks can read or replace, and the facts about its tensor."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn

from hooked_whisper._support.renamed import renamed_property
from hooked_whisper.errors import ArgumentError, HookedWhisperError, HookShapeError, check_option

HookFn = Callable[..., Tensor | None]
Direction = Literal["fwd", "bwd"]

SEQUENCE_AXES = ("position", "token", "query", "frame")  # axes along which time or text runs


class StackClock:
    """Index of the first token or encoder position of the current pass, shared by the points of one stack."""

    __slots__ = ("offset",)

    def __init__(self) -> None:
        self.offset = 0

    @contextmanager
    def starting_at(self, offset: int) -> Iterator[None]:
        """Set the offset for a part of a pass that is run outside ``forward``, then restore it."""
        before = self.offset
        self.offset = offset
        try:
            yield
        finally:
            self.offset = before


class HookHandle:
    """Removes one hook. Calling ``remove`` again does nothing."""

    __slots__ = ("_entries", "_entry")

    def __init__(self, entries: list[Any], entry: Any) -> None:
        self._entries = entries
        self._entry = entry
        entries.append(entry)

    def remove(self) -> None:
        # by identity: the same function may be attached twice
        self._entries[:] = [e for e in self._entries if e is not self._entry]


class _Hook:
    """A user's function, called with or without the hook point, as its signature requires."""

    __slots__ = ("fn", "permanent", "takes_point")

    def __init__(self, fn: HookFn, permanent: bool = False) -> None:
        self.fn = fn
        self.permanent = permanent
        self.takes_point = _takes_point(fn)

    def __call__(self, tensor: Tensor, point: HookPoint) -> Any:  # whatever the user returns
        if self.takes_point == "keyword":
            return self.fn(tensor, hook=point)
        return self.fn(tensor, point) if self.takes_point == "positional" else self.fn(tensor)


class HookPoint(nn.Module):
    """Identity in the forward pass. Hooks see its tensor, and the model uses whatever a hook returns.

    Args:
        axes: names of the tensor's axes: ``batch``, ``position``, ``token``, ``head``, ``query``, ``key``,
            ``d_model``, ...
        sizes: sizes of the axes that the model fixes, such as ``{"d_model": 384}`` (entries of other axes are ignored).
            The remaining sizes depend on the pass.
        counts: what ``query`` and ``key`` count: ``"token"`` or ``"position"``.
        aliases: other names of this tensor, from published work and openai-whisper's module tree. Those that begin
            with a dot are relative to the parent module: ``"."`` is the parent itself, ``".mlp"`` its child.
        optional: computed only while a hook is attached.
        cached_by_default: whether ``run_with_cache`` without ``names_filter`` caches it.
        per_clip: a point of the decoder with one row per clip and all positions of that clip: keys and values of
            cross-attention. Encoder points are per clip anyway.
        shared: the tensor is also held outside the pass (an input, an output, a parameter), so caches copy it.
    """

    def __init__(
        self,
        *axes: str,
        sizes: Mapping[str, int] | None = None,
        counts: Mapping[str, str] | None = None,
        aliases: tuple[str, ...] = (),
        optional: bool = False,
        cached_by_default: bool = True,
        per_clip: bool = False,
        shared: bool = False,
    ) -> None:
        super().__init__()
        self.axes = axes
        self.sizes = {axis: sizes[axis] for axis in axes if axis in sizes} if sizes else {}
        self.counts = dict(counts or {})
        self.aliases = aliases
        self.optional = optional
        self.cached_by_default = cached_by_default and not optional
        self.shared = shared
        self._declared_per_clip = per_clip
        self.name = ""
        self.ctx: dict[str, Any] = {}
        self.clock = StackClock()
        self._fwd: list[_Hook] = []
        self._bwd: list[_Hook] = []
        self._readers: list[Callable[[Tensor, HookPoint], None]] = []
        self._replacement: Callable[[Tensor], Tensor] | None = None  # replaces the tensor before any hook sees it

    @property
    def active(self) -> bool:
        """Whether any hook, reader or SAE is attached."""
        return bool(self._fwd or self._bwd or self._readers or self._replacement)

    @property
    def offset(self) -> int:
        """Absolute index of the first token (decoder) or position (encoder) in the tensor that a hook sees."""
        return self.clock.offset

    @property
    def site(self) -> str:
        """Name of the point in the model. For a point of an attached SAE: of the point where the SAE is attached."""
        return self.name

    @property
    def stack(self) -> str:
        """``"encoder"``, ``"decoder"`` or ``"unembed"``."""
        return self.name.split(".", 1)[0]

    @property
    def per_clip(self) -> bool:
        """Whether the tensor has one row per clip rather than one per row of tokens."""
        return self.stack == "encoder" or self._declared_per_clip

    @property
    def sequence_axis(self) -> str | None:
        """The axis along which time or text runs, or ``None``."""
        return next((axis for axis in SEQUENCE_AXES if axis in self.axes), None)

    @property
    def steps_per_position(self) -> int:
        """Entries of the sequence axis per encoder position: 2 for mel frames, else 1."""
        return 2 if self.sequence_axis == "frame" else 1

    @property
    def first_index(self) -> int:
        """Absolute index of the first position, token or frame that a hook sees; keys of cross-attention begin at 0."""
        return 0 if self._declared_per_clip else self.steps_per_position * self.offset

    first_place = renamed_property("first_place", "first_index")

    def shape(self, lengths: Mapping[str, int]) -> tuple[int, ...]:
        """Return the tensor's shape in a pass with these lengths (``batch``, ``position``, ``token``, ``frame``).

        ``clip`` is the number of clips where one clip serves several rows of tokens (default: ``batch``). An axis
        whose length is not given has length 1.
        """
        words = {axis: self.counts.get(axis, axis) for axis in self.axes}
        if self.per_clip and "clip" in lengths:
            words["batch"] = "clip"
        return tuple(self.sizes.get(axis, lengths.get(words[axis], 1)) for axis in self.axes)

    def layer(self) -> int:
        """Return the block number.

        Raises:
            HookedWhisperError: the point is outside the blocks.
        """
        match = re.search(r"\.blocks\.(\d+)\.", self.name)
        if match is None:
            raise HookedWhisperError(f"{self.name} is not inside a block, so it has no layer")
        return int(match.group(1))

    def add_hook(
        self, fn: HookFn, dir: Direction = "fwd", prepend: bool = False, is_permanent: bool = False
    ) -> HookHandle:
        """Add ``fn(tensor)`` or ``fn(tensor, hook)``, which returns ``None`` or a tensor of equal shape, dtype, device.

        With ``dir="bwd"`` it gets the gradient instead of the activation. Hooks run in the order they were added.
        ``is_permanent``: :meth:`remove_hooks` leaves the hook unless asked to remove permanent ones.
        """
        check_option("dir", dir, ("fwd", "bwd"))
        if not callable(fn):
            raise ArgumentError(f"a hook at {self.name} must be callable, got {type(fn).__name__}")
        entries = self._fwd if dir == "fwd" else self._bwd
        handle = HookHandle(entries, _Hook(fn, is_permanent))
        if prepend:
            entries.insert(0, entries.pop())
        return handle

    def add_reader(self, fn: Callable[[Tensor, HookPoint], None]) -> HookHandle:
        """Add a function that reads the tensor after all hooks. It must not edit the tensor in place."""
        return HookHandle(self._readers, fn)

    def add_perma_hook(self, fn: HookFn, dir: Direction = "fwd") -> HookHandle:
        """Add a permanent hook, see :meth:`add_hook`."""
        check_option("dir", dir, ("fwd", "bwd"))
        return self.add_hook(fn, dir, is_permanent=True)

    def remove_hooks(self, dir: Literal["fwd", "bwd", "both"] = "both", including_permanent: bool = False) -> None:
        """Remove the hooks (not the readers) of one direction or both."""
        check_option("dir", dir, ("fwd", "bwd", "both"))
        for direction, entries in (("fwd", self._fwd), ("bwd", self._bwd)):
            if dir in (direction, "both"):
                entries[:] = [hook for hook in entries if hook.permanent and not including_permanent]

    def forward(self, x: Tensor) -> Tensor:
        if not (self._fwd or self._bwd or self._readers or self._replacement):
            return x
        if self._replacement is not None:
            x = self._replacement(x)
        for hook in tuple(self._fwd):
            x = self._run(hook, x)
        if x.requires_grad:
            # A separate graph node: the gradient here is that of this branch, not of all readers of the same tensor.
            x = x.view_as(x)
        if self._bwd:
            self._listen_backward(x)
        for read in tuple(self._readers):
            read(x, self)
        return x

    def _run(self, hook: _Hook, x: Tensor) -> Tensor:
        # Every hook edits a copy: an in-place edit must not reach tensors that share memory with this one (the previous
        # block's cached resid_post, a softmax output saved for the backward pass, the tensor that the previous hook
        # returned, the gradient of another branch).
        x = x.clone()
        try:
            after = hook(x, self)
        except Exception as error:
            error.add_note(f"raised in a hook at {self.described()}")
            raise
        return self._checked(x, after)

    def _listen_backward(self, x: Tensor) -> None:
        if not x.requires_grad:
            raise HookedWhisperError(
                f"a backward hook at {self.name} would never run: no gradient flows there "
                "(run without torch.no_grad, with parameters or inputs that require a gradient)"
            )
        for hook in tuple(self._bwd):
            x.register_hook(lambda grad, hook=hook: self._run(hook, grad))

    def _checked(self, before: Tensor, after: Any) -> Tensor:
        if after is None:
            return before
        if not isinstance(after, Tensor):
            raise HookShapeError(
                f"a hook at {self.described()} returned {type(after).__name__}; return a tensor or None"
            )
        for attribute in ("shape", "dtype", "device"):
            expected, actual = getattr(before, attribute), getattr(after, attribute)
            if expected != actual:
                expected, actual = (tuple(v) if attribute == "shape" else v for v in (expected, actual))
                raise HookShapeError(
                    f"a hook at {self.described()} returned {attribute} {actual}, but {expected} is needed"
                )
        return after

    def described(self) -> str:
        """Return name and axes, for errors."""
        return f"{self.name} [{', '.join(self.axes)}]"

    def __getstate__(self) -> dict[str, Any]:
        # copies and pickles of a model carry no hooks: hooks belong to a run, not to the weights
        return {**super().__getstate__(), "_fwd": [], "_bwd": [], "_readers": [], "_replacement": None, "ctx": {}}

    def extra_repr(self) -> str:
        return self.described().strip()


def _takes_point(fn: HookFn) -> Literal["", "positional", "keyword"]:
    """Return how the function takes the hook point: as ``hook=``, as its second argument, or not at all."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # builtins without a signature
        return ""
    keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if any(p.name == "hook" and p.kind in keyword for p in parameters[1:]):
        return "keyword"
    required = [
        p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return "positional" if len(required) >= 2 else ""
