"""The loader: order, failures, bounded reading ahead, resuming, and threads that end; windows."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper.corpora import Failure, Loaded, Loader, Recording, audio_folder, windows_of
from hooked_whisper.errors import AudioError, MissingExtraError
from tests.corpora.sounds import write_noise


def loaders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def sound(k: int, delay: float = 0.0, error: BaseException | None = None) -> Recording:
    def source() -> np.ndarray:
        time.sleep(delay)
        if error is not None:
            raise error
        return np.full(400, k / 1000, np.float32)

    return Recording(str(k), source, path=f"{k}.wav")


ERRORS = [None, AudioError("broken"), OSError("disk"), MissingExtraError("pip")]


@settings(max_examples=20)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.001, 0.004]), st.sampled_from(ERRORS)), max_size=15),
    st.integers(1, 5),
    st.integers(1, 4),
    st.data(),
)
def test_order_is_the_corpus_order(
    plan: list[tuple[float, Exception | None]], ahead: int, threads: int, data: st.DataObject
) -> None:
    corpus = [sound(k, delay, error) for k, (delay, error) in enumerate(plan)]
    start = data.draw(st.integers(0, len(corpus)))
    loader = Loader(corpus, start, ahead, threads)
    items = list(loader)
    assert [item.index for item in items] == list(range(start, len(corpus))) and len(items) == len(loader)
    for item in items:
        error = plan[item.index][1]
        if error is None:
            assert isinstance(item, Loaded) and item.recording is corpus[item.index]
            assert torch.equal(item.samples, torch.full((400,), item.index / 1000))
        else:
            assert item == Failure(item.index, str(item.index), f"{item.index}.wav", str(error))
    assert not loaders()


def test_prefetching_is_bounded() -> None:
    decoded: list[int] = []

    def source(k: int) -> np.ndarray:
        decoded.append(k)
        return np.zeros(400, np.float32)

    corpus = [Recording(str(k), lambda k=k: source(k)) for k in range(30)]
    for used, _ in enumerate(Loader(corpus, ahead=3, threads=2), 1):
        time.sleep(0.005)
        assert len(decoded) <= used + 3
    assert sorted(decoded) == list(range(30))


def test_decoding_continues_in_the_background() -> None:
    decoded = [threading.Event() for _ in range(8)]

    def source(k: int) -> np.ndarray:
        decoded[k].set()
        return np.zeros(400, np.float32)

    corpus = [Recording(str(k), lambda k=k: source(k)) for k in range(8)]
    for item in Loader(corpus, ahead=2, threads=1):
        assert all(event.wait(10) for event in decoded[item.index + 1 : item.index + 3])


def test_an_early_end_leaves_no_thread() -> None:
    corpus = [sound(k, delay=0.005) for k in range(50)]
    for item in Loader(corpus, ahead=8, threads=4):
        if item.index == 3:
            break
    del item
    assert not loaders()
    with pytest.raises(RuntimeError, match="mine"):
        for _ in Loader(corpus):
            raise RuntimeError("mine")
    assert not loaders()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError("a bug"), MemoryError()])
def test_interrupts_and_bugs_propagate(error: BaseException) -> None:
    corpus = [sound(0), sound(1, error=error), sound(2)]
    seen = []
    with pytest.raises(type(error)):
        for item in Loader(corpus):
            seen.append(item.index)
    assert seen == [0] and not loaders()


def test_ctrl_c_while_waiting_ends_at_once_and_cleanly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first recording is released only once the caller, who waits for it, was interrupted: no clock decides.

    A signal that arrives just before a thread blocks is noticed when it wakes, so it is sent until it is noticed.
    """
    waiting, pressed, released = threading.Event(), threading.Event(), threading.Event()
    result_of = Future.result

    def source() -> np.ndarray:
        assert released.wait(60)
        return np.zeros(400, np.float32)

    def result(future: Future[object], timeout: float | None = None) -> object:
        try:
            waiting.set()
            return result_of(future, timeout)
        finally:
            released.set()

    def handler(number: int, frame: object) -> None:
        if not pressed.is_set():
            pressed.set()
            raise KeyboardInterrupt

    def press() -> None:
        assert waiting.wait(60)
        while not pressed.wait(0.01):
            signal.pthread_kill(main, signal.SIGINT)

    main = threading.main_thread().ident
    assert main is not None and threading.current_thread() is threading.main_thread()
    monkeypatch.setattr(Future, "result", result)
    usual = signal.signal(signal.SIGINT, handler)
    presser = threading.Thread(target=press)
    presser.start()
    decoded = []
    try:
        with pytest.raises(KeyboardInterrupt):
            for item in Loader([Recording("a", source)] * 20, ahead=20, threads=1):
                decoded.append(item)
        presser.join()
    finally:
        signal.signal(signal.SIGINT, usual)
    assert not decoded and not loaders()


def test_broken_files_are_skipped_with_a_warning(tmp_path: Path) -> None:
    for k in range(5):
        write_noise(tmp_path / f"{k}.flac", seed=k)
    (tmp_path / "1.flac").write_bytes((tmp_path / "1.flac").read_bytes()[:900])
    (tmp_path / "2.flac").write_bytes(b"")
    (tmp_path / "3.flac").write_text("this is no audio")
    (tmp_path / "5.m4a").write_bytes(b"\0\0\0\x18ftypM4A ")
    corpus = audio_folder(tmp_path)
    (tmp_path / "4.flac").unlink()
    items = list(Loader(corpus))
    assert isinstance(items[0], Loaded) and all(isinstance(item, Failure) for item in items[1:])
    for item, word in zip(items[1:], ["truncated", "empty", "known format", "not exist", "m4a"], strict=True):
        assert isinstance(item, Failure) and word in item.reason and item.path == str(corpus[item.index].path)


def test_invalid_requests_are_refused() -> None:
    for settings_ in ({"start": 3}, {"start": -1}, {"ahead": 0}, {"threads": 0}):
        with pytest.raises(AudioError):
            Loader([sound(0), sound(1)], **settings_)
    assert list(Loader([])) == [] == list(Loader([sound(0)], start=1))


@given(st.integers(400, 5000), st.integers(400, 1500))
def test_windows_hold_all_of_the_sound_and_zeros(n: int, size: int) -> None:
    samples = torch.linspace(0.1, 1, n)
    windows, lengths = windows_of(samples, size)
    assert windows.shape == (-(-n // size), size) and lengths.sum() == n
    assert lengths.min() >= 1 and (lengths[:-1] == size).all()
    assert torch.equal(windows.flatten()[:n], samples) and not windows.flatten()[n:].any()
