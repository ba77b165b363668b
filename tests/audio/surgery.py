"""Files that people really have, made from whole ones by moving bytes."""

from __future__ import annotations

import struct

from hooked_whisper.audio.mpeg import parse_header


def syncsafe(n: int) -> bytes:
    return bytes(n >> shift & 127 for shift in (21, 14, 7, 0))


def id3v2(n: int = 500) -> bytes:
    """A tag of ``n`` bytes, with something like a frame header in it."""
    return b"ID3\x04\0\0" + syncsafe(n) + (b"APIC\xff\xfb\x90\x00" + b"x" * n)[:n]


def id3v1() -> bytes:
    return b"TAG" + b"title".ljust(125, b"\0")


def ape(n: int = 60, header: bool = True) -> bytes:
    """An APEv2 tag with a header and a footer."""
    flags = 1 << 31 if header else 0
    body = b"i" * n

    def edge(extra: int) -> bytes:
        return b"APETAGEX" + struct.pack("<IIII", 2000, n + 32, 1, flags | extra) + bytes(8)

    return (edge(1 << 29) if header else b"") + body + edge(0)


def lyrics3() -> bytes:
    text = b"LYRICSBEGIN" + b"LYR00003la "
    return text + f"{len(text):06d}".encode() + b"LYRICS200"


def mp3_frames(content: bytes) -> list[bytes]:
    """The frames of a clean MP3, its tag frame among them."""
    frames, offset = [], 0
    while offset + 4 <= len(content):
        header = parse_header(int.from_bytes(content[offset : offset + 4]))
        assert header is not None and header.size
        frames.append(content[offset : offset + header.size])
        offset += header.size
    return frames


def without_tag(content: bytes) -> bytes:
    """An MP3 without its Xing frame."""
    return b"".join(mp3_frames(content)[1:])


def free_format(content: bytes) -> bytes:
    """The same constant-rate frames with the bit rate left open."""
    return b"".join(frame[:2] + bytes([frame[2] & 0x0F]) + frame[3:] for frame in mp3_frames(content))


def with_frame_count(content: bytes, count: int) -> bytes:
    """An MP3 whose Xing tag counts ``count`` frames."""
    offset = max(content.find(b"Xing"), content.find(b"Info"))
    return content[: offset + 8] + struct.pack(">I", count) + content[offset + 12 :]


def flac_total(content: bytes, total: int) -> bytes:
    """A FLAC file whose header counts ``total`` samples."""
    word = int.from_bytes(content[18:26]) >> 36 << 36 | total
    return content[:18] + word.to_bytes(8) + content[26:]


def wav_size(content: bytes, size: int, riff: int | None = None) -> bytes:
    """A WAV whose data chunk claims ``size`` bytes."""
    offset = content.find(b"data") + 4
    order = ">I" if content[:4] == b"RIFX" else "<I"
    riff_size = content[4:8] if riff is None else struct.pack(order, riff)
    return content[:4] + riff_size + content[8:offset] + struct.pack(order, size) + content[offset + 4 :]


def chunk(name: bytes, content: bytes, order: str = "<I") -> bytes:
    return name + struct.pack(order, len(content)) + content + bytes(len(content) % 2)


def ogg_pages(content: bytes) -> list[bytes]:
    """The pages of a clean Ogg file."""
    pages, offset = [], 0
    while offset < len(content):
        n = content[offset + 26]
        end = offset + 27 + n + sum(content[offset + 27 : offset + 27 + n])
        pages.append(content[offset:end])
        offset = end
    return pages


def ogg_unmarked(page: bytes) -> bytes:
    """A last page that does not say so, with its checksum (RFC 3533)."""
    page = page[:5] + bytes([page[5] & ~4]) + page[6:22] + bytes(4) + page[26:]
    register = 0
    for byte in page:
        register ^= byte << 24
        for _ in range(8):
            register = register << 1 ^ (0x104C11DB7 if register >> 31 else 0)
    return page[:22] + struct.pack("<I", register) + page[26:]
