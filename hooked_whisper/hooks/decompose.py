"""Residual arithmetic on a cache: the stream as a sum of parts, the parts through the final norm, onto tokens.

Names and meaning follow TransformerLens' ``ActivationCache``; every method takes the stack (``"encoder"`` or
``"decoder"``), and cross-attention is a component of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import HookedWhisperError

if TYPE_CHECKING:
    from hooked_whisper.model.whisper import WhisperCore

Stack = Literal["encoder", "decoder"]
Cut = int | slice | None


class ResidualMixin:
    """Methods of :class:`~hooked_whisper.hooks.cache.ActivationCache`; ``pos`` cuts positions (encoder) or tokens."""

    @property
    def model(self) -> WhisperCore:
        raise NotImplementedError

    def __getitem__(self, key: Any) -> Tensor:
        raise NotImplementedError

    @overload
    def accumulated_resid(
        self,
        stack: Stack,
        layer: int | None = ...,
        *,
        incl_mid: bool = ...,
        apply_ln: bool = ...,
        pos: Cut = ...,
        return_labels: Literal[False] = False,
    ) -> Tensor: ...
    @overload
    def accumulated_resid(
        self,
        stack: Stack,
        layer: int | None = ...,
        *,
        incl_mid: bool = ...,
        apply_ln: bool = ...,
        pos: Cut = ...,
        return_labels: Literal[True],
    ) -> tuple[Tensor, list[str]]: ...
    def accumulated_resid(
        self,
        stack: Stack,
        layer: int | None = None,
        *,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos: Cut = None,
        return_labels: bool = False,
    ) -> Tensor | tuple[Tensor, list[str]]:
        """The residual stream block by block: ``[component, batch, pos, d_model]``.

        Entries are the residual entering blocks ``0 .. layer`` (default: all, and the one leaving the last), with the
        ones in between if ``incl_mid``. ``apply_ln`` puts each through the stack's final norm with that pass's scale.
        """
        n = self._layers_of(stack)
        stop = n if layer is None else self._checked_layer(stack, layer)
        names: list[str] = []
        for block in range(stop):
            names.append(f"{block}_pre")
            if incl_mid:
                names += [f"{block}_mid"] + ([f"{block}_mid_cross"] if stack == "decoder" else [])
        names.append("final_post" if stop == n else f"{stop}_pre")
        parts = []
        for name in names:
            block_text, _, where = name.partition("_")
            block = n - 1 if block_text == "final" else int(block_text)
            parts.append(_cut(self[stack, f"resid_{where}", block], pos))
        out = torch.stack(parts)
        if apply_ln:
            out = self.apply_ln_to_stack(out, stack, pos=pos)
        return (out, names) if return_labels else out

    def decompose_resid(
        self,
        stack: Stack,
        layer: int | None = None,
        *,
        mode: Literal["all", "attn", "cross", "mlp"] = "all",
        pos: Cut = None,
    ) -> tuple[Float[Tensor, "component batch pos d_model"], list[str]]:
        """What was added to the stream up to block ``layer`` (default: the end), with labels.

        ``mode="all"`` (embedding, positions, attention, cross-attention and MLP of each block) sums to the residual
        entering ``layer``, or leaving the last block.
        """
        if mode not in ("all", "attn", "cross", "mlp"):
            raise ValueError(f"mode must be all, attn, cross or mlp, got {mode!r}")
        if mode == "cross" and stack == "encoder":
            raise ValueError("the encoder has no cross-attention")
        n = self._layers_of(stack)
        stop = n if layer is None else self._checked_layer(stack, layer)
        parts: list[Tensor] = []
        labels: list[str] = []
        if mode == "all":
            embed = self[f"{stack}.hook_embed"]
            parts += [_cut(embed, pos), _cut(self[f"{stack}.hook_pos_embed"].expand_as(embed), pos)]
            labels += ["embed", "pos_embed"]
        kinds = [("attn", "attn_out"), ("cross", "cross_attn_out"), ("mlp", "mlp_out")]
        for block in range(stop):
            for kind, what in kinds:
                if mode in ("all", kind) and not (kind == "cross" and stack == "encoder"):
                    parts.append(_cut(self[stack, what, block], pos))
                    labels.append(f"{block}_{what}")
        if not parts:
            raise ValueError(f"nothing was added before block {stop} in mode {mode!r}")
        return torch.stack(parts), labels

    def stack_head_results(
        self,
        stack: Stack,
        layer: int | None = None,
        *,
        cross: bool = False,
        pos: Cut = None,
    ) -> tuple[Float[Tensor, "component batch pos d_model"], list[str]]:
        """What each head wrote (``z W_O``, without the output bias) below block ``layer``, with labels like ``D0.3``.

        ``cross=True`` takes the decoder's cross-attention (labels ``X0.3``). Per block the heads and ``b_O`` sum to
        ``attn_out`` (``cross_attn_out``).
        """
        n = self._layers_of(stack)
        stop = n if layer is None else self._checked_layer(stack, layer)
        if cross and stack == "encoder":
            raise ValueError("the encoder has no cross-attention")
        if stop == 0:
            raise ValueError("no head comes before block 0")
        weights: Any = self.model.decoder.cross if cross else getattr(self.model, stack)
        w_out = weights.W_O.detach()
        results = []
        for block in range(stop):
            z = _cut(self[stack, "cross_z" if cross else "z", block].transpose(1, 2), pos)  # [batch, head, pos, d_head]
            w = w_out[block].to(device=z.device, dtype=z.dtype)
            results.append(einsum(z, w, "b h p e, h e d -> h b p d"))
        labels = list(self.model.head_labels("cross" if cross else stack))
        return torch.cat(results), labels[: sum(len(r) for r in results)]

    def apply_ln_to_stack(
        self, components: Float[Tensor, "component batch pos d_model"], stack: Stack, *, pos: Cut = None
    ) -> Float[Tensor, "component batch pos d_model"]:
        """Parts through the stack's final norm with the scale of this pass: centred, divided, times the gain.

        Linear in the parts: those of :meth:`decompose_resid` and the norm's bias sum to the normed output.
        """
        path = "ln_post" if stack == "encoder" else "ln_final"
        norm = getattr(getattr(self.model, stack), path)
        scale = _cut(self[f"{stack}.{path}.hook_scale"], pos)
        if components.shape[-2] != scale.shape[-2]:  # a scale of one place would spread over all of them in silence
            raise HookedWhisperError(
                f"the parts have {components.shape[-2]} places and the norm's scale {scale.shape[-2]}: give "
                "the same pos here as where the parts came from"
            )
        centred = components - components.mean(-1, keepdim=True)
        return centred / scale * norm.weight.detach().to(device=centred.device, dtype=centred.dtype)

    def logit_attrs(
        self,
        components: Float[Tensor, "component batch pos d_model"],
        tokens: int | Int[Tensor, "..."],
        incorrect_tokens: int | Int[Tensor, "..."] | None = None,
        *,
        pos: Cut = None,
        apply_ln: bool = True,
    ) -> Float[Tensor, "component batch pos"]:
        """Direct effect of parts of the decoder's stream on the logit of ``tokens`` (minus ``incorrect_tokens``).

        ``tokens`` broadcasts to ``[batch, pos]``. With all parts of :meth:`decompose_resid`, the sum plus the constant
        ``ln_final.bias @ W_U[:, token] (+ b_U)`` is the logit.
        """
        if apply_ln:
            components = self.apply_ln_to_stack(components, "decoder", pos=pos)
        w_u = self.model.W_U.detach().mT.to(device=components.device, dtype=components.dtype)  # [vocab, d_model]
        direction = w_u[torch.as_tensor(tokens, device=components.device)]
        if incorrect_tokens is not None:
            direction = direction - w_u[torch.as_tensor(incorrect_tokens, device=components.device)]
        return (components * direction).sum(-1)

    def _layers_of(self, stack: str) -> int:
        if stack not in ("encoder", "decoder"):
            raise ValueError(f"stack must be 'encoder' or 'decoder', got {stack!r}")
        return len(getattr(self.model, stack).blocks)

    def _checked_layer(self, stack: str, layer: int) -> int:
        n = self._layers_of(stack)
        if not -n <= layer <= n:
            raise HookedWhisperError(f"{stack} has blocks 0 to {n - 1} (or {n}: the end), not {layer}")
        return layer + n if layer < 0 else layer


def _cut(x: Tensor, pos: Cut) -> Tensor:
    """Cut the second-to-last axis; an integer keeps it with length one."""
    if pos is None:
        return x
    if isinstance(pos, int):
        pos = slice(pos, pos + 1 or None)
    return x[..., pos, :]
