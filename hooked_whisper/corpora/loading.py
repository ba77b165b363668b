"""Going through a corpus: recordings decoded ahead of their use, broken ones reported and passed over."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.audio import SAMPLE_RATE, to_windows
from hooked_whisper.corpora.records import Recording
from hooked_whisper.errors import AlignmentError, AudioError, MissingExtraError


@dataclass(frozen=True, eq=False)
class Loaded:
    """A recording of the corpus and its sound: 16 kHz mono, of any length."""

    index: int
    recording: Recording
    samples: Float[Tensor, "sample"]


@dataclass(frozen=True)
class Failure:
    """A recording that could not be read, and why, in a sentence."""

    index: int
    id: str
    path: str
    reason: str


@dataclass(frozen=True)
class Loader:
    """The recordings of a corpus in its order, decoded by threads while the caller computes.

    Attributes:
        start: first recording, for a run that goes on.
        ahead: decoded recordings that may wait. With the one in the caller's hands this bounds the memory.
        threads: how many are decoded at a time.

    Iterating gives :class:`Loaded`, or :class:`Failure` where the file is missing, broken or needs a package that is
    not there; other errors, and ``KeyboardInterrupt``, end the iteration and are the caller's. However it ends, no
    thread is left behind. Every ``iter`` starts again.

    Raises:
        AudioError: a start outside the corpus, or no threads.
    """

    corpus: Sequence[Recording]
    start: int = 0
    ahead: int = 4
    threads: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.start <= len(self.corpus):
            raise AudioError(f"the corpus has {len(self.corpus)} recordings: start is 0 to that, not {self.start}")
        if self.ahead < 1 or self.threads < 1:
            raise AudioError(f"ahead and threads are at least 1, got {self.ahead} and {self.threads}")

    def __len__(self) -> int:
        return len(self.corpus) - self.start

    def __iter__(self) -> Iterator[Loaded | Failure]:
        waiting: deque[Future[Loaded | Failure]] = deque()
        todo = iter(range(self.start, len(self.corpus)))
        pool = ThreadPoolExecutor(min(self.threads, self.ahead), thread_name_prefix="loader")

        def fill() -> None:
            while len(waiting) < self.ahead and (index := next(todo, None)) is not None:
                waiting.append(pool.submit(_load, self.corpus, index))

        try:
            fill()
            while waiting:
                found = waiting.popleft().result()
                fill()  # before the caller computes, so that threads work meanwhile
                yield found
                del found
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _load(corpus: Sequence[Recording], index: int) -> Loaded | Failure:
    recording = corpus[index]
    try:
        return Loaded(index, recording, recording.audio())
    except (AudioError, AlignmentError, MissingExtraError, OSError) as error:
        return Failure(index, recording.id, recording.path, str(error) or type(error).__name__)


class Windows(NamedTuple):
    """Audio cut into pieces of one length, and how many samples of each are sound; the rest is zeros."""

    samples: Float[Tensor, "window sample"]
    lengths: Int[Tensor, "window"]


def windows_of(samples: Float[Tensor, "_"], n_samples: int) -> Windows:
    """A recording (16 kHz) in windows of ``n_samples`` one after the other, such as ``model.time.n_samples``.

    Raises:
        AudioError: less than 25 ms of sound, NaN, or windows shorter than that.
    """
    windows = to_windows(samples, n_samples / SAMPLE_RATE)
    lengths = torch.full((len(windows),), n_samples)
    lengths[-1] -= windows.numel() - len(samples)
    return Windows(windows, lengths)
