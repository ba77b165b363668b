"""The demo model behind a page on a free port."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from hooked_whisper import HookedWhisper
from hooked_whisper.explorer import Shelf
from hooked_whisper.explorer.app import Explorer
from hooked_whisper.explorer.serve import serve


@dataclass(frozen=True)
class Served:
    explorer: Explorer
    address: str

    @property
    def base(self) -> str:
        return self.address.split("/?")[0]


@pytest.fixture(scope="session")
def demo() -> HookedWhisper:
    return HookedWhisper.from_pretrained("demo")


@pytest.fixture(scope="session")
def shelf(demo: HookedWhisper) -> Shelf:
    return Shelf(demo)


@pytest.fixture(scope="module")
def served(demo: HookedWhisper) -> Iterator[Served]:
    explorer = Explorer(demo, "demo", Shelf(demo))
    said: queue.Queue[str] = queue.Queue()
    server = threading.Thread(target=serve, args=(explorer,), kwargs={"announce": said.put})
    server.start()
    yield Served(explorer, said.get(timeout=30))
    explorer.stop()
    server.join(timeout=30)
    assert not server.is_alive()
