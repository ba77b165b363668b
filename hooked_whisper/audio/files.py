"""Decode audio files with libsndfile, or with PyAV for formats that libsndfile does not support."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

from hooked_whisper.audio.containers import needs_av, pieces_of
from hooked_whisper.audio.mel import SAMPLE_RATE
from hooked_whisper.audio.pieces import Piece, Seekable, truncated
from hooked_whisper.audio.pyav import read_with_av
from hooked_whisper.errors import AudioError

_BLOCK = 1 << 20  # samples per read, so that a wrong length in a header cannot cause a huge allocation
_UNRECOGNIZED = 1  # libsndfile's SF_ERR_UNRECOGNISED_FORMAT


class Decoded(NamedTuple):
    """Mono samples and their rate in Hz.

    Attributes:
        unscaled: whether the format can store floats above full scale, 1.
    """

    samples: Float32[np.ndarray, "sample"]
    rate: int
    unscaled: bool = False


def read_audio(stream: Seekable, name: str) -> Decoded:
    """Decode an audio file and average its channels.

    All samples that can be decoded are read, regardless of the count in the header, including those of joined files.
    Joined files with different rates are resampled to 16 kHz.

    Args:
        stream: seekable, at the start of the file.
        name: the file's name, for error messages.

    Raises:
        AudioError: the file is empty, broken, truncated or not audio; the message says how much is missing.
        MissingExtraError: the format needs PyAV, which is not installed.
    """
    head = checked_head(stream, name)
    if needs_av(head):
        return Decoded(*read_with_av(stream, name))
    parts: list[Decoded] = []
    for piece in pieces_of(stream, name):
        parts.append(_decode(piece, name, sum((len(part.samples) / part.rate for part in parts), 0.0)))
    if not any(len(part.samples) for part in parts):
        raise AudioError(f"{name} has no samples: fetch or record it again")
    if len({part.rate for part in parts}) > 1:
        parts = [
            Decoded(soxr.resample(part.samples, part.rate, SAMPLE_RATE, quality="HQ"), SAMPLE_RATE, part.unscaled)
            for part in parts
        ]
    unscaled = any(part.unscaled for part in parts)
    return Decoded(np.concatenate([part.samples for part in parts]), parts[0].rate, unscaled)


def seconds_of(stream: Seekable, name: str) -> float | None:
    """Return the duration of an audio file in seconds without decoding; ``None`` for PyAV's formats.

    Raises:
        AudioError: as for :func:`read_audio`, if the problem can be detected without decoding.
    """
    if needs_av(checked_head(stream, name)):
        return None
    seconds = 0.0
    for piece in pieces_of(stream, name):
        with open_piece(piece, name) as sound:
            seconds += (sound.frames if piece.n_frames is None else piece.n_frames) / sound.samplerate
    return seconds


def checked_head(stream: Seekable, name: str) -> bytes:
    """Read the first 16 bytes and seek to the start.

    Raises:
        AudioError: the file is empty or has raw samples without a header.
    """
    head = stream.read(16)
    if not head:
        raise AudioError(f"{name} is empty (0 bytes): fetch or record it again")
    stream.seek(0)
    if str(getattr(stream, "name", "")).lower().endswith(".raw"):  # soundfile requires a rate for this suffix
        raise AudioError(f"{name} has raw samples without a header: give them as (array, rate)")
    return head


def open_piece(piece: Piece, name: str) -> soundfile.SoundFile:
    """Open a piece.

    Raises:
        AudioError: libsndfile does not support the format, or the piece is broken.
    """
    piece.stream.seek(0)
    try:
        return soundfile.SoundFile(piece.stream)
    except soundfile.LibsndfileError as error:
        raise unreadable(error, name) from error


def unreadable(error: soundfile.LibsndfileError, name: str) -> AudioError:
    if error.code == _UNRECOGNIZED:
        return AudioError(
            f"{name} is not audio in a known format (wav, flac, ogg, opus, mp3, aiff): convert it or check it"
        )
    return AudioError(f"{name} is broken or truncated: fetch or convert it again")


def _decode(piece: Piece, name: str, earlier: float) -> Decoded:
    """Read all samples of a piece. ``earlier`` is the duration of earlier pieces in seconds, for error messages."""
    with open_piece(piece, name) as sound:
        rate = sound.samplerate
        expected = sound.frames if piece.n_frames is None else piece.n_frames
        try:
            samples = _read_blocks(sound, piece.n_frames)
        except soundfile.LibsndfileError as error:
            raise unreadable(error, name) from error
        logged, unscaled = _logged_frames(sound), sound.subtype in ("FLOAT", "DOUBLE")
    if len(samples) + piece.slack < max(expected, logged):
        missing = None if logged == math.inf else (max(expected, logged) - len(samples)) / rate
        raise truncated(name, earlier + len(samples) / rate, missing)
    return Decoded(samples, rate, unscaled)


def _read_blocks(sound: soundfile.SoundFile, n_frames: int | None) -> Float32[np.ndarray, "sample"]:
    """Read all samples, or the first ``n_frames``."""
    size = max(1, _BLOCK // sound.channels)
    blocks, missing = [np.zeros(0, np.float32)], math.inf if n_frames is None else n_frames
    while missing and len(block := sound.read(int(min(size, missing)), dtype="float32", always_2d=True)):
        blocks.append(block[:, 0] if sound.channels == 1 else block.mean(axis=1))
        missing -= len(block)
    return np.concatenate(blocks)


def _logged_frames(sound: soundfile.SoundFile) -> float:
    """Return the header's frame count in a rare format (AVR, MPC, MAT, WVE, VOC), from libsndfile's log.

    libsndfile logs the count if it corrects it. 0 without a correction, infinite if the message has no number.
    """
    if sound.format in _COUNTED_ELSEWHERE:
        return 0.0
    log = sound.extra_info
    counted = re.findall(r"\b(?:Frames|Cols)\s*:\s*(\d+)", log)
    if counted:
        return float(counted[-1])
    shorter = re.search(r"Data length\s*:?\s*(\d+) should be (\d+)", log)
    if shorter and int(shorter[1]) > int(shorter[2]) > 0:
        return sound.frames * int(shorter[1]) / int(shorter[2])
    return math.inf if re.search(r"seems to be (a )?truncated", log, re.IGNORECASE) else 0.0


_COUNTED_ELSEWHERE = frozenset(["WAV", "WAVEX", "RF64", "W64", "AIFF", "CAF", "AU", "NIST", "FLAC", "OGG", "MP3"])
