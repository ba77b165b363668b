"""Spoken forms of written English words.

Numbers, money, percentages, years, ordinals, times of day, abbreviations and signs are spelled out by rules for running
text, not for tables or formulas.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from hooked_whisper.errors import AlignmentError

_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
_MONEY = {"$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "pence")}
_SIGNS = {"&": "and", "+": "plus", "=": "equals", "@": "at", "%": "percent", "°": "degrees"}
_ABBREVIATIONS = {
    "mr": "mister", "mrs": "missis", "ms": "miz", "dr": "doctor", "prof": "professor", "jr": "junior", "sr": "senior",
    "vs": "versus", "etc": "et cetera",
}  # fmt: skip
_TYPOGRAPHIC = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "`": "'", "´": "'", "–": "-", "—": "-", "‐": "-", "‑": "-"})
_AROUND = "\"'“”„«»()[]{}<>.,;:!?…¿¡*_~|-"  # punctuation, not spoken
_YEARS = range(1100, 2100)
_MOST_DIGITS = 15  # longer numbers are read digit by digit

_NUMBER = re.compile(r"([$€£])?(\d{1,3}(?:,\d{3})+|\d+)(?:\.(\d+))?(st|nd|rd|th|s|%)?")
_FRACTION = re.compile(r"(\d{1,2})/(\d{1,2})")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})")
_PIECES = re.compile(r"[$€£]?\d[\d,]*(?:\.\d+)?(?:st|nd|rd|th|s|%)?(?![a-z])|\d+|[a-z']+|[&+=@%°]")

InDictionary = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A written word without surrounding punctuation, and its spoken form: one or more lower-case words."""

    label: str
    said: tuple[str, ...]


def spoken_words(text: str, in_dictionary: InDictionary) -> list[SpokenWord]:
    """Return the words of a text with their spoken forms, without tokens that are only punctuation.

    in_dictionary: whether a lower-case word has a pronunciation. It decides whether ``"well-known"`` is one word or
        two, and whether capitals are a word or are spelled.

    Raises:
        AlignmentError: a word in letters other than Latin ones: the text is not English.
    """
    words = []
    tokens = text.translate(_TYPOGRAPHIC).split()
    for number, (token, written) in enumerate(zip(tokens, text.split(), strict=True)):
        said = _said(token, tokens[number + 1] if number + 1 < len(tokens) else "", in_dictionary)
        if said:
            words.append(SpokenWord(_label(token, written, in_dictionary), tuple(said)))
    return words


