"""Word swaps in the packaged speech: a word of one recording is spliced into the other recording of a minimal pair."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from hooked_whisper.corpora import Recording
from hooked_whisper.corpora.packaged import MinimalPair, minimal_pairs
from hooked_whisper.errors import AudioError
from hooked_whisper.findings.swaps.pairs import Candidate
from hooked_whisper.patching.corruptions.record import Corruption
from hooked_whisper.patching.corruptions.splice import splice
from hooked_whisper.protocols import Interval

PAD = 0.02  # seconds on both sides of the word that are spliced too: word times are accurate to about 20 ms
MOST_STRETCH = 1.5  # largest ratio between the durations of A's word and the spliced word
THIRDS = 3  # number of third words that are tried


@dataclass(frozen=True, eq=False)
class Side:
    """One recording of a minimal pair, with the word that differs, its time and its phones."""

    recording: Recording
    word: str
    time: Interval
    phones: tuple[Interval, ...]

    @property
    def slot(self) -> Interval:
        """The time of the word with its padding."""
        return Interval(self.time.start - PAD, self.time.end + PAD, self.word)


def packaged_candidates(seed: int) -> list[Candidate]:
    """Return the minimal pairs of the packaged speech in random order. Which of the two words is A is random too.

    Raises:
        AudioError: this installation has no packaged speech.
    """
    pairs = minimal_pairs()
    rng = np.random.default_rng([seed, 23])
    sides = [_sides(pair) for pair in pairs]
    by_speaker: dict[str, list[Side]] = {}
    for pair_sides in sides:
        by_speaker.setdefault(pair_sides[0].recording.speaker, []).extend(pair_sides)
    candidates = []
    for k in rng.permutation(len(pairs)).tolist():
        a, b = sides[k] if rng.random() < 0.5 else sides[k][::-1]
        if _stretch(a, b) > MOST_STRETCH:
            continue
        others = by_speaker[a.recording.speaker]
        words = [word.strip(".,?!").lower() for word in a.recording.text.split()]
        candidates.append(
            Candidate(
                a.word.lower(),
                b.word.lower(),
                a.recording.speaker,
                pairs[k].position,
                words.index(a.word.lower()),
                a.recording.text,
                b.recording.text,
                partial(_swapped, a, b),
                partial(_thirds, a, b, others),
            )
        )
    return candidates


def _sides(pair: MinimalPair) -> tuple[Side, Side]:
    return _side(pair.a, pair.words[0], pair.word_times[0]), _side(pair.b, pair.words[1], pair.word_times[1])


def _side(recording: Recording, word: str, time: Interval) -> Side:
    alignment = recording.alignment()
    if alignment is None:
        raise AudioError(f"recording {recording.id!r} of the packaged speech has no alignment: install it again")
    phones = tuple(p for p in alignment.phones if p.start >= time.start - 1e-6 and p.end <= time.end + 1e-6)
    return Side(recording, word, time, phones)


def _stretch(a: Side, b: Side) -> float:
    return math.exp(abs(math.log(a.time.duration / b.time.duration)))


def _swapped(a: Side, b: Side) -> Corruption:
    """Return recording A, and recording A with B's word in its slot. B's word is warped phone by phone if both words
    have the same number of phones."""
    same = len(a.phones) == len(b.phones)
    inner = [(q.start, p.start) for q, p in zip(b.phones[1:], a.phones[1:], strict=True)] if same else []
    knots = [(b.time.start, a.time.start), *inner, (b.time.end, a.time.end)]
    return splice(
        a.recording.audio().numpy(), a.slot, b.recording.audio().numpy(), b.slot, knots=knots, match_level=False
    )


def _thirds(a: Side, b: Side, others: Sequence[Side]) -> Iterator[Corruption]:
    """Yield recording A with other words of the same voice in the slot, those closest to A in phones and length
    first."""
    fitting = [side for side in others if side.word not in (a.word, b.word) and _stretch(a, side) <= MOST_STRETCH]
    fitting.sort(key=lambda side: (abs(len(side.phones) - len(a.phones)), _stretch(a, side)))
    for side in fitting[:THIRDS]:
        try:
            yield _swapped(a, side)
        except AudioError:  # the phone boundaries are too close together to warp
            continue
