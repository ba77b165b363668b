"""What the commands for pages do to the recordings: words and phones for those that have none, and names of SAEs."""

from __future__ import annotations

import argparse
from dataclasses import replace

import pytest

from hooked_whisper.cli.aligned import ALIGNED, add_align_option, with_phones
from hooked_whisper.cli.features import add_features as add_page_arguments
from hooked_whisper.corpora import Recording, packaged_speech
from sae_lens_audio.cli.features import sae_name


def options(out, *arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_align_option(parser)
    return argparse.Namespace(out=out, language="en", **vars(parser.parse_args(list(arguments))))


@pytest.fixture
def plain() -> list[Recording]:
    """Recordings with a text and without an alignment, and one that is aligned."""
    first, second, third = list(packaged_speech("prose"))[:3]
    return [
        replace(first, find_alignment=None, id="a"),
        replace(second, find_alignment=None, id="b", language="de"),
        replace(third, id="c"),
    ]


def test_recordings_without_phones_are_aligned_once(plain, tmp_path) -> None:
    pytest.importorskip("pocketsphinx")
    corpus = with_phones(options(tmp_path), plain)
    alignment = corpus[0].alignment()
    assert alignment is not None and alignment.phones
    assert [word.label.lower().strip(".") for word in alignment.words] == plain[0].text.lower().strip(".").split()
    assert corpus[1:] == plain[1:]  # German, and already aligned
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / ALIGNED).rglob("*.json")}
    assert len(files) == 1 and with_phones(options(tmp_path), plain)[0].alignment() == alignment
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_words_of_the_models_transcript_get_phones_too(plain, tmp_path) -> None:
    pytest.importorskip("pocketsphinx")
    unaligned = replace(plain[2], text_source="tiny.en")  # word times of cross-attention, without phones
    aligned_own = with_phones(options(tmp_path), [unaligned])[0]
    assert aligned_own.alignment().phones and aligned_own.text_source == "tiny.en"


def test_align_never_and_recordings_without_text(plain, tmp_path) -> None:
    silent = [replace(recording, text="", find_alignment=None) for recording in plain]
    assert with_phones(options(tmp_path), silent) == silent
    assert with_phones(options(tmp_path, "--align", "never"), plain) == plain
    assert not (tmp_path / ALIGNED).exists()


def test_without_the_extra_the_recordings_stay_and_the_remedy_is_printed(plain, tmp_path, monkeypatch, capsys) -> None:
    from hooked_whisper import corpora
    from hooked_whisper.errors import MissingExtraError

    def missing(*args, **kwargs):
        raise MissingExtraError("forced alignment needs pocketsphinx: pip install hooked-whisper[align]")

    monkeypatch.setattr(corpora, "align_corpus", missing)
    assert with_phones(options(tmp_path), plain) == plain
    assert "1 recordings have a text but no phones" in (error := capsys.readouterr().err) and "[align]" in error


def test_pages_transcribe_recordings_without_a_text() -> None:
    parser = argparse.ArgumentParser()
    add_page_arguments(parser)
    parsed = parser.parse_args([])
    assert parsed.texts == "own" and parsed.align == "auto"


@pytest.mark.parametrize(
    ("source", "name"), [("runs/topk-2/sae", "topk-2"), ("demo/topk-2", "topk-2"), ("sae", "sae"), ("../a/b/", "b")]
)
def test_the_name_of_an_sae_is_that_of_its_folder(source: str, name: str) -> None:
    assert sae_name(source) == name
