"""Laws of packing clips into windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.corpora import Clip
from hooked_whisper.corpora.packing import join_samples, window_groups
from hooked_whisper.protocols import Alignment


def clip(n_samples: int, speaker: str = "a") -> Clip:
    samples = np.full(n_samples, 0.5, np.float32)
    return Clip.aligned(samples, Alignment("u", speaker, "", n_samples / 16_000, (), ()))


clips_of_speakers = st.lists(st.tuples(st.integers(1, 30_000), st.sampled_from("abc")), min_size=1, max_size=12)


@given(clips_of_speakers, st.floats(0.1, 4))
def test_every_clip_is_in_one_group_of_its_speaker_that_fits(lengths, room):
    clips = [clip(n, speaker) for n, speaker in lengths]
    groups = window_groups(clips, room, gap=0.1)
    assert sorted(i for group in groups for i in group) == list(range(len(clips)))
    for group in groups:
        assert group == sorted(group)
        assert len({clips[i].speaker for i in group}) == 1
        seconds = sum(clips[i].duration for i in group) + 0.1 * (len(group) - 1)
        assert len(group) == 1 or seconds <= room + 1e-9


def test_groups_are_as_full_as_the_order_allows():
    clips = [clip(16_000), clip(16_000), clip(16_000), clip(16_000, "b"), clip(16_000)]
    assert window_groups(clips, room=2.2, gap=0.2) == [[0, 1], [2, 4], [3]]


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=6), st.sampled_from([1, 160, 320]))
def test_joined_clips_start_at_multiples_and_keep_their_samples(lengths, multiple):
    clips = [clip(n) for n in lengths]
    samples, starts = join_samples(clips, gap=0.05, multiple=multiple)
    assert all(start % multiple == 0 for start in starts)
    for start, before, n in zip(starts[1:], starts, lengths, strict=False):
        assert start - before - n >= 800  # the gap, at least
    for start, n in zip(starts, lengths, strict=True):
        assert (samples[start : start + n] == 0.5).all()
    assert samples.sum() == pytest.approx(0.5 * sum(lengths))
