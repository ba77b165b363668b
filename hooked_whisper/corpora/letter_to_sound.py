"""Letter-to-sound for words outside the dictionary: a joint n-gram model trained on the dictionary.

Each letter is aligned with zero, one or two phones; such a pair is a graphone. An n-gram model over graphones with
interpolated Kneser-Ney smoothing, decoded by beam search, gives the phones of a new word. Source: Bisani and Ney 2008,
"Joint-sequence models for grapheme-to-phoneme conversion", here with one letter per graphone and a Viterbi alignment.
Training on 120,000 words takes a few seconds, so the model is not stored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from hooked_whisper.errors import AlignmentError

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
ORDER = 6
BEAM = 16
_BITS = 9  # of a graphone in a key: 6 graphones fill 54 of 63 bits
_MOST_GRAPHONES = (1 << _BITS) - 2
_START, _END = 0, 1  # ids of the boundary marks; graphone ids start at 2
_DISCOUNT = 0.8
_ROUNDS = 5  # of the Viterbi alignment
_UNSEEN = 12.0  # cost (nats) of an unseen pair

Phones = tuple[str, ...]
Graphone = tuple[str, Phones]


def aligned_words(words: Mapping[str, Phones]) -> Iterator[list[Graphone]]:
    """Yield each word as graphones, by the cheapest alignment; words that cannot be aligned are left out.

    Words with equal numbers of letters and of phones are aligned together, vectorized.
    """
    phones = sorted({phone for pronunciation in words.values() for phone in pronunciation})
    letter_ids = {letter: i for i, letter in enumerate(LETTERS)}
    phone_ids = {phone: i for i, phone in enumerate(phones)}
    groups: dict[tuple[int, int], list[tuple[list[int], list[int]]]] = defaultdict(list)
    for word, pronunciation in words.items():
        if word and 0 < len(pronunciation) <= 2 * len(word) and set(word) <= set(LETTERS):
            row = ([letter_ids[x] for x in word], [phone_ids[p] for p in pronunciation])
            groups[len(word), len(pronunciation)].append(row)
    batches = [(np.array([r[0] for r in rows]), np.array([r[1] for r in rows])) for rows in groups.values()]
    costs = _first_costs(batches, len(phones))
    for _ in range(_ROUNDS):
        costs = _counted_costs(((x, p, _steps(x, p, costs)) for x, p in batches), len(phones))
    for letters, sounds in batches:
        for row, sound, steps in zip(letters, sounds, _steps(letters, sounds, costs), strict=True):
            edges = np.concatenate([[0], np.cumsum(steps)])
            yield [
                (LETTERS[x], tuple(phones[i] for i in sound[a:b]))
                for x, a, b in zip(row, edges[:-1], edges[1:], strict=True)
            ]


@dataclass(frozen=True, eq=False)
class _Costs:
    """Negative log-probability that a letter is silent, one phone, or two phones."""

    silent: Float[np.ndarray, "letter"]
    single: Float[np.ndarray, "letter phone"]
    double: Float[np.ndarray, "letter phone phone"]


def _first_costs(batches: Sequence[tuple[np.ndarray, np.ndarray]], n_phones: int) -> _Costs:
    """Initialize the costs from how often a letter and a phone have about the same relative position in a word."""
    counts = np.full((len(LETTERS), n_phones), 1e-3)
    for letters, sounds in batches:
        places = np.linspace(0, sounds.shape[1] - 1, letters.shape[1]).round().astype(int)
        np.add.at(counts, (letters, sounds[:, places]), 1.0)
    single = -np.log(counts / counts.sum(1, keepdims=True))
    return _Costs(np.full(len(LETTERS), 3.0), single, np.full((len(LETTERS), n_phones, n_phones), 9.0))


def _counted_costs(batches: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]], n_phones: int) -> _Costs:
    n = len(LETTERS)
    silent, single, double = np.zeros(n), np.zeros((n, n_phones)), np.zeros((n, n_phones, n_phones))
    for letters, sounds, steps in batches:
        after = np.cumsum(steps, axis=1)
        rows = np.arange(len(letters))[:, None]
        first = sounds[rows, np.minimum(after - steps, sounds.shape[1] - 1)]
        second = sounds[rows, np.minimum(after - steps + 1, sounds.shape[1] - 1)]
        np.add.at(silent, letters[steps == 0], 1)
        np.add.at(single, (letters[steps == 1], first[steps == 1]), 1)
        np.add.at(double, (letters[steps == 2], first[steps == 2], second[steps == 2]), 1)
    total = np.log(silent + single.sum(1) + double.sum((1, 2)) + 1)
    with np.errstate(divide="ignore"):
        return _Costs(
            np.minimum(total - np.log(silent), _UNSEEN),
            np.minimum(total[:, None] - np.log(single), _UNSEEN),
            np.minimum(total[:, None, None] - np.log(double), _UNSEEN),
        )


def _steps(
    letters: Int[np.ndarray, "word letter"], sounds: Int[np.ndarray, "word phone"], costs: _Costs
) -> Int[np.ndarray, "word letter"]:
    """Return the number of phones of each letter on the cheapest path."""
    n_words, n_letters, n_sounds = len(letters), letters.shape[1], sounds.shape[1]
    total = np.full((n_letters + 1, n_sounds + 1, n_words), np.inf)
    total[0, 0] = 0
    choice = np.zeros((n_letters + 1, n_sounds + 1, n_words), dtype=np.int8)
    for i in range(1, n_letters + 1):
        x = letters[:, i - 1]
        for j in range(max(0, n_sounds - 2 * (n_letters - i)), min(n_sounds, 2 * i) + 1):
            ways = [total[i - 1, j] + costs.silent[x]]
            if j >= 1:
                ways.append(total[i - 1, j - 1] + costs.single[x, sounds[:, j - 1]])
            if j >= 2:
                ways.append(total[i - 1, j - 2] + costs.double[x, sounds[:, j - 2], sounds[:, j - 1]])
            stacked = np.stack(ways)
            choice[i, j] = stacked.argmin(0)
            total[i, j] = stacked.min(0)
    steps = np.zeros((n_words, n_letters), dtype=int)
    place, rows = np.full(n_words, n_sounds), np.arange(n_words)
    for i in range(n_letters, 0, -1):
        steps[:, i - 1] = choice[i, place, rows]
        place = place - steps[:, i - 1]
    return steps


@dataclass(frozen=True, eq=False)
class _Order:
    """n-grams of one length as sorted keys, with the smoothing statistics of each history."""

    keys: Int[np.ndarray, "ngram"]
    counts: Float[np.ndarray, "ngram"]
    histories: Int[np.ndarray, "history"]
    totals: Float[np.ndarray, "history"]
    kinds: Float[np.ndarray, "history"]

    @classmethod
    def of(cls, keys: np.ndarray, counts: np.ndarray) -> _Order:
        histories, where = np.unique(keys >> _BITS, return_inverse=True)
        totals = np.bincount(where, weights=counts)
        return cls(keys, counts.astype(float), histories, totals, np.bincount(where).astype(float))

    def mixed(self, keys: Int[np.ndarray, "query"], lower: Float[np.ndarray, "query"]) -> Float[np.ndarray, "query"]:
        """Interpolate the discounted relative frequency with the probability of the shorter n-gram."""
        counts, known = _looked_up(self.keys, self.counts, keys)
        totals, seen = _looked_up(self.histories, self.totals, keys >> _BITS)
        kinds, _ = _looked_up(self.histories, self.kinds, keys >> _BITS)
        totals = np.where(seen, totals, 1.0)
        discounted = np.where(known, np.maximum(counts - _DISCOUNT, 0.0), 0.0)
        return np.where(seen, (discounted + _DISCOUNT * kinds * lower) / totals, lower)


def _looked_up(keys: np.ndarray, values: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    indices = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return values[indices], keys[indices] == queries


@dataclass(frozen=True, eq=False)
class LetterToSound:
    """Phones of any word in the letters a to z and the apostrophe: ``model("zorbles") -> ("Z", "AO", "R", ...)``."""

    graphones: tuple[Graphone, ...]
    by_letter: Mapping[str, np.ndarray]  # ids of the graphones of each letter
    orders: tuple[_Order, ...]  # of 1 graphone, of 2, ...

    @classmethod
    def learned_from(cls, words: Mapping[str, Phones], order: int = ORDER) -> LetterToSound:
        """Train on a dictionary of words and their phones.

        Raises:
            AlignmentError: no word can be aligned letter by letter, or ``order`` is outside 1 to 6.
        """
        if not 1 <= order <= ORDER:
            raise AlignmentError(f"order must be 1 to {ORDER} graphones, got {order}")
        sequences = list(aligned_words(words))
        times: dict[Graphone, int] = defaultdict(int)
        for sequence in sequences:
            for graphone in sequence:
                times[graphone] += 1
        if not times:
            raise AlignmentError("the dictionary has no word of letters a to z with phones: nothing to train on")
        common = sorted(times, key=lambda g: (-times[g], g))[:_MOST_GRAPHONES]
        ids = {graphone: i for i, graphone in enumerate(common, 2)}
        by_letter: dict[str, list[int]] = {letter: [] for letter in LETTERS}
        for graphone, i in ids.items():
            by_letter[graphone[0]].append(i)
        rows = [[ids[g] for g in sequence] for sequence in sequences if all(g in ids for g in sequence)]
        return cls(
            (("", ()), ("", ()), *common),
            {letter: np.array(indices, dtype=np.int64) for letter, indices in by_letter.items()},
            _orders(rows, order),
        )

    def __call__(self, word: str) -> Phones:
        """Return the phones of a word. Raises ``AlignmentError`` for other characters or only silent letters."""
        word = word.lower()
        unknown = sorted({x for x in word if x not in LETTERS or not len(self.by_letter[x])})
        if not word.strip("'") or unknown:
            raise AlignmentError(f"{word!r} cannot be pronounced: expected letters a to z, got {unknown or 'none'}")
        n = len(self.orders) - 1
        mask = (1 << (_BITS * n)) - 1
        histories, scores = np.zeros(1, np.int64), np.zeros(1)  # only start marks, whose id is 0
        paths: list[tuple[int, ...]] = [()]
        for letter in (*word, ""):
            choices = self.by_letter[letter] if letter else np.array([_END])
            keys = ((histories[:, None] << _BITS) | choices[None]).ravel()
            total = (scores[:, None] - np.log(self._probability(keys)).reshape(len(histories), -1)).ravel()
            best = np.argsort(total, kind="stable")[:BEAM]
            paths = [(*paths[k // len(choices)], int(choices[k % len(choices)])) for k in best.tolist()]
            histories, scores = keys[best] & mask, total[best]
        spoken = (tuple(p for i in path for p in self.graphones[i][1]) for path in paths)
        phones = next((pronunciation for pronunciation in spoken if pronunciation), ())
        if not phones:
            raise AlignmentError(f"{word!r} cannot be pronounced: every letter of it came out silent")
        return phones

    def _probability(self, keys: Int[np.ndarray, "query"]) -> Float[np.ndarray, "query"]:
        """Return the probability of the last graphone of each key given those before it."""
        probability = np.full(len(keys), 1.0 / len(self.graphones))
        for n, order in enumerate(self.orders, 1):
            probability = order.mixed(keys & ((1 << (_BITS * n)) - 1), probability)
        return probability


def _orders(rows: Sequence[Sequence[int]], order: int) -> tuple[_Order, ...]:
    """Count the longest n-grams, and for shorter ones the different graphones before them (Kneser-Ney)."""
    pad = order - 1
    stream = np.array([i for row in rows for i in (*[_START] * pad, *row, _END)], dtype=np.int64)
    n = len(stream) - pad
    keys = np.zeros(n, dtype=np.int64)
    for k in range(order):
        keys = (keys << _BITS) | stream[k : k + n]
    keys = keys[stream[pad:] != _START]
    unique, counts = np.unique(keys, return_counts=True)
    orders = [_Order.of(unique, counts)]
    for k in range(order - 1, 0, -1):
        shorter, counts = np.unique(unique & ((1 << (_BITS * k)) - 1), return_counts=True)
        unique = shorter
        orders.append(_Order.of(shorter, counts))
    return tuple(reversed(orders))


def phone_errors(actual: Phones, expected: Phones) -> int:
    """Return the edit distance between two pronunciations."""
    row = list(range(len(expected) + 1))
    for i, phone in enumerate(actual, 1):
        above, row[0] = row[0], i
        for j, other in enumerate(expected, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (phone != other))
    return row[-1]
