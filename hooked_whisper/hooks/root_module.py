"""``HookedRootModule``: a module whose hook points have names. Hooks for one call, for a block of code, or by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, Self

from torch import nn

from hooked_whisper.errors import ArgumentError, check_option
from hooked_whisper.hooks.hook_names import Names, point_aliases, resolve_names
from hooked_whisper.hooks.hook_point import Direction, HookFn, HookHandle, HookPoint, StackClock

Hooks = Sequence[tuple[Names, HookFn]]


class HookedRootModule(nn.Module):
    """Base of a hooked model. Call :meth:`name_hook_points` once, at the end of the subclass's ``__init__``."""

    _hook_dict: dict[str, HookPoint]
    _aliases: dict[str, str]

    def name_hook_points(self, clocks: Mapping[str, StackClock]) -> None:
        """Give every point its name, its aliases, and the clock of its stack (the first part of its path)."""
        points: dict[str, HookPoint] = {}
        aliases: dict[str, str] = {}
        for path, module in self.named_modules():
            if isinstance(module, HookPoint):
                module.name = self.point_name(path)
                module.clock = clocks[path.split(".", 1)[0]]
                points[module.name] = module
                aliases |= dict.fromkeys(point_aliases(module, path), module.name)
        self.__dict__["_hook_dict"] = points  # not submodules: the points already have their parents
        self.__dict__["_aliases"] = aliases

    def point_name(self, path: str) -> str:
        """Return the hook name of the point at a module path."""
        return path

    def __getstate__(self) -> dict[str, Any]:
        # the points of an attached SAE belong to a run, as hooks do
        points = {name: point for name, point in self._hook_dict.items() if point.site == name}
        return {**super().__getstate__(), "_hook_dict": points}

    @property
    def hook_dict(self) -> dict[str, HookPoint]:
        """Name -> point, in the order of a forward pass."""
        return dict(self._hook_dict)

    @property
    def hook_aliases(self) -> dict[str, str]:
        """Alias -> hook name: names of the same tensors in published work and in openai-whisper's module tree."""
        return dict(self._aliases)

    def _insert_points(self, points: Sequence[HookPoint], after: str) -> None:
        """Insert the points of an attached SAE after the point named ``after``."""
        hook_dict: dict[str, HookPoint] = {}
        for name, point in self._hook_dict.items():
            hook_dict[name] = point
            if name == after:
                hook_dict |= {new.name: new for new in points}
        self.__dict__["_hook_dict"] = hook_dict

    def _remove_points(self, points: Sequence[HookPoint]) -> None:
        removed = {id(point) for point in points}
        self.__dict__["_hook_dict"] = {n: p for n, p in self._hook_dict.items() if id(p) not in removed}

    def hook_names(self, names: Names | None = None) -> list[str]:
        """Return all hook names in execution order, or those that ``names`` selects.

        names: a string, glob, regex, predicate, or a list of them.
        """
        known = list(self._hook_dict)
        return known if names is None else resolve_names(names, known, self._aliases)

    def hook_points(self, names: Names) -> list[HookPoint]:
        """Return the points that ``names`` selects, in execution order."""
        return [self._hook_dict[name] for name in self.hook_names(names)]

    def add_hook(
        self,
        names: Names,
        hook: HookFn,
        dir: Direction = "fwd",
        prepend: bool = False,
        is_permanent: bool = False,
    ) -> list[HookHandle]:
        """Add a hook that stays until its handles are removed or :meth:`reset_hooks` is called."""
        check_option("dir", dir, ("fwd", "bwd"))
        return [point.add_hook(hook, dir, prepend, is_permanent) for point in self.hook_points(names)]

    def add_perma_hook(self, names: Names, hook: HookFn, dir: Direction = "fwd") -> list[HookHandle]:
        """Add a hook that stays until its handles are removed or ``reset_hooks(including_permanent=True)``."""
        check_option("dir", dir, ("fwd", "bwd"))
        return self.add_hook(names, hook, dir, is_permanent=True)

    def reset_hooks(
        self,
        clear_contexts: bool = True,
        direction: Literal["fwd", "bwd", "both"] = "both",
        including_permanent: bool = False,
    ) -> None:
        """Remove every hook (not the readers of a running ``run_with_cache``) and clear every ``hook.ctx``."""
        check_option("direction", direction, ("fwd", "bwd", "both"))
        for point in self._hook_dict.values():
            point.remove_hooks(direction, including_permanent)
            if clear_contexts:
                point.ctx.clear()

    def list_hooks(self, names: Names | None = None) -> dict[str, int]:
        """Return the number of hooks (forward and backward) of each point that has some."""
        points = ((n, self._hook_dict[n]) for n in self.hook_names(names))
        return {n: len(p._fwd) + len(p._bwd) for n, p in points if p._fwd or p._bwd}

    @contextmanager
    def hooks(self, fwd_hooks: Hooks = (), bwd_hooks: Hooks = ()) -> Iterator[Self]:
        """Attach hooks for a block of code. Leaving it removes exactly these.

        ``fwd_hooks`` and ``bwd_hooks`` are lists of ``(names, fn)``. Backward hooks must still be attached when
        ``backward()`` runs.
        """
        with ExitStack() as stack:
            for direction, pairs in (("fwd", fwd_hooks), ("bwd", bwd_hooks)):
                for names, fn in _pairs(pairs):
                    for point in self.hook_points(names):
                        stack.callback(point.add_hook(fn, direction).remove)  # type: ignore[arg-type]
            yield self

    def run_with_hooks(self, *args: Any, fwd_hooks: Hooks = (), bwd_hooks: Hooks = (), **kwargs: Any) -> Any:
        """Run one forward pass with hooks; the other arguments are those of the model.

        Raises:
            ArgumentError: backward hooks, which would be removed before ``backward()`` runs.
        """
        refuse_backward_hooks(bwd_hooks)
        with self.hooks(fwd_hooks):
            return self(*args, **kwargs)


def refuse_backward_hooks(bwd_hooks: Hooks) -> None:
    """Refuse backward hooks in ``run_with_hooks``.

    Raises:
        ArgumentError: a backward hook was given.
    """
    if bwd_hooks:
        raise ArgumentError(
            "backward hooks given to run_with_hooks would be gone before backward() runs; "
            "use `with model.hooks(bwd_hooks=...)` around both, or run_with_cache(..., incl_bwd=True, loss_fn=...)"
        )


def _pairs(hooks: Hooks) -> list[tuple[Names, HookFn]]:
    """Return the user's hooks, checked.

    Raises:
        ArgumentError: they are not a list of ``(names, function)`` pairs.
    """
    pairs: list[Any] = list(hooks) if isinstance(hooks, Iterable) and not isinstance(hooks, str | Mapping) else [hooks]
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ArgumentError(f"hooks are a list of (names, function), but it holds {pair!r:.80}")
    return [(names, fn) for names, fn in pairs]
