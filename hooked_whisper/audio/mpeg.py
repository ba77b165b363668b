"""MPEG audio (mp3, mp2, mp1): every frame is counted, because headers and file sizes do not tell how many there are.

libsndfile believes a Xing tag, or multiplies the first frames' size by the file's: without a tag, a variable bit rate
loses its end. Each stream of a file is given to it with a Xing tag that holds the true count; junk and tags between
frames are left out. Frame headers: ISO/IEC 11172-3 and 13818-3; Xing and LAME tags as LAME 3.100 writes them.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

from hooked_whisper.audio.pieces import Piece, Seekable, Span, Spliced, broken, truncated
from hooked_whisper.audio.tags import tag_length, without_trailing_tags

_RATES = (44_100, 48_000, 32_000)
_BITRATES = {  # kbit/s by (MPEG-1, layer)
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_CHAIN = 3  # frames in a row that are no accident
_SEARCHED = 1 << 16  # bytes before the first frame
_LONGEST_FREE = 8192  # bytes of a frame in free format
_SMALLEST = 24  # bytes of a frame
_SHORT = 4  # bytes: encoders are known to leave the last frame's last slot out
_SLACK_FRAMES = 4  # a header may count this many too many
_XING_ROOM = 160  # bytes a Xing tag needs at most with everything before it


@dataclass(frozen=True, slots=True)
class Header:
    """What the four bytes before a frame say.

    size: bytes, 0 in free format. kind: what stays the same within a stream.
    """

    size: int
    samples: int
    rate: int
    layer: int
    mpeg1: bool
    mono: bool
    padding: int

    @property
    def kind(self) -> tuple[int, int, bool, bool]:
        return self.rate, self.layer, self.mpeg1, self.mono

    @property
    def tag_offset(self) -> int:
        """Where a Xing tag stands in a frame: behind the header and the side information."""
        return 4 + ((17 if self.mono else 32) if self.mpeg1 else (9 if self.mono else 17))


@lru_cache(4096)
def parse_header(word: int) -> Header | None:
    """The header in a big-endian 32-bit word, or ``None``."""
    version, layer = word >> 19 & 3, 4 - (word >> 17 & 3)
    bitrate, rate = word >> 12 & 15, word >> 10 & 3
    if word >> 21 != 0x7FF or version == 1 or layer == 4 or bitrate == 15 or rate == 3 or word & 3 == 2:
        return None
    mpeg1 = version == 3
    hertz = _RATES[rate] // (1 if mpeg1 else 2 if version == 2 else 4)
    samples = 384 if layer == 1 else 576 if layer == 3 and not mpeg1 else 1152
    slot, padding = (4 if layer == 1 else 1), word >> 9 & 1
    kbits = 0 if not bitrate else _BITRATES[mpeg1, layer if mpeg1 or layer == 1 else 2][bitrate - 1]
    size = (kbits * 1000 * samples // 8 // slot // hertz + padding) * slot if kbits else 0
    return Header(size, samples, hertz, layer, mpeg1, word >> 6 & 3 == 3, padding * slot)


@dataclass
class Stream:
    """Frames of one encoder run. ``tag``: its first frame holds a Xing, Info or VBRI tag and no sound."""

    header: Header
    tag: bytes = b""
    spans: list[list[int]] = field(default_factory=list)
    first: bytes = b""  # of sound: its header is the model of a tag
    last: bytes = b""
    n_frames: int = 0
    promised: int = 0
    cut: bool = False  # the file ends inside its last frame
    heads: list[int] = field(default_factory=list)

    def add(self, at: int, size: int) -> None:
        self.n_frames += 1
        self.heads.append(at)
        if self.spans and self.spans[-1][1] == at:
            self.spans[-1][1] = at + size
        else:
            self.spans.append([at, at + size])


def is_mpeg(data: bytes) -> bool:
    """Whether frames begin in the first 64 KiB of this, behind whatever comes before them."""
    header = parse_header(int.from_bytes(data[:4]))
    if header is not None and _tag_of(data[: header.size], header):
        return True
    return _sync(data, 0, len(data), 0, _SEARCHED) >= 0


def mpeg_pieces(stream: Seekable, name: str, start: int, end: int) -> list[Piece]:
    """One piece a stream of frames between two places of a file.

    Raises:
        AudioError: no frames; the file ends inside one, or holds fewer than its tag counts.
    """
    end = without_trailing_tags(stream, start, end)
    stream.seek(start)
    data = stream.read(end - start)
    streams = [run for found in _streams(data, name) for run in _split_at_count(found, data)]
    before = 0.0
    pieces = []
    for one in streams:
        seconds = one.n_frames * one.header.samples / one.header.rate
        missing = max(one.promised - one.n_frames, 1 if one.cut else 0)
        if one.cut or missing > _SLACK_FRAMES:
            lost = missing * one.header.samples / one.header.rate
            raise truncated(name, before + seconds, lost, at_least=one.promised <= one.n_frames)
        before += seconds
        if one.n_frames:
            pieces.append(_piece(stream, start, one))
    if not pieces:
        raise broken(name, "no MPEG frames in it")
    return pieces


def _streams(data: bytes, name: str) -> Iterator[Stream]:
    """Walk the frames; a tag frame, or frames of another kind, begin a stream."""
    at, end, current = 0, len(data), None
    base = 0  # bytes of a frame without padding in free format
    while at + 4 <= end:
        header = parse_header(int.from_bytes(data[at : at + 4]))
        if header is not None and not header.size and not base:
            base = _free_size(data, at, header)
        size = 0 if header is None else header.size or (base and base + header.padding)
        follows = current is not None and header is not None and header.kind == current.header.kind
        # what directly follows its like is a frame, and so is what a file begins with; else it takes several
        if header is None or not size or not (follows or at == 0 or _chain(data, at, end, base)):
            after = _sync(data, at, end, base, _SEARCHED if current is None else end)
            after = end if after < 0 else after
            _warn_skipped(data[at:after], name, current, after == end)
            at = after
            continue
        if at + size > end + _SHORT:
            if current is None or not follows:
                current = Stream(header) if current is None else current
            current.cut = True
            break
        frame = data[at : at + size]
        tag = _tag_of(frame, header)
        if current is None or not follows or tag:
            if current is not None:
                yield current
            current = Stream(header)
        if tag:
            current.tag, current.promised = frame, _promised(frame, header, tag)
        else:
            current.first = current.first or frame[:4]
            current.last = frame if at + size <= end else current.last
            current.add(at, min(size, end - at))
        at += size
    if current is not None:
        yield current


def _chain(data: bytes, at: int, end: int, base: int) -> bool:
    """Whether three frames of one kind stand here, or as many as there are before the file's end or a tag."""
    kind = None
    for _ in range(_CHAIN):
        if kind is not None and (at == end or tag_length(data[at : at + 32])):
            return True
        header = parse_header(int.from_bytes(data[at : at + 4])) if at + 4 <= end else None
        if header is None or (kind is not None and header.kind != kind):
            return False
        size = header.size or (base and base + header.padding)
        if not size or at + size > end:
            return False
        kind, at = header.kind, at + size
    return True


