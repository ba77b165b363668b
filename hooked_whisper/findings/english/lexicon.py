"""Read the packaged lists of English words and bigrams, two compressed text files in this folder.

Both files are sorted. ``words.tsv.xz`` has one line per word: the word, its number of occurrences, and its phones (the
39 of the CMU dictionary, without stress). ``bigrams.tsv.xz`` has one line per first word: the word, then its followers,
each with its occurrences in millions (two significant digits). :mod:`.build` writes both files; ``NOTICE.md`` names
their sources and licenses.
"""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.hooked import HookedWhisper

WORDS_FILE, BIGRAMS_FILE = "words.tsv.xz", "bigrams.tsv.xz"
SMOOTHING = 0.75  # exponent of the context frequencies in the mutual information (Levy, Goldberg and Dagan 2015)


@dataclass(frozen=True, eq=False)
class English:
    """Words in alphabetical order, with their frequencies, pronunciations and bigrams.

    Attributes:
        counts: occurrences of each word in the source, upper and lower case together.
        phones: pronunciation of each word.
        bigrams: ``[word, follower]``: occurrences of the bigram in millions; 0 if it is not in the list.
    """

    words: tuple[str, ...]
    counts: Float[np.ndarray, "word"]
    phones: tuple[tuple[str, ...], ...]
    bigrams: csr_array

    @cached_property
    def index(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    @cached_property
    def n_followers(self) -> Int[np.ndarray, "word"]:
        return np.diff(self.bigrams.indptr).astype(np.int64)

    @cached_property
    def n_predecessors(self) -> Int[np.ndarray, "word"]:
        return np.bincount(self.bigrams.indices, minlength=len(self.words)).astype(np.int64)

    def token_ids(self, model: HookedWhisper) -> Int[np.ndarray, "word"]:
        """Return the token of each word, with its leading space, in the model's vocabulary.

        Raises:
            HookedWhisperError: a word is not one token.
        """
        encoding = model.tokenizer.encoding
        ids = [encoding.encode(f" {word}") for word in self.words]
        for word, tokens in zip(self.words, ids, strict=True):
            if len(tokens) != 1:
                raise HookedWhisperError(
                    f"{word!r} is {len(tokens)} tokens in the vocabulary of {model.cfg.name}, expected one: the "
                    "packaged English words are for Whisper's own two vocabularies"
                )
        return np.array(ids, dtype=np.int64)[:, 0]

    def context_similarity(self, rows: Int[np.ndarray, "row"]) -> Float[np.ndarray, "row row"]:
        """Return the similarity in use of every two words in ``rows``, from 0 to 1.

        It is the mean of the cosine of their followers and the cosine of their predecessors. The followers (or
        predecessors) of a word are the vector of its positive pointwise mutual information with all words. 1 means
        that the two words have the same neighbors in the same proportions, 0 that they have none in common.
        """
        total = np.zeros((len(rows), len(rows)))
        for table in (self.bigrams, self.bigrams.T.tocsr()):
            vectors = _unit_rows(positive_mutual_information(table)[rows])
            total += (vectors @ vectors.T).toarray()
        return total / 2


def positive_mutual_information(counts: csr_array) -> csr_array:
    """Return ``max(0, log(p(context | word) / p(context)))`` of each nonzero count, with smoothed context frequencies.

    Source: Levy, Goldberg and Dagan 2015, section 3.
    """
    by_row = np.asarray(counts.sum(axis=1)).ravel()
    by_column = np.asarray(counts.sum(axis=0)).ravel() ** SMOOTHING
    entries = counts.tocoo()
    rows, columns = entries.coords
    information = np.log(entries.data * by_column.sum() / (by_row[rows] * by_column[columns]))
    return csr_array((np.maximum(information, 0.0), (rows, columns)), shape=counts.shape)


def _unit_rows(vectors: csr_array) -> csr_array:
    norms = np.sqrt(np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel())
    scale = 1 / np.where(norms > 0, norms, 1.0)
    return csr_array(vectors.multiply(scale[:, None]))


def parse(words_text: str, bigrams_text: str) -> English:
    """Parse the texts of the two lists.

    Raises:
        HookedWhisperError: lines are not sorted, a word occurs twice, or a bigram has a word that is not in the list of
            words.
    """
    lines = [line.split("\t") for line in words_text.splitlines()]
    words = tuple(word for word, _, _ in lines)
    _check_sorted(words, WORDS_FILE)
    index = {word: i for i, word in enumerate(words)}
    rows, columns, values = [], [], []
    first_words = []
    for line in bigrams_text.splitlines():
        first, listed = line.split("\t")
        first_words.append(first)
        followers, numbers = listed.split(" ")[::2], listed.split(" ")[1::2]
        _check_sorted(followers, f"{BIGRAMS_FILE}, line {first!r}")
        unknown = [word for word in (first, *followers) if word not in index]
        if unknown:
            raise HookedWhisperError(f"{BIGRAMS_FILE}: {unknown[0]!r} is not in {WORDS_FILE}: build both files again")
        rows += [index[first]] * len(followers)
        columns += [index[word] for word in followers]
        values += [float(number) for number in numbers]
    _check_sorted(first_words, BIGRAMS_FILE)
    shape = (len(words), len(words))
    return English(
        words,
        np.array([float(count) for _, count, _ in lines]),
        tuple(tuple(phones.split(" ")) for _, _, phones in lines),
        csr_array((np.array(values), (np.array(rows, dtype=int), np.array(columns, dtype=int))), shape=shape),
    )


def _check_sorted(words: tuple[str, ...] | list[str], source: str) -> None:
    for before, after in pairwise(words):
        if before >= after:
            raise HookedWhisperError(
                f"{source}: {after!r} comes after {before!r}, expected sorted words without repeats: build both files "
                "again"
            )


@lru_cache(maxsize=1)
def load_english() -> English:
    """Return the packaged lists. They are read once."""
    folder = files("hooked_whisper.findings.english")
    words, bigrams = (
        lzma.decompress((folder / name).read_bytes()).decode("utf-8") for name in (WORDS_FILE, BIGRAMS_FILE)
    )
    return parse(words, bigrams)
