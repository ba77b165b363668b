"""``ActivationCache``: the activations of one pass by hook name, with shorthands and residual decomposition."""

from __future__ import annotations

import copy
import json
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hooked_whisper._support.indices import Selection, is_integer, read_indices, take
from hooked_whisper._support.renamed import attribute_elsewhere
from hooked_whisper._support.storage import new_file_mode
from hooked_whisper.errors import ArgumentError, CheckpointError, HookedWhisperError, UnknownHookError, closest
from hooked_whisper.hooks.cache_summary import CachedTensor, cache_title, summary_html, summary_text
from hooked_whisper.hooks.decompose_parts import PartDecomposition
from hooked_whisper.hooks.hook_names import resolve_alias, unknown_name
from hooked_whisper.hooks.short_names import block_name, key_without_stack, stack_names
from hooked_whisper.protocols import STACKS

if TYPE_CHECKING:
    from hooked_whisper.model.whisper import WhisperCore

# attributes of TransformerLens' ActivationCache
_ATTRIBUTES_ELSEWHERE = {
    "compute_head_results": "use cache.stack_head_results(stack), or cache the points '*.hook_result'",
    "apply_slice_to_batch_dim": "use cache.slice(batch=...)",
    "toggle_autodiff": "use torch.no_grad() or torch.set_grad_enabled",
    "has_embed": "write 'decoder.hook_embed' in cache",
    "has_pos_embed": "write 'decoder.hook_pos_embed' in cache",
}

# why run_with_cache leaves a point out unless names_filter selects it
_TOO_LARGE = ": run_with_cache leaves out the encoder's attention scores and patterns by default because of their size"
_ON_REQUEST = ": it is an optional point, which is not computed by default"


