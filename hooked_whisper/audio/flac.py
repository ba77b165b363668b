"""Read FLAC files, including joined files, missing or wrong lengths in the header, and files cut inside a frame.

The last frame contains its first sample, its length and a checksum, which give the true length of the file without
decoding. Source: RFC 9639.
"""

from __future__ import annotations

from dataclasses import dataclass

from hooked_whisper.audio.pieces import Piece, Seekable, Spliced, broken, read_at, truncated
from hooked_whisper.audio.tags import without_trailing_tags

_MARKS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")  # with the start of STREAMINFO, the first block
_CHUNK = 1 << 22
_TAIL = 1 << 17  # bytes, enough for a frame of any usual size
_LONGEST_FRAME = 1 << 21
_BLOCK_SIZES = {1: 192, **{k: 576 << k - 2 for k in range(2, 6)}, **{k: 256 << k - 8 for k in range(8, 16)}}
_UNKNOWN_TOTAL = 0
_MAX_TOTAL = (1 << 36) - 1


@dataclass(frozen=True)
class _StreamInfo:
    rate: int
    total: int
    least_block: int
    largest_block: int


def flac_pieces(stream: Seekable, name: str, start: int, end: int, until: float = float("inf")) -> list[Piece]:
    """Split into FLAC files, each with the true number of samples in its header.

    Args:
        until: number of seconds that are required; if the first header counts at least as many, the rest is not read.

    Raises:
        AudioError: the file ends inside a frame, or has fewer samples than its header counts.
    """
    first = _stream_info(read_at(stream, start, 42), name)
    if first.total and until * first.rate <= first.total:
        return [Piece(Spliced(stream, [(start, end)]))]
    starts = _begins(stream, start, end)
    if not starts or starts[0] != start:
        raise broken(name, "no FLAC header")
    pieces, seconds = [], 0.0
    for file_start, file_end in zip(starts, [*starts[1:], end], strict=True):
        info = _stream_info(read_at(stream, file_start, 42), name)
        stop = without_trailing_tags(stream, file_start, file_end)
        whole, samples = _last_frame(stream, file_start, stop, info)
        if not whole or samples < info.total:
            missing = (info.total - samples) / info.rate if info.total > samples else None
            raise truncated(name, seconds + samples / info.rate, missing)
        seconds += samples / info.rate
        if samples:
            pieces.append(
                Piece(Spliced(stream, [_with_total(read_at(stream, file_start, 42), samples), (file_start + 42, stop)]))
            )
    if not pieces:
        raise broken(name, "no frames in it")
    return pieces


def _stream_info(head: bytes, name: str) -> _StreamInfo:
    if len(head) < 42 or head[:8] not in _MARKS:
        raise broken(name, "its FLAC header is incomplete")
    word = int.from_bytes(head[18:26])
    rate, total = word >> 44, word & _MAX_TOTAL
    if not rate:
        raise broken(name, "its FLAC header names no sample rate")
    return _StreamInfo(rate, total, int.from_bytes(head[8:10]), int.from_bytes(head[10:12]))


def _with_total(head: bytes, samples: int) -> bytes:
    word = int.from_bytes(head[18:26]) & ~_MAX_TOTAL | min(samples, _MAX_TOTAL)
    return head[:18] + word.to_bytes(8) + head[26:]


def _begins(stream: Seekable, start: int, end: int) -> list[int]:
    """Return the start offsets of the FLAC files."""
    starts, offset = [], start
    while offset < end:
        chunk = read_at(stream, offset, min(_CHUNK + 7, end - offset))
        for mark in _MARKS:
            index = chunk.find(mark)
            while index >= 0:
                if index < _CHUNK:
                    starts.append(offset + index)
                index = chunk.find(mark, index + 1)
        offset += _CHUNK
    return sorted(starts)


def _last_frame(stream: Seekable, begin: int, end: int, info: _StreamInfo) -> tuple[bool, int]:
    """Return whether the last frame is complete, and the number of samples in complete frames."""
    for size in (_TAIL, _LONGEST_FRAME):
        offset = max(begin + 42, end - size)
        tail = read_at(stream, offset, end - offset)
        mark, frames = len(tail), []
        while (mark := tail.rfind(b"\xff", 0, mark)) >= 0:
            frame = _frame_at(tail, mark, info)
            if frame is None:
                continue
            if not _crc16(tail[mark:]):
                return True, sum(frame)
            frames.append((frame, mark))
        if frames or offset == begin + 42:
            break
    if not frames:
        return False, 0
    (first, n), mark = max(frames)
    return (True, first + n) if _may_end_early(tail[mark:]) else (False, first)


def _frame_at(data: bytes, offset: int, info: _StreamInfo) -> tuple[int, int] | None:
    """Return the first sample and the number of samples of the frame at an offset; ``None`` if there is no frame."""
    head = data[offset : offset + 16]
    if len(head) < 6 or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    block_code, rate_code = head[2] >> 4, head[2] & 15
    if not block_code or rate_code == 15 or head[3] >> 4 > 10:
        return None
    number, length = _coded_number(head[4:11])
    at_end = 4 + length
    extra = 1 if block_code == 6 else 2 if block_code == 7 else 0
    if not length or len(head) < at_end + 5:
        return None
    block = _BLOCK_SIZES.get(block_code) or int.from_bytes(head[at_end : at_end + extra]) + 1
    at_end += extra + (0, 1, 2, 2)[max(0, rate_code - 11)]
    if at_end >= len(head) or _crc8(head[:at_end]) != head[at_end]:
        return None
    return (number if head[1] & 1 else number * info.largest_block), block


def _coded_number(data: bytes) -> tuple[int, int]:
    """Decode a number in FLAC's extended UTF-8; return it and its length in bytes, 0 if it is invalid."""
    lead = data[0] if data else 0xFF
    if lead < 0x80:
        return lead, 1
    n = next((k for k in range(8) if not lead & 0x80 >> k), 8)
    if n < 2 or n > 7 or len(data) < n or any(byte >> 6 != 2 for byte in data[1:n]):
        return 0, 0
    number = lead & 0x7F >> n
    for byte in data[1:n]:
        number = number << 6 | byte & 63
    return number, n


def _table(polynomial: int, bits: int) -> list[int]:
    top, mask = 1 << bits - 1, (1 << bits) - 1
    table = []
    for byte in range(256):
        value = byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & mask
        table.append(value)
    return table


_CRC8, _CRC16 = _table(0x07, 8), _table(0x8005, 16)


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value = _CRC8[value ^ byte]
    return value


def _crc16(data: bytes) -> int:
    value = 0
    for byte in data:
        value = (value << 8 & 0xFFFF) ^ _CRC16[value >> 8 ^ byte]
    return value


def _may_end_early(data: bytes) -> bool:
    """Whether a frame's checksum matches before the end of the data, so that other bytes follow the last frame.

    If it matches by accident, the decoder reports the frame as broken.
    """
    value = 0
    for byte in data:
        value = (value << 8 & 0xFFFF) ^ _CRC16[value >> 8 ^ byte]
        if not value:
            return True
    return False
