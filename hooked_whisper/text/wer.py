"""Word errors, their uncertainty, and word diffs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import jiwer
import numpy as np
from jaxtyping import Int

from hooked_whisper.text.normalize import Normalizer, normalize_english

Kind = Literal["equal", "substitute", "delete", "insert"]

_RESAMPLED_AT_ONCE = 1 << 22  # indices drawn in one call, to limit the bootstrap's memory


@dataclass(frozen=True, slots=True)
class WordError:
    """Word error counts of a minimum-cost alignment, for one utterance or a whole corpus."""

    substitutions: int
    deletions: int
    insertions: int
    hits: int

    @property
    def n_reference(self) -> int:
        """Words in the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float:
        """Errors per reference word; may exceed 1.

        An empty reference counts as one word, as in jiwer: the result is then the number of inserted words.
        """
        return self.errors / max(self.n_reference, 1)

    def __add__(self, other: WordError) -> WordError:
        return WordError(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.hits + other.hits,
        )


def word_error(
    reference: str | Sequence[str],
    hypothesis: str | Sequence[str],
    normalizer: Normalizer | None = normalize_english,
) -> WordError:
    """Count the word errors of one utterance, or sum them over a corpus given as two lists.

    Args:
        normalizer: applied to both sides first; ``None`` compares the words as they are.

    Raises:
        ValueError: the lists differ in length, or one argument is a text and the other a list.
    """
    if isinstance(reference, str) and isinstance(hypothesis, str):
        return _count(reference, hypothesis, normalizer)
    return sum(word_errors(reference, hypothesis, normalizer), WordError(0, 0, 0, 0))


def word_errors(
    references: Sequence[str], hypotheses: Sequence[str], normalizer: Normalizer | None = normalize_english
) -> list[WordError]:
    """Count the word errors of each utterance, for example for :func:`bootstrap_interval`.

    Raises:
        ValueError: an argument is a text, or the lists differ in length.
    """
    if isinstance(references, str) or isinstance(hypotheses, str) or len(references) != len(hypotheses):
        raise ValueError("references and hypotheses must be two texts, or two lists of texts of the same length")
    return [_count(r, h, normalizer) for r, h in zip(references, hypotheses, strict=True)]


def _count(reference: str, hypothesis: str, normalizer: Normalizer | None) -> WordError:
    if normalizer is not None:
        reference, hypothesis = normalizer(reference), normalizer(hypothesis)
    output = _align(reference.split(), hypothesis.split())
    return WordError(output.substitutions, output.deletions, output.insertions, output.hits)


def _align(reference: Sequence[str], hypothesis: Sequence[str]) -> jiwer.WordOutput:
    # Replace words by numbers: jiwer splits at plain spaces only, and a word may contain other white space.
    number = {word: str(i) for i, word in enumerate(dict.fromkeys([*reference, *hypothesis]))}
    return jiwer.process_words(" ".join(number[w] for w in reference), " ".join(number[w] for w in hypothesis))


def bootstrap_interval(
    errors: Sequence[int] | Int[np.ndarray, "utterance"],
    counts: Sequence[int] | Int[np.ndarray, "utterance"],
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the corpus WER, resampling utterances with replacement.

    Args:
        errors: errors of each utterance (:attr:`WordError.errors`).
        counts: reference words of each utterance (:attr:`WordError.n_reference`), not all zero.
        n: resamples.
        seed: the same seed gives the same interval.
        level: coverage.

    Raises:
        ValueError: the lengths differ, there are no reference words, or ``n`` or ``level`` is out of range.
    """
    e, c = np.asarray(errors, dtype=np.int64), np.asarray(counts, dtype=np.int64)
    if e.ndim != 1 or e.shape != c.shape or not c.sum() > 0:
        raise ValueError(
            f"errors and counts must have one entry per utterance and some words, got {e.shape}, {c.shape}"
        )
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"need n >= 1 and 0 < level < 1, got n={n}, level={level}")
    generator = np.random.default_rng(seed)
    chunk = max(1, _RESAMPLED_AT_ONCE // len(e))
    rates = []
    for first in range(0, n, chunk):
        sample = generator.integers(len(e), size=(min(chunk, n - first), len(e)))
        rates.append(e[sample].sum(axis=1) / np.maximum(c[sample].sum(axis=1), 1))
    low, high = np.quantile(np.concatenate(rates), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class DiffOp:
    """One span of a word diff. ``reference`` is empty for an insertion, ``hypothesis`` for a deletion."""

    kind: Kind
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]


def bare_word(word: str) -> str:
    """Case-fold a word and strip the punctuation around it; keep a word that is only punctuation."""
    folded = word.casefold()
    first = next((i for i, c in enumerate(folded) if c.isalnum()), None)
    if first is None:
        return folded
    last = next(i for i in range(len(folded) - 1, -1, -1) if folded[i].isalnum())
    return folded[first : last + 1]


def word_diff(reference: str, hypothesis: str, key: Callable[[str], str] = bare_word) -> list[DiffOp]:
    """Return the word-level edits from one text to the other, for example for colored display.

    Words match if their ``key`` is equal. The ops keep the original spelling: together, their ``reference`` words are
    ``reference.split()``, and their ``hypothesis`` words ``hypothesis.split()``. Of several shortest diffs this is the
    one that :func:`word_error` counts (jiwer's choice).
    """
    ref, hyp = reference.split(), hypothesis.split()
    chunks = _align([key(w) for w in ref], [key(w) for w in hyp]).alignments[0]
    return [
        DiffOp(
            cast(Kind, chunk.type),
            tuple(ref[chunk.ref_start_idx : chunk.ref_end_idx]),
            tuple(hyp[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in chunks
    ]
