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
from hooked_whisper._support.storage import new_file_mode
from hooked_whisper.errors import ArgumentError, CheckpointError, HookedWhisperError, UnknownHookError, closest
from hooked_whisper.hooks.decompose import ResidualDecomposition
from hooked_whisper.hooks.hook_names import resolve_alias, unknown_name

if TYPE_CHECKING:
    from hooked_whisper.model.whisper import WhisperCore

# shorthand -> path inside a block
_IN_BLOCK = {
    **{
        key: f"hook_{key}" for key in ("resid_pre", "resid_mid", "resid_mid_cross", "resid_post", "attn_out", "mlp_out")
    },
    **{key: f"hook_{key}" for key in ("cross_attn_out", "cross_attn_in", "mlp_in", "q_input", "k_input", "v_input")},
    **{key: f"attn.hook_{key}" for key in ("q", "k", "v", "z", "attn_scores", "pattern", "result")},
    **{f"cross_{key}": f"cross_attn.hook_{key}" for key in ("q", "k", "v", "z", "attn_scores", "pattern", "result")},
    "scores": "attn.hook_attn_scores",
    "cross_scores": "cross_attn.hook_attn_scores",
    "mlp_pre": "mlp.hook_pre",
    "mlp_post": "mlp.hook_post",
    "pre": "mlp.hook_pre",
    "post": "mlp.hook_post",
}


class ActivationCache(ResidualDecomposition):
    """The activations that ``run_with_cache`` collected, in execution order.

    ``cache["encoder.blocks.3.attn.hook_pattern"]``, ``cache["encoder", "pattern", 3]``,
    ``cache["decoder", "cross_pattern", -1]``, ``cache["decoder", "scale", 0, "ln_cross"]`` and published names
    (``cache["encoder.blocks.2.mlp.1"]``) all work.
    """

    def __init__(self, tensors: Mapping[str, Tensor], model: WhisperCore | Any) -> None:
        self._tensors = dict(tensors)
        # weak: a cache must not keep a dropped model's weights alive
        self._model_ref: weakref.ref[Any] | None = weakref.ref(model)
        self._axes = {name: point.axes for name, point in model.hook_dict.items()}
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
        return self._axes[self.full_name(name).removesuffix("_grad")]

    def full_name(self, key: str | tuple[Any, ...]) -> str:
        """Return the hook name that a key or shorthand stands for."""
        if isinstance(key, str):
            if key in self._axes:
                return key
            plain = key.removesuffix("_grad")
            return resolve_alias(plain, self._aliases) + key[len(plain) :]
        if not isinstance(key, tuple) or len(key) < 2 or not isinstance(key[0], str) or key[0] not in self._layers:
            raise UnknownHookError(
                f"a cache key is a hook name, or (stack, what, layer) such as ('encoder', 'pattern', 3), not {key!r}"
            )
        stack, kind, *indices = key
        if not indices:
            names = [f"{stack}.hook_{kind}", f"{stack}.{kind}"]
            names += [f"unembed.hook_{kind}"] if stack == "decoder" else []
            for name in names:
                if name in self._axes:
                    return name
            raise unknown_name(names[0], self._axes)
        layer = self._layer(stack, indices[0])
        if kind in ("scale", "normalized"):
            if len(indices) < 2:
                raise UnknownHookError(f"cache[{stack!r}, {kind!r}, {layer}, ...]: add which norm, such as 'ln1'")
            return f"{stack}.blocks.{layer}.{indices[1]}.hook_{kind}"
        return f"{stack}.blocks.{layer}.{_IN_BLOCK.get(kind, f'hook_{kind}')}"

    def _layer(self, stack: str, layer: Any) -> int:
        n = self._layers[stack]
        if not is_integer(layer) or not -n <= int(layer) < n:
            raise UnknownHookError(f"{stack} has blocks 0 to {n - 1}, not {layer}")
        return int(layer) % n

    def __getitem__(self, key: str | tuple[Any, ...]) -> Tensor:
        name = self.full_name(key)
        if name in self._tensors:
            return self._tensors[name]
        if name.removesuffix("_grad") in self._axes:
            raise UnknownHookError(
                f"{name} was not cached; request it with run_with_cache(..., names_filter=...) "
                f"(this cache has {len(self._tensors)} entries)"
            )
        raise unknown_name(name, self._tensors)

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
        plural = "" if len(self) == 1 else "s"
        lines = [f"ActivationCache with {len(self)} activation{plural}, {self.nbytes / 2**20:.1f} MiB"]
        width = max((len(n) for n in self._tensors), default=0)
        for name, tensor in self._tensors.items():
            axes = ", ".join(
                f"{a} {s}" for a, s in zip(self._axes[name.removesuffix("_grad")], tensor.shape, strict=False)
            )
            size = tensor.numel() * tensor.element_size() / 2**20
            lines.append(f"  {name:<{width}}  [{axes}]  {str(tensor.dtype).removeprefix('torch.')}  {size:.2f} MiB")
        return "\n".join(lines)

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
        try:
            torch.empty(0).to(*args, **kwargs)
        except (RuntimeError, TypeError) as error:
            raise ArgumentError(
                f"cache.to takes a device such as 'cpu', a dtype such as torch.float16, or both, not "
                f"{', '.join([*map(repr, args), *(f'{k}={v!r}' for k, v in kwargs.items())]):.80} ({error!s:.80})"
            ) from error
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
        _check_fits(tensors, model, path)
        return cls(tensors, model)

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


def _check_fits(tensors: Mapping[str, Tensor], model: WhisperCore | Any, path: Path | str) -> None:
    """Refuse the activations of a model of another size."""
    known = model.hook_dict
    for name, tensor in tensors.items():
        point = known[name.removesuffix("_grad")]
        sizes = {axis: size for axis, size in zip(point.axes, tensor.shape, strict=False) if axis in point.sizes}
        if tensor.dim() != len(point.axes) or sizes != point.sizes:
            raise CheckpointError(
                f"{path}: {name} is {list(tensor.shape)}, but this model's {point.described()} has {point.sizes}: give "
                "the model that made the cache"
            )
