"""The packaged speech as it ships: kinds, splits, alignments that tile, audio of the stated length, measurements."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import soundfile

from hooked_whisper.corpora import (
    conflict_pairs,
    minimal_pairs,
    open_corpus,
    packaged_speech,
    semantic_words,
    speech_metadata,
)
from hooked_whisper.corpora.packaged import FOLDER, KINDS, LANGUAGES, LIST
from hooked_whisper.errors import AudioError
from hooked_whisper.protocols import SILENCE

CORPUS = packaged_speech()
MOST_BYTES = 12e6


def kind_of(recording) -> str:
    return recording.alignment().extra["kind"]


def test_packaged_speech_has_the_documented_size():
    kinds, languages = Counter(map(kind_of, CORPUS)), Counter(recording.language for recording in CORPUS)
    assert set(kinds) == set(KINDS) and set(languages) == set(LANGUAGES)
    assert kinds["prose"] >= 300 and kinds["conflict"] >= 160 and kinds["window"] >= 10 and kinds["fragment"] >= 100
    assert all(languages[language] >= 18 for language in LANGUAGES)
    assert sum(recording.alignment().duration for recording in CORPUS) >= 20 * 60
    english = {recording.speaker for recording in CORPUS if recording.language == "en"}
    assert len(english) >= 10
    assert len({recording.id for recording in CORPUS}) == len(CORPUS)


def test_packaged_speech_fits_into_the_wheel():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(FOLDER.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(FOLDER))
    assert len(buffer.getvalue()) <= MOST_BYTES


def test_every_file_is_listed_and_has_the_stated_length():
    files = {str(path) for path in (FOLDER / "audio").rglob("*") if path.is_file()}
    assert files == {recording.path for recording in CORPUS}
    for recording in CORPUS:
        facts = soundfile.info(recording.path)
        assert (facts.samplerate, facts.channels) == (16000, 1)
        assert facts.frames == round(recording.alignment().duration * 16000)
    sample = CORPUS[::150]
    assert all(len(recording.audio()) == round(recording.alignment().duration * 16000) for recording in sample)


def test_phones_tile_the_audio_and_words_are_runs_of_them():
    for recording in CORPUS:
        alignment = recording.alignment()
        phones, words = alignment.phones, alignment.words
        assert phones[0].start == 0 and phones[-1].end == pytest.approx(alignment.duration, abs=1e-4)
        assert all(a.end == b.start for a, b in pairwise(phones))
        assert all(phone.duration > 0 for phone in phones)
        starts, ends = {phone.start for phone in phones}, {phone.end for phone in phones}
        assert all(word.start in starts and word.end in ends for word in words)
        assert all(a.end <= b.start for a, b in pairwise(words))
        assert [word.label for word in words] == [word for word in map(_bare, recording.text.split()) if word]


def _bare(word: str) -> str:
    return word.strip(',.;:?!—…"“”«»()¿¡-')


def test_every_english_phone_occurs_a_hundred_times_in_the_prose():
    counts = Counter(phone.label for recording in packaged_speech("prose") for phone in recording.alignment().phones)
    counts.pop(SILENCE)
    assert len(counts) == 39 and min(counts.values()) >= 100
    held_out = packaged_speech("prose", split="held-out")
    assert len({phone.label for recording in held_out for phone in recording.alignment().phones}) == 40


def test_splits_share_neither_voices_nor_sentences():
    train, held_out = packaged_speech(split="train"), packaged_speech(split="held-out")
    assert len(train) + len(held_out) == len(CORPUS)
    assert not {recording.speaker for recording in train} & {recording.speaker for recording in held_out}
    assert not {recording.text for recording in train} & {recording.text for recording in held_out}
    assert len({recording.speaker for recording in held_out}) == 2


def test_minimal_pairs_differ_in_the_named_phone_and_nowhere_else():
    pairs = minimal_pairs()
    assert len(pairs) >= 120
    by_position = Counter(pair.position for pair in pairs)
    assert set(by_position) == {"onset", "vowel", "coda"} and min(by_position.values()) >= 30
    assert [pair.id for pair in minimal_pairs("coda")] == [pair.id for pair in pairs if pair.position == "coda"]
    for pair in pairs:
        assert pair.a.speaker == pair.b.speaker
        assert tuple(time.label for time in pair.phone_times) == pair.phones
        assert tuple(time.label for time in pair.word_times) == pair.words
        a, b = ([p.label for p in recording.alignment().phones if p.label != SILENCE] for recording in (pair.a, pair.b))
        assert sum(x != y for x, y in zip(a, b, strict=True)) == 1


def test_conflict_pairs_differ_in_the_last_word():
    pairs = conflict_pairs()
    assert len(pairs) >= 80
    for pair in pairs:
        assert pair.expected.speaker == pair.other.speaker
        for recording, word, time in zip((pair.expected, pair.other), pair.words, pair.word_times, strict=True):
            assert recording.text == f"{pair.context} {word}."
            assert time == recording.alignment().words[-1]


def test_semantic_words_are_of_eight_classes_at_varied_places():
    words = semantic_words()
    classes = Counter(word.semantic_class for word in words)
    assert len(classes) == 8 and min(classes.values()) >= 10
    for word in words:
        assert word.time in word.recording.alignment().words and word.time.label.lower() == word.word.lower()
    places = {
        name: {
            semantic.recording.alignment().words.index(semantic.time)
            for semantic in words
            if semantic.semantic_class == name
        }
        for name in classes
    }
    assert min(map(len, places.values())) >= 3


def test_windows_are_long():
    for recording in packaged_speech("window"):
        assert 24 <= recording.alignment().duration <= 29.1


@pytest.mark.parametrize("model", ["tiny.en", "base"])
def test_whisper_hears_english_within_six_percent(model):
    table = speech_metadata()["wer"][model]
    assert table["english"]["low"] <= table["english"]["wer"] <= 6
    assert table["english"]["recordings"] == len(packaged_speech(language="en"))
    assert set(table["voices"]) >= {recording.speaker for recording in packaged_speech(language="en")}


def test_the_metadata_agree_with_the_recordings():
    metadata = speech_metadata()
    assert metadata["recordings"] == len(CORPUS)
    assert metadata["minutes"] == pytest.approx(
        sum(recording.alignment().duration for recording in CORPUS) / 60, abs=0.01
    )
    assert metadata["audio_bytes"] == sum(Path(recording.path).stat().st_size for recording in CORPUS)
    assert {name: row["recordings"] for name, row in metadata["counts"]["kind"].items()} == Counter(
        map(kind_of, CORPUS)
    )
    codec = metadata["codec"]["rates"][f"{metadata['codec']['chosen_kbps']} kbit/s"]
    assert codec["largest_lag_samples"] <= 2
    assert metadata["times"]["train"]["word_starts"]["median_abs_ms"] <= 20
    assert metadata["selection"]["rule"] and metadata["wer_before_selection"]["base"]["english"]


def test_names_are_checked_and_close_ones_proposed(unchecked: None):
    for wrong, hint in (
        (lambda: packaged_speech("pros"), "'prose'"),
        (lambda: packaged_speech(["prose", "windows"]), "'window'"),
        (lambda: packaged_speech(language="english"), "'en', 'es'"),
        (lambda: packaged_speech(split="heldout"), "'held-out'"),
        (lambda: packaged_speech(voices=["af_hart"]), "'af_heart'"),
        (lambda: minimal_pairs("onsets"), "'onset'"),
        (lambda: packaged_speech("prose", language="fr"), "language='fr'"),
        (lambda: open_corpus("packaged:fragmnt"), "'fragment'"),
    ):
        with pytest.raises(AudioError, match=hint):
            wrong()


def test_packaged_speech_opens_as_a_corpus(tmp_path, monkeypatch):
    ids = [recording.id for recording in CORPUS]
    assert [recording.id for recording in open_corpus("packaged")] == ids
    assert [recording.id for recording in open_corpus("packaged:prose,window")] == [
        recording.id for recording in packaged_speech(["prose", "window"])
    ]
    assert {recording.language for recording in open_corpus("packaged:fr,it")} == {"fr", "it"}
    folder = open_corpus(FOLDER)
    assert [recording.id for recording in folder] == ids and folder[5].alignment() == CORPUS[5].alignment()
    table = open_corpus(FOLDER / LIST)
    assert [(recording.id, recording.path, recording.speaker, recording.text) for recording in table[:9]] == [
        (recording.id, recording.path, recording.speaker, recording.text) for recording in CORPUS[:9]
    ]
    monkeypatch.chdir(tmp_path)
    soundfile.write(tmp_path / "x.wav", [0.0] * 800, 16000)
    (tmp_path / "packaged").mkdir()
    (tmp_path / "x.wav").rename(tmp_path / "packaged" / "x.wav")
    assert [recording.id for recording in open_corpus("packaged")] == ["x"]  # a folder of that name comes first


def test_another_list_of_that_name_is_named(tmp_path):
    (tmp_path / LIST).write_text(json.dumps({"id": "a", "path": "a.wav"}) + "\n")
    with pytest.raises(AudioError, match=r"line 1.*'speaker'.*layout='folder'"):
        open_corpus(tmp_path)
    (tmp_path / LIST).write_text("{\n")
    with pytest.raises(AudioError, match="line 1, is not JSON"):
        open_corpus(tmp_path, "packaged")


def test_a_recording_is_one_short_line():
    line = repr(CORPUS[0])
    assert CORPUS[0].id in line and CORPUS[0].text[:40] in line and CORPUS[0].speaker in line
    assert len(line) < 150 and "/" not in line
