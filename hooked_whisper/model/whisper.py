"""``WhisperCore``: encoder and decoder with named hook points, cached runs, attached SAEs and attention masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, Self, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from whisper.model import ModelDimensions

from hooked_whisper._support.heads import read_heads
from hooked_whisper._support.indices import Selection
from hooked_whisper._support.renamed import (
    argument_synonyms,
    attribute_elsewhere,
    keywords_elsewhere,
    renamed_arguments,
)
from hooked_whisper.config import WhisperConfig
from hooked_whisper.errors import ArgumentError, check_option
from hooked_whisper.hooks import ActivationCache, HookHandle, Hooks, Names, StackClock
from hooked_whisper.hooks.caching import DEFAULT_MAX_BYTES, Storing, check_cache_size, collect_activations
from hooked_whisper.hooks.hook_names import listed
from hooked_whisper.hooks.root_module import refuse_backward_hooks
from hooked_whisper.hooks.sae_runs import HookedSAEModule
from hooked_whisper.model.attention import Attention, KVCache
from hooked_whisper.model.composition import Composition, all_composition_scores
from hooked_whisper.model.decoder import Decoder, Unembed
from hooked_whisper.model.elsewhere import CACHE_KEYWORDS, FORWARD_KEYWORDS, MODEL_ATTRIBUTES
from hooked_whisper.model.encoder import Encoder
from hooked_whisper.model.loss import Output, ReturnType, lm_cross_entropy_loss
from hooked_whisper.model.masks import MaskEntry, check_mask, resolve_target
from hooked_whisper.model.passes import ForwardPass, backward_from, check_return_type
from hooked_whisper.protocols import STACKS, Stack


class WhisperCore(HookedSAEModule):
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

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            error = attribute_elsewhere(self, name, MODEL_ATTRIBUTES)
            if error is None:
                raise
        raise error

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

    @keywords_elsewhere(**FORWARD_KEYWORDS)
    def forward(
        self,
        mel: Float[Tensor, "clip mel frame"] | None = None,
        tokens: Int[Tensor, "batch token"] | None = None,
        *,
        encoder_out: Float[Tensor, "clip position d_model"] | None = None,
        return_type: ReturnType | None = "logits",
        loss_per_token: bool = False,
    ) -> Tensor | Output | None:
        """Run encoder and decoder, and return next-token logits ``[batch, token, vocab]``.

        With ``mel`` alone only the encoder runs, and its output is returned. Pass ``encoder_out`` instead of ``mel`` to
        run only the decoder.

        Args:
            return_type: ``"loss"`` for the cross-entropy of the next tokens (:meth:`loss_fn`), ``"both"`` for
                ``(logits, loss)``, ``None`` for nothing, if only hooks matter.
            loss_per_token: the loss of each token instead of their mean.

        Raises:
            ArgumentError: the inputs do not fit the model or each other.
        """
        return ForwardPass(mel, tokens, encoder_out).run(self, return_type, loss_per_token)

    def loss_fn(
        self,
        logits: Float[Tensor, "batch token vocab"],
        tokens: Int[Tensor, "batch token"],
        attention_mask: Int[Tensor, "batch token"] | Bool[Tensor, "batch token"] | None = None,
        per_token: bool = False,
        *,
        first_token: int = 1,
    ) -> Tensor:
        """Return the next-token cross-entropy, see :func:`hooked_whisper.model.loss.lm_cross_entropy_loss`."""
        return lm_cross_entropy_loss(logits, tokens, attention_mask, per_token, first_token=first_token)

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

    @keywords_elsewhere(**CACHE_KEYWORDS)
    @renamed_arguments(positions="pos_slice", tokens_slice="token_slice", at="mel_positions")
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
        return_type: ReturnType | None = "logits",
        loss_per_token: bool = False,
        stop_early: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        pos_slice: Selection | None = None,
        token_slice: Selection | None = None,
        mel_positions: slice | None = None,
        detach: bool = True,
        remove_batch_dim: bool = False,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> tuple[Any, ActivationCache]:
        """Run the model and return ``(output, cache)``.

        With ``mel`` alone only the encoder runs, and the output is the encoder's. With ``tokens`` the output is the
        logits, or as ``return_type`` says. Pass ``encoder_out`` instead of ``mel`` to run only the decoder.

        Args:
            names_filter: hook points to cache: a string, glob, regex, predicate, or a list of them. By default all
                except the optional points and the encoder's scores and patterns. ``names`` is accepted too.
            fwd_hooks, attn_masks: as in :meth:`hooks`. The cache holds the activations after these hooks.
            incl_bwd, loss_fn: also run backward from ``loss_fn(output)``, a scalar, and cache gradients as
                ``<name>_grad`` (of ``encoder.hook_mel`` only if ``mel`` requires a gradient). ``loss_fn`` is not needed
                with ``return_type="loss"`` or ``"both"``.
            return_type, loss_per_token: as in :meth:`forward`.
            stop_early: stop after the last requested point; the output returned is then ``None``. ``return_type=None``
                does the same.
            device, dtype: of the cached tensors.
            pos_slice, token_slice: encoder positions and decoder tokens to cache, in any form of
                :func:`hooked_whisper._support.indices.read_indices`. They cut the axes ``position``, ``token`` and
                ``query``; ``key`` stays whole.
            mel_positions: the encoder positions that a mel shorter than the window occupies, see ``encoder.forward``.
            detach: ``False`` keeps the graph, so that gradients flow back from anything computed from the cache.
            remove_batch_dim: cache one clip without its batch axis, see :meth:`ActivationCache.remove_batch_dim`.
            max_bytes: limit of the estimated size.

        Raises:
            ArgumentError: the inputs do not fit the model or each other, or ``names_filter`` needs an input that is
                not given.
            UnknownHookError: a name that does not exist, or a pattern without a match.
            CacheSizeError: the estimate exceeds ``max_bytes``.
        """
        check_return_type(return_type)
        forward_pass = ForwardPass(mel, tokens, encoder_out, mel_positions)
        forward_pass.check(self, "run_with_cache")
        lengths = forward_pass.lengths()
        if remove_batch_dim and not lengths["clip"] == lengths["batch"] == 1:
            raise ArgumentError(f"remove_batch_dim needs a batch of one row, not {lengths['batch']}")
        stop_early = stop_early or return_type is None
        backward = backward_from(loss_fn, return_type, stop_early) if incl_bwd else None
        names = self._names_to_cache(names_filter, mel is not None, tokens is not None)
        storing = Storing({"position": pos_slice, "token": token_slice}, device, dtype, detach)
        points = [self._hook_dict[name] for name in names]
        check_cache_size(points, lengths, storing, self.dtype, incl_bwd, max_bytes)

        def run() -> Any:
            return forward_pass.run(self, "logits" if return_type is None else return_type, loss_per_token)

        with self.hooks(fwd_hooks, attn_masks=attn_masks):
            output, activations = collect_activations(
                self, names, run, storing, stop_early=stop_early, loss_fn=backward
            )
        cache = ActivationCache(activations, self)
        return output, cache.remove_batch_dim() if remove_batch_dim else cache

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

    def reset_hooks(
        self,
        clear_contexts: bool = True,
        direction: Literal["fwd", "bwd", "both"] = "both",
        including_permanent: bool = False,
    ) -> None:
        """Remove every hook and every mask, and clear every ``hook.ctx``.

        Args:
            clear_contexts: whether to clear ``hook.ctx``.
            direction: of the hooks that are removed; ``"bwd"`` leaves the masks.
            including_permanent: also remove the hooks of :meth:`add_perma_hook`.
        """
        check_option("direction", direction, ("fwd", "bwd", "both"))
        super().reset_hooks(clear_contexts, direction, including_permanent)
        if direction != "bwd":
            for attn in self.attention_modules().values():
                attn.masks.clear()

    # --- heads -------------------------------------------------------------------------------------------------------

    def head_labels(self, stack: Stack = "encoder") -> Sequence[str]:
        """Return labels of all heads: ``E0.1`` (encoder), ``D0.1`` (decoder self-attention), ``X0.1`` (cross)."""
        check_option("stack", stack, STACKS)
        return [head.label for head in read_heads(None, self.cfg, stack)]

    def all_head_labels(self) -> list[str]:
        """Return the labels of all heads: those of the encoder, the decoder, and cross-attention."""
        return [label for stack in STACKS for label in self.head_labels(stack)]

    @keywords_elsewhere()
    def all_composition_scores(
        self, mode: Composition, writer: Stack | None = None, reader: Stack | None = None
    ) -> Float[Tensor, "left_layer left_head right_layer right_head"]:
        """Return the composition scores of all pairs of heads, 0 where the first does not come before the second.

        Args:
            mode: whether the later head reads the earlier one's output for its queries, keys or values.
            writer: stack of the earlier heads.
            reader: stack of the later heads; default: the same. Defined are encoder -> encoder and decoder -> decoder
                (Q, K, V), decoder -> cross (Q), cross -> decoder (Q, K, V), cross -> cross (Q), and encoder -> cross
                (K, V), where every block of the encoder comes first.

        Raises:
            ArgumentError: the reader does not read there what the writer writes.
        """
        check_option("mode", mode, get_args(Composition))
        if reader is not None:
            check_option("reader", reader, STACKS)
        if writer is None:
            raise ArgumentError(
                f"Whisper has two stacks: write all_composition_scores({mode!r}, 'encoder'), ({mode!r}, 'decoder'), or "
                "with two, such as ('Q', 'decoder', 'cross')"
            )
        return all_composition_scores(self, mode, writer, reader)
