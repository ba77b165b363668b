"""Damage to files, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator

_SIZES = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"\1\0\0\0",
    b"\0\0\0\1",
)
_WORDS = (
    b"-1",
    b"0",
    b"1e400",
    b"NaN",
    b"Infinity",
    b"99999999999999999999",
    b'"',
    b"{",
    b"[",
    b"]",
    b"null",
    b"\n",
    b"\\u0000",
)


def mutated(content: bytes, n: int, seed: str) -> Iterator[bytes]:
    """``n`` damaged versions of a file: one to five changes each, half of them near its start, where headers are."""
    source = random.Random(seed)
    for _ in range(n):
        changed = bytearray(content)
        for _ in range(source.choice((1, 1, 1, 2, 3, 5))):
            _change(changed, source)
        yield bytes(changed)


def _change(content: bytearray, source: random.Random) -> None:
    size = len(content)
    offset = source.randrange(min(size, 256) + 1) if source.random() < 0.5 else source.randrange(size + 1)
    kind = source.randrange(9)
    if kind == 0:
        content[offset : offset + 1] = bytes([source.randrange(256)])
    elif kind == 1:
        if offset < size:
            content[offset] ^= 1 << source.randrange(8)
    elif kind == 2:
        content[offset : offset + 4] = source.choice(_SIZES)
    elif kind == 3:
        content[offset : offset + 8] = source.choice(_SIZES) * 2
    elif kind == 4:
        del content[offset : offset + source.choice((1, 4, 40, size))]
    elif kind == 5:
        content[offset:offset] = content[offset : offset + source.choice((1, 8, 100))]
    elif kind == 6:
        content[offset:offset] = source.randbytes(source.choice((1, 3, 16)))
    elif kind == 7:
        content[offset : offset + source.randrange(6)] = source.choice(_WORDS)
    else:
        end = min(size, offset + source.choice((2, 8, 64)))
        other = source.randrange(size + 1)
        content[offset:end] = content[other : other + end - offset]
