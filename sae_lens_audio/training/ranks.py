"""Processes started by ``torchrun`` that train one dictionary together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class TorchRanks:
    """The default group of ``torch.distributed``; fits :class:`~sae_lens_audio.sparse.Ranks`."""

    rank: int
    n: int

    def sum(self, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    def minimum(self, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x, dist.ReduceOp.MIN)
        return x

    def sum_gradients_(self, parameters: Sequence[nn.Parameter]) -> None:
        """One message for all of them."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        for p, g in zip(parameters, flat.split([g.numel() for g in gradients]), strict=True):
            p.grad = g.view(p.shape)

    def wait(self) -> None:
        dist.barrier()


@contextmanager
def torchrun_ranks(device: torch.device) -> Iterator[TorchRanks | None]:
    """The group that ``torchrun`` says this process is one of; ``None`` where it was started alone.

    Messages go by nccl between GPUs, by gloo otherwise.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield None
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield TorchRanks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
