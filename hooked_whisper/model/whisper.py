"""``WhisperCore``: encoder and decoder with named hook points, cached runs, attached SAEs and attention masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from whisper.model import ModelDimensions

from hooked_whisper._support.heads import read_heads
from hooked_whisper._support.indices import Selection
from hooked_whisper._support.renamed import (
    argument_synonyms,
    keywords_elsewhere,
    renamed_arguments,
    renamed_method,
)
from hooked_whisper.config import WhisperConfig
from hooked_whisper.errors import ArgumentError, check_option
from hooked_whisper.hooks import ActivationCache, HookedRootModule, HookHandle, Hooks, Names, StackClock
from hooked_whisper.hooks.attach_sae import attached_sae
from hooked_whisper.hooks.caching import DEFAULT_MAX_BYTES, Storing, check_cache_size, collect_activations
from hooked_whisper.hooks.hook_names import listed
from hooked_whisper.hooks.root_module import refuse_backward_hooks
from hooked_whisper.model.attention import Attention, KVCache
from hooked_whisper.model.decoder import Decoder, Unembed
from hooked_whisper.model.encoder import Encoder
from hooked_whisper.model.inputs import check_encoder_out, check_mel, check_tokens
from hooked_whisper.model.masks import MaskEntry, check_mask, resolve_target
from hooked_whisper.protocols import STACKS, AttachableSAE, Stack

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


class WhisperCore(HookedRootModule):
    """Encoder and decoder with named hook points. :class:`HookedWhisper` adds weights, audio and text."""

    def __init__(self, cfg: WhisperConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.encoder = Encoder(cfg.encoder)
        self.decoder = Decoder(cfg.decoder)
        clocks: dict[str, StackClock] = {"encoder": self.encoder.clock, "decoder": self.decoder.clock}
        self.name_hook_points(clocks)
        for path, attn in self.attention_modules().items():
            attn.name = path
            attn.clock = clocks[path.split(".", 1)[0]]

    def point_name(self, path: str) -> str:
        """Return the hook name of the point at a module path: ``decoder.unembed.*`` is called ``unembed.*``."""
        return path.removeprefix("decoder.") if path.startswith("decoder.unembed.") else path

    @property
    def alignment_heads(self) -> Tensor:
        """Cross-attention heads that word timing reads, sparse bool ``[block, head]`` as in openai-whisper.

        The heads in the config, else all heads of the last half of the blocks.
        """
        cfg = self.cfg.decoder
        heads = torch.zeros(cfg.n_layers, cfg.n_heads, dtype=torch.bool, device="cpu")
        if self.cfg.alignment_heads is None:
            heads[cfg.n_layers // 2 :] = True
        for block, head in self.cfg.alignment_heads or ():
            heads[block, head] = True
        return heads.to_sparse()

    # --- shape, device ---------------------------------------------------------------------------------------------

    @property
    def dims(self) -> ModelDimensions:
        """The model's dimensions under openai-whisper's names."""
        return self.cfg.dims

    @property
    def device(self) -> torch.device:
        return self.decoder.token_embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.token_embedding.weight.dtype

    @property
    def is_multilingual(self) -> bool:
        return (self.cfg.token_layout or self.dims.n_vocab) >= 51865

    @property
    def num_languages(self) -> int:
        return (self.cfg.token_layout or self.dims.n_vocab) - 51765 - int(self.is_multilingual)

    @property
    def unembed(self) -> Unembed:
        return self.decoder.unembed

    @property
    def W_E(self) -> Float[Tensor, "vocab d_model"]:
        """Token embedding, one row per token."""
        return self.decoder.token_embedding.weight

    @property
    def W_U(self) -> Float[Tensor, "d_model vocab"]:
        """Unembedding: the token embedding transposed, unless weight processing untied it."""
        untied = self.decoder.unembed.weight
        return (self.W_E if untied is None else untied).mT

    @property
    def b_U(self) -> Float[Tensor, "vocab"]:
        """Bias of the unembedding: zeros, unless weight processing added one."""
        bias = self.decoder.unembed.bias
        return self.W_E.new_zeros(self.cfg.decoder.n_vocab) if bias is None else bias

    @property
    def W_pos(self) -> Float[Tensor, "token d_model"]:
        """Positional embedding of the decoder; the encoder's is ``model.encoder.W_pos``."""
        return self.decoder.W_pos

    def attention_modules(self) -> dict[str, Attention]:
        """Return every attention by name: ``encoder.blocks.0.attn``, ``decoder.blocks.0.cross_attn``, ..."""
        return {path: module for path, module in self.named_modules() if isinstance(module, Attention)}

    # --- forward -----------------------------------------------------------------------------------------------------

    def embed_audio(self, mel: Float[Tensor, "batch mel frame"]) -> Float[Tensor, "batch position d_model"]:
        """Return the encoder output for mels of the full window (30 s in the released models)."""
        return self.encoder(mel)

    def logits(
        self, tokens: Int[Tensor, "batch token"], encoder_out: Float[Tensor, "clip position d_model"]
    ) -> Float[Tensor, "batch token vocab"]:
        """Return next-token logits. Encoder output with one row is shared by all rows of tokens."""
        return self.decoder(tokens, encoder_out)

    def forward(
        self, mel: Float[Tensor, "clip mel frame"], tokens: Int[Tensor, "batch token"]
    ) -> Float[Tensor, "batch token vocab"]:
        return self.decoder(tokens, self.encoder(mel))

    def install_kv_cache_hooks(self, cache: KVCache | None = None) -> tuple[KVCache, list[HookHandle]]:
        """Return an empty cache for incremental decoding. The name is openai-whisper's, whose decoder calls it."""
        return (KVCache() if cache is None else KVCache(cache)), []

    # --- hooks and caches --------------------------------------------------------------------------------------------

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Hooks = (),
        bwd_hooks: Hooks = (),
        attn_masks: Mapping[Any, Any] | None = None,
    ) -> Iterator[Self]:
        """Attach hooks and attention masks for a block of code. Leaving it removes exactly these.

        ``fwd_hooks`` and ``bwd_hooks`` are lists of ``(names, fn)``. Backward hooks must still be attached when
        ``backward()`` runs. ``attn_masks`` maps targets to masks, see :mod:`hooked_whisper.model.masks`.
        """
        with ExitStack() as stack:
            stack.enter_context(super().hooks(fwd_hooks, bwd_hooks))
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
        """Run one forward pass with hooks and attention masks; the other arguments are those of the model.

        Raises:
            ArgumentError: backward hooks, which would be removed before ``backward()`` runs.
        """
        refuse_backward_hooks(bwd_hooks)
        with self.hooks(fwd_hooks, attn_masks=attn_masks):
            return self(*args, **kwargs)

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
        pos_slice: Selection | None = None,
        token_slice: Selection | None = None,
        mel_positions: slice | None = None,
        detach: bool = True,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> tuple[Tensor | None, ActivationCache]:
        """Run the model and return ``(output, cache)``.

        With ``mel`` alone only the encoder runs, and the output is the encoder's. With ``tokens`` the output is the
        logits. Pass ``encoder_out`` instead of ``mel`` to run only the decoder.

        Args:
            names_filter: hook points to cache: a string, glob, regex, predicate, or a list of them. By default all
                except the optional points and the encoder's scores and patterns. ``names`` is accepted too.
            fwd_hooks, attn_masks: as in :meth:`hooks`. The cache holds the activations after these hooks.
            incl_bwd, loss_fn: also run backward from ``loss_fn(output)``, a scalar, and cache gradients as
                ``<name>_grad`` (of ``encoder.hook_mel`` only if ``mel`` requires a gradient).
            stop_early: stop after the last requested point; the output returned is then ``None``.
            device, dtype: of the cached tensors.
            pos_slice, token_slice: encoder positions and decoder tokens to cache, in any form of
                :func:`hooked_whisper._support.indices.read_indices`. They cut the axes ``position``, ``token`` and
                ``query``; ``key`` stays whole.
            mel_positions: the encoder positions that a mel shorter than the window occupies, see ``encoder.forward``.
            detach: ``False`` keeps the graph, so that gradients flow back from anything computed from the cache.
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
        names = self._names_to_cache(names_filter, mel is not None, tokens is not None)
        storing = Storing({"position": pos_slice, "token": token_slice}, device, dtype, detach)
        points = [self._hook_dict[name] for name in names]
        lengths = _pass_lengths(mel, encoder_out, tokens)
        check_cache_size(points, lengths, storing, self.dtype, incl_bwd, max_bytes)

        def run() -> Tensor:
            encoded: Tensor = encoder_out if mel is None else self.encoder(mel, mel_positions)  # type: ignore[assignment]
            return encoded if tokens is None else self.decoder(tokens, encoded)

        with self.hooks(fwd_hooks, attn_masks=attn_masks):
            output, activations = collect_activations(
                self, names, run, storing, stop_early=stop_early, loss_fn=loss_fn if incl_bwd else None
            )
        return output, ActivationCache(activations, self)

    def default_cache_names(self, stacks: Sequence[str] = ("encoder", "decoder", "unembed")) -> list[str]:
        """Return all points except the optional ones and the encoder's scores and patterns (the bulk of the memory)."""
        return [name for name, point in self._hook_dict.items() if point.cached_by_default and point.stack in stacks]

    def _names_to_cache(self, names_filter: Names | None, has_mel: bool, has_tokens: bool) -> list[str]:
        runs = {"encoder": has_mel, "decoder": has_tokens, "unembed": has_tokens}
        running = [stack for stack in runs if runs[stack]]
        if names_filter is None:
            return self.default_cache_names(running)
        filters = listed(names_filter)
        if not filters:
            raise ArgumentError("names_filter is empty: name at least one hook point, or leave it out")
        requested: set[str] = set()
        for name_filter in filters:
            matches = self.hook_names(name_filter)
            firing = [name for name in matches if self._hook_dict[name].stack in running]
            # a pattern over both stacks selects from the stack that runs; an exact name that cannot fire is an error
            if not firing:
                missing = "tokens" if not has_tokens else "mel instead of encoder_out"
                raise ArgumentError(f"{matches[0]} would not run in this pass: give {missing}")
            requested.update(firing)
        return [name for name in self._hook_dict if name in requested]

    # --- SAEs --------------------------------------------------------------------------------------------------------

    splice = renamed_method("splice", "attach_sae")

    @renamed_arguments(error_term="use_error_term")
    @contextmanager
    def attach_sae(
        self,
        sae: AttachableSAE,
        hook: str,
        *,
        use_error_term: bool = False,
        hook_out: str | None = None,
        positions: Selection | Bool[Tensor, "row place"] | None = None,
    ) -> Iterator[Self]:
        """Replace an activation by an SAE's reconstruction of it, for a block of code. Yields the model.

        Several SAEs may be attached at different points, and detached in any order. See
        :mod:`hooked_whisper.hooks.attach_sae` for the points that an attached SAE adds.

        Args:
            sae: an object with ``encode`` and ``decode`` (or ``decode_like(features, activation)``). It takes the
                vectors along the point's last axis, or the concatenated vectors of all heads if it is that wide. The
                reconstruction is cast to the activation's dtype.
            hook: one hook point, by name or alias.
            use_error_term: add the reconstruction error, as a constant: the output is then the activation, bit for
                bit, until a hook edits a point of the SAE. An edit of the latents adds
                ``decode(edited) - decode(latents)``, one of the input ``decode(encode(edited)) - decode(encode(x))``.
                Gradients pass through the SAE, not past it.
            hook_out: for transcoders, the later point of the same stack whose activation is replaced.
            positions: replace only here; elsewhere the activation is unchanged, and latents and error read 0. Absolute
                encoder positions (decoder: tokens) in any form of
                :func:`hooked_whisper._support.indices.read_indices`, or a boolean mask ``[row, place]`` as long as the
                pass, with one row per clip or one for all clips.

        Raises:
            UnknownHookError: the point does not exist; the message names the closest.
            PatchError: the point has no vectors of the SAE's width or an SAE already, a transcoder lacks ``hook_out``,
                the SAE is a crosscoder, or ``positions`` is neither a selection nor a boolean mask.
        """
        with attached_sae(
            self, self.cfg, sae, hook, use_error_term=use_error_term, hook_out=hook_out, positions=positions
        ):
            yield self

    # --- masks -------------------------------------------------------------------------------------------------------

    def add_attn_masks(self, attn_masks: Mapping[Any, Any]) -> list[HookHandle]:
        """Add masks that stay until their handles are removed; targets as in :mod:`hooked_whisper.model.masks`."""
        modules = self.attention_modules()
        heads = {name: attn.n_heads for name, attn in modules.items()}
        entries: list[tuple[Attention, MaskEntry]] = []
        for target, mask in attn_masks.items():
            check_mask(mask, str(target))
            for name, masked_heads in resolve_target(target, list(modules), heads).items():
                entries.append((modules[name], MaskEntry(mask, masked_heads)))
        return [HookHandle(attn.masks, entry) for attn, entry in entries]

    def reset_hooks(self) -> None:
        """Remove every hook and every mask."""
        super().reset_hooks()
        for attn in self.attention_modules().values():
            attn.masks.clear()

    def head_labels(self, stack: Stack = "encoder") -> Sequence[str]:
        """Return labels of all heads: ``E0.1`` (encoder), ``D0.1`` (decoder self-attention), ``X0.1`` (cross)."""
        check_option("stack", stack, STACKS)
        return [head.label for head in read_heads(None, self.cfg, stack)]


def _pass_lengths(mel: Tensor | None, encoder_out: Tensor | None, tokens: Tensor | None) -> dict[str, int]:
    """Return the axis lengths of a pass, to estimate the size of a cache."""
    if mel is not None:
        n_clips, n_positions = mel.shape[0], mel.shape[2] // 2
    else:
        assert encoder_out is not None
        n_clips, n_positions = encoder_out.shape[:2]
    return {
        "clip": n_clips,
        "batch": n_clips if tokens is None else tokens.shape[0],
        "frame": 2 * n_positions,
        "position": n_positions,
        "token": 0 if tokens is None else tokens.shape[-1],
    }
