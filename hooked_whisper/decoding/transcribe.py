"""Decode and transcribe with openai-whisper's code, running our model and its hooks."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from typing import Any, overload

import torch
import whisper
from jaxtyping import Float
from torch import Tensor
from whisper.audio import FRAMES_PER_SECOND, HOP_LENGTH, N_FRAMES
from whisper.decoding import DecodingOptions, DecodingResult

from hooked_whisper._support.showing import Summary, Tabular, counted
from hooked_whisper._support.showing import described as described_value
from hooked_whisper.audio import load_audio
from hooked_whisper.decoding.english import check_language, without_added_tokens
from hooked_whisper.decoding.options import check_transcription, check_values
from hooked_whisper.decoding.recordings import FirstWindows
from hooked_whisper.decoding.task import HookedDecodingTask
from hooked_whisper.decoding.threads import threads_kept
from hooked_whisper.errors import ArgumentError, AudioError, HookedWhisperError, MissingExtraError, check_option
from hooked_whisper.model import WhisperCore
from hooked_whisper.model.inputs import described

BATCH = 8  # recordings that are decoded together
_OPTIONS = sorted(
    {
        *(name for name in inspect.signature(whisper.transcribe).parameters if name not in ("model", "audio")),
        *(field.name for field in fields(DecodingOptions)),
        "batch",
        "sample_rate",
    }
    - {"decode_options"}
)


def clip_times(times: str | Sequence[float | int], duration: float) -> list[float]:
    """Parse ``clip_timestamps`` of ``whisper.transcribe`` (``"start,end,start,end,..."`` in seconds).

    Times after the end of the audio are clipped to it: openai-whisper would loop forever.

    Raises:
        ArgumentError: the times are not numbers or not rising, or a clip starts at or after the end of the audio.
    """
    try:
        parts = [part for part in times.split(",") if part.strip()] if isinstance(times, str) else list(times)
        seconds = [float(part) for part in parts]
    except (TypeError, ValueError):
        seconds = [math.nan]
    clips = zip(seconds[::2], seconds[1::2], strict=False)
    if not all(math.isfinite(t) and t >= 0 for t in seconds) or any(end <= start for start, end in clips):
        raise ArgumentError(
            f"clip_timestamps={times!r:.80} must be seconds from 0, start,end,start,end,..., each end after its "
            "start: such as '0,4.5,6,9.2'"
        )
    if any(start >= duration for start in seconds[::2]):
        raise ArgumentError(
            f"clip_timestamps={times!r:.80} starts a clip at or after the audio's end, {duration:.2f} s"
        )
    return [min(t, duration) for t in seconds]


class Transcription(Tabular, dict[str, Any]):
    """openai-whisper's result (``result["text"]``, ``["segments"]``, ``["language"]``), also as attributes and as a
    table of segments."""

    @property
    def text(self) -> str:
        return self["text"]

    @property
    def language(self) -> str:
        return self["language"]

    @property
    def segments(self) -> list[dict[str, Any]]:
        """Segments with ``start`` and ``end`` in seconds, ``text``, ``tokens``, ``avg_logprob``, ..."""
        return self["segments"]

    @property
    def words(self) -> list[dict[str, Any]]:
        """Words with ``word``, ``start``, ``end`` (s), ``probability``; empty without ``word_timestamps=True``."""
        return [word for segment in self.segments for word in segment.get("words", [])]

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per segment: start and end in seconds, text, mean log-probability (nats per token),
        probability of no speech, and temperature."""
        names = ("start", "end", "text", "avg_logprob", "no_speech_prob", "temperature")
        return [{name: segment.get(name) for name in names} for segment in self.segments]

    def summary(self) -> Summary:
        words = f", {counted(len(self.words), 'timed word')}" if self.words else ""
        title = f"Transcription: {self.get('language')}, {counted(len(self.get('segments', [])), 'segment')}{words}"
        if "segments" not in self:
            return Summary(title, rows=tuple((name, described_value(value)) for name, value in self.items()))
        columns = ("start (s)", "end (s)", "log-prob per token (nats)", "text")
        rows = tuple((row["start"], row["end"], row["avg_logprob"], str(row["text"]).strip()) for row in self.to_rows())
        return Summary(title, (), columns, rows)


