"""Pronunciations of the words by espeak-ng, and the rhyme families and minimal pairs that follow from them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hooked_whisper._support.storage import write_atomic
from hooked_whisper.synthetic.phones import VOWELS, from_espeak

ACCENT = "en-us"


@dataclass(frozen=True)
class Sounds:
    """The phones of every word in the common label set, and its rhyme: the phones from the stressed vowel to the
    end."""

    phones: dict[str, tuple[str, ...]]
    rhyme_of: dict[str, str]

    @property
    def families(self) -> dict[str, tuple[str, ...]]:
        """The words of each rhyme, largest family first. Words that rhyme with no other word are left out."""
        grouped: dict[str, list[str]] = defaultdict(list)
        for word, rhyme in self.rhyme_of.items():
            grouped[rhyme].append(word)
        families = ((rhyme, tuple(words)) for rhyme, words in grouped.items() if len(words) > 1)
        return dict(sorted(families, key=lambda item: (-len(item[1]), item[0])))

    def save(self, folder: Path) -> None:
        """Write ``sounds.json``."""
        facts = {"accent": ACCENT, "phones": self.phones, "rhyme_of": self.rhyme_of, "families": self.families}
        write_atomic(folder / "sounds.json", json.dumps(facts, indent=1, ensure_ascii=False).encode())

    @classmethod
    def load(cls, folder: Path) -> Sounds:
        """Load the sounds that :meth:`save` wrote."""
        facts = json.loads((folder / "sounds.json").read_text(encoding="utf-8"))
        return cls({word: tuple(phones) for word, phones in facts["phones"].items()}, facts["rhyme_of"])


@dataclass(frozen=True)
class WordPair:
    """Two words that differ in one phone. ``position`` is the index of this phone."""

    a: str
    b: str
    position: int
    phone_a: str
    phone_b: str
    place: str  # "onset", "vowel" or "coda"


def pronounce(words: Iterable[str]) -> Sounds:
    """Return the pronunciation of each word spoken alone by espeak-ng, and its rhyme."""
    from hooked_whisper.synthetic.espeak import engine

    phones, rhymes = {}, {}
    for word in words:
        raw = engine().say(word, ACCENT).raw[0]
        labels = tuple(from_espeak(name) for name in raw)
        first = sum(len(_spelled(name)) for name in raw[: _nucleus(raw, labels)])
        phones[word] = tuple(label for name in raw for label in _spelled(name))
        rhymes[word] = "".join(phones[word][first:])
    return Sounds(phones, rhymes)


def _spelled(name: str) -> tuple[str, ...]:
    """Return the common label, but keep the r of ``ɑːɹ``, which timed labels drop. Without it, dark would rhyme with
    clock."""
    r_colored = name.endswith("ɹ") and from_espeak(name) != "ɹ"
    return (from_espeak(name), "ɹ") if r_colored else (from_espeak(name),)


def _nucleus(raw: tuple[str, ...], labels: tuple[str, ...]) -> int:
    """Return the index of the vowel with primary stress, or of the last full vowel if espeak-ng marks no stress."""
    stressed = [i for i, name in enumerate(raw) if "ˈ" in name]
    vowels = [i for i, label in enumerate(labels) if label in VOWELS]
    full = [i for i in vowels if labels[i] not in ("ə", "ɜ", "i")] or vowels
    return stressed[-1] if stressed else (full[-1] if full else 0)


def minimal_pairs(phones: Mapping[str, tuple[str, ...]], contrast: str | None = None) -> list[WordPair]:
    """Return all word pairs that differ in one phone, in alphabetical order.

    Args:
        contrast: only pairs of this kind: ``"onset"``, ``"vowel"``, ``"coda"``, or two phones such as ``"b/p"``.

    Raises:
        ValueError: the contrast is none of these.
    """
    kinds = ("onset", "vowel", "coda")
    wanted = frozenset(contrast.split("/")) if contrast and contrast not in kinds else None
    if wanted is not None and len(wanted) != 2:
        raise ValueError(f"contrast is {contrast!r}, expected onset, vowel, coda or two phones such as 'b/p'")
    pairs = []
    ordered = sorted(phones)
    for i, a in enumerate(ordered):
        for b in ordered[i + 1 :]:
            if len(phones[a]) != len(phones[b]):
                continue
            differing = [k for k, (x, y) in enumerate(zip(phones[a], phones[b], strict=True)) if x != y]
            if len(differing) != 1:
                continue
            position = differing[0]
            pair = WordPair(
                a, b, position, phones[a][position], phones[b][position], _syllable_part(phones[a], position)
            )
            kind_fits = wanted == {pair.phone_a, pair.phone_b} if wanted else contrast in (None, pair.place)
            if kind_fits:
                pairs.append(pair)
    return pairs


def _syllable_part(phones: tuple[str, ...], position: int) -> str:
    if phones[position] in VOWELS:
        return "vowel"
    return "onset" if any(label in VOWELS for label in phones[position + 1 :]) else "coda"
