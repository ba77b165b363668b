"""A list of recordings gives the transcriptions of each alone, with fewer passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from whisper.model import Whisper

from hooked_whisper.corpora import packaged_speech
from hooked_whisper.decoding import Transcription, transcribe, transcribe_each
from hooked_whisper.errors import ArgumentError, AudioError
from hooked_whisper.hooked import HookedWhisper

Pair = tuple[Whisper, HookedWhisper]
GREEDY: dict[str, Any] = {"temperature": 0.0, "sample_len": 6}


@pytest.fixture(scope="module")
def recordings(audio: Tensor) -> list[Tensor]:
    """Clips of different lengths; the third has two windows, the fourth is silent."""
    return [audio, audio.flip(0)[:30_000], audio.repeat(9), torch.zeros(20_000)]


def compared(result: Transcription) -> tuple[Any, ...]:
    words = [(word["word"], round(word["start"], 2), round(word["end"], 2)) for word in result.words]
    return result.text, result.language, [segment["tokens"] for segment in result.segments], words


@pytest.mark.parametrize(
    "options",
    [
        {"word_timestamps": True},
        {"language": "en", "clip_timestamps": "0.3,1"},
        {"language": "en", "initial_prompt": "a very good", "condition_on_previous_text": False},
        {"language": "fr", "beam_size": 2},
    ],
    ids=", ".join,
)
def test_each_is_transcribed_as_alone(pair: Pair, recordings: list[Tensor], options: dict[str, Any]) -> None:
    model = pair[1]
    alone = [compared(transcribe(model, clip, **GREEDY, **options)) for clip in recordings]
    assert [compared(result) for result in transcribe(model, recordings, batch=3, **GREEDY, **options)] == alone


def test_first_windows_are_one_batch(pair: Pair, recordings: list[Tensor]) -> None:
    model, rows = pair[1], []
    with model.hooks(fwd_hooks=[("encoder.hook_out", lambda x: rows.append(len(x)))]):
        results = transcribe_each(model, iter(recordings), language="en", **GREEDY)
        next(results)
        assert rows == [4]
        assert len(list(results)) == 3
    assert rows == [4, 1], "the second window of one recording is decoded alone"


def test_each_language_is_detected_once(pair: Pair, audio: Tensor) -> None:
    model, rows = pair[1], []
    with model.hooks(fwd_hooks=[("encoder.hook_out", lambda x: rows.append(len(x)))]):
        transcribe(model, [audio, audio[:20_000]], **GREEDY)
    assert rows[0] == 2 and sum(rows) == 4


def test_sampling_is_not_shared(pair: Pair, audio: Tensor) -> None:
    model, rows = pair[1], []
    with model.hooks(fwd_hooks=[("encoder.hook_out", lambda x: rows.append(len(x)))]):
        transcribe(model, [audio, audio], language="en", temperature=0.5, sample_len=4)
    assert rows == [1, 1]


def test_bad_recordings_are_named(pair: Pair, audio: Tensor) -> None:
    model = pair[1]
    with pytest.raises(AudioError, match="list of recordings is empty"):
        transcribe(model, [])
    with pytest.raises(AudioError, match=r"recording 1: .*gone.wav"):
        transcribe(model, [audio, "gone.wav"], language="en", **GREEDY)
    results = transcribe_each(model, [audio, "gone.wav"], language="en", **GREEDY)
    assert next(results).language == "en"
    with pytest.raises(AudioError, match="recording 1"):
        next(results)
    with pytest.raises(ArgumentError, match="batch must be a whole number of at least 1, got 0"):
        model.transcribe([audio], batch=0)
    with pytest.raises(ArgumentError, match="batch"):
        transcribe_each(model, [audio], batch=True)
    assert model.transcribe([np.zeros(16000, np.float32)], language="en", **GREEDY)[0].language == "en"


@pytest.mark.real
def test_real_whisper_hears_the_same() -> None:
    model = HookedWhisper.from_pretrained("tiny.en")
    clips = [recording.audio() for recording in packaged_speech("prose")[:3]]
    alone = [transcribe(model, clip, temperature=0.0).text for clip in clips]
    assert [result.text for result in model.transcribe(clips, temperature=0.0)] == alone
