"""Read files made of chunks: WAV (RIFF, RIFX, RF64, BW64), Wave64, AIFF, 8SVX and CAF.

The size in the chunk of samples is used if it is plausible. Programs that write to a pipe store 0 or the largest
number, and recorders that crash store a size that is too small: then the samples extend to the end of the file. Data
after the samples counts as chunks only if it parses as chunks up to the end of the file.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from hooked_whisper._support.audio_notices import AudioNotice, notify
from hooked_whisper.audio.mpeg import mpeg_pieces
from hooked_whisper.audio.pieces import Piece, Seekable, Span, Spliced, broken, read_at, size_of, truncated
from hooked_whisper.audio.tags import without_trailing_tags

_STREAMED = 0x7FFF0000  # sizes from here on, if the file has fewer, mean "until the end" in a 32-bit field
_STREAMED_64 = 1 << 62
_LARGEST_WAV = 1 << 31  # bytes of samples in one piece: a WAV's size has 32 bits
_MOST_CHUNKS = 4096
_NAME = re.compile(rb"[ -~]{4}")
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # of every GUID but the first
_MPEG_TAGS = (0x50, 0x55)


@dataclass(frozen=True)
class Layout:
    """How chunks are stored.

    Attributes:
        head: number of bytes of the name and the size.
        counts_head: whether the size includes them.
    """

    order: str
    head: int = 8
    align: int = 2
    counts_head: bool = False

    def chunk(self, stream: Seekable, offset: int) -> tuple[bytes, int, int] | None:
        """Return the name, content offset and size of the chunk at an offset; ``None`` if there is no chunk."""
        head = read_at(stream, offset, self.head)
        if len(head) < self.head or not _NAME.match(head):
            return None
        size = struct.unpack(self.order + ("I" if self.head == 8 else "Q"), head[-4 if self.head == 8 else -8 :])[0]
        if self.head == 24 and head[4:16] != _W64_TAIL and head[:4].lower() != b"riff":
            return None
        if self.counts_head and size < self.head:
            return None
        return head[:4], offset + self.head, size - (self.head if self.counts_head else 0)

    def after(self, content: int, size: int, start: int) -> int:
        end = content + size
        return end + (start - end) % self.align


RIFF, RIFX = Layout("<"), Layout(">")
IFF = Layout(">")
W64 = Layout("<", head=24, align=8, counts_head=True)
CAF = Layout(">", head=12, align=1)


@dataclass(frozen=True)
class Sound:
    """Position and byte rate of the samples of a file."""

    start: int
    declared: int | None  # bytes; None: until the end
    bytes_per_second: float
    block: int


def chunks(stream: Seekable, layout: Layout, offset: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, content offset and size of each chunk from an offset on; the size may exceed the file."""
    start = offset
    for _ in range(_MOST_CHUNKS):
        chunk = layout.chunk(stream, offset)
        if chunk is None:
            return
        yield chunk
        offset = layout.after(chunk[1], chunk[2], start)
        if offset >= end:
            return


def are_chunks(stream: Seekable, layout: Layout, offset: int, end: int) -> bool:
    """Whether chunks fill the rest of a file, except for a missing or extra padding byte."""
    start = offset
    for _ in range(_MOST_CHUNKS):
        if end - offset < layout.head:
            return not read_at(stream, offset, end - offset).strip(b"\0")
        chunk = layout.chunk(stream, offset)
        if chunk is None or chunk[1] + chunk[2] > end:
            return False
        offset = layout.after(chunk[1], chunk[2], start)
    return False


