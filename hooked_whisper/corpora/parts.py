"""Load a part of an audio file, without decoding the rest if the format allows it."""

from __future__ import annotations

import io
import math

import soundfile
from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.storage import AnyPath, is_local
from hooked_whisper.audio import SAMPLE_RATE, load_audio
from hooked_whisper.audio.containers import needs_av, pieces_of
from hooked_whisper.audio.files import checked_head, open_piece, unreadable
from hooked_whisper.audio.g722 import ENDING
from hooked_whisper.audio.pieces import Seekable, truncated
from hooked_whisper.corpora.tiers import ROUNDING_S
from hooked_whisper.errors import AudioError

_SOUGHT = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff", b"FORM", b"caff", b".snd", b"NIST", b"fLaC")
"""First bytes of formats whose remote files can be fetched in part; other files are fetched completely."""


def load_part(path: AnyPath, start: float | int, end: float | int) -> Float[Tensor, "sample"]:
    """Load 16 kHz mono samples of a file from ``start`` to ``end`` seconds; an infinite end means the end of the file.

    An end up to 10 ms after the file's counts as rounding. Other rates are resampled after cutting. Joined files, and
    formats that libsndfile does not read (m4a), are decoded whole.

    Raises:
        AudioError: as :func:`~hooked_whisper.audio.load_audio`, or the part is not inside the file.
    """
    try:
        with path.open("rb") as stream:
            part = _sought(stream, path, start, end)
    except (AudioError, soundfile.LibsndfileError):
        raise
    except Exception as error:
        if is_local(path) and not isinstance(error, OSError | ValueError):
            raise
        part = None  # loading the whole file reports the problem
    if part is not None:
        return part
    samples = load_audio(path)
    first, last = _frames(path, start, end, SAMPLE_RATE, len(samples))
    return load_audio(samples[first:last])


def _sought(stream: Seekable, path: AnyPath, start: float | int, end: float | int) -> Float[Tensor, "sample"] | None:
    """Return the part if it can be reached without decoding the whole file, else ``None``."""
    name = f"file {str(path)!r}"
    head = checked_head(stream, name)
    if needs_av(head) or path.suffix.lower() == ENDING:
        return None
    if not is_local(path) and head[:4] not in _SOUGHT:
        stream = io.BytesIO(stream.read())
    pieces = pieces_of(stream, name, math.inf if is_local(path) else float(end))
    if len(pieces) > 1:
        return None
    with open_piece(pieces[0], name) as sound:
        n_frames = sound.frames if pieces[0].n_frames is None else pieces[0].n_frames
        first, last = _frames(path, start, end, sound.samplerate, n_frames)
        try:
            sound.seek(first)
            samples = sound.read(last - first, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise unreadable(error, name) from error
        if len(samples) + pieces[0].slack < last - first:
            raise truncated(name, (first + len(samples)) / sound.samplerate)
        return load_audio((samples.mean(axis=1), sound.samplerate))


def _frames(path: AnyPath, start: float | int, end: float | int, rate: int, frames: int) -> tuple[int, int]:
    duration = frames / rate
    beyond = math.isfinite(end) and end > duration + ROUNDING_S
    if not 0 <= start < end or beyond or start >= duration:
        raise AudioError(
            f"file {str(path)!r} lasts {duration:.2f} s, the part from {start:g} to {end:g} s is not inside it"
        )
    return round(start * rate), frames if math.isinf(end) else min(round(end * rate), frames)
