"""Word and phone times from the durations that the synthesizer predicts.

Kokoro predicts a number of 25 ms frames for each input symbol. Three corrections turn them into times:

- The space between two words is counted with the second word, and a stress mark with the phone after it.
- Sound precedes the durations, by :data:`WORD_LEAD_S` at the start of a word and :data:`PHONE_LEAD_S` inside a word.
  Both are medians relative to forced alignment on training voices (measured by ``python -m hooked_whisper.neural
  check``).
- Kokoro lengthens the last phone before a pause. If the samples are silent at a word boundary, the silence becomes a
  separate interval, except for the last 40 ms before a stop, which are its closure.
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
PAUSE_S, PAUSE_AT_MARK_S = 0.100, 0.050  # shorter silences are the closure of a stop
CLOSURE_S = 0.040
SHORTEST_S = 0.010  # minimum duration of a phone, if its word is long enough
STOPS = frozenset(["P", "B", "T", "D", "K", "G", "CH", "JH", "p", "b", "t", "d", "k", "ɡ", "tʃ", "dʒ", "ts"])


@dataclass(frozen=True)
class Times:
    """Words, and phones with silences, in seconds. The phones cover the recording without gaps."""

    words: tuple[Interval, ...]
    phones: tuple[Interval, ...]


@dataclass(frozen=True)
class TimedWord:
    """A word with corrected times: the starts of its phones, its end, and whether a punctuation mark follows.

    ``after_space`` is the start if the space before it is counted with the preceding word.
    """

    text: str
    labels: tuple[str, ...]
    starts: tuple[float, ...]
    end: float
    mark: bool
    after_space: float


def find_times(synthesis: Synthesis, audio: Float[np.ndarray, "sample"]) -> Times:
    """Return the corrected times of a recording at 24 kHz."""
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


def corrected(sentence: Sentence, word_lead: float = WORD_LEAD_S, phone_lead: float = PHONE_LEAD_S) -> list[TimedWord]:
    """Return the words of a sentence with the first two corrections."""
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
        words.append(TimedWord(word.text, labels, tuple(starts), end, bool(word.mark), after_space))
        frames += sum(sentence.durations[position : position + len(word.mark)])
        position += len(word.mark)
    return words


def _boundary(word: TimedWord, following: TimedWord, quiet: Bool[np.ndarray, "hop"]) -> tuple[float, float]:
    """Return the end of a word and the start of the next: equal, or separated by a silence."""
    inner = following.starts[1] if len(following.starts) > 1 else following.end
    low, high = word.starts[-1] + SHORTEST_S, max(inner, following.starts[0] + SHORTEST_S)
    first, last = _longest_run(quiet, low, high)
    if last - first < (PAUSE_AT_MARK_S if word.mark else PAUSE_S):
        return following.starts[0], following.starts[0]
    closure = CLOSURE_S if following.labels[0] in STOPS else 0.0
    return first, max(first, last - closure)


def _last_end(word: TimedWord, quiet: Bool[np.ndarray, "hop"], duration: float) -> float:
    """Return the start of the silence at the end of a recording."""
    sounding = np.flatnonzero(~quiet)
    end = (int(sounding[-1]) + 1) * HOP / RATE if len(sounding) else word.end
    return min(max(end, word.starts[-1] + SHORTEST_S), duration)


def _longest_run(quiet: Bool[np.ndarray, "hop"], low: float, high: float) -> tuple[float, float]:
    """Return start and end, in seconds, of the longest silence between two times; equal if there is none."""
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


def _inside(word: TimedWord, start: float, end: float) -> list[Interval]:
    """Return the phones of a word, each at least 10 ms long if the word is long enough."""
    count = len(word.labels)
    least = min(SHORTEST_S, (end - start) / count)
    bounds = [start]
    for k in range(1, count):
        bounds.append(min(max(word.starts[k], bounds[-1] + least), end - (count - k) * least))
    bounds.append(end)
    return [Interval(bounds[k], max(bounds[k], bounds[k + 1]), word.labels[k]) for k in range(count)]
