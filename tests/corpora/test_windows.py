"""Windows of a corpus: all of them, in order, from any position; skipped recordings are reported."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.corpora import Failure, Recording, Window, batched, windows_from

SIZE = 1600


def corpus(lengths: list[int]) -> list[Recording]:
    """Sounds that count up through the whole corpus; a length of 0 is a broken file."""
    samples, start = [], 0
    for k, length in enumerate(lengths):
        sound = (np.arange(start, start + length) / 1e5).astype(np.float32)
        samples.append(Recording(f"r{k}", sound if length else b"broken", path=f"r{k}.wav"))
        start += length
    return samples


def read(corpus: list[Recording], cursor: tuple[int, int] = (0, 0), **more) -> tuple[list[Window], list[Failure]]:
    failures: list[Failure] = []
    return list(windows_from(corpus, SIZE, cursor, failed=failures.append, **more)), failures


@given(st.lists(st.sampled_from([0, 400, 1599, 1600, 1601, 3200, 5000]), min_size=1, max_size=6))
def test_windows_hold_all_samples_once(lengths):
    windows, failures = read(corpus(lengths))
    whole = torch.cat([w.samples[: w.length] for w in windows] or [torch.empty(0)])
    torch.testing.assert_close(whole, torch.arange(sum(lengths)).float() / 1e5)
    assert all(len(w.samples) == SIZE and not w.samples[w.length :].any() for w in windows)
    assert [w.recording for w in windows if w.last] == [k for k, n in enumerate(lengths) if n]
    assert [f.index for f in failures] == [k for k, n in enumerate(lengths) if not n]


@given(
    st.lists(st.sampled_from([0, 400, 1600, 3300, 5000]), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(0, 20),
)
def test_stream_resumes_at_any_batch(lengths, size, stop):
    recordings = corpus(lengths)
    batches = list(batched(read(recordings)[0], size))
    stop = min(stop, len(batches))
    cursor = batches[stop - 1][-1].after if stop else (0, 0)
    remaining = list(batched(read(recordings, cursor)[0], size))
    assert [[(w.recording, w.number, w.last, w.length) for w in batch] for batch in remaining] == [
        [(w.recording, w.number, w.last, w.length) for w in batch] for batch in batches[stop:]
    ]


def test_refused_recordings_are_reported_with_the_reason():
    recordings = corpus([400, 3300, 0, 800])
    windows, failures = read(recordings, refuse=lambda item: "too long" if len(item.samples) > SIZE else "")
    assert [w.recording for w in windows] == [0, 3]
    assert [(f.index, f.id, f.path) for f in failures] == [(1, "r1", "r1.wav"), (2, "r2", "r2.wav")]
    assert failures[0].reason == "too long" and "not audio" in failures[1].reason


def test_batches_are_read_lazily():
    taken = 0

    def windows():
        nonlocal taken
        for w in read(corpus([1600] * 7))[0]:
            taken += 1
            yield w

    batches = batched(windows(), 3)
    assert taken == 0 and len(next(batches)) == 3 and taken == 3
    assert [len(batch) for batch in batches] == [3, 1]


def test_other_errors_are_raised():
    def bug():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        read([Recording("r", bug)])
