"""Decompose the residual stream of a cached pass: into parts, through a norm, onto tokens.

Names and meaning follow TransformerLens' ``ActivationCache``, with two differences: every method takes the stack, and
cross-attention is a separate component. ``layer`` numbers the points between the blocks: ``0`` enters block 0,
``n_layers`` leaves the last block. ``None`` and ``-1`` are the end, ``-2`` enters the last block, and so on.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, overload

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.indices import Selection, is_integer, read_indices, take
from hooked_whisper._support.renamed import changing_default, keywords_elsewhere, renamed_arguments
from hooked_whisper.errors import ArgumentError, HookedWhisperError, check_option
from hooked_whisper.hooks.token_directions import TokenIds, directions_like, token_ids
from hooked_whisper.protocols import RESIDUAL_STACKS, ResidualStack

if TYPE_CHECKING:
    from hooked_whisper.model.whisper import WhisperCore

Mode = Literal["all", "attn", "cross", "mlp"]
Cut = Selection | None
Method = TypeVar("Method", bound=Callable[..., Any])

RETURNS_LABELS = "return_labels=True gives (parts, labels), return_labels=False the parts alone"

# keywords of TransformerLens' ActivationCache
KEYWORDS_ELSEWHERE = {
    "has_batch_dim": "the cache knows whether it has a batch axis",
    "batch_slice": "use cache.slice(batch=...)",
    "residual_stack": "pass the components as the first argument",
    "recompute_ln": "use analysis.logit_lens, which applies the norm with the statistics of each layer",
}


def stack_first(method: Method) -> Method:
    """Answer a call without a stack, or with TransformerLens' first argument, with the stacks that exist."""

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        stack = kwargs.get("stack", args[0] if args else None)
        if not isinstance(stack, str):
            calls = " or ".join(f"cache.{method.__name__}({name!r}, ...)" for name in RESIDUAL_STACKS)
            received = "none was given" if stack is None else f"not {stack!r:.80}"
            raise ArgumentError(f"{method.__name__} needs a stack, {received}: Whisper has two, write {calls}")
        check_option("stack", stack, RESIDUAL_STACKS)
        return method(self, *args, **kwargs)

    return wrapper  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class Reader:
    """A linear map of the residual stream: a norm with the scale of this pass, then a projection.

    gain, scale: of the norm; ``None`` without one. basis: directions as columns; ``None`` for no projection.
    """

    gain: Float[Tensor, "d_model"] | None
    scale: Float[Tensor, "*batch pos 1"] | None
    basis: Float[Tensor, "d_model output"] | None = None

    def before_scale(self, vectors: Float[Tensor, "... d_model"]) -> Float[Tensor, "... output"]:
        """Apply the map without dividing by the scale: to vectors that have no positions."""
        if self.gain is not None:
            vectors = (vectors - vectors.mean(-1, keepdim=True)) * self.gain.to(vectors)
        return vectors if self.basis is None else vectors @ self.basis.to(vectors)

    def divided(self, components: Float[Tensor, "component *batch pos output"]) -> Tensor:
        """Divide by the scale.

        Raises:
            HookedWhisperError: components and scale have different positions.
        """
        if self.scale is None:
            return components
        if components.shape[-2] != self.scale.shape[-2]:  # a scale of one position would silently broadcast
            raise HookedWhisperError(
                f"the components have {components.shape[-2]} positions and the norm's scale {self.scale.shape[-2]}: "
                "give the same pos_slice here as where the components were made"
            )
        return components / self.scale

    def __call__(self, components: Float[Tensor, "component *batch pos d_model"]) -> Tensor:
        return self.divided(self.before_scale(components))


def _check_components(components: object) -> None:
    if isinstance(components, tuple):
        raise ArgumentError(
            "components is a tuple, not a tensor: unpack (components, labels) first, as in "
            "components, labels = cache.decompose_resid('decoder', return_labels=True)"
        )


