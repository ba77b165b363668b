"""The hooked model: both stacks, and what a user calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from whisper.model import ModelDimensions

from hooked_whisper.config import WhisperConfig
from hooked_whisper.errors import check_option
from hooked_whisper.hooks import HookedModule, HookHandle, StackClock
from hooked_whisper.hooks.attach_sae import SplicingMixin
from hooked_whisper.hooks.caching import CachingMixin
from hooked_whisper.model.attention import Attention, KVCache
from hooked_whisper.model.decoder import Decoder
from hooked_whisper.model.encoder import Encoder
from hooked_whisper.model.masks import Kind, MaskEntry, check_mask, resolve_target


class WhisperCore(CachingMixin, SplicingMixin, HookedModule):
    """Encoder and decoder with named hook points; weights, audio and text come in :class:`HookedWhisper`."""

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

    @property
    def alignment_heads(self) -> Tensor:
        """Cross-attention heads that word timing reads, sparse bool ``[block, head]`` as in openai-whisper.

        Those of the config, else all of the last half of the blocks.
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
        """The shape in openai-whisper's words."""
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
    def unembed(self) -> Any:
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

    def attention_modules(self) -> dict[str, Attention]:
        """Every attention by name: ``encoder.blocks.0.attn``, ``decoder.blocks.0.cross_attn``, ..."""
        return {path: module for path, module in self.named_modules() if isinstance(module, Attention)}

    # --- forward -----------------------------------------------------------------------------------------------------

    def embed_audio(self, mel: Float[Tensor, "batch mel frame"]) -> Float[Tensor, "batch position d_model"]:
        """Encoder output for mels of the full window (30 s in the released models)."""
        return self.encoder(mel)

    def logits(
        self, tokens: Int[Tensor, "batch token"], encoder_out: Float[Tensor, "clip position d_model"]
    ) -> Float[Tensor, "batch token vocab"]:
        """Next-token logits; one row of encoder output may serve many rows of tokens."""
        return self.decoder(tokens, encoder_out)

    def forward(
        self, mel: Float[Tensor, "clip mel frame"], tokens: Int[Tensor, "batch token"]
    ) -> Float[Tensor, "batch token vocab"]:
        return self.decoder(tokens, self.encoder(mel))

    def install_kv_cache_hooks(self, cache: KVCache | None = None) -> tuple[KVCache, list[HookHandle]]:
        """An empty cache for incremental decoding, under the name openai-whisper's decoder asks for it."""
        return (KVCache() if cache is None else KVCache(cache)), []

    # --- masks -------------------------------------------------------------------------------------------------------

    def add_attn_masks(self, attn_masks: Mapping[Any, Any]) -> list[HookHandle]:
        """Add masks until their handles are removed; targets as in :mod:`hooked_whisper.model.masks`."""
        modules = self.attention_modules()
        heads = {name: attn.n_heads for name, attn in modules.items()}
        entries: list[tuple[Attention, MaskEntry]] = []
        for target, mask in attn_masks.items():
            check_mask(mask, str(target))
            for name, chosen in resolve_target(target, list(modules), heads).items():
                entries.append((modules[name], MaskEntry(mask, chosen)))
        return [HookHandle(attn.masks, entry) for attn, entry in entries]

    def reset_hooks(self) -> None:
        """Remove every hook and every mask."""
        super().reset_hooks()
        for attn in self.attention_modules().values():
            attn.masks.clear()

    def head_labels(self, stack: Kind = "encoder") -> Sequence[str]:
        """``E0.1`` (encoder), ``D0.1`` (decoder self-attention), ``X0.1`` (cross-attention): block.head."""
        letters = {"encoder": "E", "decoder": "D", "cross": "X"}
        check_option("stack", stack, letters)
        cfg = self.cfg.encoder if stack == "encoder" else self.cfg.decoder
        pairs = ((block, head) for block in range(cfg.n_layers) for head in range(cfg.n_heads))
        return [f"{letters[stack]}{block}.{head}" for block, head in pairs]
