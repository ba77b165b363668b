"""Arguments of the viewer: a clip in any form, words, and tokens."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.analysis import align
from hooked_whisper.audio import SAMPLE_RATE, load_audio
from hooked_whisper.corpora import Clip, Recording
from hooked_whisper.errors import ArgumentError, HookedWhisperError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import Interval
from hooked_whisper.viewer.text_axis import spoken_text

ALIGNED = "Words and their times are from the clip's alignment."
GIVEN = "Words and their times were passed to the viewer."
ESTIMATED = "Words are from the transcript; their times are estimated from the model's cross-attention."


@dataclass(frozen=True, eq=False)
class ViewedClip:
    """What is known about the clip.

    Attributes:
        label: its id or file name; may be empty.
        samples: ``None`` without audio.
        mel: of one window; ``None`` without audio or mel.
        seconds: of the clip that the maps show.
        text: transcript; may be empty.
        words: of its alignment, from the start of the clip.
    """

    label: str
    samples: Float[np.ndarray, "sample"] | None
    mel: Float[Tensor, "1 mel frame"] | None
    seconds: float
    text: str = ""
    words: tuple[Interval, ...] = ()


def read_clip(model: HookedWhisper, audio: Any, duration: float | int | None) -> ViewedClip:
    """Read a clip, a recording, anything :func:`load_audio` takes, a mel of one clip, or ``None``.

    Raises:
        AudioError: the audio cannot be read, is longer than the window, or ``duration`` is outside the window.
        ArgumentError: ``duration`` is 0 or less.
    """
    if duration is not None and not 0 < duration < math.inf:
        raise ArgumentError(f"duration is a number of seconds above 0, not {duration!r}")
    if audio is None or _is_mel(model, audio):
        seconds = model.time.duration if duration is None else float(duration)
        return ViewedClip("", None, None if audio is None else _window(audio), seconds)
    if isinstance(audio, Recording):
        audio = Clip.load(audio)
    if isinstance(audio, Clip):
        label, samples, text = audio.id, audio.samples, audio.text
        words = _words_after(audio.alignment.words, float(audio.offset))
    else:
        label = PurePath(audio).name if isinstance(audio, str | os.PathLike) else ""
        samples, text, words = load_audio(audio).detach().cpu().float().numpy(), "", ()
    seconds = len(samples) / SAMPLE_RATE if duration is None else float(duration)
    return ViewedClip(label, samples, model.to_mel(samples), seconds, text, words)


def _words_after(words: Sequence[Interval], start: float) -> tuple[Interval, ...]:
    """Return the words that end after ``start``, with times from there."""
    return tuple(Interval(max(0.0, w.start - start), w.end - start, w.label) for w in words if w.end > start)


def _is_mel(model: HookedWhisper, audio: Any) -> bool:
    return isinstance(audio, Tensor) and audio.shape[-2:] == (model.cfg.encoder.n_mels, model.cfg.encoder.n_frames)


def _window(mel: Tensor) -> Float[Tensor, "1 mel frame"]:
    mel = mel[None] if mel.ndim == 2 else mel
    if len(mel) != 1:
        raise ArgumentError(f"the viewer shows one clip, but the mel has {len(mel)}: give mel[i]")
    return mel.detach()


def read_tokens(
    model: HookedWhisper, stack: str, tokens: Any, transcript: str | None, text: str, language: str
) -> Int[Tensor, "1 token"]:
    """Return the decoder's input: ``tokens``, or prompt and transcript, or prompt and the text of the clip.

    Raises:
        ArgumentError: there is none of them, both ``tokens`` and ``transcript``, or ``tokens`` are not one row of ids.
    """
    if tokens is not None and transcript is not None:
        raise ArgumentError("give tokens or transcript, not both")
    if isinstance(tokens, str):
        raise ArgumentError(f"tokens are ids; give the text as transcript={tokens!r:.60}")
    if tokens is not None:
        ids = torch.as_tensor(tokens)
        ids = ids[None] if ids.ndim == 1 else ids
        if ids.ndim != 2 or len(ids) != 1 or ids.shape[1] == 0 or ids.is_floating_point() or ids.dtype == torch.bool:
            raise ArgumentError(f"tokens are ids of one clip, [token] or [1, token], not {list(ids.shape)} {ids.dtype}")
        return ids.to(model.device, torch.long)
    spoken = (text if transcript is None else transcript).split()
    if not spoken:
        raise ArgumentError(
            f"the stack {stack!r} needs tokens, and the clip has no text: give "
            "transcript=model.transcribe(audio).text, or tokens=ids"
        )
    return model.to_tokens(" " + " ".join(spoken), language=language if model.is_multilingual else "en")


def check_encoder_out(model: HookedWhisper, encoder_out: Tensor | None) -> None:
    """Check the shape of an encoder output.

    Raises:
        ArgumentError: it is not of one clip of this model.
    """
    expected = (1, model.cfg.encoder.n_ctx, model.cfg.encoder.d_model)
    if encoder_out is not None and tuple(encoder_out.shape) != expected:
        raise ArgumentError(f"encoder_out is {list(encoder_out.shape)}, expected one clip, {list(expected)}")


def read_words(words: Iterable[Interval] | None, clip: ViewedClip) -> tuple[tuple[Interval, ...], str]:
    """Return the words within the clip and a sentence about their source: ``words``, or those of the alignment.

    Raises:
        ArgumentError: an entry is not an ``Interval``.
    """
    intervals = tuple(clip.words if words is None else words)
    for word in intervals:
        if not isinstance(word, Interval):
            raise ArgumentError(f"words are Intervals (start, end, label) in seconds, not {word!r:.60}")
    inside = tuple(
        Interval(max(0.0, word.start), min(word.end, clip.seconds), word.label)
        for word in intervals
        if word.end > 0 and word.start < clip.seconds
    )
    source = ALIGNED if words is None else GIVEN
    return inside, source if inside else ""


def estimated_words(
    model: HookedWhisper,
    encoder_out: Float[Tensor, "1 position d_model"],
    text: str,
    seconds: float,
    language: str,
) -> tuple[tuple[Interval, ...], str]:
    """Return words of a text with times from cross-attention, and a sentence about them; none if that fails."""
    try:
        words = align(model, encoder_out, text, duration=seconds, language=language).words
    except HookedWhisperError:  # only punctuation, too long, or no tokenizer
        return (), ""
    return tuple(words), ESTIMATED


def text_of(model: HookedWhisper, tokens: Int[Tensor, "1 token"]) -> str:
    """Return the spoken text of the decoder's input."""
    return spoken_text(model, tokens[0].tolist())


def check_heads(heads: Sequence[Any], stack: str) -> None:
    """Check that there are heads, all of one stack.

    Raises:
        ArgumentError: there are none, or one is of another stack.
    """
    if not heads:
        raise ArgumentError("no heads to show: give at least one, or heads=None for all of the stack")
    for head in heads:
        if head.stack != stack:
            raise ArgumentError(f"{head} is not in the stack {stack!r} that is shown: give stack={head.stack!r}")
