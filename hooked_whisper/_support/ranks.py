"""Processes started by ``torchrun`` that share one job."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hooked_whisper.errors import HookedWhisperError

# How long one process waits for the others. A process that dies is noticed at once, a host that vanishes is not.
OF_STEPS = timedelta(minutes=10)  # training: all arrive at nearly the same time
OF_PASSES = timedelta(days=1)  # passes over a corpus: the first waits until the last has finished its share


@dataclass(frozen=True)
class TorchRanks:
    """The default group of ``torch.distributed``: process ``rank`` of ``n``."""

    rank: int
    n: int

    def sum(self, x: Tensor) -> Tensor:
        """Return the elementwise sum over all processes, the same on each."""
        x = x.clone()
        dist.all_reduce(x)
        return x

    def minimum(self, x: Tensor) -> Tensor:
        """Return the elementwise minimum over all processes."""
        x = x.clone()
        dist.all_reduce(x, dist.ReduceOp.MIN)
        return x

    def sum_gradients_(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum the gradients of all processes in place, in one message."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        for p, g in zip(parameters, flat.split([g.numel() for g in gradients]), strict=True):
            p.grad = g.view(p.shape)

    def wait(self) -> None:
        """Wait until all processes have called this."""
        dist.barrier()


def started_by_torchrun() -> bool:
    """Return whether ``torchrun`` started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def torchrun_ranks(device: torch.device, patience: timedelta = OF_PASSES) -> Iterator[TorchRanks | None]:
    """Yield the group of processes that ``torchrun`` started, or ``None`` for a single process.

    Messages use nccl between GPUs, else gloo. Passes over a corpus only wait for each other, so they use the CPU's
    group wherever the model runs.

    patience: longest wait for the other processes; after that, an error.
    """
    if not started_by_torchrun():
        yield None
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, n = next(dist.rendezvous("env://", timeout=patience))
    # after a restart by torchrun the store still holds the addresses of the previous processes
    store = dist.PrefixStore(agreed_name(store, rank, n, patience), store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=n, timeout=patience)
    try:
        yield TorchRanks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def agreed_name(store: dist.Store, rank: int, n: int, patience: timedelta) -> str:
    """Return a name that the ``n`` processes of this start agree on, and that no earlier start used in this store.

    Every process writes a fresh identifier and waits for the answer to that, so leftovers in the store do no harm.

    Raises:
        HookedWhisperError: not all processes have started in time.
    """
    identifier = uuid.uuid4().hex
    if rank:
        store.set(f"here/{rank}", identifier)
        name = store.get(f"name/{identifier}").decode()
        store.set(f"heard/{name}/{rank}", "")
        return name
    until, missing = time.monotonic() + patience.total_seconds(), set(range(1, n))
    while missing:
        for other in [*missing]:
            if store.check([f"heard/{identifier}/{other}"]):
                missing.remove(other)
            elif store.check([f"here/{other}"]):  # may be left by a dead process, which then reads no answer
                store.set(f"name/{store.get(f'here/{other}').decode()}", identifier)
        if time.monotonic() > until:
            raise HookedWhisperError(
                f"ranks {sorted(missing)} of {n} did not start in time: read their logs and start again"
            )
        time.sleep(0.01)
    return identifier
