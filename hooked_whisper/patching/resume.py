"""Resume a forward pass at one activation: compute only what depends on it, one row per replacement.

Everything else comes from cached activations of one run (the base). A patched MLP output does not recompute its block's
attention. A patched decoder does not run the encoder, and computes keys and values of cross-attention once for all
rows. An encoder output that differs at a few positions recomputes keys and values only there.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.heads import n_blocks_and_heads
from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.hooks import HookPoint
from hooked_whisper.model import Attention, KVCache
from hooked_whisper.model.block import Block
from hooked_whisper.patching.short_decoder import decode_over
from hooked_whisper.protocols import STACKS, Stack

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

Rows = Float[Tensor, "row ..."]
INPUT = -1  # block number of points before the blocks


def locate(model: HookedWhisper, name: str) -> tuple[Stack, int]:
    """Return the stack (``"encoder"`` or ``"decoder"``) and block of a point.

    The block is -1 for points before the blocks and ``n_layers`` for points after them.

    Raises:
        PatchError: the point belongs to the unembedding.
    """
    parts = name.split(".")
    if parts[0] not in ("encoder", "decoder"):
        raise PatchError(f"{name} cannot be patched in a sweep: the metric reads the residual stream before it")
    stack: Stack = "encoder" if parts[0] == "encoder" else "decoder"
    if parts[1] == "blocks":
        return stack, int(parts[2])
    last = ("ln_post", "hook_out") if stack == "encoder" else ("ln_final",)
    return stack, n_layers(model, stack) if parts[1] in last else INPUT


def n_layers(model: HookedWhisper, stack: Stack) -> int:
    """Return the number of blocks of a stack."""
    check_option("stack", stack, STACKS, PatchError)
    return n_blocks_and_heads(model.cfg, stack)[0]


def required_activations(model: HookedWhisper, name: str) -> list[str]:
    """Return the activations of the base run that :func:`resume_from` needs for a point, besides the mel."""
    stack, block = locate(model, name)
    names = ["decoder.blocks.0.hook_resid_pre"]
    if stack == "decoder" or name == "encoder.hook_out":
        names += [
            f"decoder.blocks.{number}.cross_attn.hook_{part}"
            for number in range(n_layers(model, "decoder"))
            for part in "kv"
        ]
    if name == "encoder.hook_out":
        return names
    if block == n_layers(model, stack):
        names.append(f"{stack}.blocks.{block - 1}.hook_resid_post")
    elif block != INPUT:
        ends = ["hook_resid_pre", "hook_resid_mid", *(["hook_resid_mid_cross"] if stack == "decoder" else [])]
        ends += ["hook_resid_post"] if stack == "encoder" else []
        if name.endswith(".attn.hook_q") and stack == "encoder":
            ends += ["attn.hook_k", "attn.hook_v"]
        names += [f"{stack}.blocks.{block}.{end}" for end in ends]
    return names


def resume_from(
    model: HookedWhisper,
    base: Mapping[str, Tensor],
    values: Mapping[str, Rows],
    tokens: Int[Tensor, "1 token"],
    mel: Float[Tensor, "1 mel frame"] | None,
    encoder_out: Float[Tensor, "1 position d_model"],
) -> Float[Tensor, "row token d_model"]:
    """Return the decoder's last hidden state with points of one block set to ``values``, one row per patch.

    base: activations of the unpatched run named by :func:`required_activations`. Live hooks and masks act after the
    patched points; at those points ``values`` are final.
    """
    with model.encoder.clock.starting_at(0), model.decoder.clock.starting_at(0):
        name = next(iter(values))
        rows = len(values[name])
        stack, block = locate(model, name)
        if name == "encoder.hook_out":
            return _decoder_over(model, base, values[name], encoder_out)
        if stack == "encoder":
            encoded = _encoder(model, base, values, block, mel)
            return _decoder_over(model, base, encoded, None)
        cache = _cross_cache(model, base)
        for point, point_values in values.items():
            if point.endswith(("cross_attn.hook_k", "cross_attn.hook_v")):
                attn = model.get_submodule(point.rsplit(".", 1)[0])
                cache[attn.key if point.endswith("k") else attn.value] = point_values  # type: ignore[index]
        if block == INPUT:
            with _set(model, values):
                return model.decoder.hidden(tokens.expand(rows, -1), encoder_out, cache)
        if block == n_layers(model, stack):
            with _set(model, values):
                return model.decoder.ln_final(_expand(base[f"decoder.blocks.{block - 1}.hook_resid_post"], rows))
        x = finish_block(model, base, values, f"decoder.blocks.{block}", encoder_out, cache)
        return model.decoder.from_resid(x, block + 1, encoder_out, cache)


def _encoder(
    model: HookedWhisper, base: Mapping[str, Tensor], values: Mapping[str, Rows], block: int, mel: Tensor | None
) -> Float[Tensor, "row position d_model"]:
    rows = len(next(iter(values.values())))
    if block == INPUT:
        assert mel is not None  # activations inside the encoder were cached from a mel
        with _set(model, values):
            return model.encoder(_expand(mel, rows))
    if block == n_layers(model, "encoder"):
        with _set(model, values):
            return model.encoder.from_resid(_expand(base[f"encoder.blocks.{block - 1}.hook_resid_post"], rows), block)
    return model.encoder.from_resid(finish_block(model, base, values, f"encoder.blocks.{block}", None, None), block + 1)


def finish_block(
    model: HookedWhisper,
    base: Mapping[str, Tensor],
    values: Mapping[str, Rows],
    path: str,
    source: Tensor | None,
    cache: KVCache | None,
) -> Float[Tensor, "row pos d_model"]:
    """Return the output of a block, computed from the patched point on. After the block's attention, ``base`` and
    ``values`` may be restricted to some positions."""
    block = model.get_submodule(path)
    assert isinstance(block, Block)
    name, value = next(iter(values.items()))
    rows, end = len(value), name.removeprefix(f"{path}.")
    before_mlp = base[f"{path}.hook_resid_mid_cross" if block.cross else f"{path}.hook_resid_mid"]
    pre, mid = base[f"{path}.hook_resid_pre"], base[f"{path}.hook_resid_mid"]
    if end == "attn.hook_z" and not block.attn.hook_result.active:
        end, value = "hook_attn_out", block.hook_attn_out(block.attn.out(value.flatten(2)))
    elif end == "cross_attn.hook_z" and not block.cross_attn.hook_result.active:
        end, value = "hook_cross_attn_out", block.hook_cross_attn_out(block.cross_attn.out(value.flatten(2)))
    elif end == "mlp.hook_post":
        end, value = "hook_mlp_out", block.hook_mlp_out(block.mlp.down(value))
    if end == "hook_attn_out":
        end, value = "hook_resid_mid", block.hook_resid_mid(pre + value)
    elif end == "hook_cross_attn_out":
        end, value = "hook_resid_mid_cross", block.hook_resid_mid_cross(mid + value)
    elif end == "hook_mlp_out":
        end, value = "hook_resid_post", block.hook_resid_post(before_mlp + value)
    if end == "hook_resid_post":
        return value
    if end == "hook_resid_mid_cross":
        return block.from_mid_cross(value)
    if end == "hook_resid_mid" and not block.cross:
        return _after_mid(block, value, mid, base[f"{path}.hook_resid_post"])
    if end == "hook_resid_mid":
        return block.from_mid(value, source, cache)
    if end == "hook_resid_pre":
        return block.from_pre(value, source, cache)
    if end in ("cross_attn.hook_k", "cross_attn.hook_v"):  # already in the cache
        return block.from_mid(_expand(mid, rows), source, cache)
    with _set(model, values):
        if end.startswith(("mlp.", "ln2.", "hook_mlp_in")):
            return block.from_mid_cross(_expand(before_mlp, rows))
        if end.startswith(("cross_attn.", "ln_cross.", "hook_cross_attn_in")):
            return block.from_mid(_expand(mid, rows), source, cache)
        return block.from_pre(_expand(pre, rows), source, cache)


def _after_mid(
    block: Block, patched: Rows, mid: Float[Tensor, "1 pos d_model"], post: Float[Tensor, "1 pos d_model"]
) -> Float[Tensor, "row pos d_model"]:
    """Return an encoder block's output; its MLP runs only at positions where ``patched`` differs from ``mid``."""
    if any(isinstance(point, HookPoint) and point.active for point in block.modules()):
        return block.from_mid_cross(patched)
    changed = (patched != mid).any(-1).any(0).nonzero()[:, 0]
    return _expand(post, len(patched)).index_copy(1, changed, block.from_mid_cross(patched[:, changed]))


