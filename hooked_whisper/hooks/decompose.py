"""Residual arithmetic on a cache: the stream as a sum of parts, the parts through the final norm, onto tokens.

Names and meaning follow TransformerLens' ``ActivationCache``; every method takes the stack (``"encoder"`` or
``"decoder"``), and cross-attention is a component of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.indices import Selection, is_integer, read_indices, take
from hooked_whisper.errors import ArgumentError, HookedWhisperError, check_option

if TYPE_CHECKING:
    from hooked_whisper.model.whisper import WhisperCore

Stack = Literal["encoder", "decoder"]
STACKS = get_args(Stack)
Cut = Selection | None


class ResidualMixin:
    """Methods of :class:`~hooked_whisper.hooks.activation_cache.ActivationCache`; ``pos`` cuts positions (encoder) or
    tokens."""

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
        check_option("stack", stack, STACKS)
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
        check_option("mode", mode, ("all", "attn", "cross", "mlp"))
        check_option("stack", stack, STACKS)
        if mode == "cross" and stack == "encoder":
            raise ArgumentError("the encoder has no cross-attention")
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
            raise ArgumentError(f"nothing was added before block {stop} in mode {mode!r}")
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
        check_option("stack", stack, STACKS)
        n = self._layers_of(stack)
        stop = n if layer is None else self._checked_layer(stack, layer)
        if cross and stack == "encoder":
            raise ArgumentError("the encoder has no cross-attention")
        if stop == 0:
            raise ArgumentError("no head comes before block 0")
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
        check_option("stack", stack, STACKS)
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
        ids = [_ids(some, self.model.cfg.decoder.n_vocab) for some in (tokens, incorrect_tokens)]
        w_u = self.model.W_U.detach().mT.to(device=components.device, dtype=components.dtype)  # [vocab, d_model]
        direction = w_u[ids[0].to(components.device)]
        if incorrect_tokens is not None:
            direction = direction - w_u[ids[1].to(components.device)]
        return (components * direction).sum(-1)

    def _layers_of(self, stack: str) -> int:
        check_option("stack", stack, STACKS)
        return len(getattr(self.model, stack).blocks)

    def _checked_layer(self, stack: str, layer: int) -> int:
        n = self._layers_of(stack)
        if not is_integer(layer) or not -n <= int(layer) <= n:
            raise ArgumentError(f"{stack} has blocks 0 to {n - 1} (or {n}: the end), not {layer}")
        return int(layer) + n if layer < 0 else int(layer)


def _ids(tokens: Any, n_vocab: int) -> Tensor:
    """Token ids as a tensor, checked; ``None`` gives none."""
    try:
        ids = torch.empty(0, dtype=torch.long) if tokens is None else torch.as_tensor(tokens)
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentError(f"tokens are ids, whole numbers from 0 to {n_vocab - 1}, not {tokens!r:.80}") from None
    whole = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    if not whole or (ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < n_vocab):
        given = f"{ids.dtype} {ids.tolist()!s:.80}"
        raise ArgumentError(f"tokens are ids, whole numbers from 0 to {n_vocab - 1}, got {given}")
    return ids.long()


def _cut(x: Tensor, pos: Cut) -> Tensor:
    """Cut the second-to-last axis; an integer keeps it with length one."""
    return x if pos is None else take(x, x.dim() - 2, read_indices(pos, x.shape[-2], "positions (or tokens)"))