def sound_end(stream: Seekable, name: str, layout: Layout, sound: Sound, end: int) -> int:
    """Return the offset after the last sample.

    Raises:
        AudioError: the file has fewer bytes than the header counts.
    """
    available = end - sound.start
    if sound.declared is None:
        return end
    if sound.declared > available:
        missing = (sound.declared - available) / sound.bytes_per_second
        if sound.declared - available < sound.block:
            return end
        raise truncated(name, available / sound.bytes_per_second, missing)
    stop = sound.start + sound.declared
    next_chunk = layout.after(sound.start, sound.declared, sound.start)
    end = without_trailing_tags(stream, stop, end)
    if next_chunk >= end or any(are_chunks(stream, layout, offset, end) for offset in {stop, next_chunk}):
        return stop
    if not sound.declared or read_at(stream, stop, 1 << 16).strip(b"\0") or end - stop > 1 << 16:
        _warn(name, sound, end)
        return end
    return stop  # padding of a disk block


def _warn(name: str, sound: Sound, end: int) -> None:
    assert sound.declared is not None
    if sound.declared:  # 0 is what programs write to a pipe
        declared, present = (n / sound.bytes_per_second for n in (sound.declared, end - sound.start))
        notify(
            AudioNotice(
                name,
                "the header declares less sound than the file has",
                f"{declared:.2f} s of {present:.2f} s",
                "all of it is read; rewrite the file if the end is not sound",
            )
        )


# WAV and Wave64 -----------------------------------------------------------------------------------------------------


def wav_pieces(stream: Seekable, name: str, start: int, end: int) -> list[Piece]:
    """Split into WAV files with correct headers for libsndfile, one per joined file, or into MPEG audio streams."""
    pieces: list[Piece] = []
    offset = start
    while offset < end:
        kind = read_at(stream, offset, 4)
        layout = W64 if kind == b"riff" else RIFX if kind == b"RIFX" else RIFF
        header_end = offset + (40 if layout is W64 else 12)
        by_name: dict[bytes, tuple[int, int]] = {}
        for word, content, size in chunks(stream, layout, header_end, end):
            by_name.setdefault(word.lower(), (content, size))
            if word.lower() == b"data":
                break
        if b"data" not in by_name or b"fmt " not in by_name:
            if pieces:
                break
            raise broken(name, "no samples in it" if b"fmt " in by_name else "its header is incomplete")
        fmt = read_at(stream, *by_name[b"fmt "])
        if len(fmt) < 16:
            raise broken(name, "its header is incomplete")
        tag, channels, rate, byte_rate, block = struct.unpack_from(layout.order + "HHIIH", fmt)
        if not (rate and channels and (block or tag in _MPEG_TAGS)):
            raise broken(name, f"its header has {channels} channels at {rate} Hz in blocks of {block} bytes")
        content, size = by_name[b"data"]
        declared = _declared(stream, layout, by_name, size, end - content)
        if tag in (1, 3, 6, 7, 0xFFFE):
            byte_rate = rate * block
        else:
            byte_rate = _measured_rate(stream, layout, by_name, rate) or byte_rate
        sound = Sound(content, declared, float(byte_rate or rate * block), block)
        joined = _joined_at(stream, layout, sound, end)
        stop = joined or sound_end(stream, name, layout, sound, end)
        if tag in _MPEG_TAGS:
            pieces += mpeg_pieces(stream, name, content, stop)
            offset = joined or end
            continue
        if not pieces and not joined and _is_sound(stream, layout, start, end, content, size, stop):
            return [_unchanged(stream, start, end)]
        pieces += _as_wavs(stream, b"RIFX" if layout is RIFX else b"RIFF", fmt, (content, stop), block)
        offset = joined or end
    return pieces


def _measured_rate(stream: Seekable, layout: Layout, by_name: dict[bytes, tuple[int, int]], rate: int) -> float:
    """Return the bytes per second of a compressed WAV from its sample count; 0 if it has no count."""
    if b"fact" not in by_name or by_name[b"fact"][1] < 4:
        return 0.0
    n_samples = struct.unpack(layout.order + "I", read_at(stream, by_name[b"fact"][0], 4).ljust(4, b"\0"))[0]
    return by_name[b"data"][1] * rate / n_samples if n_samples else 0.0