def decode(
    model: WhisperCore,
    mel: Float[Tensor, "*batch a b"],
    options: DecodingOptions | None = None,
    **changes: Any,
) -> DecodingResult | list[DecodingResult]:
    """Decode with ``whisper.decode``, one window per row.

    Args:
        mel: ``[.., mel, frame]``, or encoder output ``[.., position, d_model]``.
        options: default: openai-whisper's, in the model's precision, also inside ``torch.autocast``.
        changes: fields of ``DecodingOptions`` that replace those of ``options``.

    Returns:
        One result for one window, a list for a batch. An English-only model decodes English.

    Raises:
        ArgumentError: ``mel`` has another type or shape, or an option is unknown or out of range.
        PromptError: the language or task is unknown, an English-only model is used for another language or a
            translation, or the model's special tokens are unknown (:attr:`WhisperConfig.token_layout`).
    """
    mel = as_input(model, mel)
    if options is None:
        options = DecodingOptions(fp16=model.dtype == torch.float16)
    elif not isinstance(options, DecodingOptions):
        raise ArgumentError(f"options must be whisper.DecodingOptions, not {described(options)}")
    for name in changes:
        check_option("option of decode", name, [field.name for field in fields(DecodingOptions)])
    options = replace(options, **changes)
    check_values(vars(options), model.cfg.decoder.n_vocab)
    options = replace(
        options,
        language=check_language(model, options.language, options.task),
        suppress_tokens=without_added_tokens(model, options.suppress_tokens),
    )
    # openai-whisper supports only these two dtypes
    mel = mel.to(device=model.device, dtype=torch.float16 if options.fp16 else torch.float32)
    task = _task(model, options)
    with _own_precision(model), torch.no_grad():
        if mel.dim() == 3 and mel.shape[0] > 1 and (options.beam_size or options.best_of):
            # openai-whisper's beam search assumes one clip: it would mix up several
            return [task.run(row[None])[0] for row in mel]
        return task.run(mel) if mel.dim() == 3 else task.run(mel[None])[0]


def as_input(model: WhisperCore, mel: Any) -> Tensor:
    """Return ``mel`` after checking its type and shape.

    Raises:
        ArgumentError: ``mel`` is not a tensor ``[.., mel, frame]`` or ``[.., position, d_model]`` of the model's size.
    """
    enc = model.cfg.encoder
    shapes = ((enc.n_mels, enc.n_frames), (enc.n_ctx, enc.d_model))
    fits = isinstance(mel, Tensor) and mel.dim() in (2, 3) and tuple(mel.shape[-2:]) in shapes and mel.numel() > 0
    if not fits or not mel.is_floating_point():
        (a, b), (c, d) = shapes
        raise ArgumentError(
            f"decoding takes a mel [{a}, {b}] or [batch, {a}, {b}], or encoder output [{c}, {d}] or [batch, {c}, {d}], "
            f"floating point, not {described(mel)}: model.decode(model.to_mel(audio)), or model.transcribe(audio) for "
            "files of any length"
        )
    return mel


def _task(model: WhisperCore, options: DecodingOptions) -> HookedDecodingTask:
    try:
        return HookedDecodingTask(model, options)
    except (ValueError, TypeError, AssertionError) as error:
        raise ArgumentError(f"openai-whisper rejects these decoding options: {error}") from error


def _own_precision(model: WhisperCore | FirstWindows) -> Any:
    """Disable ``torch.autocast``: openai-whisper decodes in one precision and rejects converted tensors."""
    return torch.autocast(model.device.type, enabled=False)


