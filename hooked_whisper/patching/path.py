"""Path patching: the part of a head's effect that goes directly into one later component.

All heads and MLPs between the two keep their values of the base run, so the sender reaches the receiver only through
the residual stream: ``receiver input + (z_source - z_base) W_O``. The receiver and everything after it are then
computed as usual (:mod:`hooked_whisper.patching.resume`).

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

from hooked_whisper._support.heads import read_heads
from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.model import Attention
from hooked_whisper.model.block import Block
from hooked_whisper.patching.grid import GridAxis
from hooked_whisper.patching.metrics import Metric, read_metric
from hooked_whisper.patching.results import DIRECTIONS, Direction, PatchResult
from hooked_whisper.patching.resume import n_layers, required_activations, resume_from
from hooked_whisper.patching.runs import CleanCorruptPair, PatchedMetric, RunInputs, cache_run
from hooked_whisper.protocols import HeadLike, HeadRef, ResidualStack

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

ReceiverInput = Literal["q", "k", "v", "cross_q", "cross_k", "cross_v", "mlp", "output"]


@dataclass(frozen=True)
class Receiver:
    """Where a path ends: query, key or value of a head (``head=None``: of all heads), an MLP, or the final residual.

    ``cross_k`` and ``cross_v`` read the encoder output, so only encoder heads can send to them.
    """

    stack: ResidualStack
    input: ReceiverInput
    block: int = 0
    head: int | None = None

    def __post_init__(self) -> None:
        check_option("stack", self.stack, ("encoder", "decoder"), PatchError)
        check_option("input", self.input, get_args(ReceiverInput), PatchError)

    @classmethod
    def of(cls, head: HeadLike, input: Literal["q", "k", "v"]) -> Receiver:
        """Make the receiver of one head's query, key or value: ``Receiver.of("cross 2.1", "q")``."""
        ref = HeadRef.parse(head, error=PatchError)
        if ref.stack == "cross":
            return cls("decoder", f"cross_{input}", ref.block, ref.head)  # type: ignore[arg-type]
        return cls(ref.stack, input, ref.block, ref.head)

    def __str__(self) -> str:
        if self.input == "output":
            return f"{self.stack} output"
        letter = "X" if self.input.startswith("cross_") else self.stack[0].upper()
        head = "" if self.head is None else f".{self.head}"
        return f"{letter}{self.block}{head} {self.input.removeprefix('cross_')}"


def path_patch(
    model: HookedWhisper,
    senders: Sequence[HeadLike],
    receiver: Receiver,
    base: RunInputs,
    source: RunInputs,
    metric: Metric,
    rows: int = 8,
) -> PatchedMetric:
    """Return the metric of the base run with the path from each sender to the receiver taken from the source run.

    senders: ``"encoder 0.1"``, ``"cross 2.3"``, ... (:meth:`HeadRef.parse`), one row each.
    rows: senders per batch.

    Raises:
        PatchError: a head does not exist, or does not come before the receiver.
    """
    heads = read_heads(senders, model.cfg, error=PatchError)
    for head in heads:
        _check(head, receiver)
    names = list(dict.fromkeys(f"{head.attn}.hook_z" for head in heads))
    point, residual = _points(model, receiver)
    with torch.no_grad():
        source_cache = cache_run(model, source, names)
        base_cache = cache_run(model, base, [*names, residual, point, *required_activations(model, point)])
        deltas = torch.cat([_delta(model, head, base_cache, source_cache) for head in heads])
        values = [
            _receive(model, receiver, base_cache, deltas[start : start + rows], base, metric)
            for start in range(0, len(heads), rows)
        ]
        ends = [float(read_metric(model, cache["unembed.hook_in"], metric)) for cache in (base_cache, source_cache)]
    return PatchedMetric(torch.cat(values).cpu(), *ends)


