"""Comparisons with openai-whisper and transformers: relative L2 error per kind of activation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration
from whisper.model import Whisper, disable_sdpa

from hooked_whisper.model import KVCache, WhisperCore

Errors = dict[str, float]
Activations = dict[str, Tensor]

# (comparison, kind of activation) -> worst error seen in this session
WORST: dict[tuple[str, str], float] = {}


def relative_l2(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} against {tuple(theirs.shape)}"
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).norm() / theirs.norm())


def record(comparison: str, errors: Errors) -> float:
    """Note the errors for the parity table; the worst of them comes back."""
    for kind, error in errors.items():
        WORST[comparison, kind] = max(error, WORST.get((comparison, kind), 0.0))
    return max(errors.values())


def parity_table() -> str:
    return "\n".join(f"{comparison:<34} {kind:<42} {error:.1e}" for (comparison, kind), error in sorted(WORST.items()))


@torch.no_grad()
def openai_activations(openai: Whisper, mel: Tensor, tokens: Tensor) -> Activations:
    """Residuals leaving every block, cross-attention patterns, encoder output and logits, under our names."""
    seen: Activations = {}
    handles = []
    for stack in ("encoder", "decoder"):
        for i, block in enumerate(getattr(openai, stack).blocks):
            path = f"{stack}.blocks.{i}"
            handles.append(
                block.register_forward_hook(
                    lambda m, args, out, path=path: seen.update({f"{path}.hook_resid_post": out})
                )
            )
            if stack == "decoder":
                handles.append(
                    block.cross_attn.register_forward_hook(
                        lambda m, args, out, path=path: seen.update(
                            {f"{path}.cross_attn.hook_pattern": out[1].softmax(-1)}
                        )
                    )
                )
    try:
        with disable_sdpa():
            seen["encoder.hook_out"] = openai.embed_audio(mel)
            seen["unembed.hook_out"] = openai.logits(tokens, seen["encoder.hook_out"])
    finally:
        for handle in handles:
            handle.remove()
    return seen


@torch.no_grad()
def hf_activations(hf: WhisperForConditionalGeneration, mel: Tensor, tokens: Tensor) -> Activations:
    """Residuals entering every block, all attention patterns, encoder output and logits, under our names."""
    out = hf(
        input_features=mel,
        decoder_input_ids=tokens,
        output_hidden_states=True,
        output_attentions=True,
        use_cache=False,
    )
    # the last of the hidden states went through the final norm: it is the encoder output and what is unembedded
    *encoder_resid, encoder_out = out.encoder_hidden_states
    *decoder_resid, final = out.decoder_hidden_states
    by_block = {
        "encoder.blocks.{}.hook_resid_pre": encoder_resid,
        "decoder.blocks.{}.hook_resid_pre": decoder_resid,
        "encoder.blocks.{}.attn.hook_pattern": out.encoder_attentions,
        "decoder.blocks.{}.attn.hook_pattern": out.decoder_attentions,
        "decoder.blocks.{}.cross_attn.hook_pattern": out.cross_attentions,
    }
    seen = {name.format(i): t for name, tensors in by_block.items() for i, t in enumerate(tensors)}
    return seen | {"encoder.hook_out": encoder_out, "unembed.hook_in": final, "unembed.hook_out": out.logits}


@torch.no_grad()
def compare(core: WhisperCore, theirs: Mapping[str, Tensor], mel: Tensor, tokens: Tensor) -> Errors:
    """Worst relative L2 error for every kind of activation, block numbers taken together.

    ``fused`` kinds are those of a pass that nobody listens to.
    """
    _, cache = core.run_with_cache(mel, tokens, names_filter=list(theirs))
    encoder_out = core.embed_audio(mel)
    errors = {
        "fused encoder.hook_out": relative_l2(encoder_out, theirs["encoder.hook_out"]),
        "fused unembed.hook_out": relative_l2(core.logits(tokens, encoder_out), theirs["unembed.hook_out"]),
    }
    for name, tensor in theirs.items():
        kind = re.sub(r"blocks\.\d+", "blocks.*", name)
        errors[kind] = max(errors.get(kind, 0.0), relative_l2(cache[name], tensor))
    return errors


@torch.no_grad()
def cached_logits(core: WhisperCore, tokens: Tensor, encoder_out: Tensor, chunks: Sequence[int]) -> Tensor:
    """Logits of all tokens, decoded in pieces of these lengths with one KV cache."""
    cache = KVCache()
    return torch.cat([core.decoder(piece, encoder_out, cache) for piece in tokens.split(list(chunks), dim=1)], dim=1)