@overload
def transcribe(model: WhisperCore, audio: list[Any], **options: Any) -> list[Transcription]: ...
@overload
def transcribe(model: WhisperCore, audio: Any, **options: Any) -> Transcription: ...
def transcribe(
    model: WhisperCore, audio: Any, *, sample_rate: int | None = None, batch: int = BATCH, **options: Any
) -> Transcription | list[Transcription]:
    """Transcribe audio of any length with ``whisper.transcribe``, without ffmpeg.

    Args:
        audio: any source that :func:`hooked_whisper.audio.load_audio` accepts, or a list of them.
        batch: recordings of a list whose first windows are decoded together. The text is that of each recording alone,
            up to rounding. Hooks see the recordings as one batch.
        options: those of ``whisper.transcribe`` (``language``, ``temperature``, ``word_timestamps``, ``beam_size``,
            ...). It may decode a window several times (temperature fallback): for interventions pass ``temperature=0``
            and a ``language``.

    Returns:
        One transcription, or a list for a list; :func:`transcribe_each` yields them as they are finished.

    Raises:
        HookedWhisperError: the model's window is not 30 s, the only length that ``whisper.transcribe`` supports.
        PromptError: the language or task is unknown, an English-only model is used for another language or a
            translation, or the model's special tokens are unknown.
        AudioError: the list is empty, or a recording cannot be read.
        ArgumentError: an option is unknown or out of range, or ``clip_timestamps`` are not rising seconds inside the
            audio.
    """
    if isinstance(audio, list):
        if not audio:
            raise AudioError("the list of recordings is empty: give at least one")
        return list(transcribe_each(model, audio, sample_rate=sample_rate, batch=batch, **options))
    options = _checked(model, batch, options)
    return _transcription(model, _samples(audio, sample_rate), options)


def transcribe_each(
    model: WhisperCore, audio: Iterable[Any], *, sample_rate: int | None = None, batch: int = BATCH, **options: Any
) -> Iterator[Transcription]:
    """Yield the transcription of each recording, in order, see :func:`transcribe`. ``batch`` are in memory.

    A recording that cannot be read raises its error after the transcriptions of those before it.
    """
    return _transcriptions(model, enumerate(audio), sample_rate, batch, _checked(model, batch, options))


def _transcriptions(
    model: WhisperCore,
    sources: Iterator[tuple[int, Any]],
    sample_rate: int | None,
    batch: int,
    options: dict[str, Any],
) -> Iterator[Transcription]:
    error: Exception | None = None
    while error is None:
        clips: list[Tensor] = []
        for number, source in itertools.islice(sources, batch):
            try:
                clips.append(_samples(source, sample_rate))
            except (AudioError, MissingExtraError) as raised:
                error = type(raised)(f"recording {number}: {raised}")
                break
        if not clips and error is None:
            return
        answering = FirstWindows(model, clips) if len(clips) > 1 else None
        for number, clip in enumerate(clips):
            yield _transcription(model if answering is None else answering.of(number), clip, options)
    raise error


def _checked(model: WhisperCore, batch: int, options: dict[str, Any]) -> dict[str, Any]:
    if model.cfg.encoder.n_frames != N_FRAMES:
        raise HookedWhisperError(
            f"transcribing needs a model with a window of 30 s ({N_FRAMES} mel frames), this one has "
            f"{model.cfg.encoder.n_frames}: use model.decode(model.to_mel(clip)) on clips that fit"
        )
    for name in options:
        check_option("option of transcribe", name, _OPTIONS)
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ArgumentError(f"batch must be a whole number of at least 1, got {batch!r}")
    check_values(options, model.cfg.decoder.n_vocab, several_temperatures=True)
    check_transcription(options)
    return {
        "fp16": model.dtype == torch.float16,
        **options,
        "language": check_language(model, options.get("language"), options.get("task")),
        "suppress_tokens": without_added_tokens(model, options.get("suppress_tokens", "-1")),
    }


def _samples(source: Any, sample_rate: int | None) -> Float[Tensor, "sample"]:
    return load_audio(source, sample_rate).detach().cpu().float()


def _transcription(model: WhisperCore | FirstWindows, samples: Tensor, options: dict[str, Any]) -> Transcription:
    if "clip_timestamps" in options:
        duration = len(samples) // HOP_LENGTH / FRAMES_PER_SECOND
        options = options | {"clip_timestamps": clip_times(options["clip_timestamps"], duration)}
    timing = threads_kept() if options.get("word_timestamps") else nullcontext()
    with timing, _own_precision(model):
        return Transcription(whisper.transcribe(model, samples, **options))  # type: ignore[arg-type]


def texts(results: DecodingResult | Sequence[DecodingResult]) -> list[str]:
    """Return the texts of decoding results without surrounding white space."""
    return [r.text.strip() for r in (results if isinstance(results, Sequence) else [results])]
