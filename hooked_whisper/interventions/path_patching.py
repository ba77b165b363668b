"""Path patching: how much of a head's effect runs along one path, straight into a later component.

Every other head and MLP between the two is held at the base run, so what the sender changes reaches the receiver
through the residual alone: ``receiver input + (z_source - z_base) W_O``. The receiver then works on its new input, and all that
follows it is computed as usual.

Source: Goldowsky-Dill et al. 2023 (arXiv 2304.05969); Wang et al. 2022 (arXiv 2211.00593), appendix B.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import PatchError
from hooked_whisper.interventions.metrics import Metric, read_metric
from hooked_whisper.interventions.patching import Inputs, Patched, keep
from hooked_whisper.interventions.sites import Stack

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

Input = Literal["q", "k", "v", "cross_q", "cross_k", "cross_v", "mlp", "output"]


@dataclass(frozen=True)
class Head:
    """An attention head; ``cross``: of the decoder's cross-attention."""

    stack: Stack
    block: int
    head: int
    cross: bool = False

    @property
    def attn(self) -> str:
        return f"{self.stack}.blocks.{self.block}.{'cross_attn' if self.cross else 'attn'}"


@dataclass(frozen=True)
class Receiver:
    """What a path ends in: a head's query, key or value (all heads without ``head``), an MLP, or the final residual.

    ``cross_k`` and ``cross_v`` read the encoder: they receive from encoder heads alone.
    """

    stack: Stack
    input: Input
    block: int = 0
    head: int | None = None


def path_patch(
    model: HookedWhisper,
    senders: Sequence[Head],
    receiver: Receiver,
    base: Inputs,
    source: Inputs,
    metric: Metric,
    rows: int = 8,
) -> Patched:
    """The metric of the base run when one path, sender to receiver, carries what it carries in the source run.

    Raises:
        PatchError: a sender that does not stand before the receiver, or a head that does not exist.
    """
    for sender in senders:
        _check(model, sender, receiver)
    names = list(dict.fromkeys(f"{s.attn}.hook_z" for s in senders))
    place = _resid_name(model, receiver)
    with torch.no_grad():
        theirs, own = keep(model, source, names), keep(model, base, [*names, place, "encoder.hook_out"])
        deltas = torch.cat([_delta(model, s, own, theirs) for s in senders])
        values = [
            _receive(model, receiver, own, place, deltas[at : at + rows], base, metric)
            for at in range(0, len(senders), rows)
        ]
        ends = [float(read_metric(model, kept["unembed.hook_in"], metric)) for kept in (own, theirs)]
    return Patched(torch.cat(values), *ends)


def _check(model: HookedWhisper, sender: Head, receiver: Receiver) -> None:
    cfg = model.cfg.encoder if sender.stack == "encoder" else model.cfg.decoder
    if not (0 <= sender.block < cfg.n_layers and 0 <= sender.head < cfg.n_heads):
        raise PatchError(f"{sender} does not exist: {cfg.n_layers} blocks of {cfg.n_heads} heads")
    if receiver.input in ("cross_k", "cross_v"):
        before = sender.stack == "encoder" and receiver.stack == "decoder"
    elif sender.stack != receiver.stack:
        before = False
    elif receiver.input == "output":
        before = True
    elif receiver.input in ("q", "k", "v"):
        before = sender.block < receiver.block
    elif receiver.input == "cross_q":
        before = sender.block < receiver.block or (sender.block == receiver.block and not sender.cross)
    else:
        before = sender.block <= receiver.block
    if not before:
        raise PatchError(f"nothing runs straight from {sender} to {receiver}")
    if receiver.stack == "encoder" and receiver.input.startswith("cross"):
        raise PatchError("the encoder has no cross-attention")


def _resid_name(model: HookedWhisper, receiver: Receiver) -> str:
    """The residual that the receiver reads."""
    if receiver.input in ("cross_k", "cross_v"):
        return f"encoder.blocks.{model.cfg.encoder.n_layers - 1}.hook_resid_post"
    if receiver.input == "output":
        n = (model.cfg.encoder if receiver.stack == "encoder" else model.cfg.decoder).n_layers
        return f"{receiver.stack}.blocks.{n - 1}.hook_resid_post"
    ends = {"mlp": "hook_mlp_in", "cross_q": "hook_resid_mid"}
    return f"{receiver.stack}.blocks.{receiver.block}.{ends.get(receiver.input, 'hook_resid_pre')}"


def _delta(
    model: HookedWhisper, sender: Head, own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> Float[Tensor, "1 place d_model"]:
    """What the sender writes more in the source run than in the base run."""
    name = f"{sender.attn}.hook_z"
    attn = model.get_submodule(sender.attn)
    weight = attn.out.weight.unflatten(1, (attn.n_heads, -1))[:, sender.head]  # type: ignore[union-attr, operator]
    z = theirs[name][:, :, sender.head] - own[name][:, :, sender.head]
    return einsum(z, weight.to(z.dtype), "b p e, d e -> b p d")


def _receive(
    model: HookedWhisper,
    receiver: Receiver,
    own: Mapping[str, Tensor],
    place: str,
    deltas: Float[Tensor, "row place d_model"],
    base: Inputs,
    metric: Metric,
) -> Float[Tensor, "row"]:
    """Run what follows the receiver, one row per sender."""
    n = len(deltas)
    new = own[place] + deltas
    encoder_out = own["encoder.hook_out"]
    tokens = base.tokens.expand(n, -1)
    if receiver.input == "output":
        if receiver.stack == "decoder":
            return read_metric(model, model.decoder.ln_final(new), metric).double()
        return read_metric(model, model.decoder.hidden(tokens, model.encoder.ln_post(new)), metric).double()
    block = model.get_submodule(f"{receiver.stack}.blocks.{receiver.block}")
    path = f"{receiver.stack}.blocks.{receiver.block}"
    if receiver.input == "mlp":
        hook = (f"{path}.hook_mlp_in", lambda x: new)
    else:
        kind = receiver.input.removeprefix("cross_")
        cross = receiver.input.startswith("cross_")
        attn = block.cross_attn if cross else block.attn
        if kind == "q" and cross:
            normed = block.ln_cross(new)
        else:
            normed = model.encoder.ln_post(new) if cross else block.ln1(new)
        linear = {"q": attn.query, "k": attn.key, "v": attn.value}[kind]
        heads = linear(normed).unflatten(-1, (attn.n_heads, -1))
        hook = (f"{path}.{'cross_attn' if cross else 'attn'}.hook_{kind}", _put(heads, receiver.head))
        if cross and kind != "q":
            encoder_out = encoder_out.expand(n, -1, -1)
    with model.hooks(fwd_hooks=[hook]):
        if receiver.stack == "encoder":
            assert base.mel is not None
            encoder_out = model.encoder(base.mel.expand(n, -1, -1))
        return read_metric(model, model.decoder.hidden(tokens, encoder_out), metric).double()


def _put(heads: Float[Tensor, "row place head d_head"], head: int | None) -> Callable[[Tensor], Tensor]:
    def hook(x: Tensor) -> Tensor:
        if head is None:
            return heads
        x = x.clone()
        x[:, :, head] = heads[:, :, head]
        return x

    return hook
