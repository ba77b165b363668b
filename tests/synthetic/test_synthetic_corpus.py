"""SyntheticCorpus: words, sentences, speech, minimal pairs and clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hooked_whisper.synthetic.export import _export_clips
from hooked_whisper.synthetic.synthetic_corpus import SyntheticCorpus


@pytest.fixture(scope="module")
def spoken(corpus_folder: Path) -> SyntheticCorpus:
    _export_clips(corpus_folder, corpus_folder / "clips", 4)
    return SyntheticCorpus.load(corpus_folder)


def test_words_classes_rhymes_and_matrix(spoken: SyntheticCorpus):
    assert len(spoken.words) == 232 and "SyntheticCorpus(232 words" in repr(spoken)
    assert spoken.transition_matrix.shape == (len(spoken.states),) * 2
    assert sum(map(len, spoken.classes.values())) == len(spoken.words)
    assert spoken.next_words("ice", 1)[0][0] == "cream"
    assert "rug" in {word for family in spoken.rhymes.values() for word in family}


def test_sampled_sentences_of_both_splits(spoken: SyntheticCorpus):
    assert spoken.sample_sentences(5, seed=1) == spoken.sample_sentences(5, seed=1)
    novel = spoken.sample_sentences(5, seed=1, split="bigrams")
    assert all(spoken.grammar.has_held_out(text) for text in novel)
    with pytest.raises(ValueError, match="split"):
        spoken.sample_sentences(1, split="dev")


def test_word_pairs_can_follow_the_same_word(spoken: SyntheticCorpus):
    pairs = spoken.minimal_pairs(6, "onset", seed=2)
    assert len(pairs) == 6
    for pair in pairs:
        carrier = spoken.carriers(pair)[0]
        row = spoken.full_transition_matrix[spoken.states.index(carrier)]
        assert row[spoken.states.index(pair.a)] > 0 and row[spoken.states.index(pair.b)] > 0


def test_say_returns_audio_and_alignment(spoken: SyntheticCorpus):
    audio, alignment = spoken.say("The very good duck", "us-f2")
    assert alignment.text == "the very good duck" and alignment.speaker == "us-f2"
    assert len(audio) / 16000 == alignment.duration and np.abs(audio).max() > 0.1
    for text in ("", "2 ducks", "well, yes"):
        with pytest.raises(ValueError, match="words of letters"):
            spoken.say(text)
    with pytest.raises(ValueError, match="us-f4"):
        spoken.say("duck", "nobody")


def test_packaged_clips(spoken: SyntheticCorpus):
    clips = spoken.clips()
    sentences, speakers = spoken.clips("sentences"), spoken.clips("speakers")
    assert len(sentences) == len(speakers) == 2
    assert [c.id for c in clips] == [c.id for c in sentences + speakers]
    for clip in clips:
        assert len(clip.samples) / 16000 == pytest.approx(clip.alignment.duration, abs=1e-4)
        assert clip.text == " ".join(w.label for w in clip.alignment.words)


def test_recordings_match_the_clips(spoken: SyntheticCorpus):
    clips = spoken.clips("speakers")
    recordings = spoken.recordings("speakers")
    assert [r.text for r in recordings] == [c.text for c in clips]
    assert [r.alignment() for r in recordings] == [c.alignment for c in clips]
    assert [r.speaker for r in recordings] == [c.alignment.speaker for c in clips]
    assert np.allclose(recordings[0].audio(), clips[0].samples)


def test_missing_corpus_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no synthetic corpus"):
        SyntheticCorpus.load(tmp_path)
