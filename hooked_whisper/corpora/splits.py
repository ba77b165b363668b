"""Splits of a corpus by speaker: what is fitted on some voices is tested on others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from hooked_whisper.corpora.records import Recording
from hooked_whisper.errors import AudioError


class Split(NamedTuple):
    """Places in a corpus, in its order; each recording is on one side."""

    train: Int[np.ndarray, "train"]
    test: Int[np.ndarray, "test"]


def split_by_speaker(corpus: Sequence[Recording], share: float | int = 0.5, seed: int = 0) -> Split:
    """Two parts without a common speaker; recordings whose speaker is unknown are each a speaker of their own.

    Speakers are shuffled and the line is drawn where the first part comes nearest to ``share`` of the recordings, with
    a speaker at least on either side. Who is on which side does not depend on the order of the corpus.

    Raises:
        AudioError: fewer than two speakers, or a share that is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise AudioError(f"a share of the recordings is between 0 and 1, got {share}")
    speaker, sizes = _speakers(corpus, 2)
    order = np.random.default_rng(seed).permutation(len(sizes))
    before = sizes[order].cumsum()[:-1]  # recordings of the first k + 1 speakers
    n = int(np.abs(before - share * len(corpus)).argmin()) + 1
    in_train = np.isin(speaker, order[:n])
    return Split(np.flatnonzero(in_train), np.flatnonzero(~in_train))


def folds_by_speaker(corpus: Sequence[Recording], n: int) -> list[Split]:
    """Every recording in the test part of one of ``n`` splits, with all others of its speaker.

    Speakers go to the folds largest first, each to the smallest fold so far.

    Raises:
        AudioError: fewer than ``n`` speakers, or fewer than two folds.
    """
    if n < 2:
        raise AudioError(f"cross-validation needs two folds or more, got {n}")
    speaker, sizes = _speakers(corpus, n)
    fold_of, totals = np.zeros(len(sizes), int), np.zeros(n, int)
    for one in np.argsort(-sizes, kind="stable"):
        fold_of[one] = totals.argmin()
        totals[fold_of[one]] += sizes[one]
    fold = fold_of[speaker]
    return [Split(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(n)]


def _speakers(
    corpus: Sequence[Recording], least: int
) -> tuple[Int[np.ndarray, "recording"], Int[np.ndarray, "speaker"]]:
    """Number of each recording's speaker, in the order of their names, and how many recordings each has."""
    names = [("", one.speaker) if one.speaker else (one.id, "") for one in corpus]
    number = {name: k for k, name in enumerate(sorted(set(names)))}
    if len(number) < least:
        raise AudioError(
            f"the corpus has {len(number)} speakers, at least {least} are needed: name the speakers of its recordings, "
            "or give it more"
        )
    speaker = np.array([number[name] for name in names], int)
    return speaker, np.bincount(speaker)
