"""Detect a file's format by its first bytes, and split the file into pieces for libsndfile."""

from __future__ import annotations

import soundfile

from hooked_whisper.audio.chunks import caf_pieces, iff_pieces, wav_pieces
from hooked_whisper.audio.flac import flac_pieces
from hooked_whisper.audio.headers import au_pieces, sphere_pieces
from hooked_whisper.audio.mpeg import is_mpeg, mpeg_pieces
from hooked_whisper.audio.ogg import ogg_pieces
from hooked_whisper.audio.pieces import Piece, Seekable, Spliced, read_at, size_of
from hooked_whisper.audio.tags import leading_tags

# First bytes of containers that libsndfile cannot read, at their offset.
_AV_MAGIC = ((4, b"ftyp"), (0, b"\x1aE\xdf\xa3"), (0, b"\xff\xf1"), (0, b"\xff\xf9"), (0, b"0&\xb2u"), (0, b"#!AMR"))
_PROBED = 1 << 17


def needs_av(head: bytes) -> bool:
    """Whether the first bytes belong to a container that libsndfile does not support (m4a, webm, aac, wma, amr)."""
    return any(head[offset : offset + len(magic)] == magic for offset, magic in _AV_MAGIC)


def pieces_of(stream: Seekable, name: str, until: float = float("inf")) -> list[Piece]:
    """Return pieces that libsndfile decodes, in order, to every sample of the file.

    Args:
        stream: seekable.
        until: number of seconds that are required; later data may not be checked.

    Raises:
        AudioError: the file is truncated.
    """
    end, start = size_of(stream), leading_tags(stream)
    head = read_at(stream, start, 16)
    if head[:4] == b"OggS":
        return ogg_pieces(stream, name, start, end)
    if head[:4] == b"fLaC":
        return flac_pieces(stream, name, start, end, until)
    if (head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE") or head[:8] == b"riff.\x91\xcf\x11":
        return wav_pieces(stream, name, start, end)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC", b"8SVX", b"16SV"):
        return iff_pieces(stream, name, start, end)
    if head[:4] == b"caff":
        return caf_pieces(stream, name, start, end)
    if head[:4] in (b".snd", b"dns."):
        return au_pieces(stream, name, start, end)
    if head[:7] == b"NIST_1A":
        return sphere_pieces(stream, name, start, end)
    piece = _whole(stream, start, end)
    begins_with_frames = not needs_av(head) and head[:1] == b"\xff" and is_mpeg(read_at(stream, start, _PROBED))
    known = "MP3" if begins_with_frames else _format_of(piece)
    if known == "MP3" or (not known and not needs_av(head) and is_mpeg(read_at(stream, start, _PROBED))):
        return mpeg_pieces(stream, name, start, end)
    return [piece]


def _whole(stream: Seekable, start: int, end: int) -> Piece:
    stream.seek(0)
    return Piece(stream if not start else Spliced(stream, [(start, end)]))


def _format_of(piece: Piece) -> str:
    """Return libsndfile's name of the format; empty if libsndfile does not support it."""
    piece.stream.seek(0)
    try:
        with soundfile.SoundFile(piece.stream) as sound:
            return str(sound.format)
    except soundfile.LibsndfileError:
        return ""
    finally:
        piece.stream.seek(0)
