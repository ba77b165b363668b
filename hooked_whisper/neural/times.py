"""Word and phone times from the synthesizer's own durations.

Kokoro gives each input symbol a number of 25 ms frames. Three corrections turn them into times:

- the space between two words belongs to the word after it, and a stress mark to the phone after it;
- sound leads the durations, by :data:`WORD_LEAD_S` at the start of a word and :data:`PHONE_LEAD_S` inside one. Both
  are medians against forced alignment on training voices (``python -m hooked_whisper.neural check`` measures them);
- Kokoro lengthens the last phone before a pause instead of naming the pause. Where the samples are silent at a word
  boundary, the silence becomes an interval of its own; the last 40 ms of it stay with a stop, as its closure.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from hooked_whisper.neural.build import HOP, Sentence, Synthesis, quiet_hops
from hooked_whisper.neural.kokoro import FRAME_S, RATE
from hooked_whisper.protocols import SILENCE, Interval

WORD_LEAD_S, PHONE_LEAD_S = 0.030, 0.045
PAUSE_S, PAUSE_AT_MARK_S = 0.100, 0.050  # shorter silences are no pause, but the closure of a stop
CLOSURE_S = 0.040
SHORTEST_S = 0.010  # of a phone, where its word has the room
STOPS = frozenset(["P", "B", "T", "D", "K", "G", "CH", "JH", "p", "b", "t", "d", "k", "ɡ", "tʃ", "dʒ", "ts"])


@dataclass(frozen=True)
class Times:
    """Words, and phones with silences between them, in seconds; phones tile the recording."""

    words: tuple[Interval, ...]
    phones: tuple[Interval, ...]


@dataclass(frozen=True)
class SpokenWord:
    """A word as the durations have it, corrected: starts of its phones, and whether a mark follows.

    ``after_space`` is its start if the space before it belonged to the word before it.
    """

    text: str
    labels: tuple[str, ...]
    starts: tuple[float, ...]
    end: float
    mark: bool
    after_space: float


def find_times(synthesis: Synthesis, audio: Float[np.ndarray, "sample"]) -> Times:
    """Times of a recording at 24 kHz, corrected as the module says."""
    quiet = quiet_hops(audio)
    duration = len(audio) / RATE
    spoken = [word for sentence in synthesis.sentences for word in corrected(sentence)]
    starts = [max(0.0, spoken[0].starts[0])]
    ends: list[float] = []
    for word, following in itertools.pairwise(spoken):
        end, start = _boundary(word, following, quiet)
        ends.append(end)
        starts.append(start)
    ends.append(_last_end(spoken[-1], quiet, duration))
    words, phones, previous = [], [], 0.0
    for word, start, end in zip(spoken, starts, ends, strict=True):
        start, end = max(start, previous), min(max(end, start + SHORTEST_S), duration)
        if start > previous:
            phones.append(Interval(previous, start, SILENCE))
        words.append(Interval(start, end, word.text))
        phones += _inside(word, start, end)
        previous = end
    if previous < duration:
        phones.append(Interval(previous, duration, SILENCE))
    return Times(tuple(words), tuple(phones))


def corrected(sentence: Sentence, word_lead: float = WORD_LEAD_S, phone_lead: float = PHONE_LEAD_S) -> list[SpokenWord]:
    """Words of a sentence by its durations, spaces and stress marks given away and the leads taken off."""
    offset, position = sentence.start / RATE, 1
    frames = sentence.durations[0]
    words = []
    for number, word in enumerate(sentence.phonemes.words):
        first = frames
        if number:
            frames += sentence.durations[position]
            position += 1
        starts: list[float] = []
        after_space = offset + frames * FRAME_S - word_lead
        for phone in word.phones:
            starts.append(offset + (frames * FRAME_S - phone_lead if starts else first * FRAME_S - word_lead))
            frames += sum(sentence.durations[position : position + len(phone.symbols)])
            position += len(phone.symbols)
        labels = tuple(phone.label for phone in word.phones)
        end = offset + frames * FRAME_S - word_lead
        words.append(SpokenWord(word.text, labels, tuple(starts), end, bool(word.mark), after_space))
        frames += sum(sentence.durations[position : position + len(word.mark)])
        position += len(word.mark)
    return words


def _boundary(word: SpokenWord, following: SpokenWord, quiet: Bool[np.ndarray, "hop"]) -> tuple[float, float]:
    """End of a word and start of the next: the same, or around a silence."""
    inner = following.starts[1] if len(following.starts) > 1 else following.end
    low, high = word.starts[-1] + SHORTEST_S, max(inner, following.starts[0] + SHORTEST_S)
    first, last = _longest_run(quiet, low, high)
    if last - first < (PAUSE_AT_MARK_S if word.mark else PAUSE_S):
        return following.starts[0], following.starts[0]
    closure = CLOSURE_S if following.labels[0] in STOPS else 0.0
    return first, max(first, last - closure)


def _last_end(word: SpokenWord, quiet: Bool[np.ndarray, "hop"], duration: float) -> float:
    """Where the silence at the end of a recording begins."""
    sounding = np.flatnonzero(~quiet)
    end = (int(sounding[-1]) + 1) * HOP / RATE if len(sounding) else word.end
    return min(max(end, word.starts[-1] + SHORTEST_S), duration)


def _longest_run(quiet: Bool[np.ndarray, "hop"], low: float, high: float) -> tuple[float, float]:
    """Start and end in seconds of the longest silence between two times; equal if there is none."""
    first = max(0, round(low * RATE / HOP))
    best, begin = (0, 0), None
    for hop in range(first, min(len(quiet), round(high * RATE / HOP)) + 1):
        silent = hop < min(len(quiet), round(high * RATE / HOP)) and bool(quiet[hop])
        if silent and begin is None:
            begin = hop
        elif not silent and begin is not None:
            best = max(best, (hop - begin, begin))
            begin = None
    return best[1] * HOP / RATE, (best[1] + best[0]) * HOP / RATE


def _inside(word: SpokenWord, start: float, end: float) -> list[Interval]:
    """Phones of a word between its ends, none shorter than 10 ms if there is room for that."""
    count = len(word.labels)
    least = min(SHORTEST_S, (end - start) / count)
    bounds = [start]
    for k in range(1, count):
        bounds.append(min(max(word.starts[k], bounds[-1] + least), end - (count - k) * least))
    bounds.append(end)
    return [Interval(bounds[k], max(bounds[k], bounds[k + 1]), word.labels[k]) for k in range(count)]
