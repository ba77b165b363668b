"""Path patching: how much of a head's effect runs along one path, straight into a later component.

Every other head and MLP between the two is held at the base run, so what the sender changes reaches the receiver
through the residual alone: ``receiver input + (z_source - z_base) W_O``. The receiver then works on its new input, and
all that follows it is computed as usual; nothing before it is (:mod:`hooked_whisper.patching.resume`).

Source: Goldowsky-Dill et al. 2023 (arXiv 2304.05969); Wang et al. 2022 (arXiv 2211.00593), appendix B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.model import Attention
from hooked_whisper.model.block import Block
from hooked_whisper.patching.grid import STACKS, Axis, Stack
from hooked_whisper.patching.metrics import Metric, read_metric
from hooked_whisper.patching.patch import Inputs, Pair, Patched, keep
from hooked_whisper.patching.results import DIRECTIONS, Direction, PatchResult
from hooked_whisper.patching.resume import n_layers, needed, run_from

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

    def __post_init__(self) -> None:
        check_option("stack", self.stack, STACKS, PatchError)

    @property
    def attn(self) -> str:
        return f"{self.stack}.blocks.{self.block}.{'cross_attn' if self.cross else 'attn'}"

    def __str__(self) -> str:
        """``E0.1``, ``D0.1``, ``X0.1``, as :meth:`HookedWhisper.head_labels` has it."""
        return f"{'X' if self.cross else self.stack[0].upper()}{self.block}.{self.head}"


@dataclass(frozen=True)
class Receiver:
    """What a path ends in: a head's query, key or value (all heads without ``head``), an MLP, or the final residual.

    ``cross_k`` and ``cross_v`` read the encoder: they receive from encoder heads alone.
    """

    stack: Stack
    input: Input
    block: int = 0
    head: int | None = None

    def __post_init__(self) -> None:
        check_option("stack", self.stack, STACKS, PatchError)
        check_option("input", self.input, get_args(Input), PatchError)

    def __str__(self) -> str:
        if self.input == "output":
            return f"{self.stack} output"
        letter = "X" if self.input.startswith("cross_") else self.stack[0].upper()
        head = "" if self.head is None else f".{self.head}"
        return f"{letter}{self.block}{head} {self.input.removeprefix('cross_')}"


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
    point, place = _points(model, receiver)
    with torch.no_grad():
        theirs = keep(model, source, names)
        own = keep(model, base, [*names, place, point, *needed(model, point)])
        deltas = torch.cat([_delta(model, s, own, theirs) for s in senders])
        values = [
            _receive(model, receiver, own, deltas[at : at + rows], base, metric) for at in range(0, len(senders), rows)
        ]
        ends = [float(read_metric(model, kept["unembed.hook_in"], metric)) for kept in (own, theirs)]
    return Patched(torch.cat(values).cpu(), *ends)


def path_patch_pairs(
    model: HookedWhisper,
    pairs: Sequence[Pair],
    senders: Sequence[Head],
    receivers: Sequence[Receiver],
    *,
    direction: Direction = "denoise",
) -> PatchResult:
    """Every path from one of the senders to one of the receivers, in every pair: receivers by senders.

    Raises:
        PatchError: a path that does not exist, no pairs.
    """
    check_option("direction", direction, DIRECTIONS, PatchError)
    if not (pairs and senders and receivers):
        raise PatchError("path patching needs pairs, senders and receivers")
    values, ends = [], []
    for pair in pairs:
        runs = pair.runs(direction)
        done = [path_patch(model, senders, receiver, *runs, pair.metric) for receiver in receivers]
        values.append(np.stack([one.values.numpy() for one in done]))
        ends.append((done[0].base, done[0].source))
    return PatchResult(
        axes=(Axis("receiver", tuple(map(str, receivers))), Axis("sender", tuple(map(str, senders)))),
        values=np.stack(values),
        base=np.array([base for base, _ in ends]),
        source=np.array([source for _, source in ends]),
        unit=pairs[0].metric.unit,
        direction=direction,
        site="paths",
        pairs=tuple(pair.label or str(i) for i, pair in enumerate(pairs)),
    )


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


def _points(model: HookedWhisper, receiver: Receiver) -> tuple[str, str]:
    """The point that the path changes, and the residual that it reads."""
    last = n_layers(model, receiver.stack) - 1
    block = f"{receiver.stack}.blocks.{receiver.block}"
    final = f"encoder.blocks.{n_layers(model, 'encoder') - 1}.hook_resid_post"
    if receiver.input == "output":
        name = f"{receiver.stack}.blocks.{last}.hook_resid_post"
        return name, name
    if receiver.input == "mlp":
        return f"{block}.hook_mlp_in", f"{block}.hook_mlp_in"
    if receiver.input.startswith("cross_"):
        kind = receiver.input.removeprefix("cross_")
        return f"{block}.cross_attn.hook_{kind}", f"{block}.hook_resid_mid" if kind == "q" else final
    return f"{block}.attn.hook_{receiver.input}", f"{block}.hook_resid_pre"


def _delta(
    model: HookedWhisper, sender: Head, own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> Float[Tensor, "1 place d_model"]:
    """What the sender writes more in the source run than in the base run."""
    name = f"{sender.attn}.hook_z"
    attn = _attention(model, sender.attn)
    weight = attn.out.weight.unflatten(1, (attn.n_heads, -1))[:, sender.head]
    z = theirs[name][:, :, sender.head] - own[name][:, :, sender.head]
    return einsum(z, weight.to(z.dtype), "b p e, d e -> b p d")


def _receive(
    model: HookedWhisper,
    receiver: Receiver,
    own: Mapping[str, Tensor],
    deltas: Float[Tensor, "row place d_model"],
    base: Inputs,
    metric: Metric,
) -> Float[Tensor, "row"]:
    """Run what follows the receiver, one row per sender."""
    point, place = _points(model, receiver)
    new = own[place] + deltas
    if point.endswith(("hook_q", "hook_k", "hook_v")):
        new = _heads(model, receiver, point, new, own[point])
    hidden = run_from(model, own, {point: new}, base.tokens, base.mel, own["encoder.hook_out"])
    return read_metric(model, hidden, metric).double()


def _heads(
    model: HookedWhisper,
    receiver: Receiver,
    point: str,
    resid: Float[Tensor, "row place d_model"],
    kept: Float[Tensor, "1 place head d_head"],
) -> Float[Tensor, "row place head d_head"]:
    """Queries, keys or values made from another residual: of the receiver's head, or of all."""
    attn = _attention(model, point.rsplit(".", 1)[0])
    block = model.get_submodule(f"{receiver.stack}.blocks.{receiver.block}")
    assert isinstance(block, Block)
    cross = receiver.input.startswith("cross_")
    if point.endswith("hook_q"):
        linear, norm = attn.query, block.ln_cross if cross else block.ln1
    else:
        linear, norm = (
            attn.key if point.endswith("hook_k") else attn.value,
            model.encoder.ln_post if cross else block.ln1,
        )
    made = linear(norm(resid)).unflatten(-1, (attn.n_heads, -1))
    if receiver.head is None:
        return made
    ours = torch.arange(attn.n_heads, device=made.device) == receiver.head
    return torch.where(ours[:, None], made, kept)


def _attention(model: HookedWhisper, path: str) -> Attention:
    attn = model.get_submodule(path)
    assert isinstance(attn, Attention)
    return attn
