"""Build the packaged English lists from their sources: ``python -m hooked_whisper.findings.english.build``.

The list has the most frequent words that meet four conditions: they consist of lower-case letters, have a
pronunciation, are one token with a leading space in both of Whisper's vocabularies (English-only and multilingual), and
are not more frequent with a capital. The last condition means that the capitalized form has no smaller token id,
because ids are assigned in order of frequency.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from whisper.tokenizer import get_tokenizer

from hooked_whisper._support.storage import write_atomic
from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.findings.english.lexicon import BIGRAMS_FILE, WORDS_FILE

N_WORDS = 6000
Vocabulary = Callable[[str], int | None]


@dataclass(frozen=True)
class ListSource:
    """A file in a pinned version of a Python package."""

    package: str
    file: str
    sha256: str

    def read(self, folder: Path) -> str:
        """Return the text of the file in ``folder``, into which the package was installed.

        Raises:
            HookedWhisperError: the SHA-256 of the file is not ``sha256``.
        """
        content = (folder / self.file).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.sha256:
            raise HookedWhisperError(
                f"{folder / self.file} has SHA-256 {digest}, expected {self.sha256}: install {self.package}"
            )
        return content.decode("utf-8-sig")


UNIGRAMS = ListSource(
    "symspellpy==6.10.1",
    "symspellpy/frequency_dictionary_en_82_765.txt",
    "68e9dc81c7e73bd7310b57e516ecaea0d8b6387ff71344a57c04174650a407a7",
)
BIGRAMS = ListSource(
    "symspellpy==6.10.1",
    "symspellpy/frequency_bigramdictionary_en_243_342.txt",
    "fd892a160184101dd7ae807ac5a302d01fcea1c47304181a8ed7ed9c94545bcd",
)
PRONUNCIATIONS = ListSource(
    "pocketsphinx==5.1.1",
    "pocketsphinx/model/en-us/cmudict-en-us.dict",
    "20b5c293e1f311fb375fe067e500ec5636f4fc7af5594967263696def9b23bfe",
)


def whisper_vocabularies() -> tuple[Vocabulary, Vocabulary]:
    """Return a function for the English-only and one for the multilingual vocabulary. Each maps a text to its token, or
    to ``None`` if the text is not one token."""

    def vocabulary(multilingual: bool) -> Vocabulary:
        encoding = get_tokenizer(multilingual).encoding

        def token(text: str) -> int | None:
            try:
                return encoding.encode_single_token(text)
            except KeyError:
                return None

        return token

    return vocabulary(False), vocabulary(True)


def is_lower_case_token(word: str, vocabulary: Vocabulary) -> bool:
    """Return whether the word with a leading space is one token that is more frequent than its capitalized form."""
    token, capitalized = vocabulary(f" {word}"), vocabulary(f" {word.capitalize()}")
    return token is not None and (capitalized is None or token < capitalized)


def read_pronunciations(text: str) -> dict[str, tuple[str, ...]]:
    """Return the first pronunciation of each word of a CMU dictionary, whose lines are ``word PH ON ES``. Other
    pronunciations (``word(2)``) are ignored."""
    entries = (line.split() for line in text.splitlines() if line.strip())
    return {word: tuple(phones) for word, *phones in entries if "(" not in word}


def select_words(
    counts: Mapping[str, int],
    pronunciations: Mapping[str, Sequence[str]],
    vocabularies: Iterable[Vocabulary],
    n_words: int = N_WORDS,
) -> list[str]:
    """Return the most frequent words that meet the conditions in the module's docstring, sorted by letter."""
    lists = tuple(vocabularies)
    words = [
        word
        for word in counts
        if re.fullmatch("[a-z]+", word)
        and word in pronunciations
        and all(is_lower_case_token(word, vocabulary) for vocabulary in lists)
    ]
    return sorted(sorted(words, key=lambda word: (-counts[word], word))[:n_words])


def in_millions(count: int) -> str:
    """Format a count in millions with two significant digits: 893,885,632 becomes ``"890"``, 6,400,000 ``"6.4"``."""
    return f"{float(f'{count / 1e6:.1e}'):.6f}".rstrip("0").rstrip(".")


def build(
    unigrams: str,
    bigrams: str,
    pronunciations: str,
    vocabularies: Iterable[Vocabulary],
    n_words: int = N_WORDS,
) -> tuple[str, str]:
    """Return the texts of the word list and of the bigram list, given the texts of the three sources."""
    counts = {word: int(count) for word, count in (line.split() for line in unigrams.splitlines() if line.strip())}
    phones = read_pronunciations(pronunciations)
    words = select_words(counts, phones, vocabularies, n_words)
    known = set(words)
    followers: dict[str, list[tuple[str, str]]] = {}
    for line in bigrams.splitlines():
        parts = line.split()
        if len(parts) == 3 and parts[0] in known and parts[1] in known:
            followers.setdefault(parts[0], []).append((parts[1], in_millions(int(parts[2]))))
    word_lines = [f"{word}\t{counts[word]}\t{' '.join(phones[word])}\n" for word in words]
    bigram_lines = [
        f"{first}\t{' '.join(f'{word} {count}' for word, count in sorted(followers[first]))}\n"
        for first in sorted(followers)
    ]
    return "".join(word_lines), "".join(bigram_lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--symspellpy", type=Path, required=True, help=f"folder into which {UNIGRAMS.package} is installed"
    )
    parser.add_argument("--pocketsphinx", type=Path, required=True, help=f"folder with {PRONUNCIATIONS.package}")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder (default: beside this file)")
    options = parser.parse_args(arguments)
    texts = build(
        UNIGRAMS.read(options.symspellpy),
        BIGRAMS.read(options.symspellpy),
        PRONUNCIATIONS.read(options.pocketsphinx),
        whisper_vocabularies(),
    )
    for name, text in zip((WORDS_FILE, BIGRAMS_FILE), texts, strict=True):
        write_atomic(options.out / name, lzma.compress(text.encode("utf-8"), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
