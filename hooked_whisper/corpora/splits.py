"""Split a corpus by speaker, to test on voices that were not fitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from hooked_whisper.corpora.records import Recording
from hooked_whisper.errors import AudioError


class Split(NamedTuple):
    """Sorted indices into a corpus; each recording is on one side."""

    train: Int[np.ndarray, "train"]
    test: Int[np.ndarray, "test"]


def split_by_speaker(corpus: Sequence[Recording], share: float | int = 0.5, seed: int = 0) -> Split:
    """Split into two parts without a common speaker. Each recording of an unknown speaker counts as a speaker.

    Speakers are shuffled, and ``train`` gets as many of them as bring it nearest to ``share`` of the recordings; each
    part has at least one speaker. The split does not depend on the order of the corpus.

    Raises:
        AudioError: fewer than two speakers, or ``share`` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise AudioError(f"share must be between 0 and 1, got {share}")
    speaker, sizes = _speakers(corpus, 2)
    order = np.random.default_rng(seed).permutation(len(sizes))
    before = sizes[order].cumsum()[:-1]  # recordings of the first k + 1 speakers
    n = int(np.abs(before - share * len(corpus)).argmin()) + 1
    in_train = np.isin(speaker, order[:n])
    return Split(np.flatnonzero(in_train), np.flatnonzero(~in_train))


def folds_by_speaker(corpus: Sequence[Recording], n: int) -> list[Split]:
    """Return ``n`` splits for cross-validation: each recording, with all others of its speaker, is tested in one.

    Speakers are assigned largest first, each to the smallest fold so far.

    Raises:
        AudioError: fewer than ``n`` speakers, or ``n`` is less than 2.
    """
    if n < 2:
        raise AudioError(f"n must be at least 2 folds, got {n}")
    speaker, sizes = _speakers(corpus, n)
    fold_of, totals = np.zeros(len(sizes), int), np.zeros(n, int)
    for number in np.argsort(-sizes, kind="stable"):
        fold_of[number] = totals.argmin()
        totals[fold_of[number]] += sizes[number]
    fold = fold_of[speaker]
    return [Split(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(n)]


def _speakers(
    corpus: Sequence[Recording], least: int
) -> tuple[Int[np.ndarray, "recording"], Int[np.ndarray, "speaker"]]:
    """Return the index of each recording's speaker, sorted by name, and the number of recordings per speaker."""
    names = [("", recording.speaker) if recording.speaker else (recording.id, "") for recording in corpus]
    number = {name: k for k, name in enumerate(sorted(set(names)))}
    if len(number) < least:
        raise AudioError(
            f"the corpus has {len(number)} speakers, at least {least} are needed: name the speakers of its recordings "
            "or add recordings"
        )
    speaker = np.array([number[name] for name in names], int)
    return speaker, np.bincount(speaker)
