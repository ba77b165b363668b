"""Alignments on disk."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper.corpora import from_dict, from_textgrid, to_dict, to_textgrid
from hooked_whisper.protocols import SILENCE, Alignment, Interval
from hooked_whisper.storage import write_atomic

LABELS = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=6).filter(
    lambda s: s.strip() == s and s != SILENCE
)


@st.composite
def alignments(draw) -> Alignment:
    marks = sorted(draw(st.lists(st.integers(0, 10**6), min_size=2, max_size=9, unique=True)))
    times = [0.0, *(m / 1e5 for m in marks)]
    spans = list(pairwise(times))
    phones = tuple(Interval(a, b, draw(LABELS | st.just(SILENCE))) for a, b in spans if b > a)
    words = tuple(Interval(p.start, p.end, draw(LABELS)) for p in phones if p.label != SILENCE)
    return Alignment("u", "s", " ".join(w.label for w in words), phones[-1].end, words, phones)


@settings(max_examples=60, deadline=None)
@given(alignments())
def test_textgrid_round_trip(alignment: Alignment):
    assert from_textgrid(to_textgrid(alignment), "u", "s") == alignment


@settings(max_examples=30, deadline=None)
@given(alignments())
def test_json_round_trip(alignment: Alignment):
    assert from_dict(json.loads(json.dumps(to_dict(alignment)))) == alignment


def test_reads_short_format_and_skips_point_tiers():
    short = (
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n1\n<exists>\n3\n'
        '"TextTier"\n"bell"\n0\n1\n1\n0.5\n"ding 2"\n'
        '"IntervalTier"\n"words"\n0\n1\n2\n0\n0.4\n""\n0.4\n1\n"say ""hi"""\n'
        '"IntervalTier"\n"phones"\n0\n1\n1\n0\n1\n"aɪ"\n'
    )
    alignment = from_textgrid(short)
    assert alignment.words == (Interval(0.4, 1.0, 'say "hi"'),)
    assert alignment.phones == (Interval(0.0, 1.0, "aɪ"),)


@pytest.mark.parametrize(
    "content", ["", "hello", 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n1\n<exists>\n1\n']
)
def test_broken_textgrid_is_a_clear_error(content: str):
    with pytest.raises(ValueError, match="TextGrid"):
        from_textgrid(content)


def test_atomic_write_leaves_the_old_file_on_failure(tmp_path: Path):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
