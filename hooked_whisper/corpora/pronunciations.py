"""The pronouncing dictionary of pocketsphinx, and guesses for words that it lacks."""

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
    """Map lower-case words to their pronunciations, the most usual first.

    >>> cmu_dictionary()["tomato"]
    (('T', 'AH', 'M', 'EY', 'T', 'OW'), ('T', 'AH', 'M', 'AA', 'T', 'OW'))
    """

    words: Mapping[str, tuple[Phones, ...]]
    _guesses: dict[str, Phones] = field(default_factory=dict, repr=False)

    def __contains__(self, word: object) -> bool:
        return word in self.words

    def __getitem__(self, word: str) -> tuple[Phones, ...]:
        """Look a word up. Raises ``AlignmentError`` if the dictionary lacks it."""
        if word not in self.words:
            raise AlignmentError(f"the dictionary has no word {word!r}: use guess({word!r})")
        return self.words[word]

    def __len__(self) -> int:
        return len(self.words)

    def guess(self, word: str) -> Phones:
        """Guess the phones of a word by a letter-to-sound model, trained on this dictionary at the first call (a few
        seconds)."""
        if word not in self._guesses:
            self._guesses[word] = _learned(self)(word)
        return self._guesses[word]


@lru_cache(maxsize=1)
def cmu_dictionary() -> Pronunciations:
    """Return the dictionary of pocketsphinx's English model (CMU, BSD).

    Raises:
        MissingExtraError: pocketsphinx is not installed.
    """
    words: dict[str, list[Phones]] = {}
    for line in (model_folder() / "cmudict-en-us.dict").read_text(encoding="utf-8").splitlines():
        word, *phones = line.split()
        words.setdefault(_VARIANT.sub("", word), []).append(tuple(phones))
    return Pronunciations({word: tuple(variants) for word, variants in words.items()})


def model_folder() -> Path:
    """Return the folder of the English model in the pocketsphinx package."""
    try:
        import pocketsphinx
    except ImportError as error:
        raise MissingExtraError("forced alignment needs pocketsphinx: pip install 'hooked-whisper[align]'") from error
    return Path(pocketsphinx.get_model_path("en-us"))


@lru_cache(maxsize=1)
def _learned(dictionary: Pronunciations) -> LetterToSound:
    return LetterToSound.learned_from({word: variants[0] for word, variants in dictionary.words.items()})