def number_words(value: int) -> list[str]:
    """Spell out a whole number from 0: ``1205 -> one thousand two hundred five``."""
    if value < 20:
        return [_ONES[value]]
    if value < 100:
        tens = [_TENS[value // 10]]
        return tens + ([_ONES[value % 10]] if value % 10 else [])
    size, name = next(scale for scale in _SCALES if value >= scale[0])
    remainder = value % size
    return [*number_words(value // size), name, *(number_words(remainder) if remainder else [])]


def year_words(value: int) -> list[str]:
    """Spell out a year from 1100 to 2099: ``1999 -> nineteen ninety nine``, ``1905 -> nineteen oh five``, ``2005 -> two
    thousand five``."""
    century, years = divmod(value, 100)
    if 2000 <= value < 2010:
        return number_words(value)
    if not years:
        return number_words(value) if century == 20 else [*number_words(century), "hundred"]
    return [*number_words(century), *(["oh", _ONES[years]] if years < 10 else number_words(years))]


def _label(token: str, written: str, in_dictionary: InDictionary) -> str:
    """Return the word as written, without surrounding punctuation."""
    inner = written.strip(_AROUND + "’‘")
    if not inner:
        return written
    end = written.index(inner) + len(inner)
    if "." in inner and written[end : end + 1] == ".":  # p.m., U.S.
        inner += "."
    if token.startswith("'") and in_dictionary("'" + inner.lower()):  # 'cause, 'em
        inner = written[0] + inner
    # these labels mean silence in alignment files: the word would be lost when the file is read
    return inner.capitalize() if inner in ("sil", "SIL", "sp", "SP") else inner


def _said(token: str, following: str, in_dictionary: InDictionary) -> list[str]:
    """Return the spoken form of a token; empty for punctuation. following: the next token, empty at the end."""
    whole = token.lower()
    bare = whole.strip(_AROUND)
    if not bare:
        return []
    folded = _without_accents(bare)
    foreign = sorted({x for x in folded if x.isalpha() and not "a" <= x <= "z"})
    if foreign:
        raise AlignmentError(
            f"the word {token!r} has the letters {''.join(foreign)!r}: forced alignment supports English only: give "
            "an English text, or leave this recording out"
        )
    has_period = whole.rstrip("\"'”)],;:!?").endswith(".")
    if folded in _ABBREVIATIONS:
        return _ABBREVIATIONS[folded].split()
    if folded == "st" and has_period:
        return ["saint" if following[:1].isupper() else "street"]
    if folded == "no" and has_period and following[:1].isdigit():
        return ["number"]
    if whole.startswith("'") and in_dictionary("'" + folded):
        return ["'" + folded]
    if has_period and in_dictionary(folded + ".") and "." in folded:  # p.m., e.g.
        return [folded + "."]
    if in_dictionary(folded) and folded.replace("'", "").replace("-", "").isalpha():
        return [folded]
    if clock := _CLOCK.fullmatch(folded):
        return _clock(int(clock[1]), int(clock[2]), whole_hour="o'clock" * (following.lower()[:1] not in ("a", "p")))
    if (fraction := _FRACTION.fullmatch(folded)) and int(fraction[2]) > 1:
        return _fraction(int(fraction[1]), int(fraction[2]))
    initials = token.strip(_AROUND)
    return [word for piece in _PIECES.findall(folded) for word in _piece(piece, initials, in_dictionary)]


def _piece(piece: str, written: str, in_dictionary: InDictionary) -> list[str]:
    """Return the spoken form of a number, letters or a sign inside a token."""
    if piece in _SIGNS:
        return [_SIGNS[piece]]
    number = _NUMBER.fullmatch(piece)
    if number:
        return _number(*number.groups())
    if piece[0].isdigit() or piece[0] in _MONEY:  # 1,2,3 and the like
        return [_ONES[int(digit)] for digit in piece if digit.isdigit()]
    word = piece.strip("'")
    if not word:
        return []
    if in_dictionary(piece) and (piece != word or len(word) > 1 or word in ("a", "i")):
        return [piece]
    if in_dictionary(word) and len(word) > 1:
        return [word]
    stem = word.removesuffix("'s")
    # MP, WXYZ: letters without a vowel that are not in the dictionary, unlike "hmm"
    is_spelled = len(stem) == 1 or (
        not in_dictionary(stem) and not re.search("[aeiouy]" if len(stem) < 4 else "[aeiou]", stem) and len(stem) < 6
        and (len(stem) < 4 or stem.upper() in written)
    )  # fmt: skip
    if is_spelled:
        letters = [f"{letter}." for letter in stem]
        return letters if stem == word else [*letters[:-1], f"{letters[-1]}'s"]
    return [word]


def _number(money: str | None, whole: str, decimals: str | None, ending: str | None) -> list[str]:
    digits = whole.replace(",", "")
    value = int(digits)
    is_year = "," not in whole and len(digits) == 4 and value in _YEARS and not money and decimals is None
    if len(digits) > _MOST_DIGITS or (len(digits) > 1 and digits[0] == "0"):
        words = [_ONES[int(digit)] for digit in digits]
    elif is_year and ending in (None, "s"):
        words = year_words(value)
    else:
        words = number_words(value)
    if money:
        unit, part = _MONEY[money]
        words.append(unit if value == 1 else unit + "s")
        if decimals and len(decimals) == 2 and int(decimals):
            coins = part if int(decimals) == 1 or part == "pence" else part + "s"
            return [*words, "and", *number_words(int(decimals)), coins]
        return words
    if decimals:
        words += ["point", *(_ONES[int(digit)] for digit in decimals)]
    if ending == "%":
        return [*words, "percent"]
    if ending == "s":
        return [*words[:-1], _plural(words[-1])]
    if ending:
        return [*words[:-1], _ordinal(words[-1])]
    return words


def _clock(hour: int, minute: int, whole_hour: str) -> list[str]:
    if not minute:
        return [*number_words(hour), *whole_hour.split()]
    return [*number_words(hour), *(["oh", _ONES[minute]] if minute < 10 else number_words(minute))]


def _fraction(above: int, below: int) -> list[str]:
    """``3/4 -> three fourths``."""
    if below == 2:
        return [*number_words(above), "half" if above == 1 else "halves"]
    *tens, last = number_words(below)
    return [*number_words(above), *tens, _ordinal(last) + ("" if above == 1 else "s")]


def _ordinal(word: str) -> str:
    return _ORDINALS.get(word) or (word[:-1] + "ieth" if word.endswith("y") else word + "th")


def _plural(word: str) -> str:
    return word[:-1] + "ies" if word.endswith("y") else word + ("es" if word.endswith("x") else "s")


def _without_accents(word: str) -> str:
    special = word.replace("æ", "ae").replace("œ", "oe").replace("ø", "o").replace("ß", "ss").replace("ł", "l")
    return "".join(x for x in unicodedata.normalize("NFKD", special) if not unicodedata.combining(x))
