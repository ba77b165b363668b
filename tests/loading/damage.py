"""Damage to the bytes of a file, drawn by hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st


def damage(data: st.DataObject, content: bytearray, where: st.SearchStrategy[int]) -> None:
    """Cut the content, flip up to four bytes, or put up to 40 bytes in front; positions are drawn from ``where``."""
    match data.draw(st.sampled_from(["cut", "flip", "prefix"])):
        case "cut":
            del content[data.draw(where) :]
        case "flip":
            for position in data.draw(st.lists(where, min_size=1, max_size=4)):
                content[position] ^= data.draw(st.integers(1, 255))
        case "prefix":
            content[:0] = data.draw(st.binary(min_size=1, max_size=40))