def _decoder_over(
    model: HookedWhisper,
    base: Mapping[str, Tensor],
    encoded: Float[Tensor, "row position d_model"],
    unpatched: Float[Tensor, "1 position d_model"] | None,
) -> Float[Tensor, "row token d_model"]:
    """Run the decoder over rows of encoder output. Where they equal ``unpatched``, cached keys and values are used."""
    resid = base["decoder.blocks.0.hook_resid_pre"]
    blocks = [block for block in model.decoder.blocks if isinstance(block, Block)]
    hooked = any(point.active for block in blocks for point in (block.cross_attn.hook_k, block.cross_attn.hook_v))
    if unpatched is None or hooked:
        return decode_over(model, resid, encoded)
    x = _expand(resid, len(encoded))
    changed = (encoded != unpatched).any(-1).any(0).nonzero()[:, 0]
    for number, block in enumerate(blocks):
        attn, path = block.cross_attn, f"decoder.blocks.{number}.cross_attn"
        cache = KVCache()
        for linear, cached in ((attn.key, base[f"{path}.hook_k"]), (attn.value, base[f"{path}.hook_v"])):
            new = linear(encoded[:, changed]).unflatten(-1, (attn.n_heads, -1))
            cache[linear] = _expand(cached, len(encoded)).index_copy(1, changed, new)
        x = block.from_pre(x, encoded, cache) if number == 0 else block(x, encoded, cache)
    return model.decoder.ln_final(x)


def _cross_cache(model: HookedWhisper, base: Mapping[str, Tensor]) -> KVCache:
    """Return keys and values of cross-attention in the base run, one row for all patches."""
    cache = KVCache()
    for number, block in enumerate(model.decoder.blocks):
        attn = block.cross_attn
        assert isinstance(attn, Attention)
        cache[attn.key] = base[f"decoder.blocks.{number}.cross_attn.hook_k"]
        cache[attn.value] = base[f"decoder.blocks.{number}.cross_attn.hook_v"]
    return cache


def _set(model: HookedWhisper, values: Mapping[str, Rows]) -> AbstractContextManager[Any]:
    """Replace activations by ``values`` inside this context."""
    return model.hooks(fwd_hooks=[(name, lambda x, value=value: value) for name, value in values.items()])


def _expand(x: Tensor, rows: int) -> Tensor:
    return x.expand(rows, *x.shape[1:])
