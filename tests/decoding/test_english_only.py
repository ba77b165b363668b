"""A model of English alone: no language to detect, none to choose."""

from __future__ import annotations

import pytest
import torch
from whisper.decoding import DecodingOptions, DecodingResult
from whisper.tokenizer import get_tokenizer

from hooked_whisper.config import DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.errors import PromptError
from hooked_whisper.hooked import HookedWhisper

SIZES = dict(d_model=16, n_heads=2, n_layers=1, d_mlp=32)


@pytest.fixture(scope="module")
def english() -> HookedWhisper:
    torch.manual_seed(0)
    return HookedWhisper(WhisperConfig(EncoderConfig(**SIZES), DecoderConfig(n_vocab=51864, n_ctx=64, **SIZES)))


@pytest.fixture(scope="module")
def multilingual() -> HookedWhisper:
    torch.manual_seed(0)
    return HookedWhisper(WhisperConfig(EncoderConfig(**SIZES), DecoderConfig(n_ctx=64, **SIZES)))


@pytest.mark.parametrize("shape", [(80, 3000), (2, 80, 3000), (1500, 16), (3, 1500, 16)])
def test_detected_language_has_the_form_of_openai_whispers(english, multilingual, shape):
    """Same types, shapes and languages as with a multilingual model."""
    tokens, probabilities = english.detect_language(torch.zeros(shape))
    their_tokens, theirs = multilingual.detect_language(torch.zeros(shape))
    assert tokens.shape == their_tokens.shape and tokens.dtype == their_tokens.dtype
    assert (tokens == get_tokenizer(multilingual=False).to_language_token("en")).all()
    assert type(probabilities) is type(theirs)
    for ours, their in zip(*([p] if isinstance(p, dict) else p for p in (probabilities, theirs)), strict=True):
        assert list(ours) == list(their)
        assert ours["en"] == 1.0 and sum(ours.values()) == 1.0


@pytest.mark.parametrize("language", [None, "en", "english", "English"])
def test_decode_defaults_to_english(english, language):
    result = english.decode(torch.zeros(80, 3000), language=language, sample_len=3)
    assert isinstance(result, DecodingResult) and result.language == "en"
    options = DecodingOptions(language=language, fp16=False, sample_len=3)
    assert english.decode(torch.zeros(80, 3000), options).tokens == result.tokens


def test_decode_for_the_language_alone(english):
    result = english.decode(torch.zeros(80, 3000), task="lang_id")
    assert isinstance(result, DecodingResult)
    assert result.language == "en" and result.language_probs is not None and result.language_probs["en"] == 1.0


@pytest.mark.parametrize(
    ("options", "named"),
    [({"language": "de"}, "'de'"), ({"language": "French"}, "'French'"), ({"task": "translate"}, "translate")],
)
def test_other_languages_and_translation_are_refused(english, options, named):
    """openai-whisper ignores them: the user would get English without a word."""
    for run in (
        lambda: english.decode(torch.zeros(80, 3000), **options),
        lambda: english.transcribe(torch.zeros(16000), **options),
        lambda: english.to_tokens(" a", **options),
    ):
        with pytest.raises(PromptError, match=named):
            run()


@pytest.mark.parametrize("timestamps", [False, True])
def test_prompt_is_openai_whispers(english, timestamps):
    tokenizer = get_tokenizer(multilingual=False)
    expected = tokenizer.sot_sequence if timestamps else tokenizer.sot_sequence_including_notimestamps
    assert english.to_tokens("", timestamps=timestamps)[0].tolist() == list(expected)
    assert english.to_str_tokens(english.to_tokens("")) == ["<|startoftranscript|>", "<|notimestamps|>"]
