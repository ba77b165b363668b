"""Text to phones and Kokoro's symbols, word by word, by espeak-ng (GPL; in the extra ``neural``, none of it ships).

espeak-ng reads a clause as a whole, so that "the" before a vowel and the t of "better" come out as in speech. It writes
some words as one ("of the") and some as two ("twenty-one"); :func:`share_units` gives each word of the text its part.
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
    """One phone: Kokoro's symbols for it, a stress mark included, and its label in the corpus."""

    symbols: str
    label: str


@dataclass(frozen=True)
class Word:
    """One word of the text, as it is written there, its phones, and the punctuation mark after it (or nothing)."""

    text: str
    phones: tuple[Phone, ...]
    mark: str = ""


@dataclass(frozen=True)
class Phonemes:
    """A text as words and phones.

    Attributes:
        joined: words that espeak-ng wrote as one with a neighbour or in several parts, so that their boundary is
            the one of least edit distance to the words said alone.
    """

    words: tuple[Word, ...]
    joined: int = 0

    @property
    def symbols(self) -> str:
        """What Kokoro is given: words separated by spaces, punctuation directly after the word."""
        return " ".join("".join(phone.symbols for phone in word.phones) + word.mark for word in self.words)


def phonemize(text: str, language: str = "en") -> Phonemes:
    """Words and phones of a text.

    Raises:
        AlignmentError: no words; a word without phones; a phone of espeak-ng that ``phones.tsv`` does not list.
        RuntimeError: espeak-ng is not installed.
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
    """Words as written, without punctuation around them, and the first mark after each (or ``""``).

    Raises:
        AlignmentError: no words in it.
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
        raise AlignmentError(f"{text!r} has no words: give a sentence")
    return words, marks


def to_phones(unit: str, language: str = "en") -> list[Phone]:
    """``"ˈɑːɹ" -> [Phone("ˈɑ", "AA"), Phone("ɹ", "R")]``: stress belongs to the first.

    Outside English a phone that ``phones.tsv`` does not list is its own symbol, and its own label but for length.

    Raises:
        AlignmentError: an English phone that ``phones.tsv`` does not list.
    """
    stress = "".join(character for character in unit if character in _STRESS)[:1]
    bare = unit.translate({ord(character): None for character in _STRESS})
    table = phone_table(language)
    if bare not in table and language == "en":
        raise AlignmentError(f"espeak-ng phone {unit!r} is not in phones.tsv: add a line for it")
    pieces = table.get(bare, ((bare, bare.replace("ː", "")),))
    return [Phone((stress if k == 0 else "") + symbols, label) for k, (symbols, label) in enumerate(pieces)]


def share_units(spoken: Sequence[Sequence[str]], alone: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Give each word its units of a clause.

    Args:
        spoken: units of the clause, in the groups that espeak-ng wrote.
        alone: units of each word of the text when it is said alone.

    Returns:
        One group of units per word: ``spoken`` itself if it has one group per word; otherwise the segmentation
        of least edit distance to ``alone``, where a cut that is no boundary of ``spoken`` costs a little.

    Raises:
        AlignmentError: fewer units than words.
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
    """A copy of espeak-ng for phones alone: the voice set here must not change what the process's synthesizer says."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(fresh())


@cache
def _espeak_units(text: str, voice: str) -> tuple[tuple[str, ...], ...]:
    """Phones of each word as espeak-ng separates them, stress marks in front of them."""
    library = _phonemizer()._lib
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise RuntimeError(f"espeak-ng has no voice {voice!r}. {INSTALL}")
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    library.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_int]
    pointer, parts = ctypes.c_char_p(text.encode()), []
    while pointer.value is not None:  # a clause a call
        parts.append(library.espeak_TextToPhonemes(ctypes.byref(pointer), _UTF8, _IPA | ord(_SEPARATOR) << 8).decode())
    # "(en)" is a switch of language, a hyphen a French word that leans on the next
    groups = (re.sub(r"\(.*?\)|-", "", part).split() for part in parts)
    units = (
        tuple(unit for unit in word.split(_SEPARATOR) if unit.strip(_STRESS)) for group in groups for word in group
    )
    return tuple(_without_linking_r(group) for group in units if group)


def _without_linking_r(units: tuple[str, ...]) -> tuple[str, ...]:
    """espeak-ng writes the r of "after all" twice, as part of the vowel and as a phone."""
    rhotic = ("ɹ", "ɚ", "ɜː")
    return tuple(unit for k, unit in enumerate(units) if unit != "ɹ" or not k or not units[k - 1].endswith(rhotic))
