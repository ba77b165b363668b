"""Short names of hook points, as in TransformerLens: ``("decoder", "pattern", 3)`` is
``decoder.blocks.3.attn.hook_pattern``."""

from __future__ import annotations

from hooked_whisper.errors import UnknownHookError, closest
from hooked_whisper.protocols import STACKS

_ATTENTION = ("q", "k", "v", "z", "attn_scores", "pattern", "result")
_NORMS = {"scale": ("ln1", "ln_cross", "ln2"), "normalized": ("ln1", "ln_cross", "ln2")}

# short name -> path inside a block
_IN_BLOCK = {
    **{key: f"attn.hook_{key}" for key in _ATTENTION},
    **{f"cross_{key}": f"cross_attn.hook_{key}" for key in _ATTENTION},
    "scores": "attn.hook_attn_scores",
    "cross_scores": "cross_attn.hook_attn_scores",
    "pre": "mlp.hook_pre",
    "post": "mlp.hook_post",
    "mlp_pre": "mlp.hook_pre",
    "mlp_post": "mlp.hook_post",
}
# other names of TransformerLens
_SYNONYMS = {
    "attn": "pattern",
    "attn_logits": "attn_scores",
    "query": "q",
    "key": "k",
    "value": "v",
    "in": "resid_pre",
    "out": "resid_post",
}


def stack_names(kind: str, stack: str) -> list[str]:
    """Return the names outside the blocks that a short name may stand for, the likeliest first."""
    where = "decoder" if stack == "cross" else stack
    names = [f"{where}.hook_{kind}", f"{where}.{kind}"]
    if kind in _NORMS:
        names.append(f"{where}.{'ln_post' if where == 'encoder' else 'ln_final'}.hook_{kind}")
    return names + ([f"unembed.hook_{kind}"] if where == "decoder" else [])


def block_name(kind: str, stack: str, layer: int, norm: str | None = None) -> str:
    """Return the name inside a block that a short name stands for. It may not exist.

    stack: ``"cross"`` for the decoder's cross-attention. norm: ``"ln1"``, ``"ln_cross"`` or ``"ln2"`` for ``"scale"``
    and ``"normalized"``.

    Raises:
        UnknownHookError: ``norm`` is missing.
    """
    block = f"{'decoder' if stack == 'cross' else stack}.blocks.{layer}"
    kind = _SYNONYMS.get(kind, kind)
    if kind in _NORMS:
        norm = "ln_cross" if norm is None and stack == "cross" else norm
        if norm is None:
            raise UnknownHookError(
                f"{kind!r} of block {layer} needs the norm that it belongs to: add 'ln1', 'ln2' or 'ln_cross', as in "
                f"({stack!r}, {kind!r}, {layer}, 'ln1')"
            )
        return f"{block}.{norm}.hook_{kind}"
    if stack == "cross" and kind.removeprefix("cross_") in (*_ATTENTION, "scores"):
        kind = f"cross_{kind.removeprefix('cross_')}"
    return f"{block}.{_IN_BLOCK.get(kind, f'hook_{kind}')}"


def key_without_stack(key: tuple[object, ...]) -> str:
    """Return the text of an error for a TransformerLens key such as ``("pattern", 3)``, which names no stack."""
    if len(key) == 3 and key[2] in ("attn", "mlp"):  # TransformerLens' layer type, which the short name implies
        key = key[:2]
    options = " or ".join(repr((stack, *key)) for stack in STACKS)
    if key and isinstance(key[0], str) and (near := closest(key[0], STACKS, 1)):
        return f"a cache key begins with a stack, not {key[0]!r}: did you mean {(near[0], *key[1:])!r}?"
    return f"a cache key begins with a stack, not {key!r}: Whisper has several, write {options}"
