"""Encoder positions to cut for a word, and the fate of a clip's words after the cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.records import Number
from hooked_whisper.findings.core.transcripts import WordFates

EDGE = 1  # positions added on either side of a word, because its times are rounded
SILENCE_AFTER = 0.5  # seconds from the last word's end to the control cut in silence


@dataclass(frozen=True)
class CutTarget:
    """A word to cut out: the indices of its utterance and of the word in the text, and the encoder positions to
    replace."""

    utterance: int
    word: int
    span: slice

    @property
    def length(self) -> int:
        return self.span.stop - self.span.start

    def moved(self, positions: int) -> slice:
        """Return the span moved by a number of positions."""
        return slice(self.span.start + positions, self.span.stop + positions)


def targets_of(context: Context) -> list[CutTarget]:
    """Return all words with times, of the clips that are transcribed without an error. Their spans have no margin."""
    targets: list[CutTarget] = []
    for i, utterance in enumerate(context.utterances):
        words = utterance.alignment.words
        if context.transcripts[i] != context.references[i] or len(words) != len(context.references[i].split()):
            continue
        for number, word in enumerate(words):
            if word.duration > 0 and word.end <= context.model.time.duration:
                targets.append(with_margin(context, CutTarget(i, number, slice(0, 0)), 0))
    return targets


def with_margin(context: Context, target: CutTarget, margin_ms: Number) -> CutTarget:
    """Return the same word with a span that is ``margin_ms`` longer on either side, clamped to the window."""
    time, word = context.model.time, context.utterances[target.utterance].alignment.words[target.word]
    start, end = max(0.0, word.start - margin_ms / 1000), min(time.duration, word.end + margin_ms / 1000)
    span = time.span(start, end, rounding="outer")
    return replace(target, span=slice(max(0, span.start - EDGE), min(time.n_ctx, span.stop + EDGE)))


def centered(context: Context, target: CutTarget, seconds: Number) -> CutTarget:
    """Return the same word with a span of ``seconds`` around its middle, clamped to the window."""
    time, word = context.model.time, context.utterances[target.utterance].alignment.words[target.word]
    length = round(seconds / time.seconds_per_position)
    start = max(0, time.position((word.start + word.end) / 2) - length // 2)
    return replace(target, span=slice(start, min(time.n_ctx, start + length)))


def elsewhere(context: Context, target: CutTarget) -> slice | None:
    """Return a span of the target's length at the word farthest from it, or ``None`` if the two overlap."""
    time, words = context.model.time, context.utterances[target.utterance].alignment.words
    number = max(range(len(words)), key=lambda w: abs(w - target.word))
    start = max(0, time.position((words[number].start + words[number].end) / 2) - target.length // 2)
    span = slice(start, start + target.length)
    apart = span.stop <= target.span.start or span.start >= target.span.stop
    return span if number != target.word and apart and span.stop <= time.n_ctx else None


def in_silence(context: Context, target: CutTarget) -> slice | None:
    """Return a span of the target's length in the silence after the last word, or ``None`` if it leaves the window."""
    time = context.model.time
    seconds = context.utterances[target.utterance].alignment.words[-1].end + SILENCE_AFTER
    if seconds >= time.duration:
        return None
    start = time.position(seconds)
    return slice(start, start + target.length) if start + target.length <= time.n_ctx else None


Counts = tuple[Float[np.ndarray, "target"], Float[np.ndarray, "target"]]


@dataclass(frozen=True)
class Cuts:
    """Decoded cuts: the targets, the transcripts, and the fates of the words of their clips.

    ``covered`` says for each target whether the middle of each word of its clip was replaced. Methods that count words
    return two arrays over the targets: the number of words with a ``wanted`` fate, and the number of all words.
    """

    targets: list[CutTarget]
    texts: list[str]
    outcomes: list[WordFates]
    covered: list[list[bool]]

    def fates(self, wanted: Callable[[str], bool]) -> Float[np.ndarray, "target"]:
        """Return 1 where the target has a wanted fate, else 0."""
        pairs = zip(self.targets, self.outcomes, strict=True)
        return np.array([float(wanted(o.fates[t.word])) for t, o in pairs])

    def _counts(self, selects: Callable[[CutTarget, int, bool], bool], wanted: Callable[[str], bool]) -> Counts:
        """Count the words that ``selects`` accepts."""
        hits, counts = [], []
        for target, outcome, covered in zip(self.targets, self.outcomes, self.covered, strict=True):
            fates = [f for w, f in enumerate(outcome.fates) if selects(target, w, covered[w])]
            hits.append(float(sum(map(wanted, fates))))
            counts.append(float(len(fates)))
        return np.array(hits), np.array(counts)

    def others(self, wanted: Callable[[str], bool]) -> Counts:
        """Count all words except the target."""
        return self._counts(lambda target, word, _: word != target.word, wanted)

    def neighbors(self, wanted: Callable[[str], bool]) -> Counts:
        """Count the words right before and right after the target."""
        return self._counts(lambda target, word, _: abs(word - target.word) == 1, wanted)

    def under(self, wanted: Callable[[str], bool]) -> Counts:
        """Count the words whose middle was replaced, as the published cuts do."""
        return self._counts(lambda _, __, covered: covered, wanted)

    def outside(self, wanted: Callable[[str], bool]) -> Counts:
        """Count the words whose middle was not replaced."""
        return self._counts(lambda _, __, covered: not covered, wanted)

    def other_errors(self) -> Counts:
        """Count the word errors apart from the target: other words that are gone, and inserted words."""
        hits, counts = self.others(lambda fate: fate != "kept")
        return hits + np.array([float(o.inserted) for o in self.outcomes]), counts

    @property
    def groups(self) -> np.ndarray:
        """Index of the utterance of each target: ``[target]``."""
        return np.array([t.utterance for t in self.targets], dtype=int)


def covered_words(context: Context, target: CutTarget, span: slice) -> list[bool]:
    """Return whether the middle of each word of the target's clip lies in the span."""
    time, words = context.model.time, context.utterances[target.utterance].alignment.words
    middles = (time.position(min((w.start + w.end) / 2, time.duration)) for w in words)
    return [span.start <= middle < span.stop for middle in middles]


def one_per_utterance(targets: Sequence[CutTarget], rng: np.random.Generator, most: int) -> list[CutTarget]:
    """Return one random target per utterance, for at most ``most`` utterances."""
    shuffled = [targets[i] for i in rng.permutation(len(targets))]
    return list({t.utterance: t for t in shuffled}.values())[:most]
