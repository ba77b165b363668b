"""Decompose the residual stream of a cached pass: into parts, through the final norm, onto tokens.

Names and meaning follow TransformerLens' ``ActivationCache``, with two differences: every method takes the stack, and
cross-attention is a separate component.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.indices import Selection, is_integer, read_indices, take
from hooked_whisper._support.renamed import changing_default, keywords_elsewhere, renamed_arguments
from hooked_whisper.errors import ArgumentError, HookedWhisperError, check_option
from hooked_whisper.protocols import RESIDUAL_STACKS, ResidualStack

if TYPE_CHECKING:
    from hooked_whisper.model.whisper import WhisperCore

Mode = Literal["all", "attn", "cross", "mlp"]
Cut = Selection | None


_RETURNS_LABELS = "return_labels=True gives (parts, labels), return_labels=False the parts alone"

# keywords of TransformerLens' ActivationCache
_KEYWORDS_ELSEWHERE = {
    "mlp_input": "use accumulated_resid(..., incl_mid=True): its entries <block>_mid(_cross) enter the MLPs",
    "incl_embeds": 'mode="all" includes embedding and positions, the other modes do not',
    "incl_remainder": "subtract the sum of the parts from cache[stack, 'resid_pre', layer]",
    "has_batch_dim": "the batch axis always stays",
    "batch_slice": "use cache.slice(batch=...)",
    "residual_stack": "pass the components as the first argument",
}


class ResidualDecomposition(Mapping[str, Tensor]):
    """The part of :class:`~hooked_whisper.hooks.activation_cache.ActivationCache` that decomposes the residual stream.

    In every method ``stack`` is ``"encoder"`` or ``"decoder"``, and ``pos_slice`` selects positions (encoder) or tokens
    (decoder); an integer keeps the axis with length one.
    """

    @property
    @abstractmethod
    def model(self) -> WhisperCore:
        """The model that made the cache."""

    @abstractmethod
    def __getitem__(self, key: str | tuple[Any, ...]) -> Tensor: ...

    @overload
    def accumulated_resid(
        self,
        stack: ResidualStack,
        layer: int | None = ...,
        *,
        incl_mid: bool = ...,
        apply_ln: bool = ...,
        pos_slice: Cut = ...,
        return_labels: Literal[False] = False,
    ) -> Tensor: ...
    @overload
    def accumulated_resid(
        self,
        stack: ResidualStack,
        layer: int | None = ...,
        *,
        incl_mid: bool = ...,
        apply_ln: bool = ...,
        pos_slice: Cut = ...,
        return_labels: Literal[True],
    ) -> tuple[Tensor, list[str]]: ...
    @keywords_elsewhere(**_KEYWORDS_ELSEWHERE)
    @renamed_arguments(pos="pos_slice")
    def accumulated_resid(
        self,
        stack: ResidualStack,
        layer: int | None = None,
        *,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: Cut = None,
        return_labels: bool = False,
    ) -> Tensor | tuple[Tensor, list[str]]:
        """Return the residual stream block by block: ``[component, batch, pos, d_model]``.

        Entries are the residuals entering blocks ``0 .. layer`` (default: all blocks, and the residual leaving the
        last). ``incl_mid`` adds those between attention and MLP. ``apply_ln`` applies the stack's final norm to each,
        with the scale of this pass.
        """
        check_option("stack", stack, RESIDUAL_STACKS)
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
            prefix, _, where = name.partition("_")
            block = n - 1 if prefix == "final" else int(prefix)
            parts.append(_cut(self[stack, f"resid_{where}", block], pos_slice))
        out = torch.stack(parts)
        if apply_ln:
            out = self.apply_ln_to_stack(out, stack, pos_slice=pos_slice)
        return (out, names) if return_labels else out

    @overload
    def decompose_resid(
        self,
        stack: ResidualStack,
        layer: int | None = ...,
        *,
        mode: Mode = ...,
        pos_slice: Cut = ...,
        return_labels: Literal[False],
    ) -> Tensor: ...
    @overload
    def decompose_resid(
        self,
        stack: ResidualStack,
        layer: int | None = ...,
        *,
        mode: Mode = ...,
        pos_slice: Cut = ...,
        return_labels: Literal[True] | None = None,
    ) -> tuple[Tensor, list[str]]: ...
    @keywords_elsewhere(**_KEYWORDS_ELSEWHERE)
    @renamed_arguments(pos="pos_slice")
    @changing_default(return_labels=(True, _RETURNS_LABELS))
    def decompose_resid(
        self,
        stack: ResidualStack,
        layer: int | None = None,
        *,
        mode: Mode = "all",
        pos_slice: Cut = None,
        return_labels: bool | None = None,
    ) -> Tensor | tuple[Tensor, list[str]]:
        """Return the parts that were added to the stream up to block ``layer`` (default: the end).

        ``[component, batch, pos, d_model]``, and labels with ``return_labels=True``. With ``mode="all"`` the parts are
        the embedding, the positions, and attention, cross-attention and MLP of each block. Their sum is the residual
        entering ``layer``, or leaving the last block.
        """
        check_option("mode", mode, get_args(Mode))
        check_option("stack", stack, RESIDUAL_STACKS)
        if mode == "cross" and stack == "encoder":
            raise ArgumentError("the encoder has no cross-attention")
        n = self._layers_of(stack)
        stop = n if layer is None else self._checked_layer(stack, layer)
        parts: list[Tensor] = []
        labels: list[str] = []
        if mode == "all":
            embed = self[f"{stack}.hook_embed"]
            pos_embed = self[f"{stack}.hook_pos_embed"].expand_as(embed)
            parts += [_cut(embed, pos_slice), _cut(pos_embed, pos_slice)]
            labels += ["embed", "pos_embed"]
        kinds = [("attn", "attn_out"), ("cross", "cross_attn_out"), ("mlp", "mlp_out")]
        for block in range(stop):
            for kind, name in kinds:
                if mode in ("all", kind) and not (kind == "cross" and stack == "encoder"):
                    parts.append(_cut(self[stack, name, block], pos_slice))
                    labels.append(f"{block}_{name}")
        if not parts:
            raise ArgumentError(f"nothing was added before block {stop} in mode {mode!r}")
        components = torch.stack(parts)
        return (components, labels) if return_labels else components

    @overload
    def stack_head_results(
        self,
        stack: ResidualStack,
        layer: int | None = ...,
        *,
        cross: bool = ...,
        pos_slice: Cut = ...,
        return_labels: Literal[False],
    ) -> Tensor: ...
    @overload
    def stack_head_results(
        self,
        stack: ResidualStack,
        layer: int | None = ...,
        *,
        cross: bool = ...,
        pos_slice: Cut = ...,
        return_labels: Literal[True] | None = None,
    ) -> tuple[Tensor, list[str]]: ...
    @keywords_elsewhere(**_KEYWORDS_ELSEWHERE)
    @renamed_arguments(pos="pos_slice")
    @changing_default(return_labels=(True, _RETURNS_LABELS))
    def stack_head_results(
        self,
        stack: ResidualStack,
        layer: int | None = None,
        *,
        cross: bool = False,
        pos_slice: Cut = None,
        return_labels: bool | None = None,
    ) -> Tensor | tuple[Tensor, list[str]]:
        """Return the output of each head below block ``layer`` (``z W_O``, without the output bias).

        ``[component, batch, pos, d_model]``, and labels such as ``D0.3`` with ``return_labels=True``. ``cross=True``
        takes the decoder's cross-attention (labels ``X0.3``). Per block, the heads and ``b_O`` sum to ``attn_out``
        (``cross_attn_out``).
        """
        check_option("stack", stack, RESIDUAL_STACKS)
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
            z = _cut(
                self[stack, "cross_z" if cross else "z", block].transpose(1, 2), pos_slice
            )  # [batch, head, pos, d_head]
            w = w_out[block].to(device=z.device, dtype=z.dtype)
            results.append(einsum(z, w, "b h p e, h e d -> h b p d"))
        components = torch.cat(results)
        labels = list(self.model.head_labels("cross" if cross else stack))[: len(components)]
        return (components, labels) if return_labels else components

    @keywords_elsewhere(**_KEYWORDS_ELSEWHERE)
    @renamed_arguments(pos="pos_slice")
    def apply_ln_to_stack(
        self, components: Float[Tensor, "component batch pos d_model"], stack: ResidualStack, *, pos_slice: Cut = None
    ) -> Float[Tensor, "component batch pos d_model"]:
        """Apply the stack's final norm to components: center, divide by the scale of this pass, times the gain.

        It is linear: the normed components of :meth:`decompose_resid` and the norm's bias sum to the normed output.

        Raises:
            HookedWhisperError: ``pos_slice`` differs from the one that the components were made with.
        """
        check_option("stack", stack, RESIDUAL_STACKS)
        path = "ln_post" if stack == "encoder" else "ln_final"
        norm = getattr(getattr(self.model, stack), path)
        scale = _cut(self[f"{stack}.{path}.hook_scale"], pos_slice)
        if components.shape[-2] != scale.shape[-2]:  # a scale of one position would silently broadcast
            raise HookedWhisperError(
                f"the components have {components.shape[-2]} positions and the norm's scale {scale.shape[-2]}: give "
                "the same pos_slice here as where the components were made"
            )
        centered = components - components.mean(-1, keepdim=True)
        return centered / scale * norm.weight.detach().to(device=centered.device, dtype=centered.dtype)

    @keywords_elsewhere(**_KEYWORDS_ELSEWHERE)
    @renamed_arguments(pos="pos_slice")
    def logit_attrs(
        self,
        components: Float[Tensor, "component batch pos d_model"],
        tokens: int | Int[Tensor, "..."],
        incorrect_tokens: int | Int[Tensor, "..."] | None = None,
        *,
        pos_slice: Cut = None,
        apply_ln: bool = True,
    ) -> Float[Tensor, "component batch pos"]:
        """Return the direct effect of decoder components on the logit of ``tokens`` (minus ``incorrect_tokens``).

        ``tokens`` broadcasts to ``[batch, pos]``. The effects of all components of :meth:`decompose_resid` and the
        constant ``ln_final.bias @ W_U[:, token] (+ b_U)`` sum to the logit.
        """
        if apply_ln:
            components = self.apply_ln_to_stack(components, "decoder", pos_slice=pos_slice)
        n_vocab = self.model.cfg.decoder.n_vocab
        correct, incorrect = _ids(tokens, n_vocab), _ids(incorrect_tokens, n_vocab)
        w_u = self.model.W_U.detach().mT.to(device=components.device, dtype=components.dtype)  # [vocab, d_model]
        direction = w_u[correct.to(components.device)]
        if incorrect_tokens is not None:
            direction = direction - w_u[incorrect.to(components.device)]
        return (components * direction).sum(-1)

    def _layers_of(self, stack: str) -> int:
        check_option("stack", stack, RESIDUAL_STACKS)
        return len(getattr(self.model, stack).blocks)

    def _checked_layer(self, stack: str, layer: int) -> int:
        n = self._layers_of(stack)
        if not is_integer(layer) or not -n <= int(layer) <= n:
            raise ArgumentError(f"{stack} has blocks 0 to {n - 1} (or {n}: the end), not {layer}")
        return int(layer) + n if layer < 0 else int(layer)


def _ids(tokens: Any, n_vocab: int) -> Tensor:
    """Return token ids as a checked tensor; an empty one for ``None``."""
    try:
        ids = torch.empty(0, dtype=torch.long) if tokens is None else torch.as_tensor(tokens)
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentError(f"tokens are ids, whole numbers from 0 to {n_vocab - 1}, not {tokens!r:.80}") from None
    whole = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    if not whole or (ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < n_vocab):
        actual = f"{ids.dtype} {ids.tolist()!s:.80}"
        raise ArgumentError(f"tokens are ids, whole numbers from 0 to {n_vocab - 1}, got {actual}")
    return ids.long()


def _cut(x: Tensor, pos_slice: Cut) -> Tensor:
    """Cut the second-to-last axis."""
    if pos_slice is None:
        return x
    return take(x, x.dim() - 2, read_indices(pos_slice, x.shape[-2], "positions (or tokens)"))
