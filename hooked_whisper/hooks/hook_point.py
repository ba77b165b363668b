"""One hook point: an identity that hooks can read or replace."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn

from hooked_whisper.errors import ArgumentError, HookedWhisperError, HookShapeError, check_option

HookFn = Callable[..., Tensor | None]
Direction = Literal["fwd", "bwd"]


class StackClock:
    """Index of the first token (or encoder position) of the pass that is running; shared by one stack's points."""

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
    """Takes back exactly one hook. ``remove`` may be called more than once."""

    __slots__ = ("_entries", "_entry")

    def __init__(self, entries: list[Any], entry: Any) -> None:
        self._entries = entries
        self._entry = entry
        entries.append(entry)

    def remove(self) -> None:
        # by identity: two hooks with the same function are two hooks
        self._entries[:] = [e for e in self._entries if e is not self._entry]


class _Hook:
    """A user's function, called with the arguments it takes."""

    __slots__ = ("fn", "takes_point")

    def __init__(self, fn: HookFn) -> None:
        self.fn = fn
        self.takes_point = _takes_point(fn)

    def __call__(self, tensor: Tensor, point: HookPoint) -> Any:  # whatever the user returns
        if self.takes_point == "keyword":
            return self.fn(tensor, hook=point)
        return self.fn(tensor, point) if self.takes_point == "positional" else self.fn(tensor)


class HookPoint(nn.Module):
    """Identity in the forward pass; hooks see its tensor and what they return is what the model goes on with.

    ``axes`` names the tensor's axes: ``batch``, ``position``, ``token``, ``head``, ``query``, ``key``, ``d_model``, ...
    ``optional`` points are computed only while someone listens.
    """

    def __init__(self, *axes: str, optional: bool = False) -> None:
        super().__init__()
        self.axes = axes
        self.optional = optional
        self.sizes: dict[str, int] = {}  # of axes that no config knows (``d_sae``)
        self.name = ""
        self.ctx: dict[str, Any] = {}
        self.clock = StackClock()
        self._fwd: list[_Hook] = []
        self._bwd: list[_Hook] = []
        self._readers: list[Callable[[Tensor, HookPoint], None]] = []
        self._splice: Callable[[Tensor], Tensor] | None = None  # what stands in for the tensor before any hook sees it

    @property
    def active(self) -> bool:
        """Whether anyone listens here."""
        return bool(self._fwd or self._bwd or self._readers or self._splice)

    @property
    def offset(self) -> int:
        """Absolute index of the first token (decoder) or position (encoder) in the tensor a hook sees."""
        return self.clock.offset

    @property
    def site(self) -> str:
        """The point of the model this is about: itself, or where the splice that it belongs to stands."""
        return self.name

    @property
    def first_place(self) -> int:
        """Absolute number of the first position, token or frame a hook sees; cross-attention's keys begin at 0."""
        return 0 if of_cross_keys(self.site) else (2 if "frame" in self.axes else 1) * self.offset

    @property
    def stack(self) -> str:
        return self.name.split(".", 1)[0]

    def layer(self) -> int:
        """Block number; raises if the point is outside the blocks."""
        match = re.search(r"\.blocks\.(\d+)\.", self.name)
        if match is None:
            raise HookedWhisperError(f"{self.name} is not inside a block, so it has no layer")
        return int(match.group(1))

    def add_hook(self, fn: HookFn, dir: Direction = "fwd", prepend: bool = False) -> HookHandle:
        """Add ``fn(tensor)`` or ``fn(tensor, hook)``; it returns ``None`` or a tensor of the same shape, dtype, device.

        ``dir="bwd"`` gives the gradient instead of the activation. Hooks run in the order they were added.
        """
        check_option("dir", dir, ("fwd", "bwd"))
        if not callable(fn):
            raise ArgumentError(f"a hook at {self.name} must be callable, got {type(fn).__name__}")
        entries = self._fwd if dir == "fwd" else self._bwd
        handle = HookHandle(entries, _Hook(fn))
        if prepend:
            entries.insert(0, entries.pop())
        return handle

    def add_reader(self, fn: Callable[[Tensor, HookPoint], None]) -> HookHandle:
        """Add a function that only reads, after all hooks; it must not edit the tensor in place."""
        return HookHandle(self._readers, fn)

    def remove_hooks(self, dir: Literal["fwd", "bwd", "both"] = "both") -> None:
        """Remove the hooks (not the readers) of one direction or both."""
        check_option("dir", dir, ("fwd", "bwd", "both"))
        if dir in ("fwd", "both"):
            self._fwd.clear()
        if dir in ("bwd", "both"):
            self._bwd.clear()

    def forward(self, x: Tensor) -> Tensor:
        if not (self._fwd or self._bwd or self._readers or self._splice):
            return x
        if self._splice is not None:
            x = self._splice(x)
        for hook in tuple(self._fwd):
            x = self._run(hook, x)
        if x.requires_grad:
            # A node of its own: the gradient here is that of this branch, not of everyone who reads the same tensor.
            x = x.view_as(x)
        if self._bwd:
            self._listen_backward(x)
        for read in tuple(self._readers):
            read(x, self)
        return x

    def _run(self, hook: _Hook, x: Tensor) -> Tensor:
        # Every hook edits a copy of its own: an in-place edit must not reach tensors that share memory with this one
        # (the previous block's cached resid_post, a softmax output saved for the backward pass, what the hook before
        # returned, the gradient of a sister branch).
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
        for what in ("shape", "dtype", "device"):
            want, got = getattr(before, what), getattr(after, what)
            if want != got:
                want, got = (tuple(v) if what == "shape" else v for v in (want, got))
                raise HookShapeError(f"a hook at {self.described()} returned {what} {got}, but {want} is needed")
        return after

    def described(self) -> str:
        return f"{self.name} [{', '.join(self.axes)}]"

    def __getstate__(self) -> dict[str, Any]:
        # copies and pickles of a model carry no hooks: they belong to the run, not to the weights
        return {**super().__getstate__(), "_fwd": [], "_bwd": [], "_readers": [], "_splice": None, "ctx": {}}

    def extra_repr(self) -> str:
        return ", ".join(self.axes)


def watched(*modules: nn.Module) -> bool:
    """Whether anyone sees what these modules give: by our hooks, or by those that torch knows."""
    if nn.modules.module._global_forward_hooks:
        return True
    return any(m._forward_hooks or (isinstance(m, HookPoint) and m.active) for m in modules)


def of_cross_keys(name: str) -> bool:
    """Whether a point's rows and places are the clips' and not the tokens', though it lies in the decoder."""
    return ".cross_attn." in name and name.endswith(("hook_k", "hook_v"))


def _takes_point(fn: HookFn) -> Literal["", "positional", "keyword"]:
    """How the function wants the hook point: as ``hook=``, as a second argument, or not at all."""
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
