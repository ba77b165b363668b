"""Read MPEG audio (mp3, mp2, mp1), counting every frame because headers and file sizes are not reliable.

libsndfile trusts a Xing tag, or estimates the count from the sizes of the file and its first frames: without a tag,
the end of a file with variable bit rate is lost. Each stream of a file is passed to libsndfile with a Xing tag with the
true count, without junk and tags between frames. Sources: ISO/IEC 11172-3 and 13818-3 for frame headers; LAME 3.100 for
Xing and LAME tags.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

from hooked_whisper._support.audio_notices import AudioNotice, notify
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
_CHAIN = 3  # consecutive frames that rule out an accidental match
_SEARCHED = 1 << 16  # bytes before the first frame
_LONGEST_FREE = 8192  # bytes of a frame in free format
_SMALLEST = 24  # bytes of a frame
_SHORT = 4  # bytes: some encoders omit the last slot of the last frame
_SLACK_FRAMES = 4  # a header may count this many too many
_XING_ROOM = 160  # bytes that suffice for a Xing tag and everything before it


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a frame.

    Attributes:
        size: bytes, 0 in free format.
        kind: the fields that are constant within a stream.
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
        """Offset of a Xing tag in a frame: after the header and the side information."""
        return 4 + ((17 if self.mono else 32) if self.mpeg1 else (9 if self.mono else 17))


@lru_cache(4096)
def parse_header(word: int) -> Header | None:
    """Parse the frame header in a big-endian 32-bit word; return ``None`` if it is not a header."""
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
    """The frames of one encoder run.

    Attributes:
        tag: the first frame, if it has a Xing, Info or VBRI tag instead of audio.
        promised: number of frames according to the tag.
    """

    header: Header
    tag: bytes = b""
    spans: list[list[int]] = field(default_factory=list)
    first: bytes = b""  # first frame of audio: a tag copies its header
    last: bytes = b""
    n_frames: int = 0
    promised: int = 0
    cut: bool = False  # the file ends inside its last frame
    heads: list[int] = field(default_factory=list)

    def add(self, offset: int, size: int) -> None:
        self.n_frames += 1
        self.heads.append(offset)
        if self.spans and self.spans[-1][1] == offset:
            self.spans[-1][1] = offset + size
        else:
            self.spans.append([offset, offset + size])


def is_mpeg(data: bytes) -> bool:
    """Whether a sequence of frames begins in the first 64 KiB."""
    header = parse_header(int.from_bytes(data[:4]))
    if header is not None and _tag_of(data[: header.size], header):
        return True
    return _sync(data, 0, len(data), 0, _SEARCHED) >= 0


def mpeg_pieces(stream: Seekable, name: str, start: int, end: int) -> list[Piece]:
    """Split a part of a file into streams of frames.

    Raises:
        AudioError: there are no frames, the file ends inside a frame, or it has fewer frames than its tag counts.
    """
    end = without_trailing_tags(stream, start, end)
    stream.seek(start)
    data = stream.read(end - start)
    runs = [run for encoded in _streams(data, name) for run in _split_at_count(encoded, data)]
    earlier = 0.0
    pieces = []
    for run in runs:
        seconds = run.n_frames * run.header.samples / run.header.rate
        missing = max(run.promised - run.n_frames, 1 if run.cut else 0)
        if run.cut or missing > _SLACK_FRAMES:
            lost = missing * run.header.samples / run.header.rate
            raise truncated(name, earlier + seconds, lost, at_least=run.promised <= run.n_frames)
        earlier += seconds
        if run.n_frames:
            pieces.append(_piece(stream, start, run))
    if not pieces:
        raise broken(name, "no MPEG frames in it")
    return pieces


def _streams(data: bytes, name: str) -> Iterator[Stream]:
    """Yield the streams. A tag frame or a frame of another kind begins a new stream."""
    offset, end, current = 0, len(data), None
    base = 0  # bytes of a frame without padding in free format
    while offset + 4 <= end:
        header = parse_header(int.from_bytes(data[offset : offset + 4]))
        if header is not None and not header.size and not base:
            base = _free_size(data, offset, header)
        size = 0 if header is None else header.size or (base and base + header.padding)
        follows = current is not None and header is not None and header.kind == current.header.kind
        # trust a header after a frame of its kind or at the start of the file; elsewhere require several in a row
        if header is None or not size or not (follows or offset == 0 or _chain(data, offset, end, base)):
            after = _sync(data, offset, end, base, _SEARCHED if current is None else end)
            after = end if after < 0 else after
            _warn_skipped(data[offset:after], name, current, after == end)
            offset = after
            continue
        if offset + size > end + _SHORT:
            if current is None or not follows:
                current = Stream(header) if current is None else current
            current.cut = True
            break
        frame = data[offset : offset + size]
        tag = _tag_of(frame, header)
        if current is None or not follows or tag:
            if current is not None:
                yield current
            current = Stream(header)
        if tag:
            current.tag, current.promised = frame, _promised(frame, header, tag)
        else:
            current.first = current.first or frame[:4]
            current.last = frame if offset + size <= end else current.last
            current.add(offset, min(size, end - offset))
        offset += size
    if current is not None:
        yield current


def _chain(data: bytes, offset: int, end: int, base: int) -> bool:
    """Whether three frames of one kind follow, or fewer if the file ends or a tag begins after them."""
    kind = None
    for _ in range(_CHAIN):
        if kind is not None and (offset == end or tag_length(data[offset : offset + 32])):
            return True
        header = parse_header(int.from_bytes(data[offset : offset + 4])) if offset + 4 <= end else None
        if header is None or (kind is not None and header.kind != kind):
            return False
        size = header.size or (base and base + header.padding)
        if not size or offset + size > end:
            return False
        kind, offset = header.kind, offset + size
    return True


def _sync(data: bytes, offset: int, end: int, base: int, limit: int) -> int:
    """Return the offset of the next frames, skipping tags; -1 if there are none within ``limit`` bytes."""
    last = min(end, offset + limit)
    while offset < last:
        if length := tag_length(data[offset : offset + 32]):
            offset += length
            last = min(end, offset + limit)
            continue
        marks = [mark for mark in (data.find(b"\xff", offset, last), _next_tag(data, offset, last)) if mark >= 0]
        if not marks:
            return -1
        offset = min(marks)
        if data[offset] == 0xFF and _chain(data, offset, end, base):
            return offset
        if not tag_length(data[offset : offset + 32]):
            offset += 1
    return -1


def _next_tag(data: bytes, offset: int, end: int) -> int:
    return min((mark for word in (b"ID3", b"APETAGEX") if (mark := data.find(word, offset, end)) >= 0), default=-1)


def _free_size(data: bytes, offset: int, header: Header) -> int:
    """Return the size of an unpadded frame in free format from the distance to the next two headers, or 0."""
    like = data[offset : offset + 2]
    mark = offset + 4
    while (mark := data.find(like, mark + 1, offset + _LONGEST_FREE)) >= 0:
        other = parse_header(int.from_bytes(data[mark : mark + 4]))
        if other is None or other.size or other.kind != header.kind:
            continue
        base = mark - offset - header.padding
        third = mark + base + other.padding
        if third >= len(data) - 4:
            return base
        last = parse_header(int.from_bytes(data[third : third + 4]))
        if last is not None and not last.size and last.kind == header.kind:
            return base
    return 0


def _tag_of(frame: bytes, header: Header) -> bytes:
    """Return ``b"Xing"``, ``b"Info"`` or ``b"VBRI"`` if the frame is such a tag."""
    if header.layer != 3:
        return b""
    if frame[36:40] == b"VBRI":
        return b"VBRI"
    offset = header.tag_offset
    words = (frame[start : start + 4] for start in (offset, offset + 2))  # a CRC of two bytes may precede the tag
    return next((word for word in words if word in (b"Xing", b"Info")), b"")


def _promised(frame: bytes, header: Header, tag: bytes) -> int:
    offset = frame.find(tag, 4)
    if tag == b"VBRI":
        return int.from_bytes(frame[offset + 14 : offset + 18])
    return int.from_bytes(frame[offset + 8 : offset + 12]) if frame[offset + 7] & 1 else 0


def _split_at_count(stream: Stream, data: bytes) -> Iterable[Stream]:
    """Split a stream with more frames than its tag counts, if the next frame does not depend on earlier ones.

    If it does, the count is wrong, and the stream is not split.
    """
    n = stream.promised
    if not 0 < n < stream.n_frames - 1 or not stream.tag:
        return [stream]
    for count in (n, n - 1):  # some encoders count the tag
        offset = stream.heads[count]
        if _starts_anew(data[offset : offset + 8], stream.header):
            head_spans = [[a, min(b, offset)] for a, b in stream.spans if a < offset]
            tail_spans = [[max(a, offset), b] for a, b in stream.spans if b > offset]
            first = replace(stream, spans=head_spans, n_frames=count, cut=False)
            remaining = stream.n_frames - count
            second = replace(
                stream, tag=b"", spans=tail_spans, first=data[offset : offset + 4], n_frames=remaining, promised=0
            )
            return [first, second]
    return [stream]


def _starts_anew(head: bytes, header: Header) -> bool:
    """Whether ``main_data_begin`` is 0: the frame uses no bits of earlier frames."""
    side = head[4 if head[1] & 1 else 6 :]
    return len(side) > 1 and side[0] == 0 and (not header.mpeg1 or side[1] < 0x80)


def _piece(stream: Seekable, start: int, run: Stream) -> Piece:
    header = run.header
    spans: list[bytes | Span] = [(start + a, start + b) for a, b in run.spans]
    n_bytes = sum(b - a for a, b in run.spans)
    slack = _SLACK_FRAMES * header.samples
    if header.layer != 3:  # without Xing tags: more frames at the end raise libsndfile's estimate above the true count
        filler = run.last * _filler(run, n_bytes)
        return Piece(Spliced(stream, [*spans, filler]), run.n_frames * header.samples, slack)
    tag = _patched_tag(run) or _new_tag(run)
    offset = max(tag.find(b"Xing"), tag.find(b"Info"))
    flags = tag[offset + 7]
    place = offset + 12
    if flags & 2:
        tag = tag[:place] + struct.pack(">I", min(n_bytes + len(tag), 2**32 - 1)) + tag[place + 4 :]
    return Piece(Spliced(stream, [tag, *spans, bytes(_SHORT)]), slack=slack)


def _patched_tag(run: Stream) -> bytes:
    """Return the stream's Xing tag with the true count; empty if the stream has no tag with a count."""
    offset = max(run.tag.find(b"Xing"), run.tag.find(b"Info"))
    if offset < 0 or not run.tag[offset + 7] & 1:
        return b""
    tag = bytearray(run.tag)
    tag[offset + 8 : offset + 12] = struct.pack(">I", run.n_frames)
    flags = tag[offset + 7]
    lame = offset + 8 + 4 * (flags & 1) + 2 * (flags & 2) + 25 * (flags & 4) + (flags & 8) // 2
    if run.promised not in (run.n_frames, run.n_frames + 1) and len(tag) >= lame + 24:
        tag[lame + 22] &= 0xF0  # LAME's padding applies to the original end only
        tag[lame + 23] = 0
    return bytes(tag)