class ActivationCache(PartDecomposition):
    """The activations that ``run_with_cache`` collected, in execution order.

    ``cache["encoder.blocks.3.attn.hook_pattern"]``, ``cache["encoder", "pattern", 3]``,
    ``cache["decoder", "cross_pattern", -1]``, ``cache["decoder", "scale", 0, "ln_cross"]`` and published names
    (``cache["encoder.blocks.2.mlp.1"]``) all work. The decoder's cross-attention is also a stack:
    ``cache["cross", "pattern", -1]``.
    """

    has_batch_dim: bool = True
    """Whether the tensors have a batch axis, see :meth:`remove_batch_dim`."""

    def __init__(self, tensors: Mapping[str, Tensor], model: WhisperCore | Any) -> None:
        self._tensors = dict(tensors)
        # weak: a cache must not keep a dropped model's weights alive
        self._model_ref: weakref.ref[Any] | None = weakref.ref(model)
        self._axes = {name: point.axes for name, point in model.hook_dict.items()}
        self._uncached = {
            name: _ON_REQUEST if point.optional else _TOO_LARGE
            for name, point in model.hook_dict.items()
            if not point.cached_by_default
        }
        self._aliases = model.hook_aliases
        self._layers = {"encoder": model.cfg.encoder.n_layers, "decoder": model.cfg.decoder.n_layers}

    @property
    def model(self) -> WhisperCore:
        """The model that made the cache, needed for its weights.

        Raises:
            HookedWhisperError: the model no longer exists, or the cache was pickled.
        """
        model = None if self._model_ref is None else self._model_ref()
        if model is None:
            raise HookedWhisperError(
                "the model that made this cache no longer exists, or the cache was pickled: keep a reference to the "
                "model, and write caches with cache.save(path) and ActivationCache.load(path, model)"
            )
        return model

    def axes(self, name: str) -> tuple[str, ...]:
        """Return the axis names of a cached tensor."""
        axes = self._axes[self.full_name(name).removesuffix("_grad")]
        return axes if self.has_batch_dim else tuple(axis for axis in axes if axis != "batch")

    def full_name(self, key: str | tuple[Any, ...]) -> str:
        """Return the hook name that a key or shorthand stands for."""
        if isinstance(key, str):
            if key in self._axes:
                return key
            plain = key.removesuffix("_grad")
            return resolve_alias(plain, self._aliases) + key[len(plain) :]
        has_stack = isinstance(key, tuple) and bool(key) and key[0] in STACKS
        if not isinstance(key, tuple) or not key or not isinstance(key[0], str) or (has_stack and len(key) == 1):
            raise UnknownHookError(
                f"a cache key is a hook name, or (stack, what, layer) such as ('encoder', 'pattern', 3), not {key!r}"
            )
        if not has_stack:
            raise UnknownHookError(key_without_stack(key))
        stack, kind, *indices = key
        if not indices or indices[0] is None:
            names = stack_names(kind, stack)
            for name in names:
                if name in self._axes:
                    return name
            raise unknown_name(names[0], self._axes)
        return block_name(kind, stack, self._layer(stack, indices[0]), *indices[1:2])

    def _layer(self, stack: str, layer: Any) -> int:
        n = self._layers["decoder" if stack == "cross" else stack]
        if not is_integer(layer) or not -n <= int(layer) < n:
            raise UnknownHookError(f"{stack} has blocks 0 to {n - 1}, not {layer!r}")
        return int(layer) % n

    def __getitem__(self, key: str | tuple[Any, ...]) -> Tensor:
        name = self.full_name(key)
        if name in self._tensors:
            return self._tensors[name]
        point = name.removesuffix("_grad")
        if point in self._axes:
            request = f"names_filter=[{point!r}]" + (", incl_bwd=True" if point != name else "")
            raise UnknownHookError(
                f"{name} was not cached{self._uncached.get(point, '')}; request it with run_with_cache(..., {request}) "
                f"(this cache has {len(self._tensors)} entries)"
            )
        short = [(stack, key) for stack in self._layers if any(n in self._axes for n in stack_names(str(key), stack))]
        if isinstance(key, str) and short:
            raise UnknownHookError(f"no hook point is named {key!r}; did you mean {' or '.join(map(repr, short))}?")
        raise unknown_name(name, self._tensors, self._axes)

    def __contains__(self, key: object) -> bool:
        try:
            return isinstance(key, (str, tuple)) and self.full_name(key) in self._tensors
        except UnknownHookError:
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def nbytes(self) -> int:
        """Bytes held. Tensors that share memory count once."""
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in self._tensors.values()}
        return sum(storages.values())

    def __repr__(self) -> str:
        entries = self._entries()
        return summary_text(cache_title(entries, self.nbytes), entries)

    def _repr_html_(self) -> str:
        entries = self._entries()
        return summary_html(cache_title(entries, self.nbytes), entries)

    def _entries(self) -> list[CachedTensor]:
        return [CachedTensor.of(name, tensor, self.axes(name)) for name, tensor in self.items()]

    def __getattr__(self, name: str) -> Any:
        error = attribute_elsewhere(self, name, _ATTRIBUTES_ELSEWHERE)
        raise error or AttributeError(f"ActivationCache has no attribute {name!r}", name=name, obj=self)

    @property
    def cache_dict(self) -> dict[str, Tensor]:
        """Hook name -> tensor, as a plain dictionary."""
        return dict(self._tensors)

    def remove_batch_dim(self) -> ActivationCache:
        """Remove the batch axis of a cache of one clip, in place as in TransformerLens, and return the cache.

        Does nothing if it is already removed. :meth:`with_batch_dim` is the inverse.

        Raises:
            ArgumentError: a tensor has more than one row.
        """
        if not self.has_batch_dim:
            return self
        for name, tensor in self.items():
            if "batch" in self.axes(name) and tensor.shape[0] != 1:
                raise ArgumentError(
                    f"the batch axis can only be removed if it has length 1, but {name} has {tensor.shape[0]} rows: "
                    "write cache.slice(batch=0).remove_batch_dim()"
                )
        self._tensors = {name: t[0] if "batch" in self.axes(name) else t for name, t in self.items()}
        self.has_batch_dim = False
        return self

    def with_batch_dim(self) -> ActivationCache:
        """Return the cache with its batch axis: itself, unless :meth:`remove_batch_dim` removed it."""
        if self.has_batch_dim:
            return self
        other = self._with({})
        other.has_batch_dim = True
        other._tensors = {name: t[None] if "batch" in other.axes(name) else t for name, t in self.items()}
        return other

    def _with(self, tensors: Mapping[str, Tensor]) -> ActivationCache:
        """Return the same cache with other tensors, even if the model no longer exists."""
        other = copy.copy(self)  # with its model, by __copy__
        other._tensors = dict(tensors)
        return other

    def to(self, *args: Any, **kwargs: Any) -> ActivationCache:
        """Return a cache with every tensor moved or converted; integer tensors keep their dtype.

        Raises:
            ArgumentError: the arguments are not a device, dtype or tensor as ``Tensor.to`` takes them.
        """
        target = ", ".join([*map(repr, args), *(f"{k}={v!r}" for k, v in kwargs.items())])
        expected = "cache.to takes a device such as 'cpu', a dtype such as torch.float16, or both, not"
        if any(isinstance(value, float | complex) for value in args):
            raise ArgumentError(f"{expected} {target:.80}")  # Tensor.to converts numbers to tensors
        try:
            torch.empty(0).to(*args, **kwargs)
        except (RuntimeError, TypeError) as error:
            raise ArgumentError(f"{expected} {target:.80} ({error!s:.80})") from error
        return self._with(
            {
                n: t.to(*args, **kwargs)
                if t.is_floating_point()
                else t.to(t.new_empty(0, dtype=torch.float).to(*args, **kwargs).device)
                for n, t in self.items()
            }
        )

    def slice(self, **cuts: Selection | None) -> ActivationCache:
        """Return a cache cut by axis name: ``cache.slice(batch=0, token=slice(3, None))``.

        A cut is an index, slice, list, array, or mask of booleans, as in
        :func:`hooked_whisper._support.indices.read_indices`. An integer keeps the axis with length one. Tensors without
        the axis stay whole.

        Raises:
            ArgumentError: no cached tensor has the axis, or an index is out of range.
        """
        known = {axis for name in self for axis in self.axes(name)}
        for axis in cuts:
            if axis not in known:
                raise ArgumentError(
                    f"no cached tensor has an axis {axis!r}; the axes are {sorted(known)}{_hint(axis, known)}"
                )
        out: dict[str, Tensor] = {}
        for name, tensor in self.items():
            for dim, axis in enumerate(self.axes(name)):
                if cuts.get(axis) is not None:
                    tensor = take(tensor, dim, read_indices(cuts[axis], tensor.shape[dim], f"{axis}s of {name}"))
            out[name] = tensor
        return self._with(out)

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file, atomically."""
        path = Path(path)
        tensors = {n: t.detach().cpu().contiguous().clone() for n, t in self.items()}
        metadata = {"format": "hooked_whisper.ActivationCache", "names": json.dumps(list(tensors))}
        if not self.has_batch_dim:
            metadata["has_batch_dim"] = "false"
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
        os.close(handle)
        try:
            save_file(tensors, temporary, metadata=metadata)
            os.chmod(temporary, new_file_mode())
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | Path, model: WhisperCore | Any) -> ActivationCache:
        """Read a file written by :meth:`save`.

        model: gives axes and weights; it must have these hook points.

        Raises:
            CheckpointError: the file cannot be read, or holds activations of a model of another size.
            UnknownHookError: the model does not have one of the points.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != "hooked_whisper.ActivationCache":
                    raise CheckpointError(f"{path} is a safetensors file, but not a saved ActivationCache")
                tensors = {name: file.get_tensor(name) for name in json.loads(metadata["names"])}
        except FileNotFoundError as error:
            raise CheckpointError(f"{path}: no such file") from error
        except (SafetensorError, OSError, json.JSONDecodeError, KeyError) as error:
            raise CheckpointError(f"{path} is not a readable ActivationCache: {error}") from error
        known = model.hook_dict
        for name in tensors:
            if name.removesuffix("_grad") not in known:
                raise unknown_name(name, known)
        cache = cls(tensors, model)
        cache.has_batch_dim = metadata.get("has_batch_dim") != "false"
        _check_fits(cache, model, path)
        return cache

    def __copy__(self) -> ActivationCache:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __getstate__(self) -> dict[str, Any]:
        # a pickle holds the activations, not the weights of the model
        return {**self.__dict__, "_model_ref": None}


def _hint(name: str, names: Iterable[str]) -> str:
    near = closest(name, names, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _check_fits(cache: ActivationCache, model: WhisperCore | Any, path: Path | str) -> None:
    """Refuse the activations of a model of another size."""
    known = model.hook_dict
    for name, tensor in cache.items():
        point, axes = known[name.removesuffix("_grad")], cache.axes(name)
        sizes = {axis: size for axis, size in zip(axes, tensor.shape, strict=False) if axis in point.sizes}
        if tensor.dim() != len(axes) or sizes != point.sizes:
            raise CheckpointError(
                f"{path}: {name} is {list(tensor.shape)}, but this model's {point.described()} has {point.sizes}: give "
                "the model that made the cache"
            )
