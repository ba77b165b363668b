"""Values of decoding options that openai-whisper would misread or fail on are rejected by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hooked_whisper.config import DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.decoding.options import check_values
from hooked_whisper.errors import ArgumentError
from hooked_whisper.hooked import HookedWhisper

INVALID: list[dict[str, Any]] = [
    {"beam_size": 0},
    {"beam_size": 2.5},
    {"beam_size": True},
    {"best_of": 0, "temperature": 0.5},
    {"sample_len": 0},
    {"sample_len": -3},
    {"sample_len": 2.5},
    {"temperature": -1.0},
    {"temperature": float("nan")},
    {"temperature": "0"},
    {"temperature": None},
    {"max_initial_timestamp": -1.0},
    {"suppress_tokens": "a,b"},
    {"suppress_tokens": "-5"},
    {"suppress_tokens": -1},
    {"suppress_tokens": [999999]},
    {"suppress_tokens": [1.5]},
    {"prefix": 5},
    {"prefix": [999999]},
]


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    encoder = EncoderConfig(n_layers=1, d_model=16, n_heads=2, d_mlp=32)
    return HookedWhisper(WhisperConfig(encoder, DecoderConfig(n_layers=1, d_model=16, n_heads=2, d_mlp=32)))


@pytest.mark.parametrize("options", INVALID, ids=str)
def test_decode_and_transcribe_name_the_invalid_option(model: HookedWhisper, options: dict[str, Any]):
    name = next(iter(options))
    with pytest.raises(ArgumentError, match=name):
        model.decode(torch.zeros(80, 3000), language="en", **options)
    with pytest.raises(ArgumentError, match=name):
        model.transcribe(np.zeros(1600, dtype=np.float32), language="en", **options)


def test_several_temperatures_only_for_transcribe():
    check_values({"temperature": (0.0, 0.2)}, 10, several_temperatures=True)
    for temperature, several in (((0.0, 0.2), False), ((), True), ((0.0, -1.0), True)):
        with pytest.raises(ArgumentError, match="temperature"):
            check_values({"temperature": temperature}, 10, several_temperatures=several)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beam_size": np.int64(5), "patience": 1.0},
        {"temperature": np.float32(0.5), "best_of": 2},
        {"suppress_tokens": "-1,5"},
        {"suppress_tokens": ""},
        {"suppress_tokens": [-1, np.int64(3)]},
        {"suppress_tokens": None, "sample_len": None, "max_initial_timestamp": None},
    ],
    ids=str,
)
def test_valid_values_pass(options: dict[str, Any]):
    check_values(options, 10)


@pytest.mark.parametrize(
    "options",
    [{"initial_prompt": 3}, {"initial_prompt": [1, 2]}, {"word_timestamps": "false"}, {"without_timestamps": "False"}],
    ids=str,
)
def test_transcribe_names_a_prompt_that_is_no_text_and_a_flag_given_as_a_string(
    model: HookedWhisper, options: dict[str, Any]
):
    with pytest.raises(ArgumentError, match=next(iter(options))):
        model.transcribe(np.zeros(1600, dtype=np.float32), language="en", **options)


@pytest.mark.parametrize("prompt", [5, [1.5], [999999], [-1]], ids=str)
def test_decode_names_an_invalid_prompt(model: HookedWhisper, prompt: Any):
    with pytest.raises(ArgumentError, match="prompt"):
        model.decode(torch.zeros(80, 3000), language="en", prompt=prompt)


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": "a word"},
        {"hallucination_silence_threshold": 2.0},
        {"logprob_threshold": "x"},
        {"no_speech_threshold": True},
        {"compression_ratio_threshold": [2.4]},
    ],
    ids=str,
)
def test_transcribe_names_options_that_it_would_ignore_or_fail_on(model: HookedWhisper, options: dict[str, Any]):
    with pytest.raises(ArgumentError, match=next(iter(options))):
        model.transcribe(np.zeros(1600, dtype=np.float32), language="en", **options)
