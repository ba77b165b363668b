"""``run_with_cache``: run what is needed, keep what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.indices import Selection, read_indices, take
from hooked_whisper._support.inputs import check_encoder_out, check_mel, check_tokens
from hooked_whisper._support.renamed import argument_synonyms, keywords_elsewhere, renamed_arguments
from hooked_whisper.config import WhisperConfig
from hooked_whisper.errors import ArgumentError, CacheSizeError, HookedWhisperError, check_option
from hooked_whisper.hooks.activation_cache import ActivationCache
from hooked_whisper.hooks.hook_names import Names, listed
from hooked_whisper.hooks.hook_point import HookPoint
from hooked_whisper.hooks.root_module import HookedModule, Hooks
from hooked_whisper.hooks.sizes import axis_sizes as axis_sizes

Cut = Selection | None

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


# keywords of HookedTransformer.run_with_cache and HookedSAETransformer.run_with_cache_with_saes
_KEYWORDS_ELSEWHERE = {
    "return_cache_object": "the cache is always an ActivationCache; dict(cache) is a plain dictionary",
    "remove_batch_dim": "the batch axis stays: use cache.slice(batch=0), or index each tensor with [0]",
    "stop_at_layer": "use stop_early=True, which stops after the last point of names_filter",
    "clear_contexts": "hooks are removed when their context ends; reset_hooks() clears every hook.ctx",
    "reset_hooks_end": "hooks are removed when their context ends; reset_hooks() removes the others",
    "prepend_bos": "use model.to_tokens(text), which writes Whisper's prompt",
    "padding_side": "tokens are not padded: rows of one batch have the same length",
    "loss_per_token": "use analysis.token_log_probs, or loss_fn= with incl_bwd=True",
    "past_kv_cache": "use model.generate, or model.decoder(tokens, encoder_out, kv_cache)",
    "start_at_layer": "use model.encoder.from_resid or model.decoder.from_resid",
    "input": "Whisper takes mel and tokens: use model.to_mel(audio) and model.to_tokens(text)",
    "saes": "use `with model.attach_sae(sae, hook):` around run_with_cache",
    "use_error_term": "use `with model.attach_sae(sae, hook, use_error_term=True):` around run_with_cache",
}


def _stops_early(return_type: str | None) -> bool:
    """The value of ``stop_early`` for a ``return_type`` of version 0.1."""
    if return_type is not None:
        check_option("return_type", return_type, ("logits",))
    return return_type is None


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

    @keywords_elsewhere(**_KEYWORDS_ELSEWHERE)
    @renamed_arguments(
        positions="pos_slice",
        tokens_slice="token_slice",
        at="mel_positions",
        return_type=("stop_early", _stops_early),
    )
    @argument_synonyms(names="names_filter")
    def run_with_cache(
        self,
        mel: Float[Tensor, "clip mel frame"] | None = None,
        tokens: Int[Tensor, "batch token"] | None = None,
        *,
        encoder_out: Float[Tensor, "clip position d_model"] | None = None,
        names_filter: Names | None = None,
        fwd_hooks: Hooks = (),
        attn_masks: Mapping[Any, Any] | None = None,
        incl_bwd: bool = False,
        loss_fn: Callable[[Tensor], Tensor] | None = None,
        stop_early: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        pos_slice: Cut = None,
        token_slice: Cut = None,
        mel_positions: slice | None = None,
        detach: bool = True,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> tuple[Tensor | None, ActivationCache]:
        """Run the model and return ``(output, cache)``.

        With ``mel`` alone only the encoder runs, and the output is the encoder's. With ``tokens`` the output is the
        logits. Pass ``encoder_out`` instead of ``mel`` to run only the decoder.

        Args:
            names_filter: hook points to cache: a string, glob, regex, predicate, or a list of them. By default all but
                the optional points and the encoder's scores and patterns. ``names`` is accepted too.
            fwd_hooks, attn_masks: as in :meth:`hooks`. The cache holds the activations after these hooks.
            incl_bwd, loss_fn: also run backward from ``loss_fn(output)``, a scalar, and cache gradients as
                ``<name>_grad`` (of ``encoder.hook_mel`` only if ``mel`` requires a gradient).
            stop_early: stop after the last requested point; the output returned is then ``None``.
            device, dtype: of the cached tensors.
            pos_slice, token_slice: encoder positions and decoder tokens to cache, in any form of
                :func:`hooked_whisper._support.indices.read_indices`. They cut the axes ``position``, ``token`` and
                ``query``; ``key`` stays whole.
            mel_positions: the encoder positions that a mel shorter than the window occupies, see ``encoder.forward``.
            detach: ``False`` keeps the graph, so that gradients flow from whatever is computed on the cache.
            max_bytes: limit of the estimated size.

        Raises:
            ArgumentError: the inputs do not fit the model or each other, or ``names_filter`` needs an input that is
                not given.
            UnknownHookError: a name that does not exist, or a pattern without a match.
            CacheSizeError: the estimate exceeds ``max_bytes``.
        """
        if (mel is None) == (encoder_out is None):
            raise ArgumentError("run_with_cache needs either mel or encoder_out")
        if tokens is None and encoder_out is not None:
            raise ArgumentError("encoder_out is for the decoder: give tokens too")
        if incl_bwd and (loss_fn is None or stop_early):
            raise ArgumentError("incl_bwd needs loss_fn (output -> scalar) and stop_early=False")
        if mel is not None:
            check_mel(mel, self.cfg.encoder, mel_positions)
        if tokens is not None:
            check_tokens(tokens, self.cfg.decoder)
        if encoder_out is not None:
            check_encoder_out(encoder_out, self.cfg.decoder.d_model)
        wanted = self._cache_names(names_filter, mel is not None, tokens is not None)
        sizes = _sizes(self.cfg, mel if mel is not None else encoder_out, tokens, mel is not None)
        cuts = {"position": pos_slice, "token": token_slice}
        _check_size(self, wanted, sizes, cuts, dtype, incl_bwd, max_bytes)

        kept: dict[str, Tensor] = {}
        in_graph: dict[str, Tensor] = {}
        missing = set(wanted)

        def keep(x: Tensor, point: HookPoint) -> None:
            kept[point.name] = _stored(x, point, cuts, device, dtype, detach)
            missing.discard(point.name)
            if incl_bwd and x.requires_grad:
                in_graph[point.name] = x
            if stop_early and not missing:
                raise _Stop

        out: Tensor | None = None
        with ExitStack() as stack:
            stack.enter_context(self.hooks(fwd_hooks, attn_masks=attn_masks))
            for name in wanted:
                stack.callback(self._hook_dict[name].add_reader(keep).remove)
            try:
                out = self.encoder(mel, mel_positions) if mel is not None else encoder_out
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
        return (None if stop_early else out), ActivationCache(kept, self)

    def _cache_names(self, names: Names | None, has_mel: bool, has_tokens: bool) -> list[str]:
        running = [s for s, runs in (("encoder", has_mel), ("decoder", has_tokens), ("unembed", has_tokens)) if runs]
        if names is None:
            return self.default_cache_names(running)
        wanted: set[str] = set()
        asked = listed(names)
        if not asked:
            raise ArgumentError("names_filter is empty: name at least one hook point, or leave it out")
        for one in asked:
            found = self.hook_names(one)
            awake = [name for name in found if name.split(".", 1)[0] in running]
            # a pattern over both stacks means the stack that runs; a name that cannot fire is a mistake
            if not awake:
                need = "tokens" if not has_tokens else "mel instead of encoder_out"
                raise ArgumentError(f"{found[0]} would not run in this pass: give {need}")
            wanted.update(awake)
        return [name for name in self._hook_dict if name in wanted]


def _gradients(loss: Tensor, of: Mapping[str, Tensor], keep_graph: bool) -> dict[str, Tensor]:
    """Gradients of activations only: parameters and inputs keep whatever ``.grad`` they had."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ArgumentError("loss_fn must return one number (a tensor with one element)")
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
            x = take(x, cut, read_indices(cuts[axis], x.shape[cut], f"{axis}s of {point.name}"))
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


