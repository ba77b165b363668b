"""Decoding and transcription by openai-whisper's own code, with our model (and its hooks) inside."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
import whisper
from jaxtyping import Float
from torch import Tensor
from whisper.audio import N_FRAMES
from whisper.decoding import DecodingOptions, DecodingResult

from hooked_whisper.audio import load_audio
from hooked_whisper.decoding.english import check_language
from hooked_whisper.decoding.threads import threads_kept
from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.model import WhisperCore


class Transcription(dict[str, Any]):
    """openai-whisper's result (``result["text"]``, ``["segments"]``, ``["language"]``), also as attributes."""

    @property
    def text(self) -> str:
        return self["text"]

    @property
    def language(self) -> str:
        return self["language"]

    @property
    def segments(self) -> list[dict[str, Any]]:
        """Each with ``start`` and ``end`` in seconds, ``text``, ``tokens``, ``avg_logprob``, ``no_speech_prob``, ..."""
        return self["segments"]

    @property
    def words(self) -> list[dict[str, Any]]:
        """Each with ``word``, ``start``, ``end`` (seconds), ``probability``; empty without ``word_timestamps=True``."""
        return [word for segment in self.segments for word in segment.get("words", [])]


def decode(
    model: WhisperCore,
    mel: Float[Tensor, "*batch a b"],
    options: DecodingOptions | None = None,
    **changes: Any,
) -> DecodingResult | list[DecodingResult]:
    """``whisper.decode``, one window per row: mel ``[.., mel, frame]`` or encoder output ``[.., position, d_model]``.

    Without ``options`` the defaults are openai-whisper's, in the model's own precision; ``changes`` are fields of
    ``DecodingOptions``. One result for one window, a list for a batch. An English-only model decodes English.

    Raises:
        PromptError: an English-only model is asked for another language or a translation.
    """
    if options is None:
        options = DecodingOptions(fp16=model.dtype == torch.float16)
    options = replace(options, **changes)
    options = replace(options, language=check_language(model, options.language, options.task))
    # openai-whisper computes in one of these two and refuses any other
    mel = mel.to(device=model.device, dtype=torch.float16 if options.fp16 else torch.float32)
    if mel.dim() == 3 and mel.shape[0] > 1 and (options.beam_size or options.best_of):
        # its beam search pairs one clip with all its beams; several clips would be mixed up
        return [whisper.decode(model, row, options) for row in mel]  # type: ignore[arg-type, misc]
    return whisper.decode(model, mel, options)  # type: ignore[arg-type]


def transcribe(model: WhisperCore, audio: Any, *, sample_rate: int | None = None, **options: Any) -> Transcription:
    """``whisper.transcribe`` of audio of any length, read without ffmpeg.

    ``audio`` is whatever :func:`hooked_whisper.audio.load_audio` takes. Options are those of ``whisper.transcribe``
    (``language``, ``temperature``, ``word_timestamps``, ``beam_size``, ...). It may decode a window several times
    (temperature fallback): for interventions pass ``temperature=0`` and a ``language``.

    Raises:
        HookedWhisperError: the model's window is not 30 s, the only one openai-whisper's loop over windows knows.
        PromptError: an English-only model is asked for another language or a translation.
    """
    if model.cfg.encoder.n_frames != N_FRAMES:
        raise HookedWhisperError(
            f"transcribing needs a model with a window of 30 s ({N_FRAMES} mel frames), this one has "
            f"{model.cfg.encoder.n_frames}: use model.decode(model.to_mel(clip)) on clips that fit"
        )
    options["language"] = check_language(model, options.get("language"), options.get("task"))
    options.setdefault("fp16", model.dtype == torch.float16)
    samples = load_audio(audio, sample_rate)
    with threads_kept() if options.get("word_timestamps") else nullcontext():
        return Transcription(whisper.transcribe(model, samples.detach().cpu().float(), **options))  # type: ignore[arg-type]


def texts(results: DecodingResult | Sequence[DecodingResult]) -> list[str]:
    """Texts of decoding results, surrounding space removed."""
    return [r.text.strip() for r in (results if isinstance(results, Sequence) else [results])]
