"""Samples have the smallest priorities of every range, without repetition; positions are equally likely."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import chisquare

from hooked_whisper.features.histogram_bins import HistogramBins
from hooked_whisper.features.scan.priority import NEVER, priorities
from hooked_whisper.features.scan.sampling import Drawn, Sampler
from hooked_whisper.features.scan.state import WindowFeatures
from tests.features.scan.streams import items, stream

BINS = HistogramBins(2, -14, 10)


def run(windows: list[WindowFeatures], rows: int, per_bin: int, crowded: int = 12, look_every: int = 1) -> Sampler:
    """Add windows as a scan does, updating the levels from time to time."""
    sampler = Sampler(windows[0].x.shape[1], rows, per_bin, BINS, crowded=crowded)
    for number, window in enumerate(windows):
        sampler.add(window)
        if number % look_every == 0:
            sampler.update_levels(counts(windows[: number + 1]))
    return sampler


def counts(windows: list[WindowFeatures]) -> torch.Tensor:
    """Positions in each positive bin, ``[feature, bin]``."""
    x = torch.cat([window.x for window in windows])
    return torch.stack([torch.bincount(BINS.positive(c), minlength=BINS.per_sign + 1)[1:] for c in x.T])


def of_one_range(drawn: Drawn) -> Drawn:
    return Drawn(*(window[:, 0] for window in drawn))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(1, 30), st.integers(0, 99))
def test_rows_have_the_smallest_priorities(sizes: list[int], n: int, seed: int) -> None:
    windows = stream(sizes, 2, seed)
    rows = run(windows, n, 2).rows
    everything = sorted(items(windows, 0), key=lambda i: i.priority)[:n]
    order = rows.priority.argsort()[: len(everything)]
    assert rows.priority[order].tolist() == [i.priority for i in everything]
    assert rows.recordings[order].tolist() == [i.recording for i in everything]
    assert rows.positions[order].tolist() == [i.position for i in everything]
    assert rows.values[order, 0].tolist() == [i.value for i in everything]
    assert (rows.reach == NEVER) == (len(everything) < n)


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=25),
    st.integers(1, 60),
    st.integers(1, 6),
    st.integers(0, 999),
    st.booleans(),
)
@example(sizes=[2, 6], n_rows=2, per_bin=1, seed=0, single=False)  # the first window fills the rows without overflow
def test_a_sample_has_the_smallest_priorities_of_its_range(
    sizes: list[int], n_rows: int, per_bin: int, seed: int, single: bool
) -> None:
    windows = stream(sizes, 2, seed)
    sampler = run(windows, n_rows, per_bin)
    fine = HistogramBins(4, -14, 10).edges[HistogramBins(4, -14, 10).per_sign + 1 :]
    generator = np.random.default_rng(seed)
    ends = np.sort(generator.integers(180, 290, size=(2, 2)), axis=0)
    low, high = fine[ends[0]], fine[ends[1]]
    drawn = of_one_range(sampler.draw(counts(windows), torch.stack([low, high], 1), 5, one_per_recording=single))
    for feature in range(2):
        inside = [i for i in items(windows, feature) if low[feature] <= i.value < high[feature]]
        inside.sort(key=lambda i: i.priority)
        if single:
            first: dict[int, object] = {}
            inside = [i for i in inside if first.setdefault(i.recording, i) is i]
        there = drawn.recordings[feature] >= 0
        n = int(there.sum())
        assert there[:n].all()
        assert drawn.recordings[feature, :n].tolist() == [i.recording for i in inside[:n]]
        assert drawn.positions[feature, :n].tolist() == [i.position for i in inside[:n]]
        assert drawn.values[feature, :n].tolist() == [i.value for i in inside[:n]]
        # a rare range is complete: its bins never filled up
        if not single and len(inside) <= 5 and sampler.rows.reach == NEVER:
            assert n == len(inside)


def test_rare_ranges_are_complete_and_common_ones_full() -> None:
    windows = stream([500] * 20, 1, 5)
    sampler = run(windows, 200, 8)
    x = torch.cat([s.x for s in windows])[:, 0]
    assert int(sampler.tail.level[0]) > 40  # common values are covered by the rows
    for low, least in ((0.5, 20), (4.0, 8), (float(x.sort().values[-5]), 5)):
        edges = torch.tensor([[low, 1000.0]], dtype=torch.float64)
        sample = sampler.draw(counts(windows), edges, 20, one_per_recording=False)
        assert (sample.recordings >= 0).sum() >= least


@pytest.mark.parametrize("low", [0.4, 4.0])
def test_every_position_is_equally_likely(low: float) -> None:
    x = stream([60] * 5, 1, 3)
    inside = [(i.recording, i.position) for i in items(x, 0) if i.value >= low]
    hits = dict.fromkeys(inside, 0)
    edges = torch.tensor([[low, 1e6]], dtype=torch.float64)
    for seed in range(120):
        drawn = [WindowFeatures(s.x, s.recording, 0, priorities(f"r{s.recording}", range(60), seed)) for s in x]
        sample = of_one_range(run(drawn, 50, 4).draw(counts(drawn), edges, 3, one_per_recording=False))
        there = sample.recordings[0] >= 0
        for place in zip(sample.recordings[0][there].tolist(), sample.positions[0][there].tolist(), strict=True):
            hits[place] += 1
    assert chisquare(list(hits.values())).pvalue > 1e-3


def test_priorities_are_the_same_everywhere_and_look_random() -> None:
    numbers = priorities("a.wav", range(5), 0)
    assert numbers.tolist() == priorities("a.wav", range(10), 0)[:5].tolist()
    assert priorities("a.wav", range(3, 8), 0)[:2].tolist() == numbers[3:].tolist()
    assert numbers.tolist() != priorities("b.wav", range(5), 0).tolist() != priorities("b.wav", range(5), 1).tolist()
    many = torch.cat([priorities(f"{i}", range(500), 0) for i in range(40)])
    assert len(many.unique()) == len(many) and many.min() >= 0
    assert chisquare(torch.histc(many.double() / 2**63, 20, 0, 1).numpy()).pvalue > 1e-3
    assert abs(np.corrcoef(many[:-1], many[1:])[0, 1]) < 0.03


@given(
    st.lists(st.integers(1, 60), min_size=2, max_size=25),
    st.integers(1, 60),
    st.integers(1, 6),
    st.integers(0, 999),
    st.integers(1, 5),
    st.data(),
)
def test_merged_parts_equal_one_pass(
    sizes: list[int], n_rows: int, per_bin: int, seed: int, n_parts: int, data: st.DataObject
) -> None:
    """Equal bits for any division of recordings, any order, and any number of updates."""
    windows = stream(sizes, 2, seed)
    whole = run(windows, n_rows, per_bin)
    owner = data.draw(st.lists(st.integers(0, n_parts - 1), min_size=len(sizes), max_size=len(sizes)))
    parts = []
    for number in sorted(set(owner)):
        mine = [window for window, who in zip(windows, owner, strict=True) if who == number]
        mine = data.draw(st.permutations(mine))
        parts.append(run(mine, n_rows, per_bin, look_every=data.draw(st.integers(1, 4))))
    merged = parts[0]
    for window in data.draw(st.permutations(parts[1:])):
        merged.merge(window)
    every = counts(windows)
    fine = HistogramBins(4, -14, 10).edges[HistogramBins(4, -14, 10).per_sign + 1 :]
    edges = fine[[0, 150, 200, 200, 230, 300, 384]].expand(2, -1)
    for single in (False, True):
        window, other = (s.draw(every, edges, 7, single) for s in (whole, merged))
        for a, b in zip(window, other, strict=True):
            assert torch.equal(a.nan_to_num(), b.nan_to_num())
