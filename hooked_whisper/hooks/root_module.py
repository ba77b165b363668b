"""A module whose hook points have names: adding hooks for one call, for a block of code, or by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from hooked_whisper.errors import ArgumentError, check_option
from hooked_whisper.hooks.hook_names import Names, resolve_names
from hooked_whisper.hooks.hook_point import Direction, HookFn, HookHandle, HookPoint, StackClock

Hooks = Sequence[tuple[Names, HookFn]]


class HookedModule(nn.Module):
    """Base of the hooked model. Call :meth:`name_hook_points` once, at the end of the subclass's ``__init__``."""

    _hook_dict: dict[str, HookPoint]

    def name_hook_points(self, clocks: Mapping[str, StackClock]) -> None:
        """Give every point its name (``decoder.unembed.*`` is called ``unembed.*``) and its stack's clock."""
        found: dict[str, HookPoint] = {}
        for path, module in self.named_modules():
            if isinstance(module, HookPoint):
                module.name = path.removeprefix("decoder.") if path.startswith("decoder.unembed.") else path
                module.clock = clocks[path.split(".", 1)[0]]
                found[module.name] = module
        self.__dict__["_hook_dict"] = found  # not a submodule: the points already have their parents

    def __getstate__(self) -> dict[str, Any]:
        # the points of an open splice belong to the run, as hooks do
        own = {name: point for name, point in self._hook_dict.items() if point.site == name}
        return {**super().__getstate__(), "_hook_dict": own}

    @property
    def hook_dict(self) -> dict[str, HookPoint]:
        """Name -> point, in the order in which a forward pass meets them."""
        return dict(self._hook_dict)

    def _place_points(self, points: Sequence[HookPoint], after: str) -> None:
        """Give points of a splice their place in the order, behind the point ``after``."""
        found: dict[str, HookPoint] = {}
        for name, point in self._hook_dict.items():
            found[name] = point
            if name == after:
                found |= {new.name: new for new in points}
        self.__dict__["_hook_dict"] = found

    def _drop_points(self, points: Sequence[HookPoint]) -> None:
        """Take such points out again."""
        gone = {id(point) for point in points}
        self.__dict__["_hook_dict"] = {n: p for n, p in self._hook_dict.items() if id(p) not in gone}

    def hook_names(self, names: Names | None = None) -> list[str]:
        """All hook names in execution order, or those that ``names`` (string, glob, regex, predicate, list) selects."""
        known = list(self._hook_dict)
        return known if names is None else resolve_names(names, known)

    def hook_points(self, names: Names) -> list[HookPoint]:
        return [self._hook_dict[name] for name in self.hook_names(names)]

    def add_hook(self, names: Names, hook: HookFn, dir: Direction = "fwd", prepend: bool = False) -> list[HookHandle]:
        """Add a hook that stays until its handles are removed or :meth:`reset_hooks` is called."""
        check_option("dir", dir, ("fwd", "bwd"))
        return [point.add_hook(hook, dir, prepend) for point in self.hook_points(names)]

    def reset_hooks(self) -> None:
        """Remove every hook (not readers of a running ``run_with_cache``) and clear every ``hook.ctx``."""
        for point in self._hook_dict.values():
            point.remove_hooks("both")
            point.ctx.clear()

    def list_hooks(self, names: Names | None = None) -> dict[str, int]:
        """Number of hooks (forward and backward) on every point that has any."""
        points = ((n, self._hook_dict[n]) for n in self.hook_names(names))
        return {n: len(p._fwd) + len(p._bwd) for n, p in points if p._fwd or p._bwd}

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Hooks = (),
        bwd_hooks: Hooks = (),
        attn_masks: Mapping[Any, Any] | None = None,
    ) -> Iterator[HookedModule]:
        """Hooks and attention masks for a block of code; on leaving it, exactly these are removed.

        ``fwd_hooks`` and ``bwd_hooks`` are lists of ``(names, fn)``. Backward hooks must still be there when
        ``backward()`` runs. ``attn_masks`` maps targets to masks, see :mod:`hooked_whisper.model.masks`.
        """
        with ExitStack() as stack:
            for direction, pairs in (("fwd", fwd_hooks), ("bwd", bwd_hooks)):
                for names, fn in _pairs(pairs):
                    for point in self.hook_points(names):
                        stack.callback(point.add_hook(fn, direction).remove)  # type: ignore[arg-type]
            for handle in self.add_attn_masks(attn_masks or {}):
                stack.callback(handle.remove)
            yield self

    def run_with_hooks(
        self,
        *args: Any,
        fwd_hooks: Hooks = (),
        bwd_hooks: Hooks = (),
        attn_masks: Mapping[Any, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """One forward pass under :meth:`hooks`; arguments as for calling the model."""
        if bwd_hooks:
            raise ArgumentError(
                "backward hooks given to run_with_hooks would be gone before backward() runs; "
                "use `with model.hooks(bwd_hooks=...)` around both, or run_with_cache(..., incl_bwd=True, loss_fn=...)"
            )
        with self.hooks(fwd_hooks, attn_masks=attn_masks):
            return self(*args, **kwargs)

    def add_attn_masks(self, attn_masks: Mapping[Any, Any]) -> list[HookHandle]:
        """Add masks to attention modules until their handles are removed; overridden by models with attention."""
        if attn_masks:
            raise NotImplementedError(f"{type(self).__name__} has no attention to mask")
        return []


def _pairs(hooks: Hooks) -> list[tuple[Names, HookFn]]:
    """Hooks as a user listed them.

    Raises:
        ArgumentError: not a list of pairs.
    """
    pairs: list[Any] = list(hooks) if isinstance(hooks, Iterable) and not isinstance(hooks, str | Mapping) else [hooks]
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ArgumentError(f"hooks are a list of (names, function), but it holds {pair!r:.80}")
    return [(names, fn) for names, fn in pairs]
