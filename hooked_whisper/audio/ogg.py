"""Ogg: streams that are joined one behind the other (chained), and files cut inside a page. Source: RFC 3533."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from hooked_whisper.audio.pieces import Piece, Seekable, Spliced, broken, read_at, truncated

_HEADER = 27
_BEGIN = 2  # flag of a stream's first page
_NO_PACKET_ENDS = -1  # granule position of such a page
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Page:
    """``granule``: samples from the stream's start to the page's end; of Opus, at 48 kHz with the pre-skip."""

    start: int
    end: int
    begins: bool
    serial: int
    granule: int
    continues: bool  # its last packet goes on in the next page


def ogg_pieces(stream: Seekable, name: str, start: int, end: int) -> list[Piece]:
    """One piece a link of the chain.

    Raises:
        AudioError: the file ends inside a page or a packet.
    """
    links: list[tuple[int, int]] = []
    granules: dict[int, int] = {}  # by serial number, of the link
    rates: dict[int, tuple[int, int]] = {}
    at, had_sound, before = start, True, 0.0
    continues: dict[int, bool] = {}
    for page in _pages(stream, start, end):
        if page.begins:
            if had_sound:  # several streams of one link begin together
                before += _seconds(granules, rates)
                links.append((page.start, page.start))
                granules, rates, continues, had_sound = {}, {}, {}, False
            rates[page.serial] = _rate(read_at(stream, page.start, page.end - page.start))
        else:
            had_sound = True
        if page.end > end:
            there = before + _seconds(granules, rates)
            if page.granule > 0:
                granules[page.serial] = page.granule
            missing = before + _seconds(granules, rates) - there
            raise truncated(name, there, missing if missing > 0 else None, at_least=True)
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
        yield Page(at, at + size, bool(flags & _BEGIN), serial, granule, continues)
        at += size


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