def _sync(data: bytes, at: int, end: int, base: int, limit: int) -> int:
    """Where the next frames begin, tags skipped; -1 if none do within ``limit`` bytes."""
    last = min(end, at + limit)
    while at < last:
        if length := tag_length(data[at : at + 32]):
            at += length
            last = min(end, at + limit)
            continue
        marks = [mark for mark in (data.find(b"\xff", at, last), _next_tag(data, at, last)) if mark >= 0]
        if not marks:
            return -1
        at = min(marks)
        if data[at] == 0xFF and _chain(data, at, end, base):
            return at
        if not tag_length(data[at : at + 32]):
            at += 1
    return -1


def _next_tag(data: bytes, at: int, end: int) -> int:
    return min((mark for word in (b"ID3", b"APETAGEX") if (mark := data.find(word, at, end)) >= 0), default=-1)


def _free_size(data: bytes, at: int, header: Header) -> int:
    """Bytes of a frame without padding in free format: the distance to the next two headers like it. 0 if there are
    none."""
    like = data[at : at + 2]
    mark = at + 4
    while (mark := data.find(like, mark + 1, at + _LONGEST_FREE)) >= 0:
        other = parse_header(int.from_bytes(data[mark : mark + 4]))
        if other is None or other.size or other.kind != header.kind:
            continue
        base = mark - at - header.padding
        third = mark + base + other.padding
        if third >= len(data) - 4:
            return base
        last = parse_header(int.from_bytes(data[third : third + 4]))
        if last is not None and not last.size and last.kind == header.kind:
            return base
    return 0


def _tag_of(frame: bytes, header: Header) -> bytes:
    """``b"Xing"``, ``b"Info"`` or ``b"VBRI"`` if the frame is such a tag."""
    if header.layer != 3:
        return b""
    if frame[36:40] == b"VBRI":
        return b"VBRI"
    at = header.tag_offset
    words = (frame[place : place + 4] for place in (at, at + 2))  # two bytes of CRC may stand before
    return next((word for word in words if word in (b"Xing", b"Info")), b"")


def _promised(frame: bytes, header: Header, tag: bytes) -> int:
    at = frame.find(tag, 4)
    if tag == b"VBRI":
        return int.from_bytes(frame[at + 14 : at + 18])
    return int.from_bytes(frame[at + 8 : at + 12]) if frame[at + 7] & 1 else 0


