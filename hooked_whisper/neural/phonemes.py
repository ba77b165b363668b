"""Convert text to phones and Kokoro's symbols, word by word, with espeak-ng (GPL, in the extra ``neural``).

espeak-ng reads whole clauses, so "the" before a vowel and the t of "better" are pronounced as in speech. It joins some
words ("of the") and splits others ("twenty-one"); :func:`share_units` assigns the phones to the words of the text.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache

from hooked_whisper.errors import AlignmentError
from hooked_whisper.neural.tables import phone_table
from hooked_whisper.synthetic.espeak import INSTALL, Espeak, fresh

VOICES = {"en": "en-us", "es": "es", "fr": "fr", "it": "it", "pt": "pt-br"}
_IPA, _UTF8 = 0x02, 1
_SEPARATOR = "_"
_PUNCTUATION = ",.;:?!—…"
_WORD = re.compile(rf"^[\"“”«»¿¡(]*(.*?)([{_PUNCTUATION}]*)[\"“”«»)]*([{_PUNCTUATION}]*)$")
_STRESS = "ˈˌ"


@dataclass(frozen=True)
class Phone:
    """One phone: Kokoro's symbols for it, including a stress mark, and its label in the corpus."""

    symbols: str
    label: str


@dataclass(frozen=True)
class Word:
    """One word as written in the text, its phones, and the punctuation mark after it, if any."""

    text: str
    phones: tuple[Phone, ...]
    mark: str = ""


@dataclass(frozen=True)
class Phonemes:
    """A text as words and phones.

    Attributes:
        joined: number of words that espeak-ng joined with a neighbor or split. Their boundaries come from the smallest
            edit distance to the single words.
    """

    words: tuple[Word, ...]
    joined: int = 0

    @property
    def symbols(self) -> str:
        """Input of Kokoro: words separated by spaces, with punctuation directly after the word."""
        return " ".join("".join(phone.symbols for phone in word.phones) + word.mark for word in self.words)


def phonemize(text: str, language: str = "en") -> Phonemes:
    """Return the words and phones of a text.

    Raises:
        AlignmentError: if there are no words, a word has no phones, or ``phones.tsv`` does not list a phone.
        RuntimeError: if espeak-ng is not installed.
    """
    words, marks = split_words(text)
    units: list[tuple[str, ...]] = []
    joined, first = 0, 0
    for index, mark in enumerate(marks):
        if mark or index == len(marks) - 1:
            clause = words[first : index + 1]
            spoken, merged = _clause_units(tuple(clause), language)
            units += spoken
            joined += merged
            first = index + 1
    phonemes = tuple(
        Word(word, tuple(phone for unit in group for phone in to_phones(unit, language)), mark)
        for word, group, mark in zip(words, units, marks, strict=True)
    )
    return Phonemes(phonemes, joined)


def split_words(text: str) -> tuple[list[str], list[str]]:
    """Return the words without surrounding punctuation, and the first mark after each (or ``""``).

    Raises:
        AlignmentError: if the text has no words.
    """
    words, marks = [], []
    for token in text.split():
        match = _WORD.match(token)
        word, mark = (match[1], (match[2] + match[3])[:1]) if match else (token, "")
        if word.strip("-–'’"):
            words.append(word)
            marks.append(mark)
        elif marks and (token[0] in "-–—"):
            marks[-1] = marks[-1] or "—"
    if not words:
        raise AlignmentError(f"{text!r} has no words: pass a sentence")
    return words, marks


def to_phones(unit: str, language: str = "en") -> list[Phone]:
    """Convert a unit of espeak-ng: ``"ˈɑːɹ" -> [Phone("ˈɑ", "AA"), Phone("ɹ", "R")]``. Stress goes to the first phone.

    In other languages than English, a phone that ``phones.tsv`` does not list is used as symbol, and without length as
    label.

    Raises:
        AlignmentError: if ``phones.tsv`` does not list an English phone.
    """
    stress = "".join(character for character in unit if character in _STRESS)[:1]
    bare = unit.translate({ord(character): None for character in _STRESS})
    table = phone_table(language)
    if bare not in table and language == "en":
        raise AlignmentError(f"espeak-ng phone {unit!r} is not in phones.tsv: add a line for it")
    pieces = table.get(bare, ((bare, bare.replace("ː", "")),))
    return [Phone((stress if k == 0 else "") + symbols, label) for k, (symbols, label) in enumerate(pieces)]


