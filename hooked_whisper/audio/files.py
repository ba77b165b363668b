"""Decoding audio files: libsndfile first, PyAV for what it does not know."""

from __future__ import annotations

import os
import re
from io import BufferedIOBase

import numpy as np
import soundfile
from jaxtyping import Float32

from hooked_whisper.errors import AudioError, MissingExtraError

_BLOCK = 1 << 20  # frames a read: a header that lies about its length cannot make us allocate it
_UNRECOGNISED = 1  # libsndfile's SF_ERR_UNRECOGNISED_FORMAT
_STREAM_SIZE = 0x7FFF0000  # wav writers that cannot seek back leave a data size near 2 or 4 GiB
# First bytes of containers that libsndfile cannot read, at their offset.
_AV_MAGIC = ((4, b"ftyp"), (0, b"\x1aE\xdf\xa3"), (0, b"\xff\xf1"), (0, b"\xff\xf9"), (0, b"0&\xb2u"), (0, b"#!AMR"))


def read_audio(stream: BufferedIOBase, name: str) -> tuple[Float32[np.ndarray, "sample"], int]:
    """All samples of an audio file, channels averaged, and its rate in Hz.

    Args:
        stream: seekable, at the start of the file.
        name: what to call it in an error.

    Raises:
        AudioError: empty, not audio, broken or truncated.
        MissingExtraError: the format needs PyAV, which is not installed.
    """
    head = stream.read(12)
    if not head:
        raise AudioError(f"{name} is empty (0 bytes): fetch or record it again")
    stream.seek(0)
    if str(getattr(stream, "name", "")).lower().endswith(".raw"):  # soundfile goes by this one ending, and wants a rate
        raise AudioError(f"{name} has raw samples without a header: give them as (array, rate)")
    try:
        with soundfile.SoundFile(stream) as sound:
            samples, rate, promised = _read_blocks(sound), sound.samplerate, _promised_frames(sound)
    except soundfile.LibsndfileError as error:
        if any(head[at : at + len(magic)] == magic for at, magic in _AV_MAGIC):
            stream.seek(0)
            return _read_with_av(stream, name)
        if error.code == _UNRECOGNISED:
            raise AudioError(
                f"{name} is not audio in a known format (wav, flac, ogg, opus, mp3, aiff): convert it or check it"
            ) from None
        raise AudioError(f"{name} is broken or truncated: fetch or convert it again") from error
    if not len(samples) and not promised:
        raise AudioError(f"{name} holds no samples: fetch or record it again")
    if len(samples) < promised or _ends_inside_an_ogg_page(stream):
        raise AudioError(
            f"{name} is truncated, it ends after {len(samples) / rate:.2f} s: fetch it again, or give what "
            "soundfile.read gets from it as (array, rate)"
        )
    return samples, rate


def _read_blocks(sound: soundfile.SoundFile) -> Float32[np.ndarray, "sample"]:
    blocks = [np.zeros(0, np.float32)]
    while len(block := sound.read(_BLOCK, dtype="float32", always_2d=True)):
        blocks.append(block.mean(axis=1))
    return np.concatenate(blocks)


def _promised_frames(sound: soundfile.SoundFile) -> int:
    """Frames by the header. libsndfile corrects those of a wav or aiff to the file's length, but logs what it found."""
    found = re.search(r"^\s*(?:data|SSND)\s*:\s*(\d+) \(should be (\d+)\)", sound.extra_info, re.MULTILINE)
    if found and int(found[2]) < int(found[1]) < _STREAM_SIZE:
        return sound.frames + 1
    return sound.frames


def _ends_inside_an_ogg_page(stream: BufferedIOBase) -> bool:
    """libsndfile takes a cut-off Opus file without a word; its last page says how long it should have been."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if stream.read(4) != b"OggS":
        return False
    stream.seek(max(0, size - (1 << 16)))  # a page has at most 65,307 bytes
    tail = stream.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27:
        return True
    n_segments = page[26]
    return len(page) < 27 + n_segments + sum(page[27 : 27 + n_segments])


def _read_with_av(stream: BufferedIOBase, name: str) -> tuple[Float32[np.ndarray, "sample"], int]:
    try:
        import av
    except ImportError:
        raise MissingExtraError(
            f"{name} is in a format (such as m4a, mp4, webm) that needs PyAV: pip install hooked-whisper[av]"
        ) from None
    try:
        with av.open(stream) as container:
            if not container.streams.audio:
                raise AudioError(f"{name} has no audio track: give a file that has one")
            rate = container.streams.audio[0].codec_context.sample_rate
            to_planes = av.AudioResampler(format="fltp", rate=rate)  # [channel, sample]; the rate stays
            planes = [
                plane.to_ndarray().mean(axis=0)
                for frame in container.decode(audio=0)
                for plane in to_planes.resample(frame)
            ]
    except av.error.FFmpegError as error:
        raise AudioError(f"{name} is broken or truncated: fetch or convert it again") from error
    return np.concatenate(planes) if planes else np.zeros(0, np.float32), rate
