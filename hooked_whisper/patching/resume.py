"""Taking up a pass in the middle: one activation is given, row by row, and only what depends on it is computed.

The kept activations of one run (the base) stand for everything else. A patched MLP output needs no attention of its
block again; a patched decoder needs no encoder, and keys and values of cross-attention once for all rows; an encoder
output that differs at a few positions needs new keys and values at those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.hooks import HookPoint
from hooked_whisper.model import Attention, KVCache
from hooked_whisper.model.block import Block

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

Stack = Literal["encoder", "decoder"]
Rows = Float[Tensor, "row ..."]
INPUT = -1  # the block number of points before the blocks


def begins(model: HookedWhisper, name: str) -> tuple[Stack, int]:
    """Stack and block of a point; -1 before the blocks, ``n_layers`` behind them.

    Raises:
        PatchError: a point of the unembedding.
    """
    parts = name.split(".")
    if parts[0] not in ("encoder", "decoder"):
        raise PatchError(f"{name} cannot be patched by a sweep: the metric reads before it")
    stack: Stack = "encoder" if parts[0] == "encoder" else "decoder"
    if parts[1] == "blocks":
        return stack, int(parts[2])
    last = ("ln_post", "hook_out") if stack == "encoder" else ("ln_final",)
    return stack, n_layers(model, stack) if parts[1] in last else INPUT


def n_layers(model: HookedWhisper, stack: Stack) -> int:
    """Number of blocks of a stack."""
    check_option("stack", stack, get_args(Stack), PatchError)
    return (model.cfg.encoder if stack == "encoder" else model.cfg.decoder).n_layers


def needed(model: HookedWhisper, name: str) -> list[str]:
    """What must be kept of the base run, besides the mel, to take it up at a point."""
    stack, block = begins(model, name)
    names = ["decoder.blocks.0.hook_resid_pre"]
    if stack == "decoder" or name == "encoder.hook_out":
        names += [f"decoder.blocks.{b}.cross_attn.hook_{x}" for b in range(n_layers(model, "decoder")) for x in "kv"]
    if name == "encoder.hook_out":
        return names
    if block == n_layers(model, stack):
        names.append(f"{stack}.blocks.{block - 1}.hook_resid_post")
    elif block != INPUT:
        ends = ["hook_resid_pre", "hook_resid_mid", *(["hook_resid_mid_cross"] if stack == "decoder" else [])]
        ends += ["hook_resid_post"] if stack == "encoder" else []
        names += [f"{stack}.blocks.{block}.{end}" for end in ends]
    return names


def run_from(
    model: HookedWhisper,
    base: Mapping[str, Tensor],
    values: Mapping[str, Rows],
    tokens: Int[Tensor, "1 token"],
    mel: Float[Tensor, "1 mel frame"] | None,
    encoder_out: Float[Tensor, "1 position d_model"],
) -> Float[Tensor, "row token d_model"]:
    """The decoder's last hidden state with points of one block set to ``values``, one row per patch.

    base: activations of the unpatched run, those of :func:`needed`. Hooks and masks that are live stay so behind the
    patch; at the patched points the values given are final.
    """
    name = next(iter(values))
    rows = len(values[name])
    stack, block = begins(model, name)
    if name == "encoder.hook_out":
        return _decoder_over(model, base, values[name], encoder_out, tokens)
    if stack == "encoder":
        encoded = _encoder(model, base, values, block, mel)
        return _decoder_over(model, base, encoded, None, tokens)
    cache = _cross_cache(model, base)
    for point, rows_of in values.items():
        if point.endswith(("cross_attn.hook_k", "cross_attn.hook_v")):
            attn = model.get_submodule(point.rsplit(".", 1)[0])
            cache[attn.key if point.endswith("k") else attn.value] = rows_of  # type: ignore[index]
    if block == INPUT:
        with _set(model, values):
            return model.decoder.hidden(tokens.expand(rows, -1), encoder_out, cache)
    if block == n_layers(model, stack):
        with _set(model, values):
            return model.decoder.ln_final(_expand(base[f"decoder.blocks.{block - 1}.hook_resid_post"], rows))
    x = _block(model, base, values, f"decoder.blocks.{block}", encoder_out, cache)
    return model.decoder.from_resid(x, block + 1, encoder_out, cache)


def _encoder(
    model: HookedWhisper, base: Mapping[str, Tensor], values: Mapping[str, Rows], block: int, mel: Tensor | None
) -> Float[Tensor, "row position d_model"]:
    rows = len(next(iter(values.values())))
    if block == INPUT:
        assert mel is not None  # whoever kept the encoder's activations had one
        with _set(model, values):
            return model.encoder(_expand(mel, rows))
    if block == n_layers(model, "encoder"):
        with _set(model, values):
            return model.encoder.from_resid(_expand(base[f"encoder.blocks.{block - 1}.hook_resid_post"], rows), block)
    return model.encoder.from_resid(_block(model, base, values, f"encoder.blocks.{block}", None, None), block + 1)


def _block(
    model: HookedWhisper,
    base: Mapping[str, Tensor],
    values: Mapping[str, Rows],
    path: str,
    source: Tensor | None,
    cache: KVCache | None,
) -> Float[Tensor, "row place d_model"]:
    """What leaves a block. Of the block, only what comes after the patched point is computed."""
    block = model.get_submodule(path)
    assert isinstance(block, Block)
    name, given = next(iter(values.items()))
    rows, end = len(given), name.removeprefix(f"{path}.")
    model.encoder.clock.offset = model.decoder.clock.offset = 0
    before_mlp = base[f"{path}.hook_resid_mid_cross" if block.cross else f"{path}.hook_resid_mid"]
    pre, mid = base[f"{path}.hook_resid_pre"], base[f"{path}.hook_resid_mid"]
    if end == "attn.hook_z" and not block.attn.hook_result.active:
        end, given = "hook_attn_out", block.hook_attn_out(block.attn.out(given.flatten(2)))
    elif end == "cross_attn.hook_z" and not block.cross_attn.hook_result.active:
        end, given = "hook_cross_attn_out", block.hook_cross_attn_out(block.cross_attn.out(given.flatten(2)))
    elif end == "mlp.hook_post":
        end, given = "hook_mlp_out", block.hook_mlp_out(block.mlp.down(given))
    if end == "hook_attn_out":
        end, given = "hook_resid_mid", block.hook_resid_mid(pre + given)
    elif end == "hook_cross_attn_out":
        end, given = "hook_resid_mid_cross", block.hook_resid_mid_cross(mid + given)
    elif end == "hook_mlp_out":
        end, given = "hook_resid_post", block.hook_resid_post(before_mlp + given)
    if end == "hook_resid_post":
        return given
    if end == "hook_resid_mid_cross":
        return block.from_mid_cross(given)
    if end == "hook_resid_mid" and not block.cross:
        return _after_mid(block, given, mid, base[f"{path}.hook_resid_post"])
    if end == "hook_resid_mid":
        return block.from_mid(given, source, cache)
    if end == "hook_resid_pre":
        return block.from_pre(given, source, cache)
    if end in ("cross_attn.hook_k", "cross_attn.hook_v"):  # they are in the cache already
        return block.from_mid(_expand(mid, rows), source, cache)
    with _set(model, values):
        if end.startswith(("mlp.", "ln2.", "hook_mlp_in")):
            return block.from_mid_cross(_expand(before_mlp, rows))
        if end.startswith(("cross_attn.", "ln_cross.", "hook_cross_attn_in")):
            return block.from_mid(_expand(mid, rows), source, cache)
        return block.from_pre(_expand(pre, rows), source, cache)


def _after_mid(
    block: Block, given: Rows, mid: Float[Tensor, "1 place d_model"], post: Float[Tensor, "1 place d_model"]
) -> Float[Tensor, "row place d_model"]:
    """The MLP works on each position alone: only where ``given`` is not the base run's ``mid`` is it computed."""
    if any(isinstance(p, HookPoint) and p.active for p in block.modules()):
        return block.from_mid_cross(given)
    changed = (given != mid).any(-1).any(0).nonzero()[:, 0]
    return _expand(post, len(given)).index_copy(1, changed, block.from_mid_cross(given[:, changed]))


