"""Similarity of words in sound and spelling: edit distances, rhymes and spelled endings."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

VOWELS = frozenset(["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"])
_ROWS = 128  # words compared with all others at once, to limit the memory


def edit_distances(sequences: Sequence[Sequence[str]]) -> UInt8[np.ndarray, "word word"]:
    """Return the Levenshtein distance of every two sequences, such as the phones or the letters of words."""
    lengths = np.array([len(sequence) for sequence in sequences])
    codes = {symbol: k for k, symbol in enumerate(sorted({s for sequence in sequences for s in sequence}))}
    longest = int(lengths.max(initial=0))
    padded = np.full((len(sequences), longest), len(codes), dtype=np.int16)
    for i, sequence in enumerate(sequences):
        padded[i, : len(sequence)] = [codes[symbol] for symbol in sequence]
    distances = np.zeros((len(sequences), len(sequences)), dtype=np.uint8)
    for length in np.unique(lengths):
        same = np.flatnonzero(lengths == length)
        for start in range(0, len(same), _ROWS):
            rows = same[start : start + _ROWS]
            distances[rows] = _against_all(padded[rows, :length], padded, lengths)
    return distances


def _against_all(rows: np.ndarray, padded: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the distances of sequences of equal length to all sequences. ``table`` is one row of the
    dynamic-programming table."""
    n, longest = padded.shape
    table = [np.full((len(rows), n), j, dtype=np.uint8) for j in range(longest + 1)]
    for i in range(rows.shape[1]):
        diagonal, table[0] = table[0], np.full((len(rows), n), i + 1, dtype=np.uint8)
        for j in range(longest):
            replaced = diagonal + (rows[:, i, None] != padded[None, :, j])
            diagonal = table[j + 1]
            table[j + 1] = np.minimum(np.minimum(diagonal + np.uint8(1), table[j] + np.uint8(1)), replaced)
    return np.stack(table, axis=-1)[:, np.arange(n), lengths]


def one_syllable_rime(phones: Sequence[str]) -> tuple[str, ...] | None:
    """Return the vowel and all phones after it if the word has exactly one vowel, else ``None``.

    Words rhyme if they share all phones from the stressed vowel on. The dictionary does not mark stress, which matters
    only for longer words: "running" and "making" share their last vowel and do not rhyme.
    """
    vowels = [i for i, phone in enumerate(phones) if phone in VOWELS]
    return tuple(phones[vowels[0] :]) if len(vowels) == 1 else None


def spelled_rime(word: str) -> str:
    """Return the letters from the first vowel letter on: ``"ea"`` for ``"tea"``."""
    match = re.search("[aeiouy].*", word)
    return match.group() if match else word


def differ_only_at_the_end(a: Sequence[str], b: Sequence[str]) -> bool:
    """Return whether two words differ only in their last phone, or by one additional phone at the end, as English
    inflections do (walk, walks, walked)."""
    a, b = tuple(a), tuple(b)
    return a[:-1] == b or a == b[:-1] or a[:-1] == b[:-1]
