"""Word errors of transcripts, and whether each reference word was kept, replaced or deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hooked_whisper.interventions.transcriber import DECODER_BATCH, Transcriber, normalize_words
from hooked_whisper.text import WordError, bootstrap_interval, word_diff, word_errors

Fate = Literal["kept", "replaced", "deleted"]

__all__ = [
    "DECODER_BATCH",
    "Transcriber",
    "WordFates",
    "corpus_wer",
    "errors_of",
    "fate_rates",
    "normalize_words",
    "word_fates",
]


def errors_of(references: Sequence[str], hypotheses: Sequence[str]) -> list[WordError]:
    """Return the word errors of normalized texts."""
    return word_errors(list(references), list(hypotheses), normalizer=None)


def corpus_wer(errors: Sequence[WordError], seed: int = 0) -> tuple[float, float, float]:
    """Return the WER and its 95 % interval over utterances, as fractions."""
    counts = [e.n_reference for e in errors]
    wrong = [e.errors for e in errors]
    if not sum(counts):
        return float("nan"), float("nan"), float("nan")
    low, high = bootstrap_interval(wrong, counts, seed=seed)
    return sum(wrong) / sum(counts), low, high


@dataclass(frozen=True)
class WordFates:
    """Whether each reference word was kept, replaced or deleted, and the number of inserted words."""

    fates: tuple[Fate, ...]
    inserted: int


def word_fates(reference: str, hypothesis: str) -> WordFates:
    """Return for each reference word whether it was kept, replaced or deleted, by the word alignment with the fewest
    edits."""
    fates: list[Fate] = []
    inserted = 0
    for op in word_diff(reference, hypothesis):
        if op.kind == "insert":
            inserted += len(op.hypothesis)
        else:
            fate: Fate = {"equal": "kept", "substitute": "replaced", "delete": "deleted"}[op.kind]  # type: ignore[assignment]
            fates += [fate] * len(op.reference)
    return WordFates(tuple(fates), inserted)


def fate_rates(fates: Sequence[Fate]) -> dict[Fate, float]:
    """Return the share of words with each fate. All are NaN if there are no words."""
    n = len(fates)
    return {f: (sum(x == f for x in fates) / n if n else np.nan) for f in ("kept", "replaced", "deleted")}  # type: ignore[misc]