def _decoder_over(
    model: HookedWhisper,
    base: Mapping[str, Tensor],
    encoded: Float[Tensor, "row position d_model"],
    unpatched: Float[Tensor, "1 position d_model"] | None,
    tokens: Int[Tensor, "1 token"],
) -> Float[Tensor, "row token d_model"]:
    """The decoder over rows of encoder output; where these are ``unpatched``, kept keys and values serve."""
    x = _expand(base["decoder.blocks.0.hook_resid_pre"], len(encoded))
    blocks = [block for block in model.decoder.blocks if isinstance(block, Block)]
    hooked = any(p.active for b in blocks for p in (b.cross_attn.hook_k, b.cross_attn.hook_v))
    if unpatched is None or hooked:
        return model.decoder.from_resid(x, 0, encoded)
    changed = (encoded != unpatched).any(-1).any(0).nonzero()[:, 0]
    for number, block in enumerate(blocks):
        attn, path = block.cross_attn, f"decoder.blocks.{number}.cross_attn"
        cache = KVCache()
        for linear, kept in ((attn.key, base[f"{path}.hook_k"]), (attn.value, base[f"{path}.hook_v"])):
            new = linear(encoded[:, changed]).unflatten(-1, (attn.n_heads, -1))
            cache[linear] = _expand(kept, len(encoded)).index_copy(1, changed, new)
        if number == 0:
            model.decoder.clock.offset = 0
            x = block.from_pre(x, encoded, cache)
        else:
            x = block(x, encoded, cache)
    return model.decoder.ln_final(x)


def _cross_cache(model: HookedWhisper, base: Mapping[str, Tensor]) -> KVCache:
    """The base run's keys and values of cross-attention: one row for all."""
    cache = KVCache()
    for number, block in enumerate(model.decoder.blocks):
        attn = block.cross_attn
        assert isinstance(attn, Attention)
        cache[attn.key] = base[f"decoder.blocks.{number}.cross_attn.hook_k"]
        cache[attn.value] = base[f"decoder.blocks.{number}.cross_attn.hook_v"]
    return cache


def _set(model: HookedWhisper, values: Mapping[str, Rows]):  # type: ignore[no-untyped-def]
    """Hooks that put the values in place of whatever was computed."""
    return model.hooks(fwd_hooks=[(name, lambda x, given=given: given) for name, given in values.items()])


def _expand(x: Tensor, rows: int) -> Tensor:
    return x.expand(rows, *x.shape[1:])
