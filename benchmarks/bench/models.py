"""Our model, openai-whisper's and transformers' with the same random weights, checked to agree before timing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import whisper
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration

from benchmarks.bench.openai_names import openai_name
from hooked_whisper.config import RELEASED, DecoderConfig, EncoderConfig
from hooked_whisper.config import WhisperConfig as Config
from hooked_whisper.hooked import HookedWhisper

# a window of 3 s, for tests of the harness
TOY = Config(EncoderConfig(80, 150, 64, 4, 4, 256), DecoderConfig(51865, 64, 64, 4, 2, 256), "toy")
SIZES = RELEASED | {"toy": TOY}


@dataclass(frozen=True, eq=False)
class Models:
    """``hf`` is transformers with fused attention; ``eager`` has the same weights and materializes scores and patterns.

    Inputs: mel ``[1, mel, frame]``, tokens ``[1, token]``, encoded ``[1, position, d_model]``.
    """

    ours: HookedWhisper
    openai: whisper.Whisper
    hf: WhisperForConditionalGeneration
    eager: WhisperForConditionalGeneration
    mel: Tensor
    tokens: Tensor
    encoded: Tensor


@torch.no_grad()
def make_models(size: str, n_tokens: int = 32) -> Models:
    """Raises:
    AssertionError: the models disagree."""
    torch.manual_seed(0)
    cfg = SIZES[size]
    hf = _transformers(cfg, "sdpa")
    eager = _transformers(cfg, "eager")
    eager.load_state_dict(hf.state_dict())
    ours = HookedWhisper.from_pretrained(hf, device="cpu")
    openai = whisper.Whisper(ours.dims).eval()
    state = {openai_name(name): tensor for name, tensor in ours.state_dict().items()}
    openai.load_state_dict(state, strict=False)
    for model in (ours, openai, hf, eager):
        model.requires_grad_(False)  # FlopCounterMode fails on parameters that go into modules
    mel = torch.randn(1, cfg.encoder.n_mels, cfg.encoder.n_frames)
    tokens = torch.randint(0, 50000, (1, n_tokens))
    encoded = ours.encoder(mel)
    for other in (openai.encoder(mel), hf.model.encoder(mel)[0], eager.model.encoder(mel)[0]):
        torch.testing.assert_close(other, encoded, atol=1e-4, rtol=1e-4)
    logits = ours.decoder(tokens, encoded)
    for other in (openai.decoder(tokens, encoded), _hf_logits(hf, tokens, encoded)):
        torch.testing.assert_close(other, logits, atol=1e-4, rtol=1e-4)
    return Models(ours, openai, hf, eager, mel, tokens, encoded)


def _hf_logits(hf: WhisperForConditionalGeneration, tokens: Tensor, encoded: Tensor) -> Tensor:
    return hf.proj_out(hf.model.decoder(tokens, encoder_hidden_states=encoded, use_cache=False).last_hidden_state)


def _transformers(cfg: Config, attention: str) -> WhisperForConditionalGeneration:
    enc, dec = cfg.encoder, cfg.decoder
    config = WhisperConfig(
        vocab_size=dec.n_vocab,
        num_mel_bins=enc.n_mels,
        max_source_positions=enc.n_ctx,
        max_target_positions=dec.n_ctx,
        d_model=enc.d_model,
        encoder_layers=enc.n_layers,
        decoder_layers=dec.n_layers,
        encoder_attention_heads=enc.n_heads,
        decoder_attention_heads=dec.n_heads,
        encoder_ffn_dim=enc.d_mlp,
        decoder_ffn_dim=dec.d_mlp,
        attn_implementation=attention,
    )
    return WhisperForConditionalGeneration(config).eval()
