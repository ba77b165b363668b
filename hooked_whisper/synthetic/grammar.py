"""A first-order Markov grammar over the lexicon, with exactly known bigram probabilities.

State 0 is START, states 1 to n are the words, and state n + 1 is END. Entry ``[i, j]`` of a matrix is the probability
that state j follows state i. The training matrix lacks a few held-out bigrams; the full matrix includes them, for the
test split ``bigrams``. Sentences outside the length limits are sampled again, so empirical bigrams differ slightly from
the matrix.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors.numpy import load, save

from hooked_whisper._support.storage import write_atomic
from hooked_whisper.synthetic.grammar_rules import HELD_OUT_SHARE, class_table, collocations
from hooked_whisper.synthetic.lexicon import CLASS_OF, WORDS

START, END = "<s>", "</s>"
MIN_WORDS, MAX_WORDS = 2, 9
RAREST = 0.007  # least expected number of occurrences of a word per sentence

Matrix = Float[np.ndarray, "state state"]


@dataclass(frozen=True, eq=False)
class Grammar:
    """The words, their classes and both transition matrices. Rows sum to one, except that of END, which is zero."""

    words: tuple[str, ...]
    class_of: dict[str, str]
    full: Matrix
    train: Matrix
    held_out: tuple[tuple[str, str], ...]
    seed: int

    @property
    def states(self) -> tuple[str, ...]:
        return (START, *self.words, END)

    @cached_property
    def index(self) -> dict[str, int]:
        return {state: i for i, state in enumerate(self.states)}

    @cached_property
    def row_entropy(self) -> Float[np.ndarray, "state"]:
        """Entropy of the next word in bits, for each state of the training matrix."""
        p = self.train
        return -(p * np.log2(np.where(p > 0, p, 1))).sum(1)

    @cached_property
    def occupancy(self) -> Float[np.ndarray, "state"]:
        """Expected number of visits to each state in one sentence of any length, by the training matrix."""
        start = np.zeros(len(self.train))
        start[0] = 1
        return np.linalg.solve(np.eye(len(self.train)) - self.train.T, start)

    def bigrams(self, text: str) -> list[tuple[str, str]]:
        """Return the word pairs of a sentence, including its start and end."""
        path = [START, *text.split(), END]
        return list(pairwise(path))

    def log_prob(self, text: str, full: bool = False) -> float:
        """Return the log-probability of a sentence in nats, which is ``-inf`` if a bigram has probability 0."""
        matrix = self.full if full else self.train
        with np.errstate(divide="ignore"):
            return float(sum(np.log(matrix[self.index[a], self.index[b]]) for a, b in self.bigrams(text)))

    def sentences(self, rng: np.random.Generator, full: bool = False) -> Iterator[str]:
        """Yield an endless series of sentences of 2 to 9 words."""
        cumulative = np.cumsum(self.full if full else self.train, axis=1)
        last = len(self.words) + 1
        while True:
            path: list[str] = []
            state = 0
            while len(path) <= MAX_WORDS:
                state = min(int(np.searchsorted(cumulative[state], rng.random(), side="right")), last)
                if state == last:
                    break
                path.append(self.words[state - 1])
            if MIN_WORDS <= len(path) <= MAX_WORDS:
                yield " ".join(path)

    def has_held_out(self, text: str) -> bool:
        """Return whether a sentence has a held-out bigram."""
        return not set(self.bigrams(text)).isdisjoint(self.held_out)

    def save(self, folder: Path) -> None:
        """Write ``grammar.json`` (words, classes, held-out bigrams) and ``grammar.safetensors`` (both matrices)."""
        facts = {
            "words": self.words,
            "classes": self.class_of,
            "held_out_bigrams": self.held_out,
            "seed": self.seed,
            "states": "0 is START, 1..n the words, n+1 END; row follows to column",
            "row_entropy_bits": dict(zip(self.states, self.row_entropy.round(3).tolist(), strict=True)),
        }
        write_atomic(folder / "grammar.json", json.dumps(facts, indent=1, ensure_ascii=False).encode())
        tensors = {"full": self.full.astype(np.float64), "train": self.train.astype(np.float64)}
        write_atomic(folder / "grammar.safetensors", save(tensors))

    @classmethod
    def load(cls, folder: Path) -> Grammar:
        """Load a grammar that :meth:`save` wrote."""
        facts = json.loads((folder / "grammar.json").read_text(encoding="utf-8"))
        matrices = load((folder / "grammar.safetensors").read_bytes())
        return cls(
            tuple(facts["words"]),
            facts["classes"],
            matrices["full"],
            matrices["train"],
            tuple((a, b) for a, b in facts["held_out_bigrams"]),
            facts["seed"],
        )


def build_grammar(seed: int = 0) -> Grammar:
    """Return a grammar built from class transitions, collocations, and random preferences of each word for its
    followers."""
    rng = np.random.default_rng([seed, 1])
    full = _full_matrix(rng)
    held_out = _choose_held_out(full, rng)
    train = full.copy()
    for i, j in held_out:
        train[i, j] = 0
    train[:-1] /= train[:-1].sum(1, keepdims=True)
    states = (START, *WORDS, END)
    return Grammar(WORDS, CLASS_OF, full, train, tuple((states[i], states[j]) for i, j in held_out), seed)


def _full_matrix(rng: np.random.Generator) -> Matrix:
    states = [START, *WORDS, END]
    index = {state: i for i, state in enumerate(states)}
    members: dict[str, np.ndarray] = {
        name: np.array([index[w] for w in WORDS if CLASS_OF[w] == name]) for name in set(CLASS_OF.values())
    }
    members["END"] = np.array([index[END]])
    popularity = np.exp(rng.normal(0, 0.35, len(states)))
    matrix = np.zeros((len(states), len(states)))
    for state in states[:-1]:
        for name, mass in class_table(state).items():
            followers = members[name]
            # Each word prefers some followers and excludes others, so the rows of a class differ and are sparse.
            taste = popularity[followers] * np.exp(rng.normal(0, 1.1, len(followers)))
            if len(followers) > 4 and state != START:
                taste[rng.permutation(len(followers))[: int(0.45 * len(followers))]] = 0
            matrix[index[state], followers] += mass * taste / taste.sum()
    for word, (share, fixed) in collocations().items():
        row = index[word]
        total = sum(fixed.values())
        matrix[row] *= (1 - share) / matrix[row].sum() if share < 1 else 0
        for follower, weight in fixed.items():
            matrix[row, index[follower]] += share * weight / total
    matrix[:-1] /= matrix[:-1].sum(1, keepdims=True)
    for _ in range(4):  # raise the frequency of rare words
        visits = _visits(matrix)
        matrix[:, 1:-1] *= np.clip(RAREST / visits[1:-1], 1, 3)
        matrix[:-1] /= matrix[:-1].sum(1, keepdims=True)
    return matrix


def _choose_held_out(full: Matrix, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Return about 3 % of the possible word pairs. No state loses more than 35 % of its outgoing or incoming
    probability."""
    states = (START, *WORDS, END)
    fixed = set(collocations())
    out_left = np.full(len(full), 0.35)
    flow = full * _visits(full)[:, None]
    in_left = 0.35 * flow.sum(0)
    candidates = [
        (i, j)
        for i, j in np.argwhere(full > 0.004).tolist()
        if 0 < i < len(states) - 1 and j < len(states) - 1 and states[i] not in fixed
    ]
    wanted = round(HELD_OUT_SHARE * int((full > 0).sum()))
    held_out: list[tuple[int, int]] = []
    for k in rng.permutation(len(candidates)):
        i, j = candidates[k]
        if full[i, j] <= out_left[i] and flow[i, j] <= in_left[j]:
            out_left[i] -= full[i, j]
            in_left[j] -= flow[i, j]
            held_out.append((i, j))
        if len(held_out) == wanted:
            break
    return sorted(held_out)


def _visits(matrix: Matrix) -> Float[np.ndarray, "state"]:
    start = np.zeros(len(matrix))
    start[0] = 1
    return np.linalg.solve(np.eye(len(matrix)) - matrix.T, start)


def empirical(grammar: Grammar, texts: Sequence[str]) -> Matrix:
    """Return the counts of bigrams in sentences, in the grammar's order of states."""
    counts = np.zeros_like(grammar.train)
    for text in texts:
        for a, b in grammar.bigrams(text):
            counts[grammar.index[a], grammar.index[b]] += 1
    return counts
