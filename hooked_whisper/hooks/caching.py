"""``run_with_cache``: run what is needed, keep what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.config import WhisperConfig
from hooked_whisper.errors import CacheSizeError, HookedWhisperError
from hooked_whisper.hooks.cache import ActivationCache
from hooked_whisper.hooks.module import HookedModule, Hooks
from hooked_whisper.hooks.names import Names, listed
from hooked_whisper.hooks.point import HookPoint, of_cross_keys

Cut = slice | int | Sequence[int] | None

DEFAULT_MAX_BYTES = 8 * 2**30

# tensors that somebody outside the pass holds too: the caller's inputs, the model's positions, the output returned
_SHARED = frozenset(
    (
        "encoder.hook_mel",
        "encoder.hook_pos_embed",
        "encoder.hook_out",
        "decoder.hook_tokens",
        "decoder.hook_pos_embed",
        "unembed.hook_out",
    )
)


class _Stop(Exception):
    """The last requested point has fired and nobody wants the rest."""


class CachingMixin(HookedModule):
    """``run_with_cache`` for a model with an encoder and a decoder."""

    cfg: WhisperConfig
    encoder: Any
    decoder: Any

    def default_cache_names(self, stacks: Sequence[str] = ("encoder", "decoder", "unembed")) -> list[str]:
        """Everything but optional points and the encoder's scores and patterns (the bulk of the memory)."""
        return [
            name
            for name, point in self.hook_dict.items()
            if name.split(".", 1)[0] in stacks
            and not point.optional
            and not (name.startswith("encoder.") and name.endswith(("hook_attn_scores", "hook_pattern")))
        ]

    def run_with_cache(
        self,
        mel: Float[Tensor, "clip mel frame"] | None = None,
        tokens: Int[Tensor, "batch token"] | None = None,
        *,
        encoder_out: Float[Tensor, "clip position d_model"] | None = None,
        names: Names | None = None,
        fwd_hooks: Hooks = (),
        attn_masks: Mapping[Any, Any] | None = None,
        incl_bwd: bool = False,
        loss_fn: Callable[[Tensor], Tensor] | None = None,
        return_type: Literal["logits"] | None = "logits",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        positions: Cut = None,
        tokens_slice: Cut = None,
        at: slice | None = None,
        detach: bool = True,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> tuple[Tensor | None, ActivationCache]:
        """Run the model and keep activations: ``(output, cache)``.

        With ``mel`` alone the encoder runs and its output is returned; with ``tokens`` the output is the logits.
        ``encoder_out`` instead of ``mel`` runs the decoder on an encoder output that is already there.

        names: hook points to keep (string, glob, regex, predicate or list). Default: all but optional points and
            encoder scores and patterns.
        fwd_hooks, attn_masks: as for :meth:`hooks`; the cache holds what they left behind.
        incl_bwd, loss_fn: also run backward from ``loss_fn(output)`` (a scalar) and keep gradients under
            ``<name>_grad``, of every point that has one (``encoder.hook_mel``: if ``mel`` requires it).
        return_type: ``None`` if the output is not wanted: the pass then stops after the last requested point and
            the first element returned is ``None``.
        device, dtype: where and how to store.
        positions, tokens_slice: which encoder positions and decoder tokens to keep (slice, index or list). They cut
            the ``position``, ``token`` and ``query`` axes; keys are kept whole.
        at: on which of the encoder's positions a mel stands that is shorter than the window, see ``encoder.forward``.
        detach: ``False`` keeps the graph, so that gradients flow from what is computed on the cache.
        max_bytes: refuse requests estimated to be larger (:class:`CacheSizeError` says how to shrink them).
        """
        if (mel is None) == (encoder_out is None):
            raise ValueError("run_with_cache needs either mel or encoder_out")
        if tokens is None and encoder_out is not None:
            raise ValueError("encoder_out is for the decoder: give tokens too")
        if return_type not in ("logits", None):
            raise ValueError(f"return_type must be 'logits' or None, got {return_type!r}")
        if incl_bwd and (loss_fn is None or return_type is None):
            raise ValueError("incl_bwd needs loss_fn (output -> scalar) and return_type='logits'")
        wanted = self._cache_names(names, mel is not None, tokens is not None)
        sizes = _sizes(self.cfg, mel if mel is not None else encoder_out, tokens)
        cuts = {"position": positions, "token": tokens_slice}
        _check_size(self, wanted, sizes, cuts, dtype, incl_bwd, max_bytes)

        kept: dict[str, Tensor] = {}
        in_graph: dict[str, Tensor] = {}
        missing = set(wanted)

        def keep(x: Tensor, point: HookPoint) -> None:
            kept[point.name] = _stored(x, point, cuts, device, dtype, detach)
            missing.discard(point.name)
            if incl_bwd and x.requires_grad:
                in_graph[point.name] = x
            if return_type is None and not missing:
                raise _Stop

        out: Tensor | None = None
        with ExitStack() as stack:
            stack.enter_context(self.hooks(fwd_hooks, attn_masks=attn_masks))
            for name in wanted:
                stack.callback(self._hook_dict[name].add_reader(keep).remove)
            try:
                out = self.encoder(mel, at) if mel is not None else encoder_out
                if tokens is not None:
                    out = self.decoder(tokens, out)
            except _Stop:
                out = None
            if incl_bwd:
                assert loss_fn is not None and out is not None
                for name, grad in _gradients(loss_fn(out), in_graph, keep_graph=not detach).items():
                    kept[f"{name}_grad"] = _stored(grad, self._hook_dict[name], cuts, device, dtype, True)
        if missing:
            raise HookedWhisperError(f"these points did not fire in this pass: {sorted(missing)}")
        # a point where a dictionary is spliced in is read after the points of the splice, though listed before them
        kept = {name: kept.pop(name) for name in wanted} | kept
        return (out if return_type else None), ActivationCache(kept, self)

    def _cache_names(self, names: Names | None, has_mel: bool, has_tokens: bool) -> list[str]:
        running = [s for s, runs in (("encoder", has_mel), ("decoder", has_tokens), ("unembed", has_tokens)) if runs]
        if names is None:
            return self.default_cache_names(running)
        wanted: set[str] = set()
        for one in listed(names):
            found = self.hook_names(one)
            awake = [name for name in found if name.split(".", 1)[0] in running]
            # a pattern over both stacks means the stack that runs; a name that cannot fire is a mistake
            if not awake:
                need = "tokens" if not has_tokens else "mel instead of encoder_out"
                raise ValueError(f"{found[0]} would not run in this pass: give {need}")
            wanted.update(awake)
        return [name for name in self._hook_dict if name in wanted]


def _gradients(loss: Tensor, of: Mapping[str, Tensor], keep_graph: bool) -> dict[str, Tensor]:
    """Gradients of activations only: parameters and inputs keep whatever ``.grad`` they had."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ValueError("loss_fn must return one number (a tensor with one element)")
    if not loss.requires_grad:
        raise HookedWhisperError(
            "the loss has no gradient: run without torch.no_grad and with parameters or mel that require one"
        )
    if not of:
        return {}
    grads = torch.autograd.grad(loss, list(of.values()), retain_graph=keep_graph, materialize_grads=True)
    return dict(zip(of, grads, strict=True))


def _stored(
    x: Tensor,
    point: HookPoint,
    cuts: Mapping[str, Cut],
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    detach: bool,
) -> Tensor:
    if detach:
        x = x.detach()
    whole = x
    for axis, cut in zip(_cut_axes(point), range(x.dim()), strict=False):
        if axis in cuts and cuts[axis] is not None:
            x = _take(x, cut, cuts[axis], point)
    if dtype is not None and x.is_floating_point():
        x = x.to(dtype)
    if device is not None:
        x = x.to(device)
    same_memory = x.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    # a view of a slice would keep the whole tensor alive; a shared tensor may be edited by its other holder
    # (but a copy of it would be off the path to the output, so not where the graph is wanted)
    return x.clone() if same_memory and (x is not whole or (detach and point.site in _SHARED)) else x


def _cut_axes(point: HookPoint) -> tuple[str, ...]:
    """Axes in the words of the cuts: queries are the stack's own positions or tokens, keys are kept whole."""
    own = "position" if point.stack == "encoder" else "token"
    return tuple(own if axis == "query" else axis for axis in point.axes)


def _take(x: Tensor, dim: int, cut: Cut, point: HookPoint) -> Tensor:
    if isinstance(cut, int):
        cut = [cut]
    if isinstance(cut, slice):
        return x[(slice(None),) * dim + (cut,)]
    try:
        index = torch.as_tensor(list(cut or ()), device=x.device)
        index = torch.where(index < 0, index + x.shape[dim], index)
        return x.index_select(dim, index)
    except (IndexError, RuntimeError) as error:
        raise HookedWhisperError(f"{point.described()} has {x.shape[dim]} entries there, cannot take {cut}") from error


def _sizes(cfg: WhisperConfig, audio: Tensor | None, tokens: Tensor | None) -> dict[str, int]:
    """Length of every axis word, for the byte estimate."""
    assert audio is not None
    return {
        "clip": audio.shape[0],
        "batch": audio.shape[0] if tokens is None else tokens.shape[0],
        "mel": cfg.encoder.n_mels,
        "frame": cfg.encoder.n_frames,
        "position": cfg.encoder.n_ctx,
        "token": 0 if tokens is None else tokens.shape[-1],
        "d_model": cfg.encoder.d_model,
        "vocab": cfg.decoder.n_vocab,
        "one": 1,
    }


def axis_sizes(point: HookPoint, cfg: WhisperConfig, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Shape of a point's tensor for a pass with these sizes (``batch``, ``position``, ``token``, ...).

    ``clip`` is the number of clips, where one serves many rows of tokens (default: ``batch``).
    """
    stack = cfg.encoder if point.stack == "encoder" else cfg.decoder
    of_clips = point.stack == "encoder" or of_cross_keys(point.site)
    local = {
        "batch": sizes.get("clip", sizes["batch"]) if of_clips else sizes["batch"],
        "head": stack.n_heads,
        "d_head": stack.d_head,
        "d_mlp": stack.d_mlp,
        "query": sizes["position" if point.stack == "encoder" else "token"],
        "key": sizes["position" if point.stack == "encoder" or ".cross_attn." in point.name else "token"],
        **point.sizes,
    }
    return tuple(local.get(axis, sizes.get(axis, 1)) for axis in point.axes)


def _check_size(
    model: CachingMixin,
    names: Sequence[str],
    sizes: Mapping[str, int],
    cuts: Mapping[str, Cut],
    dtype: torch.dtype | None,
    incl_bwd: bool,
    max_bytes: int,
) -> None:
    width = torch.empty(0, dtype=dtype or model.decoder.token_embedding.weight.dtype).element_size()
    bytes_of: dict[str, int] = {}
    for name in names:
        point = model._hook_dict[name]
        shape = axis_sizes(point, model.cfg, sizes)
        count = width
        for axis, size in zip(_cut_axes(point), shape, strict=True):
            count *= _cut_length(cuts.get(axis), size)
        bytes_of[name] = count * (2 if incl_bwd else 1)
    total = sum(bytes_of.values())
    if total > max_bytes:
        largest = max(bytes_of, key=lambda n: bytes_of[n])
        raise CacheSizeError(
            f"caching {len(names)} points would take about {total / 2**30:.1f} GiB (limit {max_bytes / 2**30:.2g} GiB; "
            f"the largest is {largest} with {bytes_of[largest] / 2**30:.2f} GiB). Ask for fewer names=, "
            "cut with positions= or tokens_slice=, store dtype=torch.float16, run fewer clips, or raise max_bytes="
        )


def _cut_length(cut: Cut, size: int) -> int:
    if cut is None:
        return size
    if isinstance(cut, int):
        return 1
    return len(range(*cut.indices(size))) if isinstance(cut, slice) else len(cut)
