"""Check the values of decoding options that openai-whisper does not check."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from hooked_whisper.errors import ArgumentError

COUNTS = ("sample_len", "beam_size", "best_of")
THRESHOLDS = (
    "compression_ratio_threshold",
    "logprob_threshold",
    "no_speech_threshold",
    "hallucination_silence_threshold",
)
FLAGS = (
    "word_timestamps",
    "without_timestamps",
    "condition_on_previous_text",
    "carry_initial_prompt",
    "suppress_blank",
    "fp16",
    "verbose",
)


def check_values(options: Mapping[str, Any], n_vocab: int, *, several_temperatures: bool = False) -> None:
    """Check numbers and token ids of decoding options. Missing options and ``None`` pass.

    Args:
        options: by name, as in ``whisper.DecodingOptions``.
        n_vocab: number of token ids of the model.
        several_temperatures: whether ``temperature`` may be a list or tuple, as in ``whisper.transcribe``.

    Raises:
        ArgumentError: a count is not an integer of 1 or more, a temperature or ``max_initial_timestamp`` is negative or
            not a number, a threshold is not a number, ``suppress_tokens``, ``prompt`` or ``prefix`` holds something
            other than ids of the vocabulary, ``initial_prompt`` is not text, or a flag is a string.
    """
    for name in COUNTS:
        count = options.get(name)
        if count is not None and (isinstance(count, bool) or not isinstance(count, Integral) or count < 1):
            raise ArgumentError(f"{name} must be an integer of 1 or more, not {count!r:.80}")
    temperature = options.get("temperature", 0.0)
    several = several_temperatures and isinstance(temperature, list | tuple) and len(temperature) > 0
    if not all(_is_number_from_0(value) for value in (temperature if several else [temperature])):
        expected = "a number from 0, or a tuple of them" if several_temperatures else "one number from 0"
        raise ArgumentError(f"temperature must be {expected}, not {temperature!r:.80}")
    latest = options.get("max_initial_timestamp")
    if latest is not None and not _is_number_from_0(latest):
        raise ArgumentError(f"max_initial_timestamp must be seconds from 0, or None, not {latest!r:.80}")
    for name in THRESHOLDS:
        threshold = options.get(name)
        if threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, Real)):
            raise ArgumentError(f"{name} must be a number or None, not {threshold!r:.80}")
    _check_token_ids(options.get("suppress_tokens"), n_vocab)
    for name in ("prompt", "prefix"):
        _check_text_or_ids(name, options.get(name), n_vocab)
    if not isinstance(options.get("initial_prompt"), str | None):
        raise ArgumentError(f"initial_prompt must be text, not {options['initial_prompt']!r:.80}")
    for name in FLAGS:
        if isinstance(options.get(name), str):  # any text would count as True
            raise ArgumentError(f"{name} must be True or False, not {options[name]!r:.80}")


def check_transcription(options: Mapping[str, Any]) -> None:
    """Check options of ``whisper.transcribe`` that it would ignore.

    Raises:
        ArgumentError: ``prompt`` is given, or an option that needs word times without ``word_timestamps=True``.
    """
    if options.get("prompt") is not None:
        raise ArgumentError(
            "transcribe would replace prompt in every window: give initial_prompt, with carry_initial_prompt=True to "
            "repeat it in every window"
        )
    if options.get("hallucination_silence_threshold") is not None and not options.get("word_timestamps"):
        raise ArgumentError("hallucination_silence_threshold needs word_timestamps=True")


def _check_text_or_ids(name: str, value: Any, n_vocab: int) -> None:
    if value is not None and not isinstance(value, str) and not _are_ids(value, 0, n_vocab):
        raise ArgumentError(f"{name} must be text or a list of token ids from 0 to {n_vocab - 1}, not {value!r:.80}")


def _is_number_from_0(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value) and float(value) >= 0


def _check_token_ids(suppressed: Any, n_vocab: int) -> None:
    if suppressed is None:
        return
    try:
        ids = [int(part) for part in suppressed.split(",") if part] if isinstance(suppressed, str) else suppressed
    except ValueError:
        ids = None
    if not _are_ids(ids, -1, n_vocab):
        raise ArgumentError(
            f"suppress_tokens must be token ids from 0 to {n_vocab - 1}, or -1 for non-speech symbols, as a list or a "
            f"string such as '-1,50', not {suppressed!r:.80}"
        )


def _are_ids(values: Any, least: int, n_vocab: int) -> bool:
    try:
        return all(isinstance(i, Integral) and least <= int(i) < n_vocab for i in values)
    except TypeError:
        return False
