"""Alignments on disk: round trips, formats as their programs write them, and files that are broken."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper._support.storage import write_atomic
from hooked_whisper.corpora import (
    Tiers,
    from_ctm,
    from_dict,
    from_json,
    from_textgrid,
    read_alignment,
    to_ctm,
    to_dict,
    to_textgrid,
    without_stress,
)
from hooked_whisper.corpora.fitting import fitted
from hooked_whisper.corpora.tiers import cut
from hooked_whisper.errors import AlignmentError
from hooked_whisper.protocols import SILENCE, Alignment, Interval

LABELS = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=6).filter(
    lambda s: s.strip() == s and s.lower() not in ("sil", "sp", "pau", "epi", "h#", "<eps>", "<sil>")
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


@settings(max_examples=40, deadline=None)
@given(alignments())
def test_json_of_ours_is_read_like_any_other(alignment: Alignment):
    assert from_json(json.dumps(to_dict(alignment))) == alignment


WORDS = st.from_regex(r"\A[a-z]{3,6}\Z").filter(lambda s: s not in ("sil", "pau", "epi"))


@settings(max_examples=40, deadline=None)
@given(st.lists(alignments(), min_size=1, max_size=3), st.data())
def test_ctm_round_trip(several: list[Alignment], data: st.DataObject):
    named = []
    for k, alignment in enumerate(several):
        phones = tuple(
            Interval(p.start, p.end, p.label if p.label == SILENCE else data.draw(WORDS)) for p in alignment.phones
        )
        words = tuple(Interval(p.start, p.end, p.label) for p in phones if p.label != SILENCE)
        named.append(Alignment(f"u-{k}", "", "", alignment.duration, words, phones))
    phones_read = from_ctm(to_ctm(named, "phones"), "phones")
    assert list(phones_read) == [alignment.utterance for alignment in named]
    for alignment in named:
        assert len(phones_read[alignment.utterance].phones) == len(alignment.phones)
        for a, b in zip(phones_read[alignment.utterance].phones, alignment.phones, strict=True):
            assert a.label == b.label and (a.start, a.end) == pytest.approx((b.start, b.end), abs=2e-6)
    with_words = [alignment for alignment in named if alignment.words]
    if with_words:
        words_read = from_ctm(to_ctm(with_words, "words"), "words")
        assert [words_read[alignment.utterance].text for alignment in with_words] == [
            " ".join(word.label for word in alignment.words) for alignment in with_words
        ]


def test_ctm_as_kaldi_writes_it():
    content = ";; comment\nu1 1 0.00 0.30 hello 0.98\nu2 A 0.5 0.25 you\n\nu1 1 0.45 0.10 <eps>\nu1 1 0.55 0.20 world\n"
    by_name = from_ctm(content, "words")
    assert by_name["u1"].words == (Interval(0.0, 0.3, "hello"), Interval(0.55, 0.75, "world"))
    assert by_name["u1"].text == "hello world" and by_name["u2"].words[0].start == 0.5
    phones = from_ctm("u 1 0.1 0.2 hh\nu 1 0.3 0.2 sil\nu 1 0.8 0.2 AH0\n", "phones", Tiers(relabel=without_stress))
    assert [(p.start, p.label) for p in phones["u"].phones] == [
        (0.0, SILENCE), (0.1, "hh"), (pytest.approx(0.3), SILENCE), (0.5, SILENCE), (0.8, "AH")
    ]  # fmt: skip


def test_ctm_rounding_is_no_overlap_but_more_is():
    (alignment,) = from_ctm("u 1 0.10 0.11 a\nu 1 0.20 0.10 b\n", "words").values()
    assert alignment.words[0] == Interval(0.1, 0.2, "a") and alignment.words[1].start == 0.2
    with pytest.raises(AlignmentError, match=r"line 2.*overlap"):
        from_ctm("u 1 0.10 0.13 a\nu 1 0.20 0.10 b\n", "words")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u 1 nan 0.1 a", "line 2.*numbers"),
        ("u 1 0.9 inf a", "line 2.*numbers"),
        ("u 1 -1 0.1 a", "line 2.*negative"),
        ("u 1 0.9 -0.1 a", "line 2.*before its|line 2.*the end not before"),
        ("u 1 0.1 0.1 a", "line 2.*sort"),
        ("u 1 0.9 a", "line 2: expected"),
        ("u 1 x 0.1 a", "line 2: expected"),
    ],
)
def test_broken_ctm_names_the_line(line: str, message: str):
    with pytest.raises(AlignmentError, match=f"there.ctm.*{message}"):
        from_ctm(f"u 1 0.5 0.1 first\n{line}\n", "words", source="there.ctm")


def test_ctm_refuses_what_it_cannot_hold():
    for alignment in (
        Alignment("a b", "", "", 1.0, (Interval(0.0, 1.0, "x"),)),
        Alignment("a", "", "", 1.0, (Interval(0.0, 1.0, "x y"),)),
        Alignment("", "", "", 1.0, (Interval(0.0, 1.0, "x"),)),
    ):
        with pytest.raises(AlignmentError, match="without spaces"):
            to_ctm([alignment], "words")


def test_a_null_character_in_a_path_is_named(tmp_path: Path):
    with pytest.raises(AlignmentError, match=r"a.*null"):
        read_alignment(tmp_path / "a\0.json")


def test_json_as_whisperx_writes_it():
    data = {
        "segments": [
            {"text": " In 1990 he", "words": [
                {"word": "In", "start": 0.1, "end": 0.2, "score": 0.9}, {"word": "1990"},
                {"word": " he", "start": 0.5, "end": 0.7},
            ]},
            {"text": " left.", "words": [{"word": "left.", "start": 0.75, "end": 1.0}]},
        ]
    }  # fmt: skip
    alignment = from_json(json.dumps(data), "u")
    assert [w.label for w in alignment.words] == ["In", "he", "left."] and alignment.text == "In 1990 he left."
    assert alignment.duration == 1.0 and alignment.utterance == "u" and alignment.phones == ()
    with pytest.raises(AlignmentError, match="no words with times"):
        from_json('{"segments": [{"text": "hello", "start": 0, "end": 1}]}')


def test_json_lists_of_labelled_times():
    rows = [
        {"label": "hi", "start": 0.1, "end": 0.4, "tier": "words"},
        {"label": "h", "start": 0.1, "end": 0.2, "tier": "phones"},
        {"phone": "aɪ", "start": 0.2, "end": 0.4},
    ]
    alignment = from_json(json.dumps(rows))
    assert [w.label for w in alignment.words] == ["hi"] and [p.label for p in alignment.phones] == [SILENCE, "h", "aɪ"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('"hello"', "known forms"),
        ('{"a": 1}', "known forms"),
        ('[{"word": "a", "start": 0.5, "end": 0.1}]', r"\[0\].*before"),
        ('[{"word": "a", "start": NaN, "end": 0.1}]', r"\[0\].*seconds"),
        ('[{"word": "a", "start": "0", "end": 0.1}]', r"\[0\].*seconds"),
        ('[{"word": "a", "start": 1' + "0" * 400 + ', "end": 2}]', r"\[0\].*seconds"),
        ('[{"start": 0, "end": 0.1}]', r"\[0\].*no label"),
        ("[3]", r"\[0\].*expected"),
        ('{"words": [[0, 1, "a"], [0.5, 2, "b"]]}', r"words\[1\].*overlap"),
        ('{"words": [[0, 1, "a"]], "duration": "long"}', "duration"),
    ],
)
def test_broken_json_names_the_entry(content: str, message: str):
    with pytest.raises(AlignmentError, match=f"there.json.*{message}"):
        from_json(content, source="there.json")


def test_textgrid_tiers_of_known_aligners_are_found():
    grid = to_textgrid(Alignment("u", "", "hi", 1.0, (Interval(0.0, 1.0, "hi"),), (Interval(0.0, 1.0, "AY1"),)))
    upper = grid.replace('"words"', '"Ann - Words"').replace('"phones"', '"Ann - phones"')
    alignment = from_textgrid(upper, tiers=Tiers(relabel=without_stress))
    assert alignment.text == "hi" and alignment.phones[0].label == "AY"
    munich = grid.replace('"words"', '"ORT"').replace('"phones"', '"MAU"')
    assert from_textgrid(munich, tiers=Tiers("ORT", "MAU")).phones[0].label == "AY1"
    with pytest.raises(AlignmentError, match="'ORT', 'MAU'"):
        from_textgrid(munich)
    with pytest.raises(AlignmentError, match="several tiers of words"):
        from_textgrid(grid.replace('"words"', '"Ann - words"').replace('"phones"', '"Bob - words"'))


def test_a_textgrid_out_of_order_names_file_and_line(tmp_path: Path):
    grid = to_textgrid(Alignment("u", "", "", 1.0, (Interval(0.0, 0.5, "a"), Interval(0.5, 1.0, "b"))))
    path = tmp_path / "x.TextGrid"
    path.write_text(grid.replace("xmin = 0.5", "xmin = 0.3"), encoding="utf-8")
    with pytest.raises(
        AlignmentError, match=r"x\.TextGrid', line 2\d: 'b' starts at 0\.3 s, where 'a' lasts until 0\.5"
    ):
        read_alignment(path)
    broken = grid.replace("intervals: size = 2", "intervals: size = -2")
    with pytest.raises(AlignmentError, match=r"line 14.*-2"):
        from_textgrid(broken)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80) | st.binary(max_size=80).map(lambda b: b.decode("latin-1")), st.integers(0, 400))
def test_any_damage_to_a_textgrid_is_an_alignment_error_or_read(junk: str, offset: int):
    grid = to_textgrid(Alignment("u", "", "", 1.0, (Interval(0.0, 0.5, "a"),), (Interval(0.0, 0.5, "b"),)))
    with suppress(AlignmentError):
        assert isinstance(from_textgrid(grid[:offset] + junk + grid[offset + len(junk) :]), Alignment)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path: Path, encoding: str, newline: str):
    alignment = Alignment("x", "", "ſtraße", 1.0, (Interval(0.25, 1.0, "ſtraße"),), (Interval(0.0, 1.0, "ʃ"),))
    path = tmp_path / "x.textgrid"
    path.write_bytes(to_textgrid(alignment).replace("\n", newline).encode(encoding))
    assert read_alignment(path) == alignment


def test_read_alignment_goes_by_ending_and_content(tmp_path: Path):
    contents = {
        "a.wrd": ("0 16000 hi\n", ["hi"], 0),
        "a.phn": ("0 16000 ay\n", [], 1),
        "a.ctm": ("u 1 0 1 hi\n", ["hi"], 0),
        "phones.ctm": ("u 1 0 1 ay\n", [], 1),
        "a.json": ('[{"word": "hi", "start": 0, "end": 1}]', ["hi"], 0),
        "b.lab": ("0 16000 ay\n", [], 1),
        "b.out": ("u 1 0 1 hi\n", ["hi"], 0),
        "b.grid": (to_textgrid(Alignment("", "", "", 1.0, (Interval(0.0, 1.0, "hi"),))), ["hi"], 0),
    }
    for name, (content, words, phones) in contents.items():
        (tmp_path / name).write_text(content)
        alignment = read_alignment(tmp_path / name)
        assert (
            [w.label for w in alignment.words] == words and len(alignment.phones) == phones and alignment.duration == 1
        )
        assert alignment.utterance == Path(name).stem
    (tmp_path / "many.ctm").write_text("u 1 0 1 a\nv 1 0 1 b\n")
    assert read_alignment(tmp_path / "many.ctm", "deep/v").text == "b"
    with pytest.raises(AlignmentError, match="2 utterances, 'u', 'v'"):
        read_alignment(tmp_path / "many.ctm")
    (tmp_path / "none.txt").write_text("hello there\n")
    (tmp_path / "latin.phn").write_bytes(b"0 1 a\n1 2 \xe9\n")
    for name, message in [("none.txt", "known format"), ("gone.phn", "cannot be read"), ("latin.phn", "line 2.*UTF-8")]:
        with pytest.raises(AlignmentError, match=message):
            read_alignment(tmp_path / name)


def test_cut_keeps_the_words_inside():
    alignment = Alignment(
        "u", "s", "a b c", 3.0,
        (Interval(0.0, 1.0, "a"), Interval(1.0, 2.0, "b"), Interval(2.0, 3.0, "c")),
        (Interval(0.0, 1.5, "x"), Interval(1.5, 3.0, SILENCE)),
    )  # fmt: skip
    part = cut(alignment, 0.75, 2.25)
    assert part.words == (Interval(0.25, 1.25, "b"),) and part.text == "b" and part.duration == 1.5
    assert part.phones == (Interval(0.0, 0.75, "x"), Interval(0.75, 1.5, SILENCE))


def test_atomic_write_leaves_the_old_file_on_failure(tmp_path: Path):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_words_without_times_warn() -> None:
    words = [{"word": "the", "start": 0, "end": 0.2}, {"word": "5"}, {"word": "cat", "start": 0.5, "end": 0.8}]
    content = json.dumps({"segments": [{"text": "the 5 cat", "words": words}]})
    with pytest.warns(UserWarning, match=r"a\.json: 1 of 3 words have no times \('5'\).*hooked-whisper align"):
        alignment = from_json(content, source="a.json")
    assert [w.label for w in alignment.words] == ["the", "cat"] and alignment.text == "the 5 cat"


CHRONOLOGICAL = """"Praat chronological TextGrid text file"
0.5 2.5   ! Time domain, "in seconds".
3   ! Number of tiers.
"IntervalTier" "words" 0.5 2.5
"TextTier" "words" 0.5 2.5
"IntervalTier" "phones" 0.5 2.5