def share_units(spoken: Sequence[Sequence[str]], alone: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Assign the units of a clause to its words.

    Args:
        spoken: units of the clause, grouped by espeak-ng.
        alone: units of each word spoken alone.

    Returns:
        one group of units per word: ``spoken`` if it has one group per word, otherwise the segmentation with the
        smallest edit distance to ``alone``, with a small penalty for cuts inside groups of ``spoken``.

    Raises:
        AlignmentError: if there are fewer units than words.
    """
    if len(spoken) == len(alone):
        return [tuple(group) for group in spoken]
    units = [unit for group in spoken for unit in group]
    if len(units) < len(alone):
        raise AlignmentError(f"espeak-ng gave {len(units)} phones for {len(alone)} words: {' '.join(units)!r}")
    ends, position = set(), 0
    for group in spoken:
        position += len(group)
        ends.add(position)
    # best[n]: cost and cuts of the first words on the first n units
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, (0,))}
    for word in alone:
        step: dict[int, tuple[float, tuple[int, ...]]] = {}
        for start, (cost, cuts) in best.items():
            for end in range(start + 1, len(units) + 1):
                total = cost + _distance(units[start:end], word) + (0.0 if end in ends else 0.25)
                if end not in step or total < step[end][0]:
                    step[end] = (total, (*cuts, end))
        best = step
    cuts = best[len(units)][1]
    return [tuple(units[start:end]) for start, end in itertools.pairwise(cuts)]


def _distance(a: Sequence[str], b: Sequence[str]) -> float:
    row = [float(k) for k in range(len(b) + 1)]
    for i, unit in enumerate(a, 1):
        previous, row[0] = row[0], float(i)
        for k, other in enumerate(b, 1):
            previous, row[k] = row[k], min(row[k] + 1, row[k - 1] + 1, previous + _substitution(unit, other))
    return row[-1]


def _substitution(a: str, b: str) -> float:
    a, b = (re.sub(f"[{_STRESS}ː]", "", unit) for unit in (a, b))
    if a == b:
        return 0.0
    vowels = "aeiouæɑɐɒɔəɚɛɜɪʊʌᵻɨøœy"
    return 0.5 if (a[:1] in vowels) == (b[:1] in vowels) else 1.5


def _clause_units(words: tuple[str, ...], language: str) -> tuple[list[tuple[str, ...]], int]:
    spoken = _espeak_units(" ".join(words), VOICES[language])
    if len(spoken) == len(words):
        return [tuple(group) for group in spoken], 0
    alone = [[unit for group in _espeak_units(word, VOICES[language]) for unit in group] for word in words]
    groups = {tuple(group) for group in spoken}
    shared = share_units(spoken, alone)
    return shared, sum(units not in groups for units in shared)


@cache
def _phonemizer() -> Espeak:
    """Return a separate copy of espeak-ng, so that its voice does not affect the synthesizer of the process."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(fresh())


@cache
def _espeak_units(text: str, voice: str) -> tuple[tuple[str, ...], ...]:
    """Return the phones of each word as separated by espeak-ng, with stress marks in front."""
    library = _phonemizer()._lib
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise RuntimeError(f"espeak-ng has no voice {voice!r}. {INSTALL}")
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    library.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_int]
    pointer, parts = ctypes.c_char_p(text.encode()), []
    while pointer.value is not None:  # one clause per call
        parts.append(library.espeak_TextToPhonemes(ctypes.byref(pointer), _UTF8, _IPA | ord(_SEPARATOR) << 8).decode())
    # "(en)" switches the language; a hyphen marks a French word that attaches to the next
    groups = (re.sub(r"\(.*?\)|-", "", part).split() for part in parts)
    units = (
        tuple(unit for unit in word.split(_SEPARATOR) if unit.strip(_STRESS)) for group in groups for word in group
    )
    return tuple(_without_linking_r(group) for group in units if group)


def _without_linking_r(units: tuple[str, ...]) -> tuple[str, ...]:
    """Remove the second r of "after all", which espeak-ng writes as part of the vowel and as a phone."""
    rhotic = ("ɹ", "ɚ", "ɜː")
    return tuple(unit for k, unit in enumerate(units) if unit != "ɹ" or not k or not units[k - 1].endswith(rhotic))
