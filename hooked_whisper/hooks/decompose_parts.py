"""Decompose the residual stream into heads and neurons, and stack activations over blocks.

Names and meaning follow TransformerLens' ``ActivationCache``; see :mod:`hooked_whisper.hooks.decompose`.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.indices import Selection, read_indices, take
from hooked_whisper._support.renamed import changing_default, keywords_elsewhere, renamed_arguments
from hooked_whisper.errors import ArgumentError, CacheSizeError, check_option, closest
from hooked_whisper.hooks.caching import DEFAULT_MAX_BYTES
from hooked_whisper.hooks.decompose import (
    KEYWORDS_ELSEWHERE,
    RETURNS_LABELS,
    Cut,
    Reader,
    ResidualDecomposition,
    cut,
    stack_first,
)
from hooked_whisper.protocols import RESIDUAL_STACKS, STACKS, ResidualStack, Stack

Projection = Float[Tensor, "d_model"] | Float[Tensor, "d_model output"]


class PartDecomposition(ResidualDecomposition):
    """Heads, neurons and all of them together; see :class:`ResidualDecomposition` for the arguments."""

    @overload
    def stack_head_results(
        self,
        stack: ResidualStack,
        layer: int | None = ...,
        *,
        cross: bool = ...,
        pos_slice: Cut = ...,
        incl_remainder: bool = ...,
        apply_ln: bool = ...,
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
        incl_remainder: bool = ...,
        apply_ln: bool = ...,
        return_labels: Literal[True] | None = None,
    ) -> tuple[Tensor, list[str]]: ...
    @keywords_elsewhere(**KEYWORDS_ELSEWHERE)
    @renamed_arguments(pos="pos_slice")
    @changing_default(return_labels=(True, RETURNS_LABELS))
    @stack_first
    def stack_head_results(
        self,
        stack: ResidualStack,
        layer: int | None = None,
        *,
        cross: bool = False,
        pos_slice: Cut = None,
        incl_remainder: bool = False,
        apply_ln: bool = False,
        return_labels: bool | None = None,
    ) -> Tensor | tuple[Tensor, list[str]]:
        """Return the output of each head below block ``layer`` (``z W_O``, without the output bias).

        ``[component, batch, pos, d_model]``, and labels such as ``D0.3`` with ``return_labels=True``. ``cross=True``
        takes the decoder's cross-attention (labels ``X0.3``). Per block, the heads and ``b_O`` sum to ``attn_out``
        (``cross_attn_out``). ``incl_remainder`` adds what else is in the residual at ``layer``, ``apply_ln`` applies
        the norm that reads it.
        """
        if cross and stack == "encoder":
            raise ArgumentError("the encoder has no cross-attention")
        stop = self._stop(stack, layer)
        if stop == 0:
            raise ArgumentError("no head comes before block 0")
        heads, labels = self._heads(stack, stop, cross, pos_slice)
        read = self._reader(stack, stop, False, pos_slice, apply_ln)
        components = read(heads)
        if incl_remainder:
            components, labels = self._with_remainder(components, labels, read, stack, stop, pos_slice)
        return (components, labels) if return_labels else components

    @overload
    def stack_neuron_results(
        self,
        stack: ResidualStack,
        layer: int | None = ...,
        *,
        pos_slice: Cut = ...,
        neuron_slice: Selection | None = ...,
        incl_remainder: bool = ...,
        apply_ln: bool = ...,
        project_output_onto: Projection | None = ...,
        return_labels: Literal[False] = False,
        max_bytes: int = ...,
    ) -> Tensor: ...
    @overload
    def stack_neuron_results(
        self,
        stack: ResidualStack,
        layer: int | None = ...,
        *,
        pos_slice: Cut = ...,
        neuron_slice: Selection | None = ...,
        incl_remainder: bool = ...,
        apply_ln: bool = ...,
        project_output_onto: Projection | None = ...,
        return_labels: Literal[True],
        max_bytes: int = ...,
    ) -> tuple[Tensor, list[str]]: ...
    @keywords_elsewhere(**KEYWORDS_ELSEWHERE)
    @stack_first
    def stack_neuron_results(
        self,
        stack: ResidualStack,
        layer: int | None = None,
        *,
        pos_slice: Cut = None,
        neuron_slice: Selection | None = None,
        incl_remainder: bool = False,
        apply_ln: bool = False,
        project_output_onto: Projection | None = None,
        return_labels: bool = False,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> Tensor | tuple[Tensor, list[str]]:
        """Return what each MLP neuron below block ``layer`` writes (``post * W_out``, without the output bias).

        ``[component, batch, pos, d_model]``; labels ``0.207`` are block and neuron. Per block, the neurons and
        ``b_out`` sum to ``mlp_out``.

        Args:
            neuron_slice: the neurons of each block, in any form of
                :func:`hooked_whisper._support.indices.read_indices`.
            incl_remainder, apply_ln: as in :meth:`stack_head_results`.
            project_output_onto: one direction or several as columns; results are then scalar products
                (``[component, batch, pos]``, or with a last axis per column), which takes far less memory.
            max_bytes: limit of the estimated size.

        Raises:
            CacheSizeError: the estimate exceeds ``max_bytes``.
        """
        stop = self._stop(stack, layer)
        if stop == 0:
            raise ArgumentError("no neuron comes before block 0")
        read = self._reader(
            stack, stop, False, pos_slice, apply_ln, _as_columns(project_output_onto, self._d_model(stack))
        )
        components, labels = self._neurons(stack, stop, pos_slice, neuron_slice, read, max_bytes)
        if incl_remainder:
            components, labels = self._with_remainder(components, labels, read, stack, stop, pos_slice)
        return _returned(components, labels, project_output_onto, return_labels)

    def get_neuron_results(
        self,
        stack: ResidualStack,
        layer: int,
        neuron_slice: Selection | None = None,
        pos_slice: Cut = None,
        project_output_onto: Projection | None = None,
    ) -> Tensor:
        """Return what each neuron of block ``layer`` writes: ``[batch, pos, neuron, d_model]``, or projected as in
        :meth:`stack_neuron_results`."""
        check_option("stack", stack, RESIDUAL_STACKS)
        post, w_out = self._post_and_w_out(stack, self._checked_block(stack, layer), pos_slice, neuron_slice)
        if project_output_onto is None:
            return post[..., None] * w_out
        onto = project_output_onto.to(w_out)
        return post[..., None] * (w_out @ onto) if onto.dim() == 2 else post * (w_out @ onto)

    @overload
    def get_full_resid_decomposition(
        self,
        stack: ResidualStack,
        layer: int | None = ...,
        *,
        mlp_input: bool = ...,
        expand_neurons: bool = ...,
        apply_ln: bool = ...,
        pos_slice: Cut = ...,
        project_output_onto: Projection | None = ...,
        return_labels: Literal[False] = False,
        max_bytes: int = ...,
    ) -> Tensor: ...
    @overload
    def get_full_resid_decomposition(
        self,
        stack: ResidualStack,
        layer: int | None = ...,
        *,
        mlp_input: bool = ...,
        expand_neurons: bool = ...,
        apply_ln: bool = ...,
        pos_slice: Cut = ...,
        project_output_onto: Projection | None = ...,
        return_labels: Literal[True],
        max_bytes: int = ...,
    ) -> tuple[Tensor, list[str]]: ...
    @keywords_elsewhere(**KEYWORDS_ELSEWHERE)
    @stack_first
    def get_full_resid_decomposition(
        self,
        stack: ResidualStack,
        layer: int | None = None,
        *,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,
        pos_slice: Cut = None,
        project_output_onto: Projection | None = None,
        return_labels: bool = False,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> Tensor | tuple[Tensor, list[str]]:
        """Return the residual at ``layer`` as a sum of all heads, neurons, the embedding, the positions and the biases.

        ``[component, batch, pos, d_model]`` in this order: heads of self-attention, heads of cross-attention (decoder),
        neurons (whole MLPs with ``expand_neurons=False``), ``embed``, ``pos_embed``, ``bias`` (all output biases).
        Arguments as in :meth:`decompose_resid` and :meth:`stack_neuron_results`.

        Raises:
            CacheSizeError: the estimate exceeds ``max_bytes``.
        """
        stop = self._stop(stack, layer, mlp_input)
        read = self._reader(
            stack, stop, mlp_input, pos_slice, apply_ln, _as_columns(project_output_onto, self._d_model(stack))
        )
        groups: list[Tensor] = []
        labels: list[str] = []
        for cross in (False, True) if stack == "decoder" else (False,):
            if stop + mlp_input:
                heads, names = self._heads(stack, stop + mlp_input, cross, pos_slice)
                groups.append(read(heads))
                labels += names
        if stop and expand_neurons:
            neurons, names = self._neurons(stack, stop, pos_slice, None, read, max_bytes)
            groups.append(neurons)
            labels += names
        elif stop:
            mlps, names = self.decompose_resid(stack, stop, mode="mlp", pos_slice=pos_slice, return_labels=True)
            groups.append(read(mlps))
            labels += names
        embed = cut(self[f"{stack}.hook_embed"], pos_slice)
        pos_embed = cut(self[f"{stack}.hook_pos_embed"], pos_slice).expand_as(embed)
        weights: Any = getattr(self.model, stack)
        bias = weights.accumulated_bias(stop, mlp_input=mlp_input, include_mlp_biases=expand_neurons).detach()
        groups.append(read(torch.stack([embed, pos_embed, bias.to(embed).expand_as(embed)])))
        labels += ["embed", "pos_embed", "bias"]
        return _returned(torch.cat(groups), labels, project_output_onto, return_labels)

    @keywords_elsewhere(sublayer_type="add it to the name: 'cross_pattern', 'mlp_post', or (stack, 'scale', 0, 'ln1')")
    def stack_activation(
        self, stack: Stack, activation_name: str = "", layer: int | None = None
    ) -> Float[Tensor, "layer ..."]:
        """Return an activation of every block below ``layer`` (default: of all): ``[layer, ...]``.

        ``cache.stack_activation("decoder", "pattern")`` has shape ``[layer, batch, head, query, key]``. Names as in
        ``cache["decoder", "pattern", 0]``; ``"cross"`` is the decoder's cross-attention.
        """
        if not activation_name and stack not in STACKS and not closest(str(stack), STACKS, 1):
            raise ArgumentError(
                f"stack_activation takes a stack before the name, but got only {stack!r}: write "
                f"cache.stack_activation('encoder', {stack!r}), or 'decoder', or 'cross' for cross-attention"
            )
        check_option("stack", stack, STACKS)
        if not activation_name:
            raise ArgumentError(f"stack_activation needs a name: write cache.stack_activation({stack!r}, 'pattern')")
        residual: ResidualStack = "encoder" if stack == "encoder" else "decoder"
        stop = self._stop(residual, layer)
        if stop == 0:
            raise ArgumentError("no block comes before block 0")
        return torch.stack([self[stack, activation_name, block] for block in range(stop)])

    def _heads(self, stack: ResidualStack, stop: int, cross: bool, pos_slice: Cut) -> tuple[Tensor, list[str]]:
        weights: Any = self.model.decoder.cross if cross else getattr(self.model, stack)
        w_out = weights.W_O.detach()
        results = []
        for block in range(stop):
            z = self[stack, "cross_z" if cross else "z", block].transpose(-3, -2)
            z = cut(z, pos_slice)  # [batch, head, pos, d_head]
            w = w_out[block].to(device=z.device, dtype=z.dtype)
            results.append(einsum(z, w, "... h p e, h e d -> h ... p d"))
        components = torch.cat(results)
        labels = list(self.model.head_labels("cross" if cross else stack))[: len(components)]
        return components, labels

    def _neurons(
        self,
        stack: ResidualStack,
        stop: int,
        pos_slice: Cut,
        neuron_slice: Selection | None,
        read: Reader,
        max_bytes: int,
    ) -> tuple[Tensor, list[str]]:
        """Return the neurons of the blocks below ``stop`` as ``read`` reads them, and their labels."""
        rows = read_indices(neuron_slice, getattr(self.model.cfg, stack).d_mlp, "neurons")
        labels = [f"{block}.{neuron}" for block in range(stop) for neuron in rows]
        example, w_out = self._post_and_w_out(stack, 0, pos_slice, neuron_slice)
        width = w_out.shape[1] if read.basis is None else read.basis.shape[1]
        nbytes = stop * example.numel() * width * example.element_size()
        if nbytes > max_bytes:
            raise CacheSizeError(
                f"the results of {len(labels)} neurons at {example.shape[-2]} positions would take "
                f"{nbytes / 2**30:.1f} GiB (limit {max_bytes / 2**30:.2g} GiB): cut with pos_slice= or neuron_slice=, "
                "project onto a direction with project_output_onto=, or raise max_bytes="
            )
        groups = []
        for block in range(stop):
            post, w_out = self._post_and_w_out(stack, block, pos_slice, neuron_slice)
            groups.append((post[..., None] * read.before_scale(w_out)).movedim(-2, 0))  # [neuron, batch, pos, output]
        return read.divided(torch.cat(groups)), labels

    def _post_and_w_out(
        self, stack: ResidualStack, block: int, pos_slice: Cut, neuron_slice: Selection | None
    ) -> tuple[Float[Tensor, "*batch pos neuron"], Float[Tensor, "neuron d_model"]]:
        post = cut(self[stack, "mlp_post", block], pos_slice)
        module: Any = getattr(self.model, stack)
        w_out = module.blocks[block].mlp.W_out.detach().to(post)
        if neuron_slice is None:
            return post, w_out
        rows = read_indices(neuron_slice, len(w_out), "neurons")
        return take(post, post.dim() - 1, rows), take(w_out, 0, rows)

    def _with_remainder(
        self, components: Tensor, labels: list[str], read: Reader, stack: ResidualStack, stop: int, pos_slice: Cut
    ) -> tuple[Tensor, list[str]]:
        """Append what else is in the residual at ``stop``."""
        n = self._n_blocks(stack)
        resid = self[stack, "resid_post", n - 1] if stop == n else self[stack, "resid_pre", stop]
        remainder = read(cut(resid, pos_slice)[None]) - components.sum(0, keepdim=True)
        return torch.cat([components, remainder]), [*labels, "remainder"]

    def _d_model(self, stack: ResidualStack) -> int:
        return int(getattr(self.model.cfg, stack).d_model)

    def _checked_block(self, stack: ResidualStack, layer: int) -> int:
        n = self._n_blocks(stack)
        (block,) = read_indices(layer, n, f"blocks of the {stack}")
        return block


def _as_columns(projection: Projection | None, d_model: int) -> Float[Tensor, "d_model output"] | None:
    if projection is not None and (projection.dim() not in (1, 2) or len(projection) != d_model):
        raise ArgumentError(
            f"project_output_onto has shape {list(projection.shape)}: give [{d_model}], or [{d_model}, output] with "
            "one direction per column"
        )
    return projection[:, None] if projection is not None and projection.dim() == 1 else projection


def _returned(components: Tensor, labels: list[str], projection: Projection | None, return_labels: bool) -> Any:
    """Return the results of one direction without an axis for it."""
    if projection is not None and projection.dim() == 1:
        components = components[..., 0]
    return (components, labels) if return_labels else components
