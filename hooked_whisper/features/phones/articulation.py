"""Articulatory features of phones: manner, place, voicing of consonants; height, backness, rounding, glide of vowels.

One table serves IPA (with or without marks of stress, length and r-coloring) and ARPABET as MFA and TIMIT write it (any
case, stress digits ignored). Letters of both alphabets are read as ARPABET: ``y`` is a glide, ``r`` an approximant,
``q`` a glottal stop. Diphthongs are described by their start and by the direction of their glide.

Source: the IPA chart (2020); ARPABET and TIMIT labels as in the TIMIT documentation (Garofolo et al. 1993).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from hooked_whisper.errors import AlignmentError


@dataclass(frozen=True, slots=True)
class Articulation:
    """Manner, place and voicing of a consonant; height, backness, rounding and glide (or ``none``) of a vowel."""

    kind: Literal["consonant", "vowel"]
    features: tuple[str, ...]


# Symbols of the same phone share a key, IPA first.
_CONSONANTS = {
    "p": "stop labial voiceless", "b": "stop labial voiced", "t": "stop alveolar voiceless",
    "d": "stop alveolar voiced", "k": "stop velar voiceless", "ɡ g": "stop velar voiced",
    "ʔ q": "stop glottal voiceless", "ɾ dx": "flap alveolar voiced", "ɾ̃ nx": "nasal alveolar voiced",
    "tʃ t͡ʃ ʧ ch": "affricate postalveolar voiceless", "dʒ d͡ʒ ʤ jh": "affricate postalveolar voiced",
    "f": "fricative labial voiceless", "v": "fricative labial voiced", "θ th": "fricative dental voiceless",
    "ð dh": "fricative dental voiced", "s": "fricative alveolar voiceless", "z": "fricative alveolar voiced",
    "ʃ sh": "fricative postalveolar voiceless", "ʒ zh": "fricative postalveolar voiced",
    "h hh": "fricative glottal voiceless", "ɦ hv": "fricative glottal voiced", "x": "fricative velar voiceless",
    "m m̩ em": "nasal labial voiced", "n n̩ en": "nasal alveolar voiced", "ŋ ŋ̍ ng eng": "nasal velar voiced",
    "l ɫ l̩ el": "liquid alveolar voiced", "ɹ r ɻ": "liquid postalveolar voiced", "j y": "glide palatal voiced",
    "w": "glide labial-velar voiced", "ʍ wh": "glide labial-velar voiceless",
    "bcl": "closure labial voiced", "pcl": "closure labial voiceless", "dcl": "closure alveolar voiced",
    "tcl": "closure alveolar voiceless", "gcl": "closure velar voiced", "kcl": "closure velar voiceless",
}  # fmt: skip
_VOWELS = {
    "i iy": "high front unrounded none", "ɪ ih": "high front unrounded none", "ᵻ ɨ ix": "high central unrounded none",
    "ʉ ux": "high central rounded none", "u uw": "high back rounded none", "ʊ uh": "high back rounded none",
    "e": "mid front unrounded none", "ɛ eh": "mid front unrounded none", "o": "mid back rounded none",
    "ə ax ax-h": "mid central unrounded none", "ɜ ɝ ɚ er axr": "mid central unrounded none",
    "ʌ ah": "mid back unrounded none", "ɔ ao": "mid back rounded none", "æ ae": "low front unrounded none",
    "a": "low front unrounded none", "ɐ": "low central unrounded none", "ɑ aa": "low back unrounded none",
    "ɒ": "low back rounded none", "eɪ ey": "mid front unrounded front", "aɪ ay": "low front unrounded front",
    "ɔɪ oɪ oy": "mid back rounded front", "aʊ aw": "low front unrounded back",
    "oʊ əʊ ow": "mid back rounded back",
}  # fmt: skip


def _table(kind: Literal["consonant", "vowel"], rows: dict[str, str]) -> dict[str, Articulation]:
    return {
        symbol: Articulation(kind, tuple(features.split()))
        for symbols, features in rows.items()
        for symbol in symbols.split()
    }


_TABLE = _table("consonant", _CONSONANTS) | _table("vowel", _VOWELS)
_MARKS = re.compile("[ˈˌːˑ]")
_STRESS = re.compile(r"(?<=[a-z])[0-2]$")

_SIBILANT_PLACES = {"alveolar", "postalveolar"}
_CLASSES: dict[str, Callable[[Articulation], bool]] = {
    "voiceless stops": lambda a: _is(a, "stop", voicing="voiceless"),
    "voiced stops": lambda a: _is(a, "stop", voicing="voiced"),
    "closures": lambda a: _is(a, "closure"),
    "nasals": lambda a: _is(a, "nasal"),
    "sibilants": lambda a: _is(a, "fricative", "affricate") and a.features[1] in _SIBILANT_PLACES,
    "non-sibilant fricatives": lambda a: _is(a, "fricative") and a.features[1] not in _SIBILANT_PLACES,
    "affricates": lambda a: _is(a, "affricate"),
    "liquids": lambda a: _is(a, "liquid"),
    "glides": lambda a: _is(a, "glide"),
    "labials": lambda a: a.kind == "consonant" and a.features[1].startswith("labial"),
    "dentals": lambda a: a.kind == "consonant" and a.features[1] == "dental",
    "postalveolars": lambda a: a.kind == "consonant" and a.features[1] == "postalveolar",
    "velars": lambda a: a.kind == "consonant" and a.features[1].endswith("velar"),
    "high front vowels": lambda a: _vowel(a, "high", "front"),
    "high back vowels": lambda a: _vowel(a, "high", "back"),
    "mid vowels": lambda a: _vowel(a, "mid"),
    "low vowels": lambda a: _vowel(a, "low"),
    "diphthongs": lambda a: a.kind == "vowel" and a.features[3] != "none",
}


def _is(a: Articulation, *manners: str, voicing: str | None = None) -> bool:
    return a.kind == "consonant" and a.features[0] in manners and voicing in (None, a.features[2])


def _vowel(a: Articulation, height: str, backness: str | None = None) -> bool:
    return (
        a.kind == "vowel" and a.features[3] == "none" and a.features[0] == height and backness in (None, a.features[1])
    )


def articulation(label: str) -> Articulation | None:
    """Return the articulation of a phone; ``None`` for silence and unknown labels.

    ``"ˈiː"``, ``"i"``, ``"iy"`` and ``"IY1"`` are the same phone.
    """
    bare = _STRESS.sub("", _MARKS.sub("", label.strip()).lower())
    if bare not in _TABLE and len(bare) > 1:
        bare = bare.removesuffix("ɹ")  # espeak's r-colored vowels
    return _TABLE.get(bare)


def articulatory_distance(a: str, b: str) -> float:
    """Return the share of articulatory features in which two phones differ, 0 to 1.

    Consonants have three features and vowels four; a vowel and a consonant have distance 1. Different phones with the
    same features, such as ``i`` and ``ɪ`` (tenseness is not a feature), have distance 0.

    Raises:
        AlignmentError: a label has no articulation, such as silence.
    """
    first, second = articulation(a), articulation(b)
    for label, entry in ((a, first), (b, second)):
        if entry is None:
            raise AlignmentError(f"{label!r} has no articulation, expected a phone in IPA or ARPABET")
    assert first is not None and second is not None
    if first.kind != second.kind:
        return 1.0
    return sum(x != y for x, y in zip(first.features, second.features, strict=True)) / len(first.features)


def distances(names: Iterable[str]) -> Float[np.ndarray, "label label"]:
    """:func:`articulatory_distance` of every pair; NaN where a label has no articulation."""
    labels = list(names)
    known = [articulation(label) is not None for label in labels]
    rows = [
        [articulatory_distance(a, b) if ka and kb else float("nan") for b, kb in zip(labels, known, strict=True)]
        for a, ka in zip(labels, known, strict=True)
    ]
    return np.array(rows, dtype=float).reshape(len(labels), len(labels))


def classes(names: Iterable[str]) -> dict[str, frozenset[str]]:
    """Group labels into narrow articulatory classes of at least two phones and at most a third of all.

    Classes overlap (``m`` is a nasal and a labial). Silence and unknown labels are in no class.
    """
    known = {label: phone for label in names if (phone := articulation(label)) is not None}
    grouped = {
        name: frozenset(label for label, phone in known.items() if belongs(phone)) for name, belongs in _CLASSES.items()
    }
    return {name: members for name, members in grouped.items() if 2 <= len(members) <= len(known) / 3}
