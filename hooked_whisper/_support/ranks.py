"""Processes started by ``torchrun`` that do one job together."""

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

# How long one process waits for the others; one that dies is noticed at once, a host that vanishes is not.
OF_STEPS = timedelta(minutes=10)  # training: all come at nearly the same time
OF_PASSES = timedelta(days=1)  # passes over a corpus: the first waits until the last has done its share


@dataclass(frozen=True)
class TorchRanks:
    """The default group of ``torch.distributed``: process ``rank`` of ``n``."""

    rank: int
    n: int

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all processes, element by element, the same on each."""
        x = x.clone()
        dist.all_reduce(x)
        return x

    def minimum(self, x: Tensor) -> Tensor:
        """The smallest of all processes, element by element."""
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
        """Until all processes have come here."""
        dist.barrier()


def started_by_torchrun() -> bool:
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def torchrun_ranks(device: torch.device, patience: timedelta = OF_PASSES) -> Iterator[TorchRanks | None]:
    """The group that ``torchrun`` says this process is one of; ``None`` where it was started alone.

    Messages go by nccl between GPUs, by gloo otherwise. Passes over a corpus only wait for each other: they take the
    CPU's group whatever the model runs on. ``patience``: after so long without the others, waiting is an error.
    """
    if not started_by_torchrun():
        yield None
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, n = next(dist.rendezvous("env://", timeout=patience))
    # a restart by torchrun finds the addresses of the processes before it in the store, and may take them for its own
    store = dist.PrefixStore(agreed_name(store, rank, n, patience), store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=n, timeout=patience)
    try:
        yield TorchRanks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def agreed_name(store: dist.Store, rank: int, n: int, patience: timedelta) -> str:
    """A word that the ``n`` processes of this start have in common, and no earlier ones with the same store had.

    Whatever was left in the store: everybody says a word of its own, and listens only for the answer to that.

    Raises:
        HookedWhisperError: not all have come in time.
    """
    own = uuid.uuid4().hex
    if rank:
        store.set(f"here/{rank}", own)
        name = store.get(f"name/{own}").decode()
        store.set(f"heard/{name}/{rank}", "")
        return name
    until, missing = time.monotonic() + patience.total_seconds(), set(range(1, n))
    while missing:
        for one in [*missing]:
            if store.check([f"heard/{own}/{one}"]):
                missing.remove(one)
            elif store.check([f"here/{one}"]):  # perhaps of a dead one: then nobody listens to the answer
                store.set(f"name/{store.get(f'here/{one}').decode()}", own)
        if time.monotonic() > until:
            raise HookedWhisperError(
                f"ranks {sorted(missing)} of {n} have not come: look at what they say, start again"
            )
        time.sleep(0.01)
    return own
