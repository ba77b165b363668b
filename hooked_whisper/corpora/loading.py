"""Decode the recordings of a corpus in threads, ahead of use; broken ones become :class:`Failure`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.audio_notices import warn_of_all, without_notices
from hooked_whisper._support.showing import Showing
from hooked_whisper.audio import SAMPLE_RATE, AudioNotice, collected_notices, to_windows
from hooked_whisper.corpora.records import Recording
from hooked_whisper.errors import AlignmentError, AudioError, MissingExtraError


@dataclass(frozen=True, eq=False, repr=False)
class Loaded(Showing):
    """A recording, its index in the corpus, its samples (16 kHz mono, of any length), and notices about the file."""

    index: int
    recording: Recording
    samples: Float[Tensor, "sample"]
    notices: tuple[AudioNotice, ...] = ()


@dataclass(frozen=True)
class Failure:
    """A recording that could not be read, and the reason."""

    index: int
    id: str
    path: str
    reason: str


@dataclass(frozen=True)
class Loader:
    """Iterate over the recordings of a corpus in order, decoded by threads while the caller computes.

    Iterating yields ``Loaded``, or :class:`Failure` if the file is missing or broken or needs a package that is
    not installed. Other errors and ``KeyboardInterrupt`` propagate. All threads end with the iteration, which then
    warns once about all files that are louder than full scale or have a wrong header. Each ``iter`` starts from the
    beginning.

    Attributes:
        start: index of the first recording, to resume a run.
        ahead: number of decoded recordings that may wait; it bounds the memory.
        threads: number of recordings decoded at a time.

    Raises:
        AudioError: ``start`` is outside the corpus, or ``ahead`` or ``threads`` is less than 1.
    """

    corpus: Sequence[Recording]
    start: int = 0
    ahead: int = 4
    threads: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.start <= len(self.corpus):
            raise AudioError(f"start must be 0 to {len(self.corpus)}, the number of recordings, not {self.start}")
        if self.ahead < 1 or self.threads < 1:
            raise AudioError(f"ahead and threads must be at least 1, got {self.ahead} and {self.threads}")

    def __len__(self) -> int:
        return len(self.corpus) - self.start

    def __iter__(self) -> Iterator[Loaded | Failure]:
        waiting: deque[Future[Loaded | Failure]] = deque()
        notices: list[AudioNotice] = []
        todo = iter(range(self.start, len(self.corpus)))
        pool = ThreadPoolExecutor(min(self.threads, self.ahead), thread_name_prefix="loader")

        def fill() -> None:
            while len(waiting) < self.ahead and (index := next(todo, None)) is not None:
                waiting.append(pool.submit(_load, self.corpus, index))

        try:
            fill()
            while waiting:
                item = waiting.popleft().result()
                fill()  # before the yield, so that the threads work while the caller computes
                notices += item.notices if isinstance(item, Loaded) else ()
                yield item
                del item
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            warn_of_all(notices)


def _load(corpus: Sequence[Recording], index: int) -> Loaded | Failure:
    recording = corpus[index]
    try:
        with collected_notices() as notices:
            samples = recording.audio()
        return Loaded(index, recording, samples, tuple(notices))
    except (AudioError, AlignmentError, MissingExtraError, OSError) as error:
        return Failure(index, recording.id, recording.path, str(error) or type(error).__name__)


class Windows(NamedTuple):
    """Audio cut into windows of one length; each has ``lengths`` samples of audio, then zeros."""

    samples: Float[Tensor, "window sample"]
    lengths: Int[Tensor, "window"]


def windows_of(samples: Float[Tensor, "_"], n_samples: int) -> Windows:
    """Cut 16 kHz audio into consecutive windows of ``n_samples``, such as ``model.time.n_samples``.

    Raises:
        AudioError: the audio or the windows are shorter than 25 ms, or the audio has NaN.
    """
    with without_notices():
        windows = to_windows(samples, n_samples / SAMPLE_RATE)
    lengths = torch.full((len(windows),), n_samples)
    lengths[-1] -= windows.numel() - len(samples)
    return Windows(windows, lengths)
