"""Process weights as in TransformerLens, adapted to Whisper: simpler weights, same function.

Every function changes the model in place, and its logits by rounding only (:func:`center_unembed`: by a constant per
token). Internal activations change, as intended; load the model twice to compare. Nothing is processed by default.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hooked_whisper.loading.checkpoint import set_unembed
from hooked_whisper.model import WhisperCore
from hooked_whisper.model.layers import LayerNorm, Linear


@torch.no_grad()
def fold_ln(model: WhisperCore) -> None:
    """Fold the gain and bias of every layer norm into the linear maps that read it; gains become 1, biases 0.

    Readers: ``ln1`` -> q, k, v; ``ln_cross`` -> cross q; ``ln2`` -> ``W_in``; ``encoder.ln_post`` -> k and v of every
    cross-attention; ``decoder.ln_final`` -> the unembedding, which is untied first, so that ``W_E`` is unchanged.

    The bias that k would get is dropped, because Whisper's key projections have none. It would add the same number to
    all scores of a query, which softmax ignores: ``hook_attn_scores`` shift by a constant per row, and patterns do not
    change.
    """
    for stack in (model.encoder, model.decoder):
        for block in stack.block_list():
            _fold(block.ln1, block.attn.query, block.attn.key, block.attn.value)
            if block.cross:
                _fold(block.ln_cross, block.cross_attn.query)
            _fold(block.ln2, block.mlp.up)
    cross = [block.cross_attn for block in model.decoder.block_list()]
    _fold(model.encoder.ln_post, *(linear for attn in cross for linear in (attn.key, attn.value)))
    _fold_into_unembed(model)


@torch.no_grad()
def center_writing_weights(model: WhisperCore) -> None:
    """Subtract the mean over ``d_model`` from everything written to the residual stream.

    Every reader is a layer norm, which removes that mean anyway. ``W_E`` is centered too (the unembedding is untied
    first). The conv stem is unchanged: its output comes from a GELU, so no change of weights can center it. The mean
    of the encoder's residual stream is then that of ``encoder.hook_embed``.
    """
    _untied(model)
    for stack in (model.encoder, model.decoder):
        _center(stack.positional_embedding, dim=-1)
        for block in stack.block_list():
            attns = [block.attn, block.cross_attn] if block.cross else [block.attn]
            for linear in [attn.out for attn in attns] + [block.mlp.down]:
                _center(linear.weight, dim=0)
                _center(linear.bias, dim=0)
    _center(model.decoder.token_embedding.weight, dim=-1)


@torch.no_grad()
def fold_value_biases(model: WhisperCore) -> None:
    """Fold ``b_V`` into ``b_O`` (``b_O + b_V W_O``) in self- and cross-attention; ``b_V`` becomes 0.

    This is exact if every pattern row sums to 1. If a mask leaves no key (that row's ``z`` is 0) or a hook edits the
    pattern, the processed model still adds ``b_V W_O``.
    """
    for attn in model.attention_modules().values():
        moved = _wide(attn.out.weight) @ _wide(attn.value.bias)
        attn.out.bias.copy_(_wide(attn.out.bias) + moved)
        attn.value.bias.zero_()


@torch.no_grad()
def center_unembed(model: WhisperCore) -> None:
    """Subtract the mean over the vocabulary from the unembedding, untying it first.

    Logits shift by a constant per token position, so log-probabilities and decoded tokens do not change.
    """
    unembed = model.decoder.unembed
    _center(_untied(model), dim=0)
    if unembed.bias is not None:
        _center(unembed.bias, dim=0)


# layer norms first: folding them creates value biases and an unembedding bias
_STEPS: tuple[Callable[[WhisperCore], None], ...] = (fold_ln, center_writing_weights, fold_value_biases, center_unembed)


def process_weights(
    model: WhisperCore,
    *,
    fold_ln: bool = True,
    center_writing_weights: bool = True,
    fold_value_biases: bool = True,
    center_unembed: bool = True,
) -> None:
    """Apply the selected steps in place; each is a function of this module with the same name."""
    enabled = {
        "fold_ln": fold_ln,
        "center_writing_weights": center_writing_weights,
        "fold_value_biases": fold_value_biases,
        "center_unembed": center_unembed,
    }
    for step in _STEPS:
        if enabled[step.__name__]:
            step(model)


def _wide(tensor: Tensor) -> Tensor:
    """Convert half precision to float32, for arithmetic."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _fold(norm: LayerNorm, *readers: Linear) -> None:
    gain, shift = _wide(norm.weight), _wide(norm.bias)
    for linear in readers:
        weight = _wide(linear.weight)
        if linear.bias is not None:
            linear.bias.copy_(_wide(linear.bias) + weight @ shift)
        linear.weight.copy_(weight * gain)
    _reset(norm)


def _fold_into_unembed(model: WhisperCore) -> None:
    norm, unembed = model.decoder.ln_final, model.decoder.unembed
    untied = _untied(model)
    weight = _wide(untied)
    moved = weight @ _wide(norm.bias)
    bias = moved if unembed.bias is None else _wide(unembed.bias) + moved
    set_unembed(model, "bias", bias.to(untied.dtype))
    untied.copy_(weight * _wide(norm.weight))
    _reset(norm)


def _untied(model: WhisperCore) -> Tensor:
    """Return the weight of the unembedding, untied from the token embedding."""
    unembed = model.decoder.unembed
    if unembed.weight is None:
        set_unembed(model, "weight", model.W_E.detach().clone())
    assert unembed.weight is not None
    return unembed.weight


def _reset(norm: LayerNorm) -> None:
    norm.weight.fill_(1.0)
    norm.bias.zero_()


def _center(tensor: Tensor, dim: int) -> None:
    wide = _wide(tensor)
    tensor.copy_(wide - wide.mean(dim, keepdim=True))
