"""Read Ogg files, including chained streams, and detect truncated files and missing pages.

Source: RFC 3533.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from hooked_whisper._support.audio_notices import AudioNotice, notify
from hooked_whisper.audio.pieces import Piece, Seekable, Spliced, broken, read_at, truncated

_HEADER = 27
_BEGIN, _LAST = 2, 4  # flags of a stream's first and last page
_NO_PACKET_ENDS = -1  # granule position of such a page
_CHUNK = 1 << 16
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True, slots=True)
class Page:
    """A page.

    Attributes:
        granule: samples from the stream's start to the page's end; for Opus at 48 kHz, including the pre-skip.
        number: index in its stream.
        whole: whether it is complete and its checksum is correct.
    """

    start: int
    end: int
    begins: bool
    serial: int
    granule: int
    continues: bool  # its last packet continues in the next page
    last: bool
    number: int
    whole: bool


def ogg_pieces(stream: Seekable, name: str, start: int, end: int) -> list[Piece]:
    """Split into the links of the chain.

    Warn if the last page of a stream is not marked as the last: its end may be missing.

    Raises:
        AudioError: the file ends inside a page or a packet, or a page is missing or damaged (decoders skip it).
    """
    links: list[tuple[int, int]] = []
    granules: dict[int, int] = {}  # by serial number, of the link
    rates: dict[int, tuple[int, int]] = {}
    offset, had_sound, earlier = start, True, 0.0
    continues: dict[int, bool] = {}
    numbers: dict[int, int] = {}
    ended: dict[int, bool] = {}
    for page in _pages(stream, start, end):
        if page.begins:
            if had_sound:  # the streams of one link begin together
                earlier += _seconds(granules, rates)
                links.append((page.start, page.start))
                _check_ends(ended, name, earlier, page.start - offset)
                granules, rates, continues, numbers, ended, had_sound = {}, {}, {}, {}, {}, False
            rates[page.serial] = _rate(read_at(stream, page.start, page.end - page.start))
        else:
            had_sound = True
        if page.end > end:
            present = earlier + _seconds(granules, rates)
            if page.granule > 0:
                granules[page.serial] = page.granule
            missing = earlier + _seconds(granules, rates) - present
            raise truncated(name, present, missing if missing > 0 else None, at_least=True)
        if not page.whole or page.number != numbers.get(page.serial, page.number):
            problem = "is missing" if page.whole else "is damaged (its checksum is wrong)"
            raise broken(name, f"the Ogg page at {earlier + _seconds(granules, rates):.2f} s {problem}")
        numbers[page.serial] = page.number + 1 & 0xFFFFFFFF
        ended[page.serial] = page.last
        if page.granule > 0:
            granules[page.serial] = page.granule
        continues[page.serial] = page.continues
        if links:
            links[-1] = (links[-1][0], page.end)
        offset = page.end
    if not links:
        raise broken(name, "no Ogg stream begins in it")
    if any(continues.values()) or read_at(stream, offset, 4) == b"OggS":
        raise truncated(name, earlier + _seconds(granules, rates))
    _check_ends(ended, name, earlier + _seconds(granules, rates), end - offset)
    if links == [(0, end)]:
        stream.seek(0)
        return [Piece(stream)]
    return [Piece(Spliced(stream, [link])) for link in links]


def _pages(stream: Seekable, start: int, end: int) -> Iterator[Page]:
    """Yield pages in order, skipping junk between them. The last may extend past the end of the file."""
    offset = start
    while offset + _HEADER <= end:
        head = read_at(stream, offset, _HEADER + 255)
        if head[:5] != b"OggS\0":
            offset = _next_page(stream, offset + 1, end)
            continue
        flags, granule, serial = head[5], *struct.unpack_from("<qI", head, 6)
        segments = head[_HEADER : _HEADER + head[26]]
        size = _HEADER + head[26] + sum(segments)
        if len(segments) < head[26]:
            size = max(size, end - offset + 1)
        continues = len(segments) > 0 and segments[-1] == 255
        begins, last = bool(flags & _BEGIN), bool(flags & _LAST)
        number, stored = struct.unpack_from("<II", head, 18)
        whole = offset + size <= end and _checksum(read_at(stream, offset, size)) == stored
        yield Page(offset, offset + size, begins, serial, granule, continues, last, number, whole)
        offset += size


def _checksum(page: bytes) -> int:
    """Return the CRC-32 of a page without its checksum: polynomial 0x04c11db7, highest bit first.

    ``zlib`` uses the lowest bit first, and inverts the register before and after.
    """
    mirrored = (page[:22] + bytes(4) + page[26:]).translate(_MIRRORED)
    return int(f"{zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF:032b}"[::-1], 2)


def _check_ends(ended: dict[int, bool], name: str, seconds: float, n_bytes: int) -> None:
    """Warn about streams whose final page is not marked as the last; recordings of broadcasts often lack the mark.

    Raises:
        AudioError: other bytes follow such a page.
    """
    if all(ended.values()):
        return
    if n_bytes:
        raise truncated(name, seconds)
    notify(
        AudioNotice(
            name,
            "an Ogg stream has no page marked as its last, so its end may be missing",
            f"it ends at {seconds:.2f} s",
            "fetch the file again if it should be longer",
        )
    )


def _next_page(stream: Seekable, offset: int, end: int) -> int:
    while offset < end:
        chunk = read_at(stream, offset, _CHUNK + 4)
        index = chunk.find(b"OggS\0")
        if index >= 0:
            return offset + index
        offset += _CHUNK
    return end


def _rate(first: bytes) -> tuple[int, int]:
    """Return the granules per second and the granules before the audio, from a stream's first page; 0 if unknown."""
    packet = first[_HEADER + first[26] :] if len(first) > _HEADER else b""
    if packet[:7] == b"\x01vorbis" and len(packet) >= 16:
        return int.from_bytes(packet[12:16], "little"), 0
    if packet[:8] == b"OpusHead" and len(packet) >= 12:
        return 48_000, int.from_bytes(packet[10:12], "little")
    if packet[:5] == b"\x7fFLAC" and len(packet) >= 34:
        return int.from_bytes(packet[27:30]) >> 4, 0
    return 0, 0


def _seconds(granules: dict[int, int], rates: dict[int, tuple[int, int]]) -> float:
    """Return the duration of a link so far in seconds: that of its longest stream with a known rate."""
    times = [
        (granule - rates[serial][1]) / rates[serial][0]
        for serial, granule in granules.items()
        if rates.get(serial, (0, 0))[0]
    ]
    return max([0.0, *times])
