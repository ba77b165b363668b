"""The synthetic corpus as recordings: exact times, any order of reading, synthesized once, not from training."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from hooked_whisper.corpora import Loaded, Loader, fingerprint
from hooked_whisper.errors import AudioError, MissingExtraError
from hooked_whisper.protocols import SILENCE
from hooked_whisper.synthetic import SyntheticCorpus, espeak, voices
from hooked_whisper.synthetic.corpus import CorpusConfig, plan
from hooked_whisper.synthetic.recordings import held_out_sentences, synthetic_recordings


@pytest.fixture(scope="module")
def packaged() -> SyntheticCorpus:
    return SyntheticCorpus.default()


def test_recordings_have_text_words_and_phones(packaged: SyntheticCorpus) -> None:
    corpus = synthetic_recordings(packaged, 8, seed=1)
    assert len({recording.id for recording in corpus}) == 8
    assert {recording.speaker for recording in corpus} == {s.id for s in voices.speakers("held-out", "espeak")}
    for recording in corpus:
        samples, alignment = recording.audio(), recording.alignment()
        assert alignment is not None and alignment.utterance == recording.id and alignment.speaker == recording.speaker
        assert alignment.text == recording.text == " ".join(word.label for word in alignment.words)
        assert alignment.duration == pytest.approx(len(samples) / 16_000)
        assert alignment.phones[0].start == 0 and alignment.phones[-1].end == pytest.approx(alignment.duration)
        assert all(a.end == b.start for a, b in zip(alignment.phones, alignment.phones[1:], strict=False))
        said = [p for p in alignment.phones if p.label != SILENCE]
        assert samples[round(said[0].start * 16_000) : round(said[-1].end * 16_000)].abs().max() > 0.1
        assert samples[: round(said[0].start * 16_000)].abs().sum() < 1


def test_sentences_are_not_in_the_training_corpus(packaged: SyntheticCorpus) -> None:
    shards = plan(CorpusConfig(seed=packaged.grammar.seed), packaged.grammar)
    trained = {job.text for name, jobs in shards.items() if name.startswith("train") for job in jobs}
    texts = held_out_sentences(packaged, 50, 3)
    assert len(set(texts)) == 50 and trained.isdisjoint(texts)
    assert texts == [recording.text for recording in synthetic_recordings(packaged, 50, seed=3)]


def test_recording_does_not_depend_on_the_order_of_reading(packaged: SyntheticCorpus) -> None:
    first, again = (synthetic_recordings(packaged, 12, seed=2) for _ in range(2))
    sounds = [recording.audio() for recording in first]
    packaged.say("the very good duck", "us-f2")  # the synthesizer that the process shares keeps state
    with ThreadPoolExecutor(3) as pool:
        backwards = list(pool.map(lambda recording: recording.audio(), again[::-1]))[::-1]
    assert all(torch.equal(a, b) for a, b in zip(sounds, backwards, strict=True))
    assert [a.alignment() for a in first] == [b.alignment() for b in again]
    assert fingerprint(first) == fingerprint(again) != fingerprint(synthetic_recordings(packaged, 12, seed=3))


def test_audio_and_alignment_are_synthesized_once(packaged: SyntheticCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = voices.speak
    monkeypatch.setattr(
        voices, "speak", lambda text, *args, **options: calls.append(text) or real(text, *args, **options)
    )
    first, second = synthetic_recordings(packaged, 2)
    assert not calls
    first.audio(), first.alignment(), first.audio(), second.alignment(), second.audio()
    assert calls == [first.text, second.text]


def test_loader_synthesizes_ahead(packaged: SyntheticCorpus) -> None:
    corpus = synthetic_recordings(packaged, 6, speakers=["us-f4", "gb-paul"])
    loaded = list(Loader(corpus, ahead=3, threads=2))
    assert all(isinstance(item, Loaded) for item in loaded) and [item.index for item in loaded] == list(range(6))
    assert all(torch.equal(item.samples, corpus[item.index].audio()) for item in loaded)


def test_invalid_arguments_are_refused(packaged: SyntheticCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        synthetic_recordings(packaged, 0)
    with pytest.raises(ValueError, match="us-f4"):
        synthetic_recordings(packaged, 1, speakers="us-f44")
    with monkeypatch.context() as patch:
        patch.setattr(espeak, "engine", lambda: (_ for _ in ()).throw(RuntimeError(espeak.INSTALL)))
        with pytest.raises(MissingExtraError, match="pip install"):
            synthetic_recordings(packaged, 1)
    (recording,) = synthetic_recordings(packaged, 1)
    monkeypatch.setattr(voices, "speak", lambda *_, **__: (_ for _ in ()).throw(ValueError("no separate phones")))
    with pytest.raises(AudioError, match="no separate phones"):
        recording.audio()


def copies() -> set[str]:
    """Return the number of copies of the library that this process has loaded, which only Linux shows."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    return {line.split(maxsplit=5)[5] for line in lines if f"{tempfile.gettempdir()}/espeak-" in line}


def test_copies_of_the_library_are_unloaded() -> None:
    before = copies()  # the phonemizer of the neural speech keeps one
    for _ in range(3):
        with espeak.fresh() as engine:
            assert np.abs(engine.say("duck", "en-us").audio).max() > 0.1
    assert copies() == before
