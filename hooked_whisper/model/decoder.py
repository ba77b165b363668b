"""Text decoder: tied embedding, causal self-attention, cross-attention, unembedding."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hooked_whisper._support.renamed import attribute_elsewhere
from hooked_whisper.config import DecoderConfig
from hooked_whisper.errors import ArgumentError
from hooked_whisper.hooks import HookPoint, StackClock
from hooked_whisper.model.block import Block
from hooked_whisper.model.elsewhere import UNEMBED_ATTRIBUTES
from hooked_whisper.model.inputs import check_encoder_out, check_tokens
from hooked_whisper.model.kernels import linear
from hooked_whisper.model.kv_cache import KVCache
from hooked_whisper.model.layers import LayerNorm
from hooked_whisper.model.step import runs_as_step, step
from hooked_whisper.model.weights_view import BlockStack, CrossWeights


class Unembed(nn.Module):
    """``x W_U (+ b_U)``. The weight is the token embedding unless weight processing untied it."""

    def __init__(self, d_model: int, n_vocab: int) -> None:
        super().__init__()
        sizes = {"d_model": d_model, "vocab": n_vocab}
        normed = ("decoder.ln", "decoder.ln_final")
        self.hook_in = HookPoint("batch", "token", "d_model", sizes=sizes, aliases=normed)
        logits = ("decoder", "unembed", "logits")
        self.hook_out = HookPoint("batch", "token", "vocab", sizes=sizes, aliases=logits, shared=True)
        self.weight: nn.Parameter | None
        self.bias: nn.Parameter | None
        self.register_parameter("weight", None)  # [vocab, d_model] when untied
        self.register_parameter("bias", None)

    def __getattr__(self, name: str) -> Any:
        error = attribute_elsewhere(self, name, UNEMBED_ATTRIBUTES)
        if error is not None:
            raise error
        return super().__getattr__(name)

    def forward(
        self, x: Float[Tensor, "batch token d_model"], tied: Float[Tensor, "vocab d_model"]
    ) -> Float[Tensor, "batch token vocab"]:
        x = self.hook_in(x)  # [batch, token, d_model]
        weight = tied if self.weight is None else self.weight
        bias = None if self.bias is None else self.bias.to(x.dtype)
        logits = linear(x, weight.to(x.dtype), bias)
        return self.hook_out(logits if logits.dtype == torch.float64 else logits.float())  # [batch, token, vocab]


class Decoder(BlockStack):
    """``tokens [batch, token], encoder output [batch, position, d_model] -> logits [batch, token, vocab]``"""

    def __init__(self, cfg: DecoderConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.clock = StackClock()
        sizes = {"d_model": cfg.d_model}
        self.hook_tokens = HookPoint("batch", "token", shared=True)
        self.token_embedding = nn.Embedding(cfg.n_vocab, cfg.d_model)
        self.positional_embedding = nn.Parameter(torch.empty(cfg.n_ctx, cfg.d_model))
        self.hook_embed = HookPoint("batch", "token", "d_model", sizes=sizes, aliases=(".token_embedding",))
        self.hook_pos_embed = HookPoint("token", "d_model", sizes=sizes, shared=True)
        self.blocks = nn.ModuleList(Block(cfg.d_model, cfg.n_heads, cfg.d_mlp, cross=True) for _ in range(cfg.n_layers))
        self.ln_final = LayerNorm(cfg.d_model, "batch", "token")
        self.unembed = Unembed(cfg.d_model, cfg.n_vocab)
        nn.init.normal_(self.positional_embedding, std=0.02)
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    @property
    def cross(self) -> CrossWeights:
        """Weights of cross-attention under the same names: ``model.decoder.cross.W_Q``."""
        return CrossWeights(self)

    @property
    def W_pos(self) -> Float[Tensor, "token d_model"]:
        return self.positional_embedding

    def forward(
        self,
        tokens: Int[Tensor, "batch token"],
        encoder_out: Float[Tensor, "clip position d_model"],
        kv_cache: KVCache | None = None,
    ) -> Float[Tensor, "batch token vocab"]:
        """Return the logits of the next token after each token. With ``kv_cache``, ``tokens`` are only the new ones.

        Encoder output with one row is shared by all rows of tokens: its keys and values are computed once.
        """
        return self.to_logits(self.hidden(tokens, encoder_out, kv_cache))

    def hidden(
        self,
        tokens: Int[Tensor, "batch token"],
        encoder_out: Float[Tensor, "clip position d_model"],
        kv_cache: KVCache | None = None,
    ) -> Float[Tensor, "batch token d_model"]:
        """Return the residual after the final norm, which the unembedding reads."""
        start = self._start(kv_cache, 0)
        self._check(tokens, encoder_out, start)
        self.clock.offset = start
        if kv_cache is not None and runs_as_step(self, tokens, encoder_out.dtype, kv_cache):
            return step(self, tokens, start, kv_cache)
        tokens = self.hook_tokens(tokens)
        # float32 weights follow the encoder output's dtype, as in openai-whisper
        x = self.hook_embed(F.embedding(tokens, self.token_embedding.weight).to(encoder_out.dtype))
        stop = start + tokens.shape[-1]
        pos = self.hook_pos_embed(self.positional_embedding[start:stop].to(x.dtype))  # [token, d_model]
        return self.from_resid(x + pos, 0, encoder_out, kv_cache)

    def from_resid(
        self,
        resid: Float[Tensor, "batch token d_model"],
        block: int,
        encoder_out: Float[Tensor, "clip position d_model"],
        kv_cache: KVCache | None = None,
    ) -> Float[Tensor, "batch token d_model"]:
        """Run the rest of the decoder, up to the final norm, from the residual that enters ``block``."""
        self.clock.offset = self._start(kv_cache, block)
        x = resid
        for layer in self.blocks[block:]:
            x = layer(x, encoder_out, kv_cache)
        return self.ln_final(x)

    def _start(self, kv_cache: KVCache | None, block: int) -> int:
        """Return the index of the first token of a pass that begins at ``block``: the number of its cached keys."""
        if kv_cache is None or block >= len(self.blocks):
            return 0
        return kv_cache.n_tokens(self.attention_modules()[block])

    def to_logits(self, hidden: Float[Tensor, "batch token d_model"]) -> Float[Tensor, "batch token vocab"]:
        """Unembed the output of :meth:`hidden`."""
        return self.unembed(hidden, self.token_embedding.weight)

    def _check(self, tokens: Tensor, encoder_out: Tensor, start: int) -> None:
        cfg = self.cfg
        check_tokens(tokens, cfg, values=start == 0)  # later tokens come from the model
        check_encoder_out(encoder_out, cfg.d_model)
        stop = start + tokens.shape[-1]
        if stop > cfg.n_ctx:
            raise ArgumentError(f"{stop} tokens do not fit: this decoder has {cfg.n_ctx} positions")
        if encoder_out.shape[0] not in (1, tokens.shape[0]):
            raise ArgumentError(
                f"{tokens.shape[0]} rows of tokens but {encoder_out.shape[0]} of encoder output: "
                "give one row of encoder output for all, or one per row of tokens"
            )