def _new_tag(run: Stream) -> bytes:
    word = int.from_bytes(run.first) | 0x10000  # without CRC
    for bitrate in range(1, 15):
        header = parse_header(word & ~0xF200 | bitrate << 12)
        if header is not None and header.size >= _XING_ROOM:
            head = (word & ~0xF200 | bitrate << 12).to_bytes(4)
            tag = b"Xing" + struct.pack(">III", 3, run.n_frames, 0)
            return (head + bytes(header.tag_offset - 4) + tag).ljust(header.size, b"\0")
    raise AssertionError("every rate has frames of 160 bytes")


def _filler(run: Stream, n_bytes: int) -> int:
    """Return how many copies of the last frame raise libsndfile's estimate above the true number of frames.

    The estimate is the file size divided by the size of the first frame. The copies are not decoded.
    """
    first = parse_header(int.from_bytes(run.first))
    size = (first.size if first else 0) or n_bytes // max(1, run.n_frames)
    return max(0, (run.n_frames + 2) * size - n_bytes) // max(1, len(run.last)) + 1


def _warn_skipped(junk: bytes, name: str, current: Stream | None, at_end: bool) -> None:
    """Warn about skipped bytes between frames, apart from zeros, tags and spans shorter than a frame.

    At the end of the file, spans up to the size of the first frame are ignored too: some programs write notes there.
    """
    if current is None or not current.n_frames:
        return
    n_junk, offset = 0, 0
    while offset < len(junk):
        if length := tag_length(junk[offset : offset + 32]):
            offset += length
            continue
        n_junk += 1 if junk[offset] else 0
        offset += 1
    if n_junk > (current.header.size if at_end else _SMALLEST):
        seconds = current.n_frames * current.header.samples / current.header.rate
        notify(
            AudioNotice(
                name,
                "bytes that are not MPEG frames are skipped",
                f"{n_junk} bytes at {seconds:.2f} s of a stream",
                "listen to this place, or fetch the file again",
            )
        )
