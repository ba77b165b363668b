"""Ogg: streams that are joined one behind the other (chained), files cut inside a page, and lost pages.

Source: RFC 3533.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from hooked_whisper.audio.pieces import Piece, Seekable, Spliced, broken, read_at, truncated

_HEADER = 27
_BEGIN, _LAST = 2, 4  # flags of a stream's first and last page
_NO_PACKET_ENDS = -1  # granule position of such a page
_CHUNK = 1 << 16
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True, slots=True)
class Page:
    """``granule``: samples from the stream's start to the page's end; of Opus, at 48 kHz with the pre-skip. ``number``:
    pages of a stream are counted. ``whole``: its checksum is right."""

    start: int
    end: int
    begins: bool
    serial: int
    granule: int
    continues: bool  # its last packet goes on in the next page
    last: bool
    number: int
    whole: bool


def ogg_pieces(stream: Seekable, name: str, start: int, end: int) -> list[Piece]:
    """One piece a link of the chain.

    Warns where a stream's last page is not marked as such: its end may be missing.

    Raises:
        AudioError: the file ends inside a page or a packet; a page in its middle is missing or damaged, which decoders
            pass over.
    """
    links: list[tuple[int, int]] = []
    granules: dict[int, int] = {}  # by serial number, of the link
    rates: dict[int, tuple[int, int]] = {}
    at, had_sound, before = start, True, 0.0
    continues: dict[int, bool] = {}
    numbers: dict[int, int] = {}
    ended: dict[int, bool] = {}
    for page in _pages(stream, start, end):
        if page.begins:
            if had_sound:  # several streams of one link begin together
                before += _seconds(granules, rates)
                links.append((page.start, page.start))
                _check_ends(ended, name, before, page.start - at)
                granules, rates, continues, numbers, ended, had_sound = {}, {}, {}, {}, {}, False
            rates[page.serial] = _rate(read_at(stream, page.start, page.end - page.start))
        else:
            had_sound = True
        if page.end > end:
            there = before + _seconds(granules, rates)
            if page.granule > 0:
                granules[page.serial] = page.granule
            missing = before + _seconds(granules, rates) - there
            raise truncated(name, there, missing if missing > 0 else None, at_least=True)
        if not page.whole or page.number != numbers.get(page.serial, page.number):
            problem = "is missing" if page.whole else "is damaged (its checksum is wrong)"
            raise broken(name, f"the Ogg page at {before + _seconds(granules, rates):.2f} s {problem}")
        numbers[page.serial] = page.number + 1 & 0xFFFFFFFF
        ended[page.serial] = page.last
        if page.granule > 0:
            granules[page.serial] = page.granule
        continues[page.serial] = page.continues
        if links:
            links[-1] = (links[-1][0], page.end)
        at = page.end
    if not links:
        raise broken(name, "no Ogg stream begins in it")
    if any(continues.values()) or read_at(stream, at, 4) == b"OggS":
        raise truncated(name, before + _seconds(granules, rates))
    _check_ends(ended, name, before + _seconds(granules, rates), end - at)
    if links == [(0, end)]:
        stream.seek(0)
        return [Piece(stream)]
    return [Piece(Spliced(stream, [link])) for link in links]


def _pages(stream: Seekable, start: int, end: int) -> Iterator[Page]:
    """Pages in order, junk between them left out. The last may end behind the file."""
    at = start
    while at + _HEADER <= end:
        head = read_at(stream, at, _HEADER + 255)
        if head[:5] != b"OggS\0":
            at = _next_page(stream, at + 1, end)
            continue
        flags, granule, serial = head[5], *struct.unpack_from("<qI", head, 6)
        segments = head[_HEADER : _HEADER + head[26]]
        size = _HEADER + head[26] + sum(segments)
        if len(segments) < head[26]:
            size = max(size, end - at + 1)
        continues = len(segments) > 0 and segments[-1] == 255
        begins, last = bool(flags & _BEGIN), bool(flags & _LAST)
        number, stored = struct.unpack_from("<II", head, 18)
        whole = at + size <= end and _checksum(read_at(stream, at, size)) == stored
        yield Page(at, at + size, begins, serial, granule, continues, last, number, whole)
        at += size


def _checksum(page: bytes) -> int:
    """CRC-32 of a page with zeros in the checksum's place: polynomial 0x04c11db7, the highest bit of a byte first.

    ``zlib`` has the lowest first, and inverts the register before and after.
    """
    mirrored = (page[:22] + bytes(4) + page[26:]).translate(_MIRRORED)
    return int(f"{zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF:032b}"[::-1], 2)


def _check_ends(ended: dict[int, bool], name: str, seconds: float, n_bytes: int) -> None:
    """Streams end with a page that says so; recordings of broadcasts often do not, and lose nothing but the mark.

    Raises:
        AudioError: bytes that are no page follow in its place.
    """
    if all(ended.values()):
        return
    if n_bytes:
        raise truncated(name, seconds)
    warnings.warn(
        f"{name}: an Ogg stream stops at {seconds:.2f} s without a page marked as its last: more may be missing",
        stacklevel=8,
    )


def _next_page(stream: Seekable, at: int, end: int) -> int:
    while at < end:
        chunk = read_at(stream, at, _CHUNK + 4)
        found = chunk.find(b"OggS\0")
        if found >= 0:
            return at + found
        at += _CHUNK
    return end


def _rate(first: bytes) -> tuple[int, int]:
    """Granules per second and those before the sound, of a stream whose first page this is; 0 if it is unknown."""
    packet = first[_HEADER + first[26] :] if len(first) > _HEADER else b""
    if packet[:7] == b"\x01vorbis" and len(packet) >= 16:
        return int.from_bytes(packet[12:16], "little"), 0
    if packet[:8] == b"OpusHead" and len(packet) >= 12:
        return 48_000, int.from_bytes(packet[10:12], "little")
    if packet[:5] == b"\x7fFLAC" and len(packet) >= 34:
        return int.from_bytes(packet[27:30]) >> 4, 0
    return 0, 0


def _seconds(granules: dict[int, int], rates: dict[int, tuple[int, int]]) -> float:
    """How far a link has come by its longest stream whose rate is known."""
    times = [
        (granule - rates[serial][1]) / rates[serial][0]
        for serial, granule in granules.items()
        if rates.get(serial, (0, 0))[0]
    ]
    return max([0.0, *times])