! words:
1 0.5 1.5
"say ""hi""!"
3 0.5 2.5
"AY1"
2 1
"a point"
1 1.5 2.5
""
"""


def test_chronological_textgrids_are_read(tmp_path: Path):
    path = tmp_path / "a.TextGrid"
    path.write_text(CHRONOLOGICAL)
    alignment = read_alignment(path)
    assert alignment.words == (Interval(0.0, 1.0, 'say "hi"!'),) and alignment.phones == (Interval(0.0, 2.0, "AY1"),)
    assert alignment.duration == 2.0
    for damage in (
        CHRONOLOGICAL.replace("\n3 0.5", "\n4 0.5"),
        CHRONOLOGICAL[:-4],
        CHRONOLOGICAL.replace("3 0.5 2", "3 x 2"),
    ):
        with pytest.raises(AlignmentError, match="TextGrid"):
            from_textgrid(damage)


def test_comments_in_a_textgrid_are_no_values():
    grid = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0 ! at 7 s\n1 ! "end"\n<exists>\n1\n'
    assert from_textgrid(grid + '"IntervalTier" "words" 0 1 1\n0 1 "hi ! 3"').words == (Interval(0.0, 1.0, "hi ! 3"),)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"ooBinaryFile\x08TextGrid" + bytes(40), "binary"),
        (b'File type = "ooTextFile"\nObject class = "Collection"\n\nsize = 1\n class = "TextGrid"\n', "Collection"),
        (b'File type = "ooTextFile"\n"Collection"\n1\n"TextGrid"\n', "Collection"),
        (b'File type = "ooTextFile"\nObject class = "PitchTier"\n\n0\n1\n', "PitchTier"),
        (
            b'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 2\ntiers? <absent>\n',
            "no interval tier",
        ),
        (b"<html>", "not a TextGrid"),
    ],
)
def test_praat_files_of_another_form_are_named(tmp_path: Path, content: bytes, word: str):
    path = tmp_path / "a.TextGrid"
    path.write_bytes(content)
    with pytest.raises(AlignmentError, match=rf"a\.TextGrid' .*{word}"):
        read_alignment(path)


@pytest.mark.parametrize(
    "as_source",
    [
        lambda path: path,
        lambda path: path.read_bytes(),
        lambda path: (np.zeros(16_000), 16_000),
        lambda path: (np.zeros((8_000, 2)), 8_000),
        lambda path: np.zeros(16_000, np.float32),
        lambda path: {"array": [0.0] * 8_000, "sampling_rate": 8_000},
        lambda path: {"bytes": path.read_bytes(), "path": None},
        lambda path: lambda: {"bytes": None, "path": str(path)},
    ],
)
def test_alignments_are_checked_against_sound_of_any_kind(tmp_path: Path, as_source):
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    source = as_source(tmp_path / "a.wav")
    alignment = Alignment("a", "", "", 2.0, (Interval(0.0, 0.5, "tea"), Interval(1.0, 2.0, "pot")), ())
    with pytest.raises(AlignmentError, match=r"'pot'.*2\.00 s, but the audio lasts 1\.00 s"):
        fitted(alignment, source, "a")
    assert fitted(replace(alignment, words=alignment.words[:1]), source, "a").words
