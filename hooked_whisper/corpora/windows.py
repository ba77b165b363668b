"""A corpus window by window, from any place in it: what every pass over recordings goes on from after a kill."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor

from hooked_whisper.corpora.loading import Failure, Loaded, Loader, windows_of
from hooked_whisper.corpora.records import Recording

T = TypeVar("T")
U = TypeVar("U")
Cursor = tuple[int, int]  # the recording and the window of it to read next


@dataclass(frozen=True, eq=False)
class Window:
    """A stretch of one recording as long as the model's window, of which ``length`` samples are sound.

    recording: place in the corpus. number: which window of the recording; last: there is none behind it.
    """

    recording: int
    number: int
    last: bool
    samples: Float[Tensor, "sample"]
    length: int

    @property
    def after(self) -> Cursor:
        """Where to go on once this window is done."""
        return (self.recording + 1, 0) if self.last else (self.recording, self.number + 1)


def windows_from(
    corpus: Sequence[Recording],
    n_samples: int,
    cursor: Cursor = (0, 0),
    *,
    failed: Callable[[Failure], None],
    refuse: Callable[[Loaded], str] | None = None,
) -> Generator[Window, None, None]:
    """All windows of ``n_samples`` from a cursor on, in the order of the corpus; recordings are decoded ahead.

    Args:
        failed: told of each recording that is passed over, when its turn comes.
        refuse: why a recording that could be read is passed over all the same; empty if it is not.
    """
    start, skip = cursor
    for item in Loader(corpus, start=start):
        if isinstance(item, Failure):
            failed(item)
            continue
        if refuse is not None and (reason := refuse(item)):
            failed(Failure(item.index, item.recording.id, item.recording.path, reason))
            continue
        cut = windows_of(item.samples, n_samples)
        for number in range(skip if item.index == start else 0, len(cut.samples)):
            last = number + 1 == len(cut.samples)
            yield Window(item.index, number, last, cut.samples[number], int(cut.lengths[number]))


def batched(windows: Iterable[Window], n: int) -> Iterator[list[Window]]:
    """``n`` windows at a time; the last batch may be smaller. No window is read before its batch is asked for."""
    stream = iter(windows)
    while batch := list(itertools.islice(stream, n)):
        yield batch


def prepared(batches: Iterable[T], work: Callable[[T], U]) -> Generator[tuple[T, U], None, None]:
    """Each batch with what ``work`` makes of it, which a thread does while the caller is busy with the batch before."""
    with ThreadPoolExecutor(1, thread_name_prefix="prepared") as pool:
        waiting: tuple[T, Future[U]] | None = None
        for batch in batches:
            ready = pool.submit(work, batch)
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = (batch, ready)
        if waiting is not None:
            yield waiting[0], waiting[1].result()


@dataclass(frozen=True)
class Part(Sequence[Recording]):
    """Some recordings of a corpus, by their places in it; nothing is copied."""

    corpus: Sequence[Recording]
    places: Sequence[int]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, at: int) -> Recording:  # type: ignore[override]
        return self.corpus[self.places[at]]
