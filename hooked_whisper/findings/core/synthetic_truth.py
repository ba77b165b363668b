"""The truth about the synthetic corpus: which word follows which, how often, and how the words sound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from hooked_whisper.findings.core.statistics import edit_distance

Outcomes = Float[np.ndarray, "outcome"]


@dataclass(frozen=True, eq=False)
class Truth:
    """The synthetic corpus on which a model was trained. ``outcome`` axes hold the words in order, and END last.

    follows: probabilities after a sentence's first word, as in the training sentences. Their length is limited, so a
        sentence never ends after its first word even if the grammar's row allows it.
    row: probabilities by the grammar's row, for sentences of any length.
    unigram: relative frequency of each outcome in all positions.
    seen: expected occurrences of each word in training.
    first: probability that a sentence of the grammar begins with each word.
    class_of: semantic class of each word; empty if unknown.
    """

    words: tuple[str, ...]
    tokens: Int[np.ndarray, "word"]
    eot: int
    follows: Float[np.ndarray, "word outcome"]
    row: Float[np.ndarray, "word outcome"]
    unigram: Outcomes
    seen: Float[np.ndarray, "word"]
    first: Float[np.ndarray, "word"]
    phones: Mapping[str, tuple[str, ...]]
    rhyme_of: Mapping[str, str]
    class_of: Mapping[str, str] = field(default_factory=dict)

    @property
    def outcome_ids(self) -> Int[np.ndarray, "outcome"]:
        """Token id of every outcome: the words, then end of text."""
        return np.concatenate([self.tokens, [self.eot]])

    @cached_property
    def phone_distance(self) -> Float[np.ndarray, "word word"]:
        """Number of phones to insert, delete or replace to turn one word into the other."""
        n = len(self.words)
        distance = np.zeros((n, n))
        for i in range(n):
            for j in range(i):
                distance[i, j] = edit_distance(self.phones[self.words[i]], self.phones[self.words[j]])
        return distance + distance.T

    @cached_property
    def phone_similarity(self) -> Float[np.ndarray, "word word"]:
        """One minus the phone distance divided by the length of the longer word."""
        lengths = np.array([len(self.phones[w]) for w in self.words])
        return 1 - self.phone_distance / np.maximum(lengths[:, None], lengths[None, :])

    @cached_property
    def sounds_alike(self) -> np.ndarray:
        """Whether two different words are one phone apart or of the same rhyme family: ``[word, word]``, bool."""
        rhymes = np.array([self.rhyme_of.get(w, w) for w in self.words])
        alike = (self.phone_distance <= 1) | (rhymes[:, None] == rhymes[None, :])
        np.fill_diagonal(alike, False)
        return alike

    @cached_property
    def context_similarity(self) -> Float[np.ndarray, "word word"]:
        """Mean Bhattacharyya coefficient of two words' followers and of their predecessors; 1 if they are
        interchangeable."""
        after = np.sqrt(self.row)
        before = self.row[:, : len(self.words)].T * self.seen[None, :]
        before = np.sqrt(before / np.maximum(before.sum(axis=1, keepdims=True), 1e-12))
        return (after @ after.T + before @ before.T) / 2

    @cached_property
    def log_frequency(self) -> Float[np.ndarray, "word"]:
        return np.log(np.maximum(self.seen, 1e-6))


def length_limited(
    matrix: Float[np.ndarray, "state state"], shortest: int, longest: int
) -> tuple[Float[np.ndarray, "word outcome"], Float[np.ndarray, "word"]]:
    """Return exact statistics of sentences that are drawn from a Markov matrix and accepted if they have ``shortest``
    to ``longest`` words.

    ``matrix`` has the states START, the words, and END. The first result has the probabilities of what follows each
    word as the first word of an accepted sentence (zeros if there is no such sentence). The second has the expected
    occurrences of each word in an accepted sentence.
    """
    inner, ends, first = matrix[1:-1, 1:-1], matrix[1:-1, -1], matrix[0, 1:-1]
    n = len(inner)
    # accepted[t]: probability that a sentence whose t-th word is this word gets an accepted length
    accepted = np.zeros((longest + 2, n))
    for t in range(longest, 0, -1):
        accepted[t] = inner @ accepted[t + 1] + (ends if t >= shortest else 0.0)
    follows = np.concatenate([inner * accepted[2][None, :], (ends * (shortest <= 1))[:, None]], axis=1)
    totals = follows.sum(axis=1, keepdims=True)
    follows = np.divide(follows, totals, out=np.zeros_like(follows), where=totals > 0)
    reach, visits = first.copy(), np.zeros(n)
    for t in range(1, longest + 1):
        visits += reach * accepted[t]
        reach = reach @ inner
    return follows, visits / max(float(first @ accepted[1]), 1e-300)


def make_truth(
    words: tuple[str, ...],
    tokens: Mapping[str, int],
    eot: int,
    matrix: Float[np.ndarray, "state state"],
    phones: Mapping[str, tuple[str, ...]],
    rhyme_of: Mapping[str, str],
    *,
    shortest: int,
    longest: int,
    sentences: int,
    class_of: Mapping[str, str] | None = None,
) -> Truth:
    """Compute the truth from the grammar's training matrix (START, words, END) and the number of training sentences."""
    follows, visits = length_limited(matrix, shortest, longest)
    unigram = np.append(visits, 1.0)
    return Truth(
        words=words,
        tokens=np.array([tokens[w] for w in words]),
        eot=eot,
        follows=follows,
        row=matrix[1:-1, 1:],
        unigram=unigram / unigram.sum(),
        seen=visits * sentences,
        first=matrix[0, 1:-1],
        phones=phones,
        rhyme_of=rhyme_of,
        class_of=class_of or {},
    )
