"""How the words sound: pronunciations from espeak-ng, rhyme families and minimal pairs computed from them."""

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
    """Phones of every word (common label set) and, per word, what it rhymes on."""

    phones: dict[str, tuple[str, ...]]
    rhyme_of: dict[str, str]

    @property
    def families(self) -> dict[str, tuple[str, ...]]:
        """Rhyme to its words, largest family first; words that rhyme with nothing are left out."""
        grouped: dict[str, list[str]] = defaultdict(list)
        for word, rhyme in self.rhyme_of.items():
            grouped[rhyme].append(word)
        kept = ((rhyme, tuple(words)) for rhyme, words in grouped.items() if len(words) > 1)
        return dict(sorted(kept, key=lambda item: (-len(item[1]), item[0])))

    def save(self, folder: Path) -> None:
        """Write ``sounds.json``."""
        facts = {"accent": ACCENT, "phones": self.phones, "rhyme_of": self.rhyme_of, "families": self.families}
        write_atomic(folder / "sounds.json", json.dumps(facts, indent=1, ensure_ascii=False).encode())

    @classmethod
    def load(cls, folder: Path) -> Sounds:
        facts = json.loads((folder / "sounds.json").read_text(encoding="utf-8"))
        return cls({word: tuple(phones) for word, phones in facts["phones"].items()}, facts["rhyme_of"])


@dataclass(frozen=True)
class MinimalPair:
    """Two words that differ in one phone; ``position`` counts phones from 0."""

    a: str
    b: str
    position: int
    phone_a: str
    phone_b: str
    place: str  # "onset", "vowel" or "coda"


def pronounce(words: Iterable[str]) -> Sounds:
    """Ask espeak-ng how each word sounds alone. A rhyme is everything from the stressed vowel on."""
    from hooked_whisper.synthetic.espeak import engine

    phones, rhymes = {}, {}
    for word in words:
        raw = engine().say(word, ACCENT).raw[0]
        own = tuple(from_espeak(name) for name in raw)
        first = sum(len(_spelled(name)) for name in raw[: _nucleus(raw, own)])
        phones[word] = tuple(label for name in raw for label in _spelled(name))
        rhymes[word] = "".join(phones[word][first:])
    return Sounds(phones, rhymes)


def _spelled(name: str) -> tuple[str, ...]:
    """A timed label folds ``ɑːɹ`` into its vowel; a pronunciation keeps the r, or dark would rhyme with clock."""
    coloured = name.endswith("ɹ") and from_espeak(name) != "ɹ"
    return (from_espeak(name), "ɹ") if coloured else (from_espeak(name),)


def _nucleus(raw: tuple[str, ...], own: tuple[str, ...]) -> int:
    """Index of the vowel with primary stress (older espeak-ng gives no stress: the last full vowel)."""
    stressed = [i for i, name in enumerate(raw) if "ˈ" in name]
    vowels = [i for i, label in enumerate(own) if label in VOWELS]
    full = [i for i in vowels if own[i] not in ("ə", "ɜ", "i")] or vowels
    return stressed[-1] if stressed else (full[-1] if full else 0)


def minimal_pairs(phones: Mapping[str, tuple[str, ...]], contrast: str | None = None) -> list[MinimalPair]:
    """All word pairs that differ in one phone, alphabetically.

    ``contrast`` keeps one kind: ``"onset"``, ``"vowel"``, ``"coda"``, or two phones such as ``"b/p"``.
    """
    kinds = ("onset", "vowel", "coda")
    wanted = frozenset(contrast.split("/")) if contrast and contrast not in kinds else None
    if wanted is not None and len(wanted) != 2:
        raise ValueError(f"contrast must be onset, vowel, coda or two phones such as 'b/p', got {contrast!r}")
    found = []
    ordered = sorted(phones)
    for i, a in enumerate(ordered):
        for b in ordered[i + 1 :]:
            if len(phones[a]) != len(phones[b]):
                continue
            differing = [k for k, (x, y) in enumerate(zip(phones[a], phones[b], strict=True)) if x != y]
            if len(differing) != 1:
                continue
            at = differing[0]
            pair = MinimalPair(a, b, at, phones[a][at], phones[b][at], _place(phones[a], at))
            kind_fits = wanted == {pair.phone_a, pair.phone_b} if wanted else contrast in (None, pair.place)
            if kind_fits:
                found.append(pair)
    return found


def _place(phones: tuple[str, ...], at: int) -> str:
    if phones[at] in VOWELS:
        return "vowel"
    return "onset" if any(label in VOWELS for label in phones[at + 1 :]) else "coda"
