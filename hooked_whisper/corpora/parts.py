"""A part of an audio file, without decoding the rest."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

import soundfile
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.audio import SAMPLE_RATE, load_audio
from hooked_whisper.corpora.tiers import ROUNDING_S
from hooked_whisper.errors import AudioError
from hooked_whisper.storage import AnyPath, is_local


def load_part(path: AnyPath, start: float | int, end: float | int) -> Float[Tensor, "sample"]:
    """16 kHz mono samples of a file from ``start`` to ``end`` seconds; an infinite end is that of the file.

    An end up to 10 ms after the file's is taken for rounding. Other rates are resampled after cutting. Formats that
    libsndfile does not read (m4a) are decoded as a whole.

    Raises:
        AudioError: as :func:`~hooked_whisper.audio.load_audio`; a part that is not in the file.
    """
    try:
        with ExitStack() as stack:
            # of a remote file, only what is asked for is fetched
            source: Any = path if is_local(path) else stack.enter_context(path.open("rb"))
            sound = stack.enter_context(soundfile.SoundFile(source))
            first, last = _frames(path, start, end, sound.samplerate, sound.frames)
            sound.seek(first)
            samples = sound.read(last - first, dtype="float32", always_2d=True)
            if len(samples) < last - first:
                at = (first + len(samples)) / sound.samplerate
                raise AudioError(f"file {str(path)!r} is truncated, it ends after {at:.2f} s: fetch it again")
            return load_audio((samples.mean(axis=1), sound.samplerate))
    except AudioError:
        raise
    except Exception as error:
        if is_local(path) and not isinstance(error, soundfile.LibsndfileError):
            raise  # behind an URL anything may go wrong; fetching the whole file says what
        samples_of_all = load_audio(path)  # what libsndfile cannot read, PyAV may; or this says what is wrong
        first, last = _frames(path, start, end, SAMPLE_RATE, len(samples_of_all))
        return load_audio(samples_of_all[first:last])


def _frames(path: AnyPath, start: float | int, end: float | int, rate: int, frames: int) -> tuple[int, int]:
    duration = frames / rate
    beyond = math.isfinite(end) and end > duration + ROUNDING_S
    if not 0 <= start < end or beyond or start >= duration:
        raise AudioError(f"file {str(path)!r} lasts {duration:.2f} s, there is no part from {start:g} to {end:g} s")
    return round(start * rate), frames if math.isinf(end) else min(round(end * rate), frames)
