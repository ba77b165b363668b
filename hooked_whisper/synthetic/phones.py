"""One set of phone labels for both synthesizers: IPA without stress and length.

espeak-ng labels phones in IPA, differently for each accent, and flite in ARPAbet. The labels are folded so that words
can be compared across speakers: r-colored vowels get the label of the vowel, a flap becomes a t, and vowels that only
some accents have get the nearest label of the set.
"""

from __future__ import annotations

from hooked_whisper.protocols import SILENCE

ARPABET = {
    "aa": "ɑ", "ae": "æ", "ah": "ʌ", "ao": "ɔ", "aw": "aʊ", "ax": "ə", "axr": "ɜ", "ay": "aɪ", "b": "b", "ch": "tʃ",
    "d": "d", "dh": "ð", "eh": "ɛ", "er": "ɜ", "ey": "eɪ", "f": "f", "g": "ɡ", "hh": "h", "ih": "ɪ", "iy": "i",
    "jh": "dʒ", "k": "k", "l": "l", "m": "m", "n": "n", "ng": "ŋ", "ow": "oʊ", "oy": "ɔɪ", "p": "p", "r": "ɹ",
    "s": "s", "sh": "ʃ", "t": "t", "th": "θ", "uh": "ʊ", "uw": "u", "v": "v", "w": "w", "y": "j", "z": "z", "zh": "ʒ",
    "pau": SILENCE,
}  # fmt: skip

PHONES: tuple[str, ...] = tuple(sorted(set(ARPABET.values()) - {SILENCE}))

# espeak-ng's labels (without stress, length and r-color) that differ from those of the set.
_FOLD = {
    "a": "æ", "aa": "ɑ", "e": "eɪ", "ei": "eɪ", "eə": "ɛ", "ɛə": "æ", "iə": "ɪ", "ɪə": "ɪ", "o": "oʊ", "oə": "ɔ",
    "oɪ": "ɔɪ", "əʊ": "oʊ", "ʌʊ": "oʊ", "r": "ɹ", "t̪": "θ", "d̪": "ð", "æʊ": "aʊ", "ʌʉ": "aʊ", "ɐ": "ə", "ɑə": "ɑ",
    "ɒ": "ɑ", "ɔə": "ɔ", "əu": "u", "əɪ": "ɜ", "ɚ": "ɜ", "ɾ": "t", "ʉ": "u", "ʊə": "ʊ", "ʍ": "w", "ɫ": "l", "ʔ": "t",
    "ᵻ": "ɪ", "əl": "l", "ʲ": "i", "g": "ɡ", "ɑ̃": "ɑ",
}  # fmt: skip

VOWELS = frozenset(["ɑ", "æ", "ʌ", "ɔ", "aʊ", "ə", "ɜ", "aɪ", "ɛ", "eɪ", "ɪ", "i", "oʊ", "ɔɪ", "ʊ", "u"])


def from_espeak(label: str) -> str:
    """Return the label of an espeak-ng phone: ``"ɑ"`` for ``"ˈɑːɹ"``.

    Raises:
        ValueError: the label is unknown, so that no phone enters the corpus without a label.
    """
    bare = label.replace("ˈ", "").replace("ˌ", "").replace("ː", "").replace(":", "")
    if len(bare) > 1:
        bare = bare.removesuffix("ɹ").removesuffix("-")
    bare = _FOLD.get(bare, bare)
    if bare not in PHONES:
        raise ValueError(f"espeak-ng phone {label!r} has no label in the common set")
    return bare


def from_flite(label: str) -> str:
    """Return the label of a flite phone: ``"ɑ"`` for ``"aa"``, and silence for ``"pau"``.

    Raises:
        ValueError: the label is unknown.
    """
    try:
        return ARPABET[label]
    except KeyError:
        raise ValueError(f"flite phone {label!r} has no label in the common set") from None