def _declared(
    stream: Seekable, layout: Layout, by_name: dict[bytes, tuple[int, int]], size: int, available: int
) -> int | None:
    """Return the number of bytes of samples according to the header; ``None`` if it is unspecified."""
    if layout is W64:
        return None if size >= _STREAMED_64 or not size else size
    if b"ds64" in by_name and size >= _STREAMED:
        wide = int.from_bytes(read_at(stream, by_name[b"ds64"][0] + 8, 8), "little")
        return None if wide >= _STREAMED_64 or not wide else wide
    if size >= _STREAMED and size > available:
        return None
    return size


def _joined_at(stream: Seekable, layout: Layout, sound: Sound, end: int) -> int:
    """Return the offset of the next joined file, or 0."""
    if sound.declared is None:
        return 0
    for offset in {sound.start + sound.declared, layout.after(sound.start, sound.declared, sound.start)}:
        head = read_at(stream, offset, 40) if offset < end else b""
        if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE" and layout is not W64:
            return offset
        if layout is W64 and head[:4] == b"riff" and head[24:28] == b"wave":
            return offset
    return 0


def _is_sound(stream: Seekable, layout: Layout, start: int, end: int, content: int, size: int, stop: int) -> bool:
    """Whether the sizes in the header are right, so that libsndfile can read the file as it is."""
    head = read_at(stream, start, 24)
    whole = (
        int.from_bytes(head[16:24], "little") if layout is W64 else struct.unpack(layout.order + "I", head[4:8])[0] + 8
    )
    return content + size == stop and abs(start + whole - end) <= layout.align


def _unchanged(stream: Seekable, start: int, end: int) -> Piece:
    return Piece(stream if (start, end) == (0, size_of(stream)) else Spliced(stream, [(start, end)]))


def _as_wavs(stream: Seekable, kind: bytes, fmt: bytes, span: Span, block: int) -> Iterator[Piece]:
    order = ">" if kind == b"RIFX" else "<"
    step = _LARGEST_WAV // block * block
    fmt_chunk = b"fmt " + struct.pack(order + "I", len(fmt)) + fmt + bytes(len(fmt) % 2)
    for offset in range(span[0], span[1], step):
        n = min(step, span[1] - offset)
        body = b"WAVE" + fmt_chunk + b"data" + struct.pack(order + "I", n)
        head = kind + struct.pack(order + "I", len(body) + n + n % 2) + body
        yield Piece(Spliced(stream, [head, (offset, offset + n), bytes(n % 2)]))


# AIFF, 8SVX and CAF ---------------------------------------------------------------------------------------------------

_IFF_KINDS = (b"AIFF", b"AIFC", b"8SVX", b"16SV")
_AIFF_BLOCKS = {  # bytes and frames per block and channel
    b"ulaw": (1, 1), b"ULAW": (1, 1), b"alaw": (1, 1), b"ALAW": (1, 1), b"fl32": (4, 1), b"FL32": (4, 1),
    b"fl64": (8, 1), b"FL64": (8, 1), b"ima4": (34, 64), b"in24": (3, 1), b"in32": (4, 1), b"GSM ": (33, 160),
}  # fmt: skip


def iff_pieces(stream: Seekable, name: str, start: int, end: int) -> list[Piece]:
    """Split AIFF, AIFF-C and 8SVX into pieces with correct sizes, one per joined file."""
    pieces: list[Piece] = []
    while start < end:
        form_end = _next_form(stream, start, end)
        pieces.append(_iff_piece(stream, name, start, form_end))
        start = form_end
    return pieces


def _next_form(stream: Seekable, start: int, end: int) -> int:
    """Return the end of the file that begins at ``start``: the next joined file, or ``end``."""
    for word, content, _ in chunks(stream, IFF, start + 12, end):
        if word == b"FORM" and read_at(stream, content, 4) in _IFF_KINDS:
            return content - IFF.head
    return end


