"""Sentences and plan of the training speech."""

from __future__ import annotations

import math
from itertools import islice

import pytest

from hooked_whisper.corpora import packaged_speech
from hooked_whisper.errors import ConfigError
from sae_lens_audio.speech import plan_passages
from sae_lens_audio.speech.sentences import sentences

HELD_OUT = {"af_alloy", "am_eric"}


def test_sentences_depend_on_the_seed_only() -> None:
    first, again, other = (list(islice(sentences(seed), 50)) for seed in (1, 1, 2))
    assert first == again != other
    assert all(text[0].isupper() and text[-1] in ".?" and "{" not in text and "  " not in text for text in first)


def test_sentences_vary() -> None:
    texts = list(islice(sentences(0), 2000))
    assert len(set(texts)) > 1900
    assert len({word for text in texts for word in text.lower().split()}) > 1500


def test_no_packaged_sentence_is_used() -> None:
    packaged = {recording.text for recording in packaged_speech()}
    assert packaged.isdisjoint(islice(sentences(0), 5000))


def test_plan_has_the_requested_hours_and_no_held_out_voice() -> None:
    passages = plan_passages({"kokoro": 0.4, "flite": 0.8})
    assert sum(passage.synthesizer == "kokoro" for passage in passages) == math.ceil(0.4 * 3600 / 27)
    assert HELD_OUT.isdisjoint(passage.voice for passage in passages)
    assert len({passage.voice for passage in passages}) == 14
    assert len({passage.key for passage in passages}) == len({passage.id for passage in passages}) == len(passages)
    assert {passage.sound for passage in passages} == {"clean", "room", "noise"}


def test_larger_plan_contains_the_smaller_one() -> None:
    small, large = plan_passages({"flite": 0.1}), plan_passages({"flite": 0.2, "kokoro": 0.1})
    assert large[: len(small)] == small


@pytest.mark.parametrize("hours", [-1.0, math.inf, math.nan])
def test_invalid_hours_are_refused(hours: float) -> None:
    with pytest.raises(ConfigError, match=f"flite: got {hours}"):
        plan_passages({"flite": hours})


def test_unknown_synthesizer_is_refused(unchecked: None) -> None:
    with pytest.raises(ConfigError, match="'flite'"):
        plan_passages({"flit": 1.0})  # type: ignore[dict-item]
