"""How alike words sound and look: edit distances of many words at once, rhymes, spelled endings."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

VOWELS = frozenset(["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"])
_ROWS = 128  # words compared with all others at once: bounds the memory


def edit_distances(sequences: Sequence[Sequence[str]]) -> UInt8[np.ndarray, "word word"]:
    """Levenshtein distance of every two sequences (phones of words, or their letters)."""
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
    """Distances of sequences of one length to all; the table's row of the dynamic program is the last axis."""
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
    """The vowel and all after it, of a word with one vowel; ``None`` for other words.

    Rhymes share all sounds from the stressed vowel on. The dictionary does not mark stress, but a word of one syllable
    leaves no choice; "running" and "making" share their last vowel and do not rhyme.
    """
    vowels = [i for i, phone in enumerate(phones) if phone in VOWELS]
    return tuple(phones[vowels[0] :]) if len(vowels) == 1 else None


def spelled_rime(word: str) -> str:
    """Letters from the first vowel letter on: ``"tea" -> "ea"``."""
    match = re.search("[aeiouy].*", word)
    return match.group() if match else word


def differ_only_at_the_end(a: Sequence[str], b: Sequence[str]) -> bool:
    """Whether two words are equal but for the last phone of one or both: as English inflects (walk, walks, walked)."""
    a, b = tuple(a), tuple(b)
    return a[:-1] == b or a == b[:-1] or a[:-1] == b[:-1]
