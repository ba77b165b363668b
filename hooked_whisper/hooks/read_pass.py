"""The read pass of a crosscoder: run some blocks of a stack ahead, without readers of caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hooked_whisper.errors import HookedWhisperError, PatchError
from hooked_whisper.hooks.hook_point import HookPoint
from hooked_whisper.hooks.root_module import HookedRootModule

Recorders = Mapping[str, Callable[[Tensor], Tensor]]
Keys = MutableMapping[Any, Tensor]


class _Complete(Exception):
    """The last point of the read pass has been read."""


@dataclass(frozen=True, eq=False)
class _Entry:
    """The arguments of the block in which the first point lies.

    model_keys: the model's cache of keys and values, if it decodes. keys: that of the read pass, before this pass.
    """

    x: Tensor
    source: Tensor | None = None
    model_keys: Keys | None = None
    keys: Keys | None = None


class ReadPass:
    """Runs the blocks from one hook point to a later one of the same stack.

    blocks: first block that runs, and the one after the last; equal if nothing needs to run.

    Hooks act as in the model's pass. Readers pause, except those with an attribute ``in_read_pass``.
    """

    def __init__(
        self, model: HookedRootModule, first: HookPoint, last: HookPoint, recorders: Callable[[], Recorders]
    ) -> None:
        self.model, self.first, self.last, self.recorders = model, first, last, recorders
        self._after_block = first.name.endswith(".hook_resid_post")
        start = first.layer() + self._after_block
        self.blocks = (start, start) if first is last else (start, last.layer() + 1)
        self._entry: _Entry | None = None
        self._decoding: Keys | None = None
        self._running = False
        self._owner = object()  # of the keys and values of the read pass in a cache

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the arguments of the block in which the first point lies, each time it runs."""
        if self.first is self.last:
            yield
            return
        listeners: list[Any] = self._block(self.first.layer()).entry_listeners  # type: ignore[assignment]
        enter = self._enter  # one object: bound methods are made anew at each access
        listeners.append(enter)
        try:
            yield
        finally:
            listeners[:] = [listener for listener in listeners if listener is not enter]
            self._entry = self._decoding = None

    def run(self, x: Tensor) -> None:
        """Run the blocks, until the last point has been read.

        x: the activation at the first point.

        Raises:
            HookedWhisperError: the pass did not go through the block of the first point from its start.
        """
        if self.first is self.last:
            return
        entry, self._entry = self._entry, None
        if entry is None:
            if not self._after_block or self.first.stack == "decoder":
                raise HookedWhisperError(
                    f"the crosscoder attached at {self.first.name} needs a pass that runs the whole block "
                    f"{self.first.layer()}: run the model from there on"
                )
            entry = _Entry(x)
        hidden = x if self._after_block else entry.x
        self._running = True
        try:
            with self._readers_paused():
                for number in range(*self.blocks):
                    hidden = self._block(number)(hidden, entry.source, entry.keys)
        except _Complete:
            pass
        finally:
            self._running = False
        if entry.model_keys is not None and entry.keys is not None:
            entry.model_keys.update({(self._owner, module): tensor for module, tensor in entry.keys.items()})
            self._decoding = entry.model_keys

    def end(self) -> None:
        """Remember the model's keys of this pass, to notice if its rows are exchanged before the next."""
        keys, self._decoding = self._decoding, None
        if keys is not None and self._first_keys in keys:
            keys[self._owner] = keys[self._first_keys]

    def _block(self, number: int) -> nn.Module:
        return self.model.get_submodule(f"{self.first.stack}.blocks.{number}")

    @property
    def _first_keys(self) -> nn.Module:
        return self._block(0).get_submodule("attn.key")

    def _enter(self, x: Tensor, source: Tensor | None, model_keys: Keys | None) -> None:
        if not self._running:
            keys = None if model_keys is None else self._keys(model_keys)
            self._entry = _Entry(x, source, model_keys, keys)

    def _keys(self, model_keys: Keys) -> Keys:
        """Return the keys and values of the read pass so far; the model's if decoding began before the crosscoder.

        They are in the model's cache, so that code that drops rows of a cache drops theirs too.

        Raises:
            PatchError: rows of the cache were exchanged by code that knows only the model's keys and values.
        """
        modules = [module for number in range(*self.blocks) for module in self._block(number).modules()]
        if self._owner not in model_keys:
            return type(model_keys)({module: model_keys[module] for module in modules if module in model_keys})  # type: ignore[call-arg]
        before, now = model_keys[self._owner], model_keys[self._first_keys]
        if before is not now and not torch.equal(before, now[:, : before.shape[1]]):
            raise PatchError(
                "beam search reorders the rows of the cache of keys and values, which a crosscoder in the decoder does "
                "not follow: decode greedily (no beam_size)"
            )
        pairs = ((module, (self._owner, module)) for module in modules)
        return type(model_keys)({module: model_keys[key] for module, key in pairs if key in model_keys})  # type: ignore[call-arg]

    @contextmanager
    def _readers_paused(self) -> Iterator[None]:
        """Pause readers; the replaced points are recorded instead of replaced, and their hooks pause."""
        recorders = self.recorders()
        stack_name = self.first.stack

        def stop(x: Tensor, point: HookPoint) -> None:
            raise _Complete

        with ExitStack() as stack:
            for point in self.model._hook_dict.values():
                if point.stack != stack_name or not point.active:
                    continue
                changes: dict[str, Any] = {
                    "_readers": [read for read in point._readers if getattr(read, "in_read_pass", False)]
                }
                if point.name in recorders:
                    changes |= {"_replacement": recorders[point.name], "_fwd": [], "_bwd": []}
                if point is self.last:
                    changes["_readers"] = [*changes["_readers"], stop]
                stack.callback(point.__dict__.update, {name: point.__dict__[name] for name in changes})
                point.__dict__.update(changes)
            yield
