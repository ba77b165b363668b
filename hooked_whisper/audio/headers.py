"""Read formats with one header and samples to the end of the file: Sun AU and NIST SPHERE."""

from __future__ import annotations

import re
import struct

from hooked_whisper.audio.pieces import Piece, Seekable, Spliced, broken, read_at, truncated
from hooked_whisper.errors import AudioError

_AU_BITS = {1: 8, 2: 8, 3: 16, 4: 24, 5: 32, 6: 32, 7: 64, 23: 4, 24: 8, 25: 3, 26: 5, 27: 8}  # by encoding
_OPEN = 0xFFFFFFFF
_LONGEST_HEADER = 1 << 20
_FIELD = re.compile(rb"^([a-z_]+) -(?:i|r|s\d+) ([^\r\n]*)", re.MULTILINE)


def au_pieces(stream: Seekable, name: str, start: int, end: int) -> list[Piece]:
    """Read Sun AU in either byte order. If the size is unknown or too small, read to the end of the file."""
    head = read_at(stream, start, 24)
    order = ">" if head[:4] == b".snd" else "<"
    if len(head) < 24:
        raise broken(name, "its header is incomplete")
    offset, size, encoding, rate, channels = struct.unpack(order + "IIIII", head[4:])
    bits = _AU_BITS.get(encoding, 8) * max(1, channels)
    available = end - start - offset
    if size != _OPEN and size > available and (size - available) * 8 >= bits:
        if not rate:
            raise broken(name, "its header names no sample rate")
        per_second = rate * bits / 8
        raise truncated(name, available / per_second, (size - available) / per_second)
    if size == available and start == 0:
        stream.seek(0)
        return [Piece(stream)]
    head = head[:8] + struct.pack(order + "I", min(max(0, available), _OPEN)) + head[12:]
    return [Piece(Spliced(stream, [head, (start + 24, end)]))]


def sphere_pieces(stream: Seekable, name: str, start: int, end: int) -> list[Piece]:
    """Read NIST SPHERE. libsndfile ignores the count in the header and reads to the end of the file."""
    lines = read_at(stream, start, 16).split()
    length = int(lines[1]) if len(lines) == 2 and lines[1].isdigit() else 0
    if not 16 <= length <= _LONGEST_HEADER:
        raise broken(name, "its SPHERE header is incomplete")
    head = read_at(stream, start, length)
    fields = {key.decode(): value.strip() for key, value in _FIELD.findall(head)}
    coding = fields.get("sample_coding", b"pcm").decode("latin-1")
    if "," in coding:
        raise AudioError(
            f"{name} is a compressed SPHERE file ({coding}), which libsndfile cannot read: convert it with "
            "`sph2pipe -f wav`"
        )
    count, channels, width, rate = (
        int(fields[key]) if fields.get(key, b"").isdigit() else default
        for key, default in (("sample_count", 0), ("channel_count", 1), ("sample_n_bytes", 1), ("sample_rate", 0))
    )
    per_frame, available = max(1, channels * width), end - start - length
    if len(head) < length or not rate:
        raise broken(name, "its SPHERE header is incomplete")
    if count * per_frame > available:
        raise truncated(name, available / per_frame / rate, count / rate - available / per_frame / rate)
    if start == 0:
        stream.seek(0)
        return [Piece(stream)]
    return [Piece(Spliced(stream, [(start, end)]))]