class ResidualDecomposition(Mapping[str, Tensor]):
    """The part of :class:`~hooked_whisper.hooks.activation_cache.ActivationCache` that decomposes the residual stream.

    In every method ``stack`` is ``"encoder"`` or ``"decoder"``, and ``pos_slice`` selects positions (encoder) or tokens
    (decoder); an integer keeps the axis with length one. With ``return_labels=True`` methods return ``(components,
    labels)``. After :meth:`remove_batch_dim`, results have no batch axis either.
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
        mlp_input: bool = ...,
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
        mlp_input: bool = ...,
        return_labels: Literal[True],
    ) -> tuple[Tensor, list[str]]: ...
    @keywords_elsewhere(**KEYWORDS_ELSEWHERE)
    @renamed_arguments(pos="pos_slice")
    @stack_first
    def accumulated_resid(
        self,
        stack: ResidualStack,
        layer: int | None = None,
        *,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: Cut = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Tensor | tuple[Tensor, list[str]]:
        """Return the residual stream block by block: ``[component, batch, pos, d_model]``.

        Entries are the residuals entering blocks ``0 .. layer`` (default: all blocks, and the residual leaving the
        last). ``incl_mid`` adds those between attention and MLP, ``mlp_input`` only those of block ``layer``.
        ``apply_ln`` applies the norm that reads the stream at ``layer``, see :meth:`apply_ln_to_stack`.
        """
        n, stop = self._n_blocks(stack), self._stop(stack, layer, mlp_input)
        mids = ("mid", "mid_cross") if stack == "decoder" else ("mid",)
        names: list[str] = []
        for block in range(stop):
            names += [f"{block}_pre", *(f"{block}_{mid}" for mid in mids if incl_mid)]
        names.append("final_post" if stop == n else f"{stop}_pre")
        names += [f"{stop}_{mid}" for mid in mids if mlp_input]
        parts = []
        for name in names:
            prefix, _, where = name.partition("_")
            block = n - 1 if prefix == "final" else int(prefix)
            parts.append(cut(self[stack, f"resid_{where}", block], pos_slice))
        out = torch.stack(parts)
        if apply_ln:
            out = self.apply_ln_to_stack(out, stack, layer=stop, mlp_input=mlp_input, pos_slice=pos_slice)
        return (out, names) if return_labels else out

    @overload
    def decompose_resid(
        self,
        stack: ResidualStack,
        layer: int | None = ...,
        *,
        mode: Mode = ...,
        apply_ln: bool = ...,
        pos_slice: Cut = ...,
        mlp_input: bool = ...,
        incl_embeds: bool | None = ...,
        return_labels: Literal[False],
    ) -> Tensor: ...
    @overload
    def decompose_resid(
        self,
        stack: ResidualStack,
        layer: int | None = ...,
        *,
        mode: Mode = ...,
        apply_ln: bool = ...,
        pos_slice: Cut = ...,
        mlp_input: bool = ...,
        incl_embeds: bool | None = ...,
        return_labels: Literal[True] | None = None,
    ) -> tuple[Tensor, list[str]]: ...
    @keywords_elsewhere(**KEYWORDS_ELSEWHERE)
    @renamed_arguments(pos="pos_slice")
    @changing_default(return_labels=(True, RETURNS_LABELS))
    @stack_first
    def decompose_resid(
        self,
        stack: ResidualStack,
        layer: int | None = None,
        *,
        mode: Mode = "all",
        apply_ln: bool = False,
        pos_slice: Cut = None,
        mlp_input: bool = False,
        incl_embeds: bool | None = None,
        return_labels: bool | None = None,
    ) -> Tensor | tuple[Tensor, list[str]]:
        """Return the parts that were added to the stream up to block ``layer`` (default: the end).

        ``[component, batch, pos, d_model]``, and labels with ``return_labels=True``. With ``mode="all"`` the parts are
        the embedding, the positions, and attention, cross-attention and MLP of each block. Their sum is the residual
        entering ``layer``, or leaving the last block.

        Args:
            mode: only one kind of part.
            apply_ln: apply the norm that reads the stream at ``layer``, see :meth:`apply_ln_to_stack`.
            mlp_input: also the attention (and cross-attention) of block ``layer``: the sum enters its MLP.
            incl_embeds: whether to include embedding and positions; by default only with ``mode="all"``.
        """
        check_option("mode", mode, get_args(Mode))
        if mode == "cross" and stack == "encoder":
            raise ArgumentError("the encoder has no cross-attention")
        stop = self._stop(stack, layer, mlp_input)
        parts: list[Tensor] = []
        labels: list[str] = []
        if mode == "all" if incl_embeds is None else incl_embeds:
            embed = self[f"{stack}.hook_embed"]
            pos_embed = self[f"{stack}.hook_pos_embed"].expand_as(embed)
            parts += [cut(embed, pos_slice), cut(pos_embed, pos_slice)]
            labels += ["embed", "pos_embed"]
        kinds = {"attn": "attn_out", "cross": "cross_attn_out", "mlp": "mlp_out"}
        if stack == "encoder":
            del kinds["cross"]
        for block in range(stop + mlp_input):
            for kind, name in kinds.items():
                if mode in ("all", kind) and not (kind == "mlp" and block == stop):
                    parts.append(cut(self[stack, name, block], pos_slice))
                    labels.append(f"{block}_{name}")
        if not parts:
            raise ArgumentError(f"nothing was added before block {stop} in mode {mode!r}")
        components = torch.stack(parts)
        if apply_ln:
            components = self.apply_ln_to_stack(components, stack, layer=stop, mlp_input=mlp_input, pos_slice=pos_slice)
        return (components, labels) if return_labels else components

    @keywords_elsewhere(**KEYWORDS_ELSEWHERE)
    @renamed_arguments(pos="pos_slice")
    def apply_ln_to_stack(
        self,
        components: Float[Tensor, "component *batch pos d_model"],
        stack: ResidualStack,
        *,
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: Cut = None,
    ) -> Float[Tensor, "component *batch pos d_model"]:
        """Apply a norm to components: center, divide by the scale of this pass, times the gain.

        The norm is the stack's final one, or with ``layer`` the one that reads the stream there: ``ln1`` of that block,
        or ``ln2`` with ``mlp_input``. It is linear: the normed components of :meth:`decompose_resid` and the norm's
        bias sum to the normed residual.

        Raises:
            HookedWhisperError: ``pos_slice`` differs from the one that the components were made with.
        """
        check_option("stack", stack, RESIDUAL_STACKS)
        _check_components(components)
        return self._reader(stack, self._stop(stack, layer, mlp_input), mlp_input, pos_slice)(components)

    @keywords_elsewhere(**KEYWORDS_ELSEWHERE)
    @renamed_arguments(pos="pos_slice")
    def logit_attrs(
        self,
        components: Float[Tensor, "component *batch pos d_model"],
        tokens: TokenIds,
        incorrect_tokens: TokenIds | None = None,
        *,
        pos_slice: Cut = None,
        apply_ln: bool = True,
    ) -> Float[Tensor, "component *batch pos"]:
        """Return the direct effect of decoder components on the logit of ``tokens`` (minus ``incorrect_tokens``).

        Args:
            components: as :meth:`decompose_resid` and the other methods return them, with the same ``pos_slice``.
            tokens, incorrect_tokens: ids or texts of one token (``" very"``): one for all, or a list or tensor of
                shape ``[batch, pos]``, ``[batch]`` or ``[pos]``.
            apply_ln: apply the final norm. The effects of all components of :meth:`decompose_resid` and the constant
                ``ln_final.bias @ W_U[:, token] (+ b_U)`` then sum to the logit.

        Raises:
            PromptError: a text is several tokens.
            ArgumentError: the shape of the tokens does not fit that of the components, or an id does not exist.
        """
        _check_components(components)
        if apply_ln:
            components = self.apply_ln_to_stack(components, "decoder", pos_slice=pos_slice)
        shape = components.shape[1:-1]
        correct = token_ids(self.model, tokens)
        w_u = self.model.W_U.detach().mT.to(device=components.device, dtype=components.dtype)  # [vocab, d_model]
        direction = directions_like(w_u, correct, shape)
        if incorrect_tokens is not None:
            direction = direction - directions_like(w_u, token_ids(self.model, incorrect_tokens), shape)
        return (components * direction).sum(-1)

    def _reader(
        self,
        stack: ResidualStack,
        stop: int,
        mlp_input: bool,
        pos_slice: Cut,
        apply_ln: bool = True,
        basis: Float[Tensor, "d_model output"] | None = None,
    ) -> Reader:
        """Return what reads the residual stream at ``stop``: its norm (if ``apply_ln``), then ``basis``."""
        if not apply_ln:
            return Reader(None, None, basis)
        module: Any = getattr(self.model, stack)
        if stop == self._n_blocks(stack):
            path = "ln_post" if stack == "encoder" else "ln_final"
        else:
            path = f"blocks.{stop}.{'ln2' if mlp_input else 'ln1'}"
        gain = module.get_submodule(path).weight.detach()
        return Reader(gain, cut(self[f"{stack}.{path}.hook_scale"], pos_slice), basis)

    def _n_blocks(self, stack: str) -> int:
        return len(getattr(self.model, stack).blocks)

    def _stop(self, stack: str, layer: int | None, mlp_input: bool = False) -> int:
        """Return a point between blocks as a number from 0 to ``n_layers``."""
        n = self._n_blocks(stack)
        if layer is None:
            stop = n
        elif not is_integer(layer) or not -n - 1 <= int(layer) <= n:
            raise ArgumentError(f"{stack} has blocks 0 to {n - 1} (or {n}, None or -1: the end), not {layer!r}")
        else:
            stop = int(layer) % (n + 1)
        if mlp_input and stop == n:
            raise ArgumentError(f"mlp_input needs a block: layer 0 to {n - 1} of the {stack}, not the end")
        return stop


def cut(x: Tensor, pos_slice: Cut) -> Tensor:
    """Cut the second-to-last axis."""
    if pos_slice is None:
        return x
    return take(x, x.dim() - 2, read_indices(pos_slice, x.shape[-2], "positions (or tokens)"))