def path_patch_pairs(
    model: HookedWhisper,
    pairs: Sequence[CleanCorruptPair],
    senders: Sequence[HeadLike],
    receivers: Sequence[Receiver],
    *,
    direction: Direction = "denoise",
) -> PatchResult:
    """Patch every path from a sender to a receiver, in every pair. The result's axes are receivers and senders.

    Raises:
        PatchError: there are no pairs, senders or receivers, or a path does not exist.
    """
    check_option("direction", direction, DIRECTIONS, PatchError)
    if not (pairs and senders and receivers):
        raise PatchError("path patching needs at least one pair, one sender and one receiver")
    heads = read_heads(senders, model.cfg, error=PatchError)
    values, ends = [], []
    for pair in pairs:
        runs = pair.runs(direction)
        metrics = [path_patch(model, heads, receiver, *runs, pair.metric) for receiver in receivers]
        values.append(np.stack([metric.values.numpy() for metric in metrics]))
        ends.append((metrics[0].base, metrics[0].source))
    return PatchResult(
        axes=(
            GridAxis("receiver", tuple(map(str, receivers))),
            GridAxis("sender", tuple(head.label for head in heads)),
        ),
        values=np.stack(values),
        base=np.array([base for base, _ in ends]),
        source=np.array([source for _, source in ends]),
        unit=pairs[0].metric.unit,
        direction=direction,
        site="paths",
        pairs=tuple(pair.label or str(i) for i, pair in enumerate(pairs)),
    )


def _check(sender: HeadRef, receiver: Receiver) -> None:
    """Refuse a receiver that does not exist or does not read what the sender writes."""
    sender_stack = "encoder" if sender.stack == "encoder" else "decoder"
    if receiver.input in ("cross_k", "cross_v"):
        comes_before = sender_stack == "encoder" and receiver.stack == "decoder"
    elif sender_stack != receiver.stack:
        comes_before = False
    elif receiver.input == "output":
        comes_before = True
    elif receiver.input in ("q", "k", "v"):
        comes_before = sender.block < receiver.block
    elif receiver.input == "cross_q":
        comes_before = sender.block < receiver.block or (sender.block == receiver.block and sender.stack != "cross")
    else:
        comes_before = sender.block <= receiver.block
    if not comes_before:
        raise PatchError(f"no direct path runs from {sender} to {receiver}: the sender must come before the receiver")
    if receiver.stack == "encoder" and receiver.input.startswith("cross"):
        raise PatchError("the encoder has no cross-attention: give a receiver of the decoder")


def _points(model: HookedWhisper, receiver: Receiver) -> tuple[str, str]:
    """Return the hook point that the path changes, and the residual stream it is computed from."""
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
    model: HookedWhisper, sender: HeadRef, base: Mapping[str, Tensor], source: Mapping[str, Tensor]
) -> Float[Tensor, "1 pos d_model"]:
    """Return the sender's output in the source run minus that in the base run."""
    name = f"{sender.attn}.hook_z"
    attn = _attention(model, sender.attn)
    weight = attn.out.weight.unflatten(1, (attn.n_heads, -1))[:, sender.head]
    z = source[name][:, :, sender.head] - base[name][:, :, sender.head]
    return einsum(z, weight.to(z.dtype), "b p e, d e -> b p d")


def _receive(
    model: HookedWhisper,
    receiver: Receiver,
    base_cache: Mapping[str, Tensor],
    deltas: Float[Tensor, "row pos d_model"],
    base: RunInputs,
    metric: Metric,
) -> Float[Tensor, "row"]:
    """Run the receiver and what follows it, one row per sender."""
    point, residual = _points(model, receiver)
    value = base_cache[residual] + deltas
    if point.endswith(("hook_q", "hook_k", "hook_v")):
        value = _project(model, receiver, point, value, base_cache[point])
    hidden = resume_from(model, base_cache, {point: value}, base.tokens, base.mel, base_cache["encoder.hook_out"])
    return read_metric(model, hidden, metric).double()


def _project(
    model: HookedWhisper,
    receiver: Receiver,
    point: str,
    resid: Float[Tensor, "row pos d_model"],
    unpatched: Float[Tensor, "1 pos head d_head"],
) -> Float[Tensor, "row pos head d_head"]:
    """Compute queries, keys or values from a patched residual stream; all other heads stay ``unpatched``."""
    attn = _attention(model, point.rsplit(".", 1)[0])
    block = model.get_submodule(f"{receiver.stack}.blocks.{receiver.block}")
    assert isinstance(block, Block)
    cross = receiver.input.startswith("cross_")
    if point.endswith("hook_q"):
        linear, norm = attn.query, block.ln_cross if cross else block.ln1
    else:
        linear = attn.key if point.endswith("hook_k") else attn.value
        norm = model.encoder.ln_post if cross else block.ln1
    projected = linear(norm(resid)).unflatten(-1, (attn.n_heads, -1))
    if receiver.head is None:
        return projected
    of_receiver = torch.arange(attn.n_heads, device=projected.device) == receiver.head
    return torch.where(of_receiver[:, None], projected, unpatched)


def _attention(model: HookedWhisper, path: str) -> Attention:
    attn = model.get_submodule(path)
    assert isinstance(attn, Attention)
    return attn
