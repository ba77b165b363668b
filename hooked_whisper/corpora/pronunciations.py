"""The pronouncing dictionary inside pocketsphinx, and a guess for words that it does not hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from hooked_whisper.corpora.letter_to_sound import LetterToSound, Phones
from hooked_whisper.errors import AlignmentError, MissingExtraError

ARPABET = (
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
)  # fmt: skip
PHONES = tuple(ARPABET.split(" "))
"""The 39 phones of the CMU pronouncing dictionary, without stress."""

_VARIANT = re.compile(r"\(\d+\)$")


@dataclass(frozen=True, eq=False)
class Pronunciations:
    """Word (lower case) to its pronunciations, the usual one first.

    >>> cmu_dictionary()["tomato"]
    (('T', 'AH', 'M', 'EY', 'T', 'OW'), ('T', 'AH', 'M', 'AA', 'T', 'OW'))
    """

    words: Mapping[str, tuple[Phones, ...]]
    _guesses: dict[str, Phones] = field(default_factory=dict, repr=False)

    def __contains__(self, word: object) -> bool:
        return word in self.words

    def __getitem__(self, word: str) -> tuple[Phones, ...]:
        """Raises :class:`AlignmentError` for a word that is not in the dictionary."""
        if word not in self.words:
            raise AlignmentError(f"the dictionary has no word {word!r}: take guess({word!r})")
        return self.words[word]

    def __len__(self) -> int:
        return len(self.words)

    def guess(self, word: str) -> Phones:
        """Phones by letter-to-sound, learned from this dictionary when first asked for (some seconds)."""
        if word not in self._guesses:
            self._guesses[word] = _learned(self)(word)
        return self._guesses[word]


@lru_cache(maxsize=1)
def cmu_dictionary() -> Pronunciations:
    """The dictionary of pocketsphinx's English model (CMU, BSD).

    Raises:
        MissingExtraError: pocketsphinx is not installed.
    """
    words: dict[str, list[Phones]] = {}
    for line in (model_folder() / "cmudict-en-us.dict").read_text(encoding="utf-8").splitlines():
        word, *phones = line.split()
        words.setdefault(_VARIANT.sub("", word), []).append(tuple(phones))
    return Pronunciations({word: tuple(variants) for word, variants in words.items()})


def model_folder() -> Path:
    """The English model that the pocketsphinx package brings."""
    try:
        import pocketsphinx
    except ImportError as error:
        raise MissingExtraError("forced alignment needs pocketsphinx: pip install 'hooked-whisper[align]'") from error
    return Path(pocketsphinx.get_model_path("en-us"))


@lru_cache(maxsize=1)
def _learned(dictionary: Pronunciations) -> LetterToSound:
    return LetterToSound.learned_from({word: variants[0] for word, variants in dictionary.words.items()})
