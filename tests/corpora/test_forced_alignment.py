"""Words and phones by forced alignment: tiling, order, files that read back, resuming, processes, letters to sounds."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pocketsphinx")

from hooked_whisper.corpora import (
    PHONES,
    Recording,
    align_corpus,
    align_recording,
    aligning,
    apply_alignments,
    cmu_dictionary,
    forced_alignment,
    from_json,
    from_textgrid,
    packaged_speech,
    read_alignment,
    to_json,
    to_textgrid,
)
from hooked_whisper.corpora.aligning import MANIFEST
from hooked_whisper.corpora.forced_alignment import PIECE_S
from hooked_whisper.corpora.letter_to_sound import LETTERS, LetterToSound, aligned_words, phone_errors
from hooked_whisper.corpora.spoken_forms import number_words, spoken_words, year_words
from hooked_whisper.corpora.tiers import TEXT_SOURCE
from hooked_whisper.errors import AlignmentError, MissingExtraError
from hooked_whisper.protocols import SILENCE, Alignment, Interval


@pytest.fixture(scope="module")
def learned() -> tuple[LetterToSound, dict]:
    """A model of every seventh word of the dictionary, and some of the words between them."""
    words = {w: v[0] for w, v in cmu_dictionary().words.items() if set(w) <= set(LETTERS)}
    names = list(words)
    return LetterToSound.learned_from({w: words[w] for w in names[::7]}), {w: words[w] for w in names[3::700]}


@pytest.fixture(autouse=True)
def quick_guesses(request, monkeypatch) -> None:
    """Learning from all words takes several seconds."""
    monkeypatch.setattr(
        "hooked_whisper.corpora.pronunciations._learned", lambda _: request.getfixturevalue("learned")[0]
    )


@pytest.fixture(scope="module")
def corpus() -> list[Recording]:
    """Short sentences of two voices, with times that the synthesizer gave."""
    clips = packaged_speech("prose", language="en")
    voices = list(dict.fromkeys(clip.speaker for clip in clips))[:2]
    return [clip for voice in voices for clip in [c for c in clips if c.speaker == voice][:3]]


@pytest.fixture(scope="module")
def aligned(corpus) -> Alignment:
    return align_recording(corpus[0].audio(), corpus[0].text)


def tiles(intervals: tuple[Interval, ...], start: float, end: float) -> bool:
    edges = [start, *(i.end for i in intervals)]
    return [i.start for i in intervals] == edges[:-1] and edges[-1] == end


# --- one recording ---------------------------------------------------------------------------------------------------


def test_words_keep_their_spelling_and_order_and_phones_tile_them(corpus) -> None:
    for recording in corpus:
        alignment = align_recording(recording.audio(), recording.text)
        assert [w.label for w in alignment.words] == [w.strip(".,;:!?\"'") for w in recording.text.split()]
        assert all(a.end <= b.start for a, b in zip(alignment.words[:-1], alignment.words[1:], strict=True))
        assert alignment.words[0].start >= 0 and alignment.words[-1].end <= alignment.duration
        assert {p.label for p in alignment.phones} <= {*PHONES, SILENCE}
        assert tiles(alignment.phones, 0.0, alignment.duration)
        for word in alignment.words:
            inside = tuple(p for p in alignment.phones if word.start <= p.start and p.end <= word.end)
            assert tiles(inside, word.start, word.end)


def test_times_are_those_of_the_synthesizer(corpus) -> None:
    distances = []
    for recording in corpus:
        alignment, known = align_recording(recording.audio(), recording.text), recording.alignment()
        assert known is not None
        assert len(alignment.words) == len(known.words)
        distances += [abs(a.start - b.start) for a, b in zip(alignment.words, known.words, strict=True)]
    assert np.median(distances) < 0.04


def test_the_same_recording_has_the_same_times_whatever_was_aligned_before(corpus, aligned) -> None:
    align_recording(corpus[1].audio(), corpus[1].text)
    assert align_recording(corpus[0].audio(), corpus[0].text) == aligned


def test_files_read_back(aligned, tmp_path) -> None:
    transcribed = replace(aligned, utterance="x", speaker="s", extra={**aligned.extra, TEXT_SOURCE: "tiny.en"})
    assert from_json(to_json(transcribed)) == transcribed
    read_back = from_textgrid(to_textgrid(transcribed), "x", "s")
    assert (read_back.words, read_back.phones, read_back.duration) == (
        transcribed.words,
        transcribed.phones,
        transcribed.duration,
    )
    assert read_back.extra == {TEXT_SOURCE: "tiny.en"}
    assert from_textgrid(to_textgrid(aligned)).extra == {}


def test_recordings_longer_than_a_piece(corpus) -> None:
    gap = torch.zeros(8000)
    n = int(PIECE_S / (len(corpus[0].audio()) / 16_000)) + 3
    sound = torch.cat([part for _ in range(n) for part in (corpus[0].audio(), gap)])
    alignment = align_recording(sound, " ".join([corpus[0].text] * n))
    once = align_recording(corpus[0].audio(), corpus[0].text)
    assert alignment.duration > PIECE_S and len(alignment.words) == n * len(once.words)
    assert tiles(alignment.phones, 0.0, alignment.duration)
    period = (len(corpus[0].audio()) + len(gap)) / 16_000
    later = [w.start - once.words[k % len(once.words)].start - k // len(once.words) * period
             for k, w in enumerate(alignment.words)]  # fmt: skip
    assert np.median(np.abs(later)) <= 0.02 and np.max(np.abs(later)) < 0.3


def test_words_outside_the_dictionary_are_guessed_or_refused(corpus) -> None:
    text = " ".join(["Zorblefitz", *corpus[0].text.split()[1:]])
    alignment = align_recording(corpus[0].audio(), text)
    assert alignment.words[0].label == "Zorblefitz" and alignment.extra["guessed"].startswith("zorblefitz Z ")
    with pytest.raises(AlignmentError, match="zorblefitz"):
        align_recording(corpus[0].audio(), text, oov="skip")


@pytest.mark.parametrize(
    ("text", "match"),
    [("", "no words"), ("-- ...", "no words"), ("это не по-английски", "English"), ("word " * 500, "500 words")],
)
def test_text_that_cannot_be_aligned_is_an_error(corpus, text, match) -> None:
    with pytest.raises(AlignmentError, match=match):
        align_recording(corpus[0].audio(), text)


def test_an_unknown_oov_is_refused(corpus, unchecked: None) -> None:
    with pytest.raises(AlignmentError, match=r"'gues'.*'guess'"):
        align_recording(corpus[0].audio(), "hello", oov="gues")


def test_overlong_input_is_refused() -> None:
    with pytest.raises(AlignmentError, match="21 minutes"):
        align_recording(torch.zeros(21 * 60 * 16_000), "hello")


def test_without_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    monkeypatch.setattr(forced_alignment, "cmu_dictionary", cmu_dictionary.__wrapped__)  # without what is kept of it
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'hooked-whisper[align]'")):
        align_recording(torch.zeros(16_000), "hello")


# --- a corpus --------------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(corpus) -> list[Recording]:
    """Three that can be aligned, one without text, one whose text is too long, one whose file is broken."""
    return [
        corpus[0],
        replace(corpus[1], text=""),
        replace(corpus[2], text="far too long for this recording " * 100),
        replace(corpus[3], source="/no/such/file.wav"),
        replace(corpus[4], id="folder/of a name.1", text_source="tiny.en"),
        corpus[5],
    ]


def contents(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_failures_are_listed_and_the_rest_is_aligned(mixed, tmp_path) -> None:
    result = align_corpus(mixed, tmp_path, progress=False)
    assert result.aligned == (mixed[0].id, mixed[4].id, mixed[5].id) and result.unchanged == ()
    assert [name for name, _ in result.skipped] == [mixed[1].id] and "--texts own" in result.skipped[0][1]
    assert [name for name, _ in result.failures] == [mixed[2].id, mixed[3].id]
    read = apply_alignments([replace(r, find_alignment=None) for r in mixed], tmp_path)
    assert [r.find_alignment is not None for r in read] == [True, False, False, False, True, True]
    assert read[4].alignment().extra[TEXT_SOURCE] == "tiny.en"
    expected = align_recording(mixed[0].audio(), mixed[0].text)
    assert (read[0].alignment().words, read[0].alignment().phones) == (expected.words, expected.phones)
    rows = [json.loads(line) for line in (tmp_path / MANIFEST).read_text().splitlines()]
    assert [row["id"] for row in rows] == [r.id for r in mixed if r.text]


def test_other_languages_are_refused(corpus, tmp_path) -> None:
    result = align_corpus([replace(corpus[0], language="es"), replace(corpus[1], language="en_us")], tmp_path,
                          progress=False)  # fmt: skip
    assert result.aligned == (corpus[1].id,) and "'es'" in dict(result.failures)[corpus[0].id]


def test_several_processes_write_the_same_bytes(mixed, tmp_path) -> None:
    single_process, two_processes = (
        align_corpus(mixed, tmp_path / str(jobs), jobs=jobs, progress=False) for jobs in (1, 2)
    )
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert replace(single_process, folder=two_processes.folder) == two_processes


def test_existing_alignments_are_kept_and_an_interrupted_run_resumes(mixed, corpus, tmp_path, monkeypatch) -> None:
    align_corpus(mixed, tmp_path / "whole", progress=False)
    done = []

    def interrupted(job):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(job)
        return original(job)

    original = aligning.find_times
    monkeypatch.setattr(aligning, "find_times", interrupted)
    with pytest.raises(KeyboardInterrupt):
        align_corpus(mixed, tmp_path / "cut", progress=False)
    monkeypatch.setattr(aligning, "find_times", original)
    assert len(list((tmp_path / "cut").rglob("*.json"))) == 1
    result = align_corpus(mixed, tmp_path / "cut", progress=False)
    assert result.unchanged == (mixed[0].id,) and len(result.aligned) == 2
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    changed = [replace(mixed[0], text=mixed[0].text.split(" ", 1)[1]), *mixed[1:]]
    assert align_corpus(changed, tmp_path / "cut", progress=False).aligned == (mixed[0].id,)


def test_a_corrected_file_is_kept_and_a_foreign_one_is_refused(corpus, tmp_path) -> None:
    align_corpus(corpus[:1], tmp_path, progress=False)
    path = tmp_path / f"{corpus[0].id}.TextGrid"
    path.write_text(path.read_text() + "\n")
    before = path.read_bytes()
    assert align_corpus(corpus[:1], tmp_path, progress=False).unchanged == (corpus[0].id,)
    assert path.read_bytes() == before
    (tmp_path / MANIFEST).unlink()
    result = align_corpus(corpus[:1], tmp_path, progress=False)
    assert "was not written by align" in result.failures[0][1] and path.read_bytes() == before
    assert align_corpus(corpus[:1], tmp_path, overwrite=True, progress=False).aligned == (corpus[0].id,)


def test_words_outside_the_dictionary_skip_a_recording(corpus, tmp_path) -> None:
    odd = replace(corpus[0], text="Zorblefitz " + corpus[0].text)
    result = align_corpus([odd, corpus[1]], tmp_path, oov="skip", progress=False)
    assert result.aligned == (corpus[1].id,) and "zorblefitz" in dict(result.skipped)[odd.id]


@pytest.mark.parametrize(
    ("options", "match"),
    [({"formats": "textgird"}, "textgird.*textgrid"), ({"oov": "x"}, "'x'"), ({"jobs": 0}, "0")],
)
def test_unknown_options(corpus, tmp_path, options, match, unchecked) -> None:
    with pytest.raises(AlignmentError, match=match):
        align_corpus(corpus, tmp_path, progress=False, **options)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", ""])
def test_ids_stay_in_the_folder(corpus, tmp_path, name) -> None:
    with pytest.raises(AlignmentError, match="id"):
        align_corpus([replace(corpus[0], id=name)], tmp_path / "out", progress=False)


def test_nothing_to_align(tmp_path, corpus) -> None:
    with pytest.raises(AlignmentError, match="--texts own"):
        align_corpus([replace(corpus[0], text="")], tmp_path, progress=False)
    with pytest.raises(AlignmentError, match="no recordings"):
        align_corpus([], tmp_path, progress=False)


# --- how a text is said ----------------------------------------------------------------------------------------------

WORDS = {"well-known", "it's", "lee's", "'em", "p.m.", "nasa", "o'neill", "hello", "a", "i", "a.", "t.", "no", "said"}


@pytest.mark.parametrize(
    ("text", "labels", "said"),
    [
        ("Hello, “hello” — hello!", "Hello hello hello", "hello hello hello"),
        ("In 1999 $5.", "In 1999 $5", "in nineteen ninety nine five dollars"),
        ("£3.50 or $1.01", "£3.50 or $1.01", "three pounds and fifty pence or one dollar and one cent"),
        ("the 21st, 100% in the 1990s", "the 21st 100% in the 1990s",
         "the twenty first one hundred percent in the nineteen nineties"),
        ("7:05 7:30 p.m.", "7:05 7:30 p.m.", "seven oh five seven thirty p.m."),
        ("1,250,000 12.75 007", "1,250,000 12.75 007",
         "one million two hundred fifty thousand twelve point seven five zero zero seven"),
        ("Dr. Lee's well-known St. John", "Dr Lee's well-known St John", "doctor lee's well-known saint john"),
        ("well-zorbled 3-year-old", "well-zorbled 3-year-old", "well zorbled three year old"),
        ("‘It’s’ ’em Café", "It’s ’em Café", "it's 'em cafe"),
        ("NASA's MP3 b A 1/2 3/4", "NASA's MP3 b A 1/2 3/4", "nasa's m. p. three b. a one half three fourths"),
        ("He said no. No. 5", "He said no No 5", "he said no number five"),
        ("SIL sp", "Sil Sp", "sil s. p."),
    ],
)  # fmt: skip
def test_spoken_forms(text, labels, said) -> None:
    words = spoken_words(text, WORDS.__contains__)
    assert " ".join(w.label for w in words) == labels
    assert " ".join(x for w in words for x in w.said) == said


@given(st.integers(0, 10**15 - 1))
def test_numbers_are_words_that_the_dictionary_has(value) -> None:
    assert all(word in cmu_dictionary() for word in number_words(value))
    assert all(word in cmu_dictionary() for word in year_words(1100 + value % 1000))


@given(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=30))
def test_text_becomes_words_or_an_error(text) -> None:
    try:
        words = spoken_words(text, cmu_dictionary().__contains__)
    except AlignmentError:
        return
    assert len(words) <= len(text.split())
    for word in words:
        assert word.label.strip() and word.said and all(x == x.lower() and x.split() == [x] for x in word.said)


# --- letters to sounds -----------------------------------------------------------------------------------------------


def test_phones_of_unseen_words(learned) -> None:
    model, unseen = learned
    errors = sum(phone_errors(model(word), phones) for word, phones in unseen.items())
    assert errors / sum(map(len, unseen.values())) < 0.16


def test_letters_and_phones_are_aligned_without_loss() -> None:
    words = {w: v[0] for w, v in list(cmu_dictionary().words.items())[::500] if set(w) <= set(LETTERS)}
    pronunciations = {
        "".join(x for x, _ in row): tuple(p for _, phones in row for p in phones) for row in aligned_words(words)
    }
    assert pronunciations == {w: phones for w, phones in words.items() if len(phones) <= 2 * len(w)}


@settings(max_examples=10)
@given(st.text("abcdefghijklmnopqrstuvwxyz'", min_size=1, max_size=12).filter(lambda x: x.strip("'")))
def test_any_word_has_phones(learned, word) -> None:
    try:
        assert set(learned[0](word)) <= set(PHONES)
    except AlignmentError as error:
        assert "silent" in str(error)


@pytest.mark.parametrize("word", ["", "'", "naïve", "a1"])
def test_words_that_cannot_be_pronounced(learned, word) -> None:
    with pytest.raises(AlignmentError, match=re.escape(repr(word))):
        learned[0](word)


@given(st.lists(st.sampled_from("AB"), max_size=6), st.lists(st.sampled_from("AB"), max_size=6))
def test_phone_errors_are_a_distance(a, b) -> None:
    errors = phone_errors(tuple(a), tuple(b))
    assert errors == phone_errors(tuple(b), tuple(a)) and abs(len(a) - len(b)) <= errors <= max(len(a), len(b))
    assert (errors == 0) == (a == b)


def test_the_dictionary() -> None:
    words = cmu_dictionary()
    assert words["tomato"] == (("T", "AH", "M", "EY", "T", "OW"), ("T", "AH", "M", "AA", "T", "OW"))
    assert {p for variants in words.words.values() for v in variants for p in v} == set(PHONES)
    with pytest.raises(AlignmentError, match="zorblefitz"):
        words["zorblefitz"]


def test_non_audio_file_is_refused(tmp_path, corpus) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(100), 16_000)
    result = align_corpus([Recording("a", path, text="hello"), corpus[0]], tmp_path / "out", progress=False)
    assert [name for name, _ in result.failures] == ["a"]
    assert read_alignment(tmp_path / "out" / f"{corpus[0].id}.json").words
