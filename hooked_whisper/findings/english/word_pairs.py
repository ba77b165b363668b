"""Pairs of English words for F10: pairs that are similar in sound, spelling or use, and matched random pairs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int, Shaped

from hooked_whisper.findings.core.statistics import auc
from hooked_whisper.findings.english import (
    English,
    differ_only_at_the_end,
    edit_distances,
    one_syllable_rime,
    spelled_rime,
)

N_WORDS = 3000
NEIGHBORS_KNOWN = 10  # followers and predecessors in the list that a word needs for its use to count as known
NEAREST_IN_USE = 5
NEAR_IN_FREQUENCY = 20
MATCHES = 3  # random pairs for each pair
SHARED_STEM = 3  # words that share this many first letters may be forms of one word

PairList = Int[np.ndarray, "pair 2"]


@dataclass(frozen=True, eq=False)
class WordSimilarities:
    """Frequent words and the similarities of every two of them."""

    words: tuple[str, ...]
    rows: Int[np.ndarray, "word"]
    phones: tuple[tuple[str, ...], ...]
    log_frequency: Float[np.ndarray, "word"]
    use: Float[np.ndarray, "word word"]

    @cached_property
    def phone_distance(self) -> Shaped[np.ndarray, "word word"]:
        return edit_distances(self.phones)

    @cached_property
    def sound(self) -> Float[np.ndarray, "word word"]:
        """One minus the edit distance of the phones divided by the length of the longer word."""
        return _similarity(self.phone_distance, [len(phones) for phones in self.phones])

    @cached_property
    def spelling(self) -> Float[np.ndarray, "word word"]:
        """One minus the edit distance of the letters divided by the length of the longer word."""
        return _similarity(edit_distances(self.words), [len(word) for word in self.words])

    @cached_property
    def rhymes(self) -> PairList:
        """Words of one syllable with different onsets and the same phones from the vowel on."""
        families = defaultdict(list)
        for i, phones in enumerate(self.phones):
            rime = one_syllable_rime(phones)
            if rime is not None:
                families[rime].append(i)
        return _pairs(
            (a, b)
            for family in families.values()
            for k, a in enumerate(family)
            for b in family[k + 1 :]
            if self.phone_distance[a, b] > 0
        )

    @cached_property
    def one_phone_apart(self) -> PairList:
        """Pairs that differ by one inserted, deleted or replaced phone other than the last, because walk, walks and
        walked are forms of one word."""
        near = np.argwhere(np.triu(self.phone_distance == 1, 1))
        return _pairs((a, b) for a, b in near if not differ_only_at_the_end(self.phones[a], self.phones[b]))

    @cached_property
    def sound_alike(self) -> PairList:
        return _pairs({*map(tuple, self.rhymes.tolist()), *map(tuple, self.one_phone_apart.tolist())})

    @cached_property
    def rhymes_spelled_differently(self) -> PairList:
        """Rhymes with different letters from the vowel on, such as tea and key."""
        rimes = [spelled_rime(word) for word in self.words]
        return _pairs((a, b) for a, b in self.rhymes if rimes[a] != rimes[b])

    @cached_property
    def eye_rhymes(self) -> PairList:
        """Words of one syllable that are spelled alike from the vowel on but do not rhyme, such as cough and though."""
        families = defaultdict(list)
        for i, word in enumerate(self.words):
            if one_syllable_rime(self.phones[i]) is not None and len(spelled_rime(word)) > 1:
                families[spelled_rime(word)].append(i)
        return _pairs(
            (a, b)
            for family in families.values()
            for k, a in enumerate(family)
            for b in family[k + 1 :]
            if one_syllable_rime(self.phones[a]) != one_syllable_rime(self.phones[b])
        )

    @cached_property
    def used_alike(self) -> PairList:
        """Words that are among each other's most similar in use, do not sound alike, and do not share their first
        letters."""
        use = self.use.copy()
        np.fill_diagonal(use, -np.inf)
        nearest = np.argsort(-use, axis=1, kind="stable")[:, :NEAREST_IN_USE]
        one_way = {(a, b) for a, row in enumerate(nearest.tolist()) for b in row}
        pairs = {(a, b) for a, b in one_way if a < b and (b, a) in one_way}
        pairs -= set(map(tuple, self.sound_alike.tolist()))
        return _pairs((a, b) for a, b in pairs if self.words[a][:SHARED_STEM] != self.words[b][:SHARED_STEM])

    @cached_property
    def _near(self) -> Int[np.ndarray, "word near"]:
        """For each word, the words with the same number of phones that are nearest in frequency."""
        lengths = np.array([len(phones) for phones in self.phones])
        gap = np.abs(self.log_frequency[:, None] - self.log_frequency[None, :])
        gap[lengths[:, None] != lengths[None, :]] += 1e3
        return np.argpartition(gap, NEAR_IN_FREQUENCY, axis=1)[:, :NEAR_IN_FREQUENCY]

    def matched(self, pairs: PairList, rng: np.random.Generator) -> Int[np.ndarray, "match 2"]:
        """Return random pairs that are not in ``pairs``: both words are replaced with words of similar frequency and
        equal length."""
        taken = set(map(tuple, pairs.tolist()))
        repeated = np.repeat(pairs, MATCHES, axis=0)
        columns = rng.integers(NEAR_IN_FREQUENCY, size=repeated.shape)
        drawn = np.sort(self._near[repeated, columns], axis=1)
        return _pairs_in_order([(a, b) for a, b in drawn.tolist() if a != b and (a, b) not in taken])


@dataclass(frozen=True, eq=False)
class PairContrast:
    """Pairs of one kind and matched random pairs."""

    pairs: PairList
    random: Int[np.ndarray, "match 2"]

    def auc(self, cosine: Float[np.ndarray, "word word"]) -> float:
        return auc(cosine[tuple(self.pairs.T)], cosine[tuple(self.random.T)])

    def auc_samples(
        self, cosine: Float[np.ndarray, "word word"], rng: np.random.Generator, draws: int
    ) -> Float[np.ndarray, "draw"]:
        """Return the AUC on bootstrap samples of the words. A pair has the product of its two words' counts as
        weight."""
        positive, random = cosine[tuple(self.pairs.T)], cosine[tuple(self.random.T)]
        order = np.argsort(random, kind="stable")
        below, upto = (np.searchsorted(random[order], positive, side) for side in ("left", "right"))
        sorted_pairs, n = self.random[order], len(cosine)
        samples = np.full(draws, np.nan)
        for k in range(draws):
            counts = np.bincount(rng.integers(n, size=n), minlength=n)
            w_positive = counts[self.pairs[:, 0]] * counts[self.pairs[:, 1]]
            w_random = np.concatenate([[0], np.cumsum(counts[sorted_pairs[:, 0]] * counts[sorted_pairs[:, 1]])])
            total = int(w_positive.sum()) * int(w_random[-1])
            if total:
                samples[k] = float(w_positive @ (w_random[below] + w_random[upto])) / (2 * total)
        return samples


def make_words(english: English, n_words: int) -> WordSimilarities:
    """Return the most frequent words that have two phones or more and whose use is known."""
    known = english.n_followers + english.n_predecessors >= NEIGHBORS_KNOWN
    known &= np.array([len(phones) > 1 for phones in english.phones])
    rows = np.flatnonzero(known)
    rows = np.sort(rows[np.argsort(-english.counts[rows], kind="stable")][:n_words])
    return WordSimilarities(
        tuple(english.words[i] for i in rows),
        rows,
        tuple(english.phones[i] for i in rows),
        np.log(english.counts[rows]),
        english.context_similarity(rows),
    )


def _similarity(distance: np.ndarray, lengths: list[int]) -> np.ndarray:
    n = np.array(lengths)
    return 1 - distance / np.maximum(n[:, None], n[None, :])


def _pairs(pairs: object) -> PairList:
    return _pairs_in_order(sorted((int(a), int(b)) for a, b in pairs))  # type: ignore[attr-defined]


def _pairs_in_order(pairs: list[tuple[int, int]]) -> PairList:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)
