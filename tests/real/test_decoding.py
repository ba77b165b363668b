"""On real weights and real speech our texts, tokens, times and languages are openai-whisper's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import whisper
from whisper.decoding import DecodingOptions, DecodingResult

from hooked_whisper.decoding import threads_kept
from hooked_whisper.text import word_error
from tests.core.parity import record
from tests.real.conftest import Clip, RealTwins, mels

pytestmark = pytest.mark.real

OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"without_timestamps": True},
    "timestamps": {},
    "beam 5": {"beam_size": 5},
    "prompted": {"prompt": "An interview.", "without_timestamps": True},
}


def outcome(result: DecodingResult) -> tuple[str, list[int], str]:
    return result.text, result.tokens, result.language


@pytest.fixture(scope="module")
def encoded(twins: RealTwins, clips: list[Clip]) -> tuple[torch.Tensor, torch.Tensor]:
    """Encoder output of ours and of openai-whisper's."""
    with torch.no_grad():
        return twins.ours.embed_audio(mels(clips)), twins.openai.embed_audio(mels(clips))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_decode(twins: RealTwins, encoded, options: dict[str, Any]):
    n = 1 if "beam_size" in options else len(encoded[0])  # beams take long
    ours = [twins.ours.decode(row, language="en", **options) for row in encoded[0][:n]]
    theirs = [
        whisper.decode(twins.openai, row, DecodingOptions(language="en", fp16=False, **options))
        for row in encoded[1][:n]
    ]
    assert [outcome(result) for result in ours] == [outcome(result) for result in theirs]
    gap = max(abs(a.avg_logprob - b.avg_logprob) for a, b in zip(ours, theirs, strict=True))
    record(f"{twins.name}: decode, absolute", {"avg_logprob": gap})
    assert gap < 1e-4
    assert all(result.tokens for result in ours)


def test_transcribe_with_word_times(twins: RealTwins, clips: list[Clip]):
    options = {"word_timestamps": True, "temperature": 0.0, "language": "en"}
    ours = twins.ours.transcribe(clips[0].samples, **options)
    with threads_kept():
        theirs = whisper.transcribe(twins.openai, clips[0].samples, fp16=False, **options)
    assert ours.text == theirs["text"]
    assert [segment["tokens"] for segment in ours.segments] == [segment["tokens"] for segment in theirs["segments"]]
    words = [word for segment in theirs["segments"] for word in segment["words"]]
    assert words
    assert [(w["word"], w["start"], w["end"]) for w in ours.words] == [(w["word"], w["start"], w["end"]) for w in words]
    gap = max(abs(a["probability"] - b["probability"]) for a, b in zip(ours.words, words, strict=True))
    record(f"{twins.name}: transcribe, absolute", {"word probability": gap})
    assert gap < 1e-4


def test_transcript_matches_reference(twins: RealTwins, clips: list[Clip], encoded):
    """Both implementations with the same wrong weights would agree, but not hear."""
    texts = [twins.ours.decode(row, language="en").text for row in encoded[0]]
    assert word_error([clip.text for clip in clips], texts).wer < 0.5, texts


def test_detected_language(multilingual: RealTwins, foreign: list[Clip]):
    mel = mels(foreign)
    tokens, probabilities = multilingual.ours.detect_language(mel)
    their_tokens, theirs = whisper.detect_language(multilingual.openai, mel)
    assert torch.equal(tokens, their_tokens)
    gap = max(
        abs(ours[code] - their[code]) for ours, their in zip(probabilities, theirs, strict=True) for code in their
    )
    record("base: detect_language, absolute", {"probability": gap})
    assert gap < 1e-5
    spoken = [clip.language for clip in foreign]
    assert [max(languages, key=languages.get) for languages in probabilities] == spoken


def test_translation(multilingual: RealTwins, foreign: list[Clip]):
    mel = mels(foreign[:1])[0]
    ours = multilingual.ours.decode(mel, task="translate", language="es")
    options = DecodingOptions(task="translate", language="es", fp16=False)
    theirs = whisper.decode(multilingual.openai, mel, options)
    assert outcome(ours) == outcome(theirs) and ours.tokens


def test_english_only_needs_no_language(english_only: RealTwins, clips: list[Clip]):
    mel = mels(clips[:1])[0]
    result = english_only.ours.decode(mel)
    theirs = whisper.decode(english_only.openai, mel, DecodingOptions(language="en", fp16=False))
    assert outcome(result) == outcome(theirs)
    assert english_only.ours.detect_language(mel)[1]["en"] == 1.0
    assert english_only.ours.transcribe(clips[0].samples, temperature=0.0).language == "en"


def test_prompt_equals_openai_whisper(twins: RealTwins):
    tokenizer = whisper.tokenizer.get_tokenizer(
        twins.openai.is_multilingual, num_languages=twins.openai.num_languages, language="en", task="transcribe"
    )
    assert twins.ours.to_tokens("")[0].tolist() == list(tokenizer.sot_sequence_including_notimestamps)
    assert twins.ours.to_tokens("", timestamps=True)[0].tolist() == list(tokenizer.sot_sequence)
    assert twins.ours.to_tokens(" A word.", prompt=False)[0].tolist() == tokenizer.encode(" A word.")
