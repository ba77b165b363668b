"""The same random weights in openai-whisper, transformers and hooked_whisper."""

from __future__ import annotations

import copy
import functools
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import WhisperConfig as HFConfig
from transformers import WhisperForConditionalGeneration
from whisper.model import ModelDimensions, Whisper

from hooked_whisper.config import WhisperConfig
from hooked_whisper.model import WhisperCore

SIZES = {
    # n_mels, audio: ctx, state, head, layer; n_vocab, text: ctx, state, head, layer
    "one_block": ModelDimensions(80, 20, 32, 2, 1, 67, 41, 32, 2, 1),
    "odd": ModelDimensions(128, 60, 96, 3, 2, 211, 48, 96, 3, 3),
    "tiny": ModelDimensions(80, 1500, 384, 6, 4, 51865, 448, 384, 6, 4),
}

_TO_CORE = (
    (r"\.mlp_ln\.", ".ln2."),
    (r"\.cross_attn_ln\.", ".ln_cross."),
    (r"\.attn_ln\.", ".ln1."),
    (r"\.mlp\.0\.", ".mlp.up."),
    (r"\.mlp\.2\.", ".mlp.down."),
    (r"^decoder\.ln\.", "decoder.ln_final."),
    (r"^encoder\.(conv[12])\.", r"encoder.\1.conv."),
)
_TO_HF = (
    (r"^(encoder|decoder)\.blocks\.", r"model.\1.layers."),
    (r"^(encoder|decoder)\.positional_embedding$", r"model.\1.embed_positions.weight"),
    (r"^decoder\.token_embedding\.", "model.decoder.embed_tokens."),
    (r"^encoder\.ln_post\.", "model.encoder.layer_norm."),
    (r"^decoder\.ln\.", "model.decoder.layer_norm."),
    (r"^encoder\.conv", "model.encoder.conv"),
    (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.attn\.", ".self_attn."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.query\.", ".q_proj."),
    (r"\.key\.", ".k_proj."),
    (r"\.value\.", ".v_proj."),
    (r"\.out\.", ".out_proj."),
)


@dataclass(frozen=True)
class Twins:
    """Three implementations with the same weights; float64 copies are made when asked for."""

    openai: Whisper
    hf: WhisperForConditionalGeneration
    core: WhisperCore

    @property
    def dims(self) -> ModelDimensions:
        return self.openai.dims

    @functools.cached_property
    def hf64(self) -> WhisperForConditionalGeneration:
        return copy.deepcopy(self.hf).double()

    @functools.cached_property
    def core64(self) -> WhisperCore:
        return copy.deepcopy(self.core).double()

    def mel(self, batch: int = 1, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Random mels that fill the window, ``[batch, mel, frame]``."""
        shape = (batch, self.dims.n_mels, 2 * self.dims.n_audio_ctx)
        return torch.randn(shape, generator=_generator(seed)).to(dtype)

    def tokens(self, n: int, batch: int = 1, seed: int = 0) -> Tensor:
        """Random tokens ``[batch, token]``."""
        return torch.randint(0, self.dims.n_vocab, (batch, n), generator=_generator(seed))


@functools.cache
def make_twins(size: str) -> Twins:
    openai = random_openai(SIZES[size])
    return Twins(openai, to_hf(openai), to_core(openai))


def listeners(core: WhisperCore) -> dict[str, list[list[object]]]:
    """Every hook, reader and mask on a model, where there are any."""
    handles = {name: [list(p._fwd), list(p._bwd), list(p._readers)] for name, p in core.hook_dict.items()}
    handles |= {name: [list(attn.masks)] for name, attn in core.attention_modules().items()}
    return {name: kinds for name, kinds in handles.items() if any(kinds)}


def random_openai(dims: ModelDimensions, seed: int = 0) -> Whisper:
    """Weights that keep the stream at order one, with biases and norm gains that show when one is dropped."""
    generator = _generator(seed)

    def normal(p: Tensor, std: float, mean: float = 0.0) -> None:
        p.data = mean + std * torch.randn(p.shape, generator=generator)

    model = Whisper(dims).eval()
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            normal(module.weight, 0.3, mean=1.0)
        elif isinstance(module, (nn.Linear, nn.Conv1d)):
            gain = 1.5 if name.endswith(("query", "key")) else 1.0  # patterns far from uniform
            normal(module.weight, gain * (module.weight[0].numel()) ** -0.5)
        if isinstance(getattr(module, "bias", None), Tensor):
            normal(module.bias, 0.3)
    normal(model.decoder.positional_embedding, 0.5)
    normal(model.decoder.token_embedding.weight, 3 * dims.n_text_state**-0.5)  # logits of order 3
    return model


def to_core(openai: Whisper) -> WhisperCore:
    core = WhisperCore(WhisperConfig.from_dims(openai.dims)).eval()
    core.load_state_dict(_renamed(openai, _TO_CORE))
    return core


def to_hf(openai: Whisper) -> WhisperForConditionalGeneration:
    dims = openai.dims
    config = HFConfig(
        num_mel_bins=dims.n_mels,
        max_source_positions=dims.n_audio_ctx,
        d_model=dims.n_audio_state,
        encoder_attention_heads=dims.n_audio_head,
        encoder_layers=dims.n_audio_layer,
        encoder_ffn_dim=4 * dims.n_audio_state,
        vocab_size=dims.n_vocab,
        max_target_positions=dims.n_text_ctx,
        decoder_attention_heads=dims.n_text_head,
        decoder_layers=dims.n_text_layer,
        decoder_ffn_dim=4 * dims.n_text_state,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
        attn_implementation="eager",  # the only one that gives attention weights
    )
    hf = WhisperForConditionalGeneration(config).eval()
    weights = _renamed(openai, _TO_HF)
    hf.load_state_dict({**weights, "proj_out.weight": weights["model.decoder.embed_tokens.weight"]})
    return hf


def _renamed(openai: Whisper, rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in openai.state_dict().items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor.clone()
    return renamed


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
