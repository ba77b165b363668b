"""Minimal pairs as recordings: one sentence twice, equal sample by sample but for one word.

Source of the design: the default corruption of audio patching studies, symmetric replacement (Zhang & Nanda 2023, arXiv
2309.16042): what is put in is as ordinary as what is taken out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import soxr
from jaxtyping import Float

from hooked_whisper.protocols import Alignment, Interval
from hooked_whisper.speech.sounds import MinimalPair, minimal_pairs

if TYPE_CHECKING:
    from hooked_whisper.speech.world import SpokenWorld

RATE = 16_000
FADE = 80  # samples: 5 ms, inside the slot
STRETCH = (0.75, 1.35)  # a donor word outside these ratios of the slot's length is not used
SEARCHED = 30_000  # sentences of the grammar that are looked through for carriers


@dataclass(frozen=True)
class Carrier:
    """A sentence of the grammar in which either word of a pair may stand at ``index``."""

    pair: MinimalPair
    words: tuple[str, ...]
    index: int
    log_prob: tuple[float, float]  # of A and of B after the word before (training matrix, nats)
    swapped: bool = False  # whether A is the pair's second word

    @property
    def a(self) -> str:
        return self.pair.b if self.swapped else self.pair.a

    @property
    def b(self) -> str:
        return self.pair.a if self.swapped else self.pair.b

    def text(self, word: str) -> str:
        return " ".join((*self.words[: self.index], word, *self.words[self.index + 1 :]))


@dataclass(frozen=True, eq=False)
class WordSwap:
    """Recordings of one voice that are equal outside ``span`` (checked): word A, word B, and a third word C in the slot.

    alignment: of the recording with A. The others have their own word there, fitted to the same length.
    stretch: length of B's and C's own recording over the slot's, before fitting.
    """

    carrier: Carrier
    speaker: str
    third: str
    a: Float[np.ndarray, "sample"]
    b: Float[np.ndarray, "sample"]
    c: Float[np.ndarray, "sample"]
    alignment: Alignment
    span: Interval
    stretch: tuple[float, float]

    def __post_init__(self) -> None:
        first, last = round(self.span.start * RATE), round(self.span.end * RATE)
        for other in (self.b, self.c):
            outside = len(other) == len(self.a) and all(
                np.array_equal(x, y) for x, y in ((self.a[:first], other[:first]), (self.a[last:], other[last:]))
            )
            if not outside:
                raise ValueError(f"recordings of {self.carrier.text(self.carrier.a)!r} differ outside {self.span}")


def carriers(world: SpokenWorld, contrast: str | None = None, seed: int = 0) -> list[Carrier]:
    """At most one sentence per minimal pair, in a random order; both words may stand there by the training matrix.

    Every other pair has its words the other way round, so that A is not always the first of the alphabet.
    """
    partners: dict[str, list[tuple[MinimalPair, str]]] = {}
    for pair in minimal_pairs(world.sounds.phones, contrast):
        partners.setdefault(pair.a, []).append((pair, pair.b))
        partners.setdefault(pair.b, []).append((pair, pair.a))
    matrix, index = world.transition_matrix, world.grammar.index
    rng = np.random.default_rng([seed, 4711])
    found: dict[tuple[str, str], Carrier] = {}
    for text in itertools.islice(world.grammar.sentences(rng), SEARCHED):
        words = tuple(text.split())
        for at in range(1, len(words)):
            for pair, other in partners.get(words[at], ()):
                if (pair.a, pair.b) in found:
                    continue
                before, behind = index[words[at - 1]], words[at + 1] if at + 1 < len(words) else None
                p = [float(matrix[before, index[w]]) for w in (pair.a, pair.b)]
                fits = min(p) > 0 and (behind is None or matrix[index[other], index[behind]] > 0)
                if fits:
                    swapped = bool(len(found) % 2)
                    logs = np.log(p[::-1] if swapped else p)
                    found[pair.a, pair.b] = Carrier(pair, words, at, (float(logs[0]), float(logs[1])), swapped)
    every = list(found.values())
    return [every[i] for i in rng.permutation(len(every))]


def word_swaps(
    world: SpokenWorld, contrast: str | None = None, seed: int = 0, speakers: Sequence[str] | None = None
) -> Iterator[WordSwap]:
    """Recordings of :func:`carriers`, by the speakers in turn (default: the held-out ones of espeak-ng).

    A pair whose words do not fit one slot, or run together in synthesis, is left out.

    Raises:
        RuntimeError, OSError, ImportError: there is no synthesiser.
    """
    if speakers is None:
        speakers = [s.id for s in world.speakers if s.split == "held-out" and s.synthesiser == "espeak"]
    made = 0
    for number, carrier in enumerate(carriers(world, contrast, seed)):
        third = _third(world, carrier, np.random.default_rng([seed, number]))
        try:
            one = record(world, carrier, speakers[made % len(speakers)], third)
        except ValueError:
            continue
        made += 1
        yield one


def record(world: SpokenWorld, carrier: Carrier, speaker: str, third: str) -> WordSwap:
    """Speak the sentence with A, and put B and C into A's slot.

    Raises:
        ValueError: words that the synthesiser runs together, or too long or short for the slot.
    """
    audio, alignment = world.say(carrier.text(carrier.a), speaker)
    slot = alignment.words[carrier.index]
    first, last = round(slot.start * RATE), round(slot.end * RATE)
    made, ratios = [], []
    for word in (carrier.b, third):
        donor, ratio = _fitted(world, carrier.text(word), carrier.index, speaker, last - first)
        made.append(_spliced(audio, donor, first))
        ratios.append(ratio)
    span = Interval(first / RATE, last / RATE, carrier.a)
    return WordSwap(carrier, speaker, third, audio, made[0], made[1], alignment, span, (ratios[0], ratios[1]))


def _third(world: SpokenWorld, carrier: Carrier, rng: np.random.Generator) -> str:
    """A word that may follow the same word, and is neither; any other word if there is none."""
    row = world.transition_matrix[world.grammar.index[carrier.words[carrier.index - 1]]]
    taken = (carrier.a, carrier.b)
    may = [w for w in world.words if row[world.grammar.index[w]] > 0 and w not in taken]
    return str(rng.choice(may or [w for w in world.words if w not in taken]))


def _fitted(
    world: SpokenWorld, text: str, index: int, speaker: str, length: int
) -> tuple[Float[np.ndarray, "sample"], float]:
    """Word ``index`` of a sentence in exactly ``length`` samples: the synthesiser speaks at a rate that fits, and
    resampling takes up the rest."""
    audio, alignment = world.say(text, speaker)
    own = alignment.words[index].duration * RATE / length
    if not STRETCH[0] <= own <= STRETCH[1]:
        raise ValueError(f"{text!r}: word {index} has {own:.2f} of the slot's length")
    if abs(own - 1) > 0.01:
        audio, alignment = world.say(text, speaker, tempo=own)
    word = alignment.words[index]
    piece = audio[round(word.start * RATE) : round(word.end * RATE)]
    fitted = soxr.resample(piece, len(piece), length, quality="HQ")
    return np.pad(fitted, (0, max(0, length - len(fitted))))[:length].astype(np.float32), own


def _spliced(
    audio: Float[np.ndarray, "sample"], donor: Float[np.ndarray, "part"], first: int
) -> Float[np.ndarray, "sample"]:
    """The donor in place of what is there, with cross-fades at both ends of the slot."""
    fade = min(FADE, len(donor) // 4)
    weight = np.ones(len(donor), np.float32)
    ramp = np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)
    weight[:fade], weight[len(donor) - fade :] = ramp, ramp[::-1]
    out = audio.copy()
    slot = slice(first, first + len(donor))
    out[slot] = weight * donor + (1 - weight) * audio[slot]
    return out