def _iff_piece(stream: Seekable, name: str, start: int, end: int) -> Piece:
    by_name: dict[bytes, tuple[int, int]] = {}
    for word, content, size in chunks(stream, IFF, start + 12, end):
        by_name.setdefault(word, (content, size))
    body = b"SSND" if b"SSND" in by_name else b"BODY"
    settings = read_at(stream, *by_name.get(b"COMM", by_name.get(b"VHDR", (end, 0))))
    if body not in by_name or len(settings) < 18:
        raise broken(name, "no samples in it" if settings else "its header is incomplete")
    content, size = by_name[body]
    if body == b"BODY":
        rate, block, frames = float(int.from_bytes(settings[12:14])), 1, 1
        block = 2 if read_at(stream, start + 8, 4) == b"16SV" else 1
        skip = 0
    else:
        channels, bits = struct.unpack_from(">hxxxxh", settings)
        rate = _extended(settings[8:18])
        block, frames = _AIFF_BLOCKS.get(settings[18:22], (max(1, (bits + 7) // 8), 1))
        block *= max(1, channels)
        skip = 8
    if not 0 < rate < 1e9:
        raise broken(name, f"its header has a sample rate of {rate:g} Hz")
    declared = None if (size >= _STREAMED and size > end - content) or size <= skip else size - skip
    sound = Sound(content + skip, declared, rate * block / frames, block)
    stop = sound_end(stream, name, IFF, sound, end)
    whole = int.from_bytes(read_at(stream, start + 4, 4)) + 8
    if stop == content + size and abs(start + whole - end) <= 1:
        return _unchanged(stream, start, end)
    leading = read_at(stream, start + 8, content - 4 - start - 8)
    if body == b"SSND":
        offset = by_name[b"COMM"][0] - start - 8
        n_frames = (stop - content - skip) // block * frames
        leading = leading[: offset + 2] + struct.pack(">I", n_frames & 0xFFFFFFFF) + leading[offset + 6 :]
    n = stop - content
    head = b"FORM" + struct.pack(">I", len(leading) + 4 + n + n % 2) + leading + struct.pack(">I", n)
    return Piece(Spliced(stream, [head, (content, stop), bytes(n % 2)]))


def _extended(data: bytes) -> float:
    """Read an 80-bit float of AIFF."""
    exponent, mantissa = struct.unpack(">HQ", data)
    try:
        return mantissa * 2.0 ** ((exponent & 0x7FFF) - 16383 - 63)
    except OverflowError:
        return float("inf")


def caf_pieces(stream: Seekable, name: str, start: int, end: int) -> list[Piece]:
    """Read a Core Audio file, whose last chunk may have an unspecified size."""
    by_name: dict[bytes, tuple[int, int]] = {}
    for word, content, size in chunks(stream, CAF, start + 8, end):
        by_name.setdefault(word, (content, size))
    if b"data" not in by_name or b"desc" not in by_name:
        raise broken(name, "no samples in it" if b"desc" in by_name else "its header is incomplete")
    description = read_at(stream, *by_name[b"desc"])
    if len(description) < 32:
        raise broken(name, "its header is incomplete")
    rate, _, _, packet, frames, _, _ = struct.unpack_from(">d4sIIIII", description)
    content, size = by_name[b"data"]
    if not 0 < rate < 1e9:
        raise broken(name, f"its header has a sample rate of {rate:g} Hz")
    declared = None if size >= _STREAMED_64 or size <= 4 else size
    # packets of varying size (ALAC): use the mean bytes per second
    per_second = rate * packet / frames if packet and frames else _bytes_per_second(stream, by_name, rate, size)
    stop = sound_end(stream, name, CAF, Sound(content, declared, per_second, packet or 1), end)
    if stop == content + size:
        return [_unchanged(stream, start, end)]
    head = read_at(stream, start, content - start - 8) + struct.pack(">q", stop - content)
    return [Piece(Spliced(stream, [head, (content, stop)]))]


def _bytes_per_second(stream: Seekable, by_name: dict[bytes, tuple[int, int]], rate: float, size: int) -> float:
    if b"pakt" in by_name:
        n_frames = int.from_bytes(read_at(stream, by_name[b"pakt"][0] + 8, 8))
        if n_frames:
            return size * rate / n_frames
    return rate
