"""How processes that ``torchrun`` starts find each other, after a restart too."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from hooked_whisper._support.ranks import agreed_name
from hooked_whisper.errors import HookedWhisperError

SOON = timedelta(seconds=10)


def test_each_start_gets_a_unique_name() -> None:
    """Three starts with one store; of the second, one process died before the others came."""
    store, names = dist.HashStore(), []
    with ThreadPoolExecutor(3) as pool:
        for start in range(3):
            if start == 1:
                store.set("here/1", "a dead one's word")
            futures = [pool.submit(agreed_name, store, rank, 3, SOON) for rank in (1, 0, 2)]
            of_all = {future.result() for future in futures}
            assert len(of_all) == 1
            names += of_all
    assert len(set(names)) == 3


def test_first_rank_waits_for_the_slowest() -> None:
    store, names = dist.HashStore(), []
    first = threading.Thread(target=lambda: names.append(agreed_name(store, 0, 2, SOON)))
    first.start()
    time.sleep(0.2)
    assert not names
    assert agreed_name(store, 1, 2, SOON)
    first.join(5)
    assert names


def test_missing_rank_is_an_error() -> None:
    with pytest.raises(HookedWhisperError, match=r"ranks \[1\] of 2"):
        agreed_name(dist.HashStore(), 0, 2, timedelta(seconds=0.1))
