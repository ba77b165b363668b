"""Largest examples equal sorting: with ties, one per recording, separation, long recordings."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.features.scan.state import WindowFeatures
from hooked_whisper.features.scan.topk import RankedActivations, TopActivations, first_largest, peaks
from tests.features.scan.streams import Item, items, largest, stream

lengths = st.lists(st.integers(1, 30), min_size=1, max_size=12)


def run(windows: list[WindowFeatures], k: int, **options: object) -> RankedActivations:
    top = TopActivations(windows[0].x.shape[1], k, **options)  # type: ignore[arg-type]
    for window in windows:
        top.add(window, largest(window))
    return top.ranked()


def in_order(top: list[Item]) -> list[Item]:
    return sorted(top, key=lambda i: (-i.value, i.recording, i.position))


def check(top: RankedActivations, feature: int, expected: list[Item]) -> None:
    k = top.values.shape[1]
    n = min(k, len(expected))
    assert top.values[feature, :n].tolist() == [i.value for i in expected[:n]]
    assert top.recordings[feature].tolist() == [i.recording for i in expected[:n]] + [-1] * (k - n)
    assert top.positions[feature].tolist() == [i.position for i in expected[:n]] + [-1] * (k - n)


@given(lengths, st.integers(1, 8), st.sampled_from([0, 1, 2, 5]), st.integers(0, 99))
def test_top_activations_equal_sorting(sizes: list[int], k: int, levels: int, seed: int) -> None:
    windows = stream(sizes, 3, seed, levels)
    top = run(windows, k)
    for feature in range(3):
        check(top, feature, in_order(items(windows, feature)))


@given(lengths, st.integers(1, 6), st.sampled_from([0, 3]), st.integers(0, 99))
def test_one_per_recording_takes_the_largest(sizes: list[int], k: int, levels: int, seed: int) -> None:
    windows = stream(sizes, 2, seed, levels)
    top = run(windows, k, one_per_recording=True)
    for feature in range(2):
        best: dict[int, Item] = {}
        for item in in_order(items(windows, feature)):
            best.setdefault(item.recording, item)
        check(top, feature, in_order(list(best.values())))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 4), st.sampled_from([0, 3]))
def test_one_per_recording_across_windows(windows: list[int], k: int, levels: int) -> None:
    whole = stream([sum(windows), 5], 2, 1, levels)
    parts, start = [], 0
    for n in windows:
        rows = slice(start, start + n)
        parts.append(WindowFeatures(whole[0].x[rows], 0, start, whole[0].priority[rows]))
        start += n
    for options in ({"one_per_recording": True}, {}):
        split, together = run([*parts, whole[1]], k, **options), run(whole, k, **options)
        for name in ("values", "recordings", "positions"):
            torch.testing.assert_close(getattr(split, name), getattr(together, name), rtol=0, atol=0, equal_nan=True)


@given(st.integers(1, 40), st.integers(1, 12), st.sampled_from([0, 3]), st.integers(0, 99))
def test_peaks_are_the_first_largest_within_reach(n: int, reach: int, levels: int, seed: int) -> None:
    x = stream([n], 2, seed, levels)[0].x
    top = peaks(x, reach)
    for feature in range(2):
        row = x[:, feature].tolist()
        for i, value in enumerate(row):
            before, after = row[max(0, i - reach) : i], row[i + 1 : i + 1 + reach]
            assert bool(top[i, feature]) == (all(value > b for b in before) and all(value >= a for a in after))


@given(lengths, st.integers(1, 6), st.integers(1, 10), st.integers(0, 99))
def test_separated_examples(sizes: list[int], k: int, reach: int, seed: int) -> None:
    windows = stream(sizes, 2, seed, 4)
    top = run(windows, k, separation=reach)
    for feature in range(2):
        alone = {(s.recording, row) for s in windows for row in peaks(s.x, reach)[:, feature].nonzero()[:, 0].tolist()}
        check(top, feature, [i for i in in_order(items(windows, feature)) if (i.recording, i.position) in alone])


def test_traces_are_the_activations_around() -> None:
    windows = stream([6, 9], 3, 2)
    top = run(windows, 4, context=2)
    for feature in range(3):
        for rank in range(4):
            recording, position = int(top.recordings[feature, rank]), int(top.positions[feature, rank])
            row = windows[recording].x[:, feature].tolist()
            expected = [row[i] if 0 <= i < len(row) else None for i in range(position - 2, position + 3)]
            seen = [None if x != x else x for x in top.traces[feature, rank].tolist()]
            assert seen == expected and seen[2] == top.values[feature, rank].item()


@given(st.integers(1, 150), st.integers(1, 4), st.sampled_from([0, 2]), st.integers(0, 99))
def test_the_largest_is_the_first_of_equals(n: int, columns: int, levels: int, seed: int) -> None:
    x = stream([n], columns, seed, levels)[0].x
    values, rows = first_largest(x)
    for column in range(columns):
        inside = x[:, column].tolist()
        assert values[column] == max(inside) and rows[column] == inside.index(max(inside))


@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=10),
    st.integers(1, 6),
    st.integers(0, 99),
    st.booleans(),
    st.integers(1, 3),
    st.data(),
)
def test_merged_tops_equal_one_pass(
    sizes: list[int], k: int, seed: int, single: bool, n_parts: int, data: st.DataObject
) -> None:
    """Ties are equal too if each part is in the order of the corpus."""
    windows = stream(sizes, 3, seed, levels=5)
    whole = TopActivations(3, k, 1, single)
    for window in windows:
        whole.add(window, largest(window))
    parts = [TopActivations(3, k, 1, single) for _ in range(n_parts)]
    for window in windows:
        data.draw(st.sampled_from(parts)).add(window, largest(window))
    order = data.draw(st.permutations(parts))
    for other in order[1:]:
        order[0].merge(other)
    for a, b in zip(whole.ranked(), order[0].ranked(), strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())
