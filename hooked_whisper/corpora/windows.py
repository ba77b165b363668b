"""Read a corpus window by window from any position, so that an interrupted run can resume."""

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
Cursor = tuple[int, int]  # index of the next recording, and of the next window in it


@dataclass(frozen=True, eq=False)
class Window:
    """Part of a recording, padded to the model's window; its first ``length`` samples are audio.

    recording: index in the corpus. number: index of the window in the recording. last: whether it is the last one.
    """

    recording: int
    number: int
    last: bool
    samples: Float[Tensor, "sample"]
    length: int

    @property
    def after(self) -> Cursor:
        """The cursor of the next window."""
        return (self.recording + 1, 0) if self.last else (self.recording, self.number + 1)


def windows_from(
    corpus: Sequence[Recording],
    n_samples: int,
    cursor: Cursor = (0, 0),
    *,
    failed: Callable[[Failure], None],
    refuse: Callable[[Loaded], str] | None = None,
) -> Generator[Window, None, None]:
    """Yield windows of ``n_samples``, in order, starting at a cursor; recordings are decoded ahead.

    Args:
        failed: called with each skipped recording, in order.
        refuse: returns why a readable recording must be skipped, or ``""`` to read it.
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
    """Yield lists of ``n`` windows (the last may be shorter), reading windows when their batch is requested."""
    stream = iter(windows)
    while batch := list(itertools.islice(stream, n)):
        yield batch


def prepared(batches: Iterable[T], work: Callable[[T], U]) -> Generator[tuple[T, U], None, None]:
    """Yield each batch with ``work(batch)``, which a thread computes while the caller uses the previous batch."""
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
    """Recordings of a corpus, selected by index, without a copy."""

    corpus: Sequence[Recording]
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Recording:  # type: ignore[override]
        return self.corpus[self.indices[index]]
