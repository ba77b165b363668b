"""Generate sentences from patterns and word lists: ``patterns.txt`` and ``words.tsv``.

Some sentences are lists of random dictionary words, so that all phones occur in many contexts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
_SLOT = re.compile(r"\{(a )?(\w+)\}")
_DICTIONARY_SHARE = 0.15
_LIST = "{name} wrote down {dictionary}, {dictionary}, {dictionary} and {dictionary}."
_VULGAR = (
    "anal",
    "bitch",
    "cock",
    "cum",
    "cunt",
    "dick",
    "fuck",
    "nigg",
    "nude",
    "porn",
    "pussy",
    "rape",
    "sex",
    "shit",
)
"""Beginnings of words that are left out of the lists."""


def sentences(seed: int) -> Iterator[str]:
    """Yield sentences without end. The same seed yields the same sentences."""
    draw = random.Random(seed)
    patterns, words = _patterns(), _words()
    while True:
        pattern = _LIST if draw.random() < _DICTIONARY_SHARE else draw.choice(patterns)
        yield _filled(pattern, words, draw)


def _filled(pattern: str, words: Mapping[str, tuple[str, ...]], draw: random.Random) -> str:
    used: set[str] = set()

    def fill(match: re.Match[str]) -> str:
        word = draw.choice([word for word in words[match[2]] if word not in used])
        used.add(word)
        article = ("an " if word[0] in "aeiou" else "a ") if match[1] else ""
        return article + word

    text = _SLOT.sub(fill, pattern)
    return text[0].upper() + text[1:]


@cache
def _patterns() -> tuple[str, ...]:
    lines = (FOLDER / "patterns.txt").read_text("utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


@cache
def _words() -> Mapping[str, tuple[str, ...]]:
    """Return class -> its words or phrases, which ``|`` separates where they have spaces."""
    from hooked_whisper.findings.english.lexicon import load_english  # slow to import, and workers do not need it

    classes = {}
    for line in (FOLDER / "words.tsv").read_text("utf-8").splitlines()[1:]:
        name, words = line.split("\t")
        classes[name] = tuple(words.split("|") if "|" in words else words.split(" "))
    classes["dictionary"] = tuple(
        word for word in load_english().words if len(word) > 2 and not word.startswith(_VULGAR)
    )
    return classes