def _split_at_count(stream: Stream, data: bytes) -> Iterable[Stream]:
    """A tagged stream with more frames than its tag counts is two joined ones where a frame that needs none before it
    follows the counted ones; otherwise the count is wrong."""
    n = stream.promised
    if not 0 < n < stream.n_frames - 1 or not stream.tag:
        return [stream]
    for count in (n, n - 1):  # some count the tag
        at = stream.heads[count]
        if _starts_anew(data[at : at + 8], stream.header):
            before = [[a, min(b, at)] for a, b in stream.spans if a < at]
            behind = [[max(a, at), b] for a, b in stream.spans if b > at]
            first = replace(stream, spans=before, n_frames=count, cut=False)
            rest = stream.n_frames - count
            second = replace(stream, tag=b"", spans=behind, first=data[at : at + 4], n_frames=rest, promised=0)
            return [first, second]
    return [stream]


def _starts_anew(head: bytes, header: Header) -> bool:
    """``main_data_begin`` is 0: the frame borrows no bits from those before."""
    side = head[4 if head[1] & 1 else 6 :]
    return len(side) > 1 and side[0] == 0 and (not header.mpeg1 or side[1] < 0x80)


def _piece(stream: Seekable, start: int, one: Stream) -> Piece:
    header = one.header
    spans: list[bytes | Span] = [(start + a, start + b) for a, b in one.spans]
    n_bytes = sum(b - a for a, b in one.spans)
    slack = _SLACK_FRAMES * header.samples
    if header.layer != 3:  # no Xing tags there: more frames behind raise libsndfile's estimate above the truth
        filler = one.last * _filler(one, n_bytes)
        return Piece(Spliced(stream, [*spans, filler]), one.n_frames * header.samples, slack)
    tag = _patched_tag(one) or _new_tag(one)
    at = max(tag.find(b"Xing"), tag.find(b"Info"))
    flags = tag[at + 7]
    place = at + 12
    if flags & 2:
        tag = tag[:place] + struct.pack(">I", min(n_bytes + len(tag), 2**32 - 1)) + tag[place + 4 :]
    return Piece(Spliced(stream, [tag, *spans, bytes(_SHORT)]), slack=slack)


def _patched_tag(one: Stream) -> bytes:
    """The stream's own Xing tag with the true count; nothing if it has none that says how many frames there are."""
    at = max(one.tag.find(b"Xing"), one.tag.find(b"Info"))
    if at < 0 or not one.tag[at + 7] & 1:
        return b""
    tag = bytearray(one.tag)
    tag[at + 8 : at + 12] = struct.pack(">I", one.n_frames)
    flags = tag[at + 7]
    lame = at + 8 + 4 * (flags & 1) + 2 * (flags & 2) + 25 * (flags & 4) + (flags & 8) // 2
    if one.promised not in (one.n_frames, one.n_frames + 1) and len(tag) >= lame + 24:
        tag[lame + 22] &= 0xF0  # the padding that LAME wrote is that of another end
        tag[lame + 23] = 0
    return bytes(tag)


def _new_tag(one: Stream) -> bytes:
    word = int.from_bytes(one.first) | 0x10000  # without CRC
    for bitrate in range(1, 15):
        header = parse_header(word & ~0xF200 | bitrate << 12)
        if header is not None and header.size >= _XING_ROOM:
            head = (word & ~0xF200 | bitrate << 12).to_bytes(4)
            tag = b"Xing" + struct.pack(">III", 3, one.n_frames, 0)
            return (head + bytes(header.tag_offset - 4) + tag).ljust(header.size, b"\0")
    raise AssertionError("every rate has frames of 160 bytes")


def _filler(one: Stream, n_bytes: int) -> int:
    """Copies of the last frame that bring libsndfile's estimate, file size over the first frame's size, above the
    number of frames; they are not read."""
    first = parse_header(int.from_bytes(one.first))
    size = (first.size if first else 0) or n_bytes // max(1, one.n_frames)
    return max(0, (one.n_frames + 2) * size - n_bytes) // max(1, len(one.last)) + 1


def _warn_skipped(junk: bytes, name: str, current: Stream | None, at_end: bool) -> None:
    """Warn of bytes between frames that are neither zeros nor tags and as long as a frame or more; at the file's end as
    long as the stream's first, since some programs write notes there."""
    if current is None or not current.n_frames:
        return
    rest, at = 0, 0
    while at < len(junk):
        if length := tag_length(junk[at : at + 32]):
            at += length
            continue
        rest += 1 if junk[at] else 0
        at += 1
    if rest > (current.header.size if at_end else _SMALLEST):
        seconds = current.n_frames * current.header.samples / current.header.rate
        warnings.warn(
            f"{name}: {rest} bytes at {seconds:.2f} s of a stream are no MPEG frames and are skipped", stacklevel=6
        )