def _sizes(cfg: WhisperConfig, audio: Tensor | None, tokens: Tensor | None, of_mel: bool) -> dict[str, int]:
    """Length of every axis word, for the byte estimate."""
    assert audio is not None
    n_positions = audio.shape[2] // 2 if of_mel else audio.shape[1]
    return {
        "clip": audio.shape[0],
        "batch": audio.shape[0] if tokens is None else tokens.shape[0],
        "mel": cfg.encoder.n_mels,
        "frame": 2 * n_positions,
        "position": n_positions,
        "token": 0 if tokens is None else tokens.shape[-1],
        "d_model": cfg.encoder.d_model,
        "vocab": cfg.decoder.n_vocab,
        "one": 1,
    }


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
            cut = cuts.get(axis)
            count *= size if cut is None else len(read_indices(cut, size, f"{axis}s of {name}"))
        bytes_of[name] = count * (2 if incl_bwd else 1)
    total = sum(bytes_of.values())
    if total > max_bytes:
        largest = max(bytes_of, key=lambda n: bytes_of[n])
        raise CacheSizeError(
            f"caching {len(names)} points would take about {total / 2**30:.1f} GiB (limit {max_bytes / 2**30:.2g} GiB; "
            f"the largest is {largest} with {bytes_of[largest] / 2**30:.2f} GiB). Narrow names_filter=, "
            "cut with pos_slice= or token_slice=, store dtype=torch.float16, run fewer clips, or raise max_bytes="
        )
