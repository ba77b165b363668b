"""Labels of positions: equality with a slow search, edges, windows, and errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.audio import TimeMap
from hooked_whisper.errors import AlignmentError
from hooked_whisper.features.phones.position_labels import label_names, label_positions
from hooked_whisper.protocols import SILENCE, Alignment, Interval

cuts = st.lists(st.integers(0, 400), min_size=2, max_size=12, unique=True).map(sorted)


def aligned(times: list[float], labels: str, duration: float = 0.0) -> Alignment:
    spans = tuple(Interval(a, b, x) for a, b, x in zip(times, times[1:], labels, strict=False))
    return Alignment("u", "s", "", duration or times[-1], (), spans)


@given(cuts, st.data())
def test_labels_equal_a_slow_search(hundredths: list[int], data: st.DataObject) -> None:
    labels = data.draw(st.text("abcx", min_size=len(hundredths) - 1, max_size=len(hundredths) - 1))
    offset = data.draw(st.integers(0, 100)) / 100
    alignment = aligned([h / 100 for h in hundredths], labels)
    n = data.draw(st.integers(0, 220))
    result = label_positions(alignment, n, ("a", "b", "c"), offset=offset)
    for i in range(n):
        time = round(100 * offset) + 2 * i  # hundredths of a second, exact
        inside = [k for k in range(len(labels)) if hundredths[k] <= time < hundredths[k + 1]]
        want = "abc".find(labels[inside[0]]) if inside else -1
        assert result.ids[i] == want and result.instance[i] == (inside[0] if inside else -1)
        near = [h for h in hundredths if abs(h - time) <= 2 and h not in (0, hundredths[-1])]
        assert result.edge[i] == bool(near)
        first = bool(inside) and not hundredths[inside[0]] <= time - 2
        assert result.onset[i] == first


@given(cuts)
def test_positions_are_those_of_the_span(hundredths: list[int]) -> None:
    alignment = aligned([h / 100 for h in hundredths], "abcdefghijkl")
    result = label_positions(alignment, 300, label_names([alignment]))
    for k, phone in enumerate(alignment.phones):
        span = TimeMap().span(phone.start, phone.end)
        assert np.flatnonzero(result.instance == k).tolist() == list(range(span.start, span.stop))


def test_windows_join_to_the_recording() -> None:
    alignment = aligned([0.0, 0.33, 0.71, 0.9, 1.6], "abab")
    whole = label_positions(alignment, 80, ("a", "b"))
    parts = [label_positions(alignment, 40, ("a", "b"), offset=time) for time in (0.0, 0.8)]
    for name in ("ids", "instance", "edge", "onset"):
        np.testing.assert_array_equal(getattr(whole, name), np.concatenate([getattr(p, name) for p in parts]))


def test_tokens_count_phones_not_positions() -> None:
    alignment = aligned([0.0, 0.1, 0.2, 0.3, 0.301], "aab" + "b")
    result = label_positions(alignment, 16, ("a", "b"))
    assert result.tokens().tolist() == [2, 2]  # the last one is 1 ms long and holds the center of position 15
    assert result.tokens(~result.edge).sum() < 4


def test_names() -> None:
    words = (Interval(0.0, 1.0, "zoo"), Interval(1.0, 2.0, "ant"))
    alignment = Alignment("u", "s", "", 2.0, words, (Interval(0.0, 1.0, SILENCE), Interval(1.0, 2.0, "A")))
    assert label_names([alignment]) == (SILENCE, "A") and label_names([alignment], "words") == ("ant", "zoo")
    assert label_positions(alignment, 100, ("zoo",), tier="words").tokens().tolist() == [1]
    assert label_names([]) == ()


def test_errors() -> None:
    fine = aligned([0.0, 1.0], "a")
    over = Alignment("u", "s", "", 1.0, (), (Interval(0.0, 0.6, "a"), Interval(0.5, 1.0, "b")))
    with pytest.raises(AlignmentError, match="overlap"):
        label_positions(over, 10, ("a",))
    with pytest.raises(AlignmentError, match="0 to 1500"):
        label_positions(fine, 1501, ("a",))
    with pytest.raises(AlignmentError, match="twice"):
        label_positions(fine, 10, ("a", "a"))
    empty = label_positions(Alignment("u", "s", "", 0.0), 3, ("a",))
    assert empty.ids.tolist() == [-1] * 3 and not empty.edge.any() and not empty.onset.any()
