"""Texts of the model's own: where none is given, once, kept on disk, and said wherever they are used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import hooked_whisper
from hooked_whisper import HookedWhisper
from hooked_whisper.analysis import with_own_texts
from hooked_whisper.analysis.own_texts import check_texts
from hooked_whisper.config import RELEASED
from hooked_whisper.corpora import Failure, Recording, fingerprint, open_corpus, own_text_fact
from hooked_whisper.corpora.tiers import TEXT_SOURCE
from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.features.scan import ScanOptions, scan
from hooked_whisper.interventions.transcriber import Transcriber

CLIPS = Path(hooked_whisper.__file__).parent / "demo" / "clips"


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return HookedWhisper.from_pretrained("demo", device="cpu")


@pytest.fixture(scope="module")
def corpus() -> list[Recording]:
    """Three without text, one with a text, one with an alignment only, one that cannot be read."""
    clips = [replace(recording, text="", find_alignment=None) for recording in open_corpus(CLIPS)[:6]]
    clips[1] = replace(clips[1], text="as it was given")
    clips[3] = replace(clips[3], find_alignment=lambda: None)  # type: ignore[return-value, arg-type]
    clips[4] = replace(clips[4], source="/no/such/file.flac")
    return clips


@pytest.fixture(scope="module")
def filled(model, corpus) -> list[Recording]:
    return with_own_texts(model, corpus, progress=False, failed=lambda failure: None)


def test_only_what_has_neither_text_nor_alignment_is_filled(model, corpus, filled) -> None:
    transcribed = [i for i, recording in enumerate(filled) if recording.text_source]
    assert transcribed == [0, 2, 5] and {filled[i].text_source for i in transcribed} == {"demo"}
    assert [filled[i] for i in (1, 3, 4)] == [corpus[i] for i in (1, 3, 4)]
    assert own_text_fact(filled).startswith("3 of 6 recordings: the transcript of demo")
    assert own_text_fact(corpus) == ""
    assert fingerprint(filled) != fingerprint(corpus)


def test_texts_are_the_transcripts_and_words_are_inside_the_sound(model, filled) -> None:
    for recording in (filled[0], filled[2], filled[5]):
        samples = recording.audio()
        encoded = model.embed_audio(model.to_mel(samples))
        assert recording.text == Transcriber(model).raw(encoded)[0]
        alignment = recording.alignment()
        assert alignment is not None and alignment.extra[TEXT_SOURCE] == "demo" and not alignment.phones
        assert [w.label for w in alignment.words] == recording.text.split()
        assert all(a.end <= b.start for a, b in zip(alignment.words[:-1], alignment.words[1:], strict=True))
        assert alignment.words[-1].end <= alignment.duration == pytest.approx(len(samples) / 16_000)


def test_an_english_model_leaves_other_languages(corpus) -> None:
    english = HookedWhisper(RELEASED["tiny.en"])
    failures: list[Failure] = []
    spanish = replace(corpus[0], language="es")
    assert with_own_texts(english, [spanish], progress=False, failed=failures.append) == [spanish]
    assert "'es'" in failures[0].reason


def test_unreadable_files_are_errors(model, corpus) -> None:
    failures: list[Failure] = []
    with_own_texts(model, corpus[4:5], progress=False, failed=failures.append)
    assert [failure.id for failure in failures] == [corpus[4].id]


def test_a_transcript_is_made_once(model, corpus, filled, tmp_path, monkeypatch) -> None:
    def again() -> list[Recording]:
        return with_own_texts(model, corpus, cache=tmp_path, progress=False, failed=lambda failure: None)

    assert [r.text for r in again()] == [r.text for r in filled]
    heard = []
    encode = HookedWhisper.embed_audio
    monkeypatch.setattr(HookedWhisper, "embed_audio", lambda self, mel: heard.append(len(mel)) or encode(self, mel))
    second = again()
    assert [r.text for r in second] == [r.text for r in filled] and not heard
    assert second[0].alignment() == filled[0].alignment()
    changed = HookedWhisper.from_pretrained("demo", device="cpu")
    with torch.no_grad():
        next(changed.parameters()).add_(1e-3)
    with_own_texts(changed, corpus[:1], cache=tmp_path, progress=False)
    assert heard == [1]  # another model's transcripts do not count


def test_recordings_longer_than_the_window(model, corpus, filled) -> None:
    window = model.time.n_samples
    sound = torch.cat([torch.nn.functional.pad(corpus[0].audio(), (0, window - len(corpus[0].audio()))),
                       corpus[2].audio()])  # fmt: skip
    long = with_own_texts(model, [Recording("long", sound)], progress=False)[0]
    assert long.text == f"{filled[0].text} {filled[2].text}"
    words, n = long.alignment().words, len(filled[0].text.split())
    assert words[n].start >= model.time.duration and words[n - 1].end <= model.time.duration


def test_a_damaged_cache_is_named(model, corpus, tmp_path) -> None:
    (tmp_path / "own_texts.jsonl").write_text("{")
    with pytest.raises(HookedWhisperError, match=r"own_texts\.jsonl"):
        with_own_texts(model, corpus, cache=tmp_path, progress=False)


def test_unknown_choice_is_refused() -> None:
    with pytest.raises(HookedWhisperError, match="'own'"):
        check_texts("owm")


def test_scan_records_the_source_of_its_texts(model, filled, tmp_path) -> None:
    transcribed = [filled[i] for i in (0, 2)]
    header = scan(model, transcribed, ["encoder.blocks.0"], tmp_path, ScanOptions(k=1), progress=False).header
    assert header["texts"] == own_text_fact(transcribed)
    assert json.loads((tmp_path / "scan.json").read_text())["texts"] == own_text_fact(transcribed)
