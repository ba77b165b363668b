"""Find tags before and after audio: ID3v1, ID3v2, APE and Lyrics3. Decoders would treat their bytes as audio."""

from __future__ import annotations

import struct

from hooked_whisper.audio.pieces import Seekable, read_at, size_of

_ID3V1, _ENHANCED = 128, 227
_LYRICS_END = b"LYRICS200"
_LONGEST_LYRICS_V1 = 5100


def leading_tags(stream: Seekable) -> int:
    """Return the total length in bytes of the tags at the start of a file."""
    size, start = size_of(stream), 0
    while length := tag_length(read_at(stream, start, 32)):
        start = min(size, start + length)
    stream.seek(0)
    return start


def tag_length(head: bytes) -> int:
    """Return the length of a tag that starts with ``head``, or 0.

    ``head`` has at least 32 bytes, unless the file is shorter. An ID3v1 tag always has 128 bytes.
    """
    if head[:3] == b"ID3" and len(head) >= 10 and max(head[3:5]) < 0xFF and max(head[6:10]) < 0x80:
        a, b, c, d = head[6:10]
        return 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if head[5] & 0x10 else 0)
    if head[:8] == b"APETAGEX" and len(head) >= 32:
        size, _, flags = struct.unpack_from("<III", head, 12)
        is_header = bool(flags & 1 << 29)
        return 32 + size if is_header else 32  # size counts items and footer; a footer without items counts only itself
    if head[:4] == b"TAG+":
        return _ENHANCED
    return _ID3V1 if head[:3] == b"TAG" else 0


def without_trailing_tags(stream: Seekable, start: int, end: int) -> int:
    """Return the end of the audio, before any tags."""
    while True:
        length = _trailing(stream, start, end)
        if not 0 < length <= end - start:
            return end
        end -= length


def _trailing(stream: Seekable, start: int, end: int) -> int:
    """Return the length of a tag that ends at ``end``, or 0."""
    tail = read_at(stream, max(start, end - _ID3V1), min(_ID3V1, end - start))
    if len(tail) == _ID3V1 and tail[:3] == b"TAG":
        before = read_at(stream, max(start, end - _ID3V1 - _ENHANCED), 4)
        return _ID3V1 + (_ENHANCED if before == b"TAG+" else 0)
    if tail[-32:-24] == b"APETAGEX":
        size, _, flags = struct.unpack_from("<III", tail, len(tail) - 20)
        return size + (32 if flags & 1 << 31 else 0)
    if tail[-10:-7] == b"3DI":
        a, b, c, d = tail[-4:]
        return 20 + ((a & 127) << 21 | (b & 127) << 14 | (c & 127) << 7 | d & 127)
    if tail.endswith(_LYRICS_END) and tail[-15:-9].isdigit():
        return int(tail[-15:-9]) + 15
    if tail.endswith(b"LYRICSEND"):
        text = read_at(
            stream, max(start, end - _LONGEST_LYRICS_V1 - 20), end - max(start, end - _LONGEST_LYRICS_V1 - 20)
        )
        begin = text.rfind(b"LYRICSBEGIN")
        return len(text) - begin if begin >= 0 else 0
    return 0
