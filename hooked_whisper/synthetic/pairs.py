"""Spoken minimal pairs: one sentence and voice, with two words that differ in one phone.

Both sentences are synthesized. The word of the second is fitted, phone by phone, into the time slot of the first word.
So both clips have the same length, are bit-equal outside the slot, and their phones start at the same times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from hooked_whisper.errors import AudioError
from hooked_whisper.patching.corruptions.record import Corruption
from hooked_whisper.patching.corruptions.splice import splice
from hooked_whisper.protocols import Alignment, Interval
from hooked_whisper.synthetic import voices
from hooked_whisper.synthetic.grammar import END, START, Grammar
from hooked_whisper.synthetic.sounds import Sounds, WordPair

SHORTEST, LONGEST = 3, 7  # number of words of a carrier sentence, including the word in the slot
CARRIER_DRAWS = 40
RATES = (1.0, 0.94, 1.06, 0.88, 1.12, 0.82, 1.18)  # tempos that are tried for the second sentence
Audio = Float[np.ndarray, "_"]


@dataclass(frozen=True)
class Carrier:
    """A sentence with a slot: the words before and after it, and whether the grammar allows both words there."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    grammatical: bool

    def text(self, word: str) -> str:
        return " ".join((*self.before, word, *self.after))

    @property
    def previous(self) -> str:
        """The word before the slot, or ``<s>``."""
        return self.before[-1] if self.before else START

    @property
    def next(self) -> str:
        """The word after the slot, or ``</s>``."""
        return self.after[0] if self.after else END


@dataclass(frozen=True, eq=False)
class SpokenPair:
    """A sentence with word A, and the same recording with word B in A's slot.

    Attributes:
        words: the two words, the place where they differ, and the two phones.
        carrier: the sentence around the slot. ``carrier.grammatical`` is false if no sentence allows both words.
        speaker: id of the voice.
        clean, corrupt: 16 kHz audio with A and with B, ``[sample]`` each. They have the same length and are equal
            outside ``span``.
        clean_alignment, corrupt_alignment: words and phones of the two clips, with times in seconds.
        span: the slot in seconds.
        log_prob_a, log_prob_b: log-probability in nats that each word follows the word before the slot, by the training
            matrix; ``-inf`` if it never does.
        largest_shift: largest distance in seconds between a phone boundary of B and that of A after the fit.
    """

    words: WordPair
    carrier: Carrier
    speaker: str
    clean: Audio
    corrupt: Audio
    clean_alignment: Alignment
    corrupt_alignment: Alignment
    span: Interval
    log_prob_a: float
    log_prob_b: float
    largest_shift: float

    @property
    def a(self) -> str:
        return self.words.a

    @property
    def b(self) -> str:
        return self.words.b

    @property
    def contrast(self) -> str:
        """The two phones, A's first, as in ``"b/p"``."""
        return f"{self.words.phone_a}/{self.words.phone_b}"

    @property
    def place(self) -> str:
        return self.words.place

    @property
    def index(self) -> int:
        """Index of the word in the sentence."""
        return len(self.carrier.before)

    @property
    def text_a(self) -> str:
        return self.carrier.text(self.a)

    @property
    def text_b(self) -> str:
        return self.carrier.text(self.b)

    def corruption(self) -> Corruption:
        """Return the pair as a corruption for patching."""
        parameters = {"a": self.a, "b": self.b, "contrast": self.contrast, "speaker": self.speaker}
        return Corruption("word swap", self.clean, self.corrupt, (self.span,), parameters)

    def with_word(self, word: str) -> Corruption:
        """Return the clean clip with a third word in the slot, for the third-word control.

        Raises:
            AudioError: the word is too long or too short for the slot.
        """
        fitted = _fit(self.clean, self.clean_alignment, self.carrier, word, voices.BY_ID[self.speaker])
        parameters = {"a": self.a, "b": word, "speaker": self.speaker, "control": "third word"}
        return replace(fitted.corruption, spans=(self.span,), parameters=parameters)


@dataclass(frozen=True, eq=False)
class _Fitted:
    corruption: Corruption
    alignment: Alignment
    phones: tuple[str, ...]
    largest_shift: float


def find_carrier(grammar: Grammar, a: str, b: str, rng: np.random.Generator) -> Carrier:
    """Return a random sentence of 3 to 7 words that allows both words.

    The words next to the slot are sampled by the smaller of the transition probabilities of the two words (training
    matrix), the other words from the Markov chain. If no word can precede (or follow) both, the larger probability is
    used, and ``grammatical`` is false.
    """
    index, matrix, states = grammar.index, grammar.train, grammar.states
    i, j = index[a], index[b]
    flow = grammar.occupancy[:, None] * matrix  # expected number of uses of each transition in one sentence
    into, out_of = flow[:, [i, j]] / flow[:, [i, j]].sum(0).clip(1e-12), matrix[[i, j]]
    left, right = into.min(1), out_of.min(0)
    grammatical = bool(left.sum() > 0 and right.sum() > 0)
    left, right = left if left.sum() > 0 else into.max(1), right if right.sum() > 0 else out_of.max(0)
    best: Carrier | None = None
    for _ in range(CARRIER_DRAWS):
        before, after = [_draw(left, rng)], [_draw(right, rng)]
        while before[0] != 0 and len(before) <= LONGEST:
            before.insert(0, _draw(flow[:, before[0]], rng))
        while after[-1] != index[END] and len(after) <= LONGEST:
            after.append(_draw(matrix[after[-1]], rng))
        carrier = Carrier(tuple(states[k] for k in before[1:]), tuple(states[k] for k in after[:-1]), grammatical)
        n_words = len(before) + len(after) - 1
        if before[0] == 0 and after[-1] == index[END] and SHORTEST <= n_words <= LONGEST:
            return carrier
        if best is None or abs(n_words - SHORTEST) < abs(len(best.text(a).split()) - SHORTEST):
            best = carrier
    assert best is not None
    return best


def speak_pair(words: WordPair, carrier: Carrier, speaker: voices.Speaker, grammar: Grammar) -> SpokenPair | None:
    """Speak both words in one sentence. Return ``None`` if this voice's two words do not differ in exactly one
    phone."""
    try:
        clean, alignment = voices.speak(carrier.text(words.a), speaker, utterance=f"{speaker.id}:{words.a}")
        fitted = _fit(clean, alignment, carrier, words.b, speaker)
    except ValueError:  # espeak-ng merged two words, or the lengths of the words differ too much
        return None
    slot = alignment.words[len(carrier.before)]
    ours = tuple(p.label for p in _phones_in(alignment, slot))
    if len(ours) != len(fitted.phones) or sum(x != y for x, y in zip(ours, fitted.phones, strict=True)) != 1:
        return None
    row = grammar.train[grammar.index[carrier.previous]]
    log_a, log_b = (_log(row[grammar.index[word]]) for word in (words.a, words.b))
    corrupt, span = fitted.corruption.corrupt, Interval(slot.start, slot.end, f"{words.a} -> {words.b}")
    return SpokenPair(
        words,
        carrier,
        speaker.id,
        clean,
        corrupt,
        alignment,
        fitted.alignment,
        span,
        log_a,
        log_b,
        fitted.largest_shift,
    )


def speak_pairs(
    grammar: Grammar,
    sounds: Sounds,
    candidates: Sequence[WordPair],
    speakers: Sequence[voices.Speaker],
    n: int,
    seed: int = 0,
) -> list[SpokenPair]:
    """Return ``n`` spoken pairs, with the two words in random order. A word pair is repeated only after all have been
    used.

    Grammatical sentences come first. Words that sound like another word of the corpus are left out, because a
    transcript cannot distinguish them. The seed determines words, sentences and voices; the audio varies by a few
    samples between calls, because espeak-ng keeps state. There are fewer than ``n`` pairs if in some of them the
    voice's two words do not differ in exactly one phone.
    """
    said = list(sounds.phones.values())
    distinct = [p for p in candidates if said.count(sounds.phones[p.a]) == said.count(sounds.phones[p.b]) == 1]
    rng = np.random.default_rng([seed, 17])
    pairs: list[SpokenPair] = []
    for _ in range(1 + math.ceil(n / max(1, len(distinct)))):
        drawn = []
        for k in rng.permutation(len(distinct)).tolist():
            pair = distinct[k] if rng.random() < 0.5 else _reversed(distinct[k])
            drawn.append((pair, find_carrier(grammar, pair.a, pair.b, rng), speakers[int(rng.integers(len(speakers)))]))
        for words, carrier, speaker in sorted(drawn, key=lambda draw: not draw[1].grammatical):
            if len(pairs) == n:
                return pairs
            spoken = speak_pair(words, carrier, speaker, grammar)
            if spoken is not None:
                pairs.append(spoken)
    return pairs


def third_words(pair: SpokenPair, grammar: Grammar, sounds: Sounds) -> list[str]:
    """Return words for the third-word control: words other than A and B that are allowed in the slot, sorted by the
    difference in the number of phones, then by their probability after the preceding word."""
    index, length = grammar.index, len(sounds.phones[pair.a])
    row, column = grammar.train[index[pair.carrier.previous]], grammar.train[:, index[pair.carrier.next]]
    allowed = [w for w in grammar.words if w not in (pair.a, pair.b) and row[index[w]] > 0 and column[index[w]] > 0]
    return sorted(allowed, key=lambda w: (abs(len(sounds.phones[w]) - length), -row[index[w]]))


def _fit(clean: Audio, alignment: Alignment, carrier: Carrier, word: str, speaker: voices.Speaker) -> _Fitted:
    """Put ``word`` into the slot of the clean clip. It is spoken in the same sentence at the tempo that needs the least
    warping."""
    slot = alignment.words[len(carrier.before)]
    ours = _phones_in(alignment, slot)
    tried: list[tuple[float, int, Audio, Alignment, Interval]] = []
    for tempo in RATES:
        donor, theirs = voices.speak(carrier.text(word), speaker, utterance=f"{speaker.id}:{word}", tempo=tempo)
        piece = theirs.words[len(carrier.before)]
        stretch = abs(math.log(slot.duration / piece.duration))
        tried.append((stretch, len(tried), donor, theirs, piece))
        if stretch < 0.02:
            break
    _, _, donor, theirs, piece = min(tried, key=lambda trial: trial[:2])
    phones = _phones_in(theirs, piece)
    same = len(phones) == len(ours)
    knots = [(p.start, q.start) for p, q in zip(phones[1:], ours[1:], strict=True)] if same else []
    corruption = splice(clean, slot, donor, piece, knots=knots, match_level=False)
    scale = slot.duration / piece.duration
    starts = ([q.start for q in ours] if same else [slot.start + (p.start - piece.start) * scale for p in phones]) + [
        slot.end
    ]
    moved = [Interval(a, b, p.label) for p, a, b in zip(phones, starts, starts[1:], strict=False)]
    others = [p for p in alignment.phones if p not in ours]
    timed = tuple(sorted([*others, *moved], key=lambda p: p.start))
    shift = max((abs(p.start - q.start) for p, q in zip(moved, ours, strict=same)), default=0.0)
    spoken = tuple(
        Interval(w.start, w.end, word) if k == len(carrier.before) else w for k, w in enumerate(alignment.words)
    )
    twin = replace(alignment, utterance=f"{speaker.id}:{word}", text=carrier.text(word), words=spoken, phones=timed)
    return _Fitted(corruption, twin, tuple(p.label for p in phones), shift)


def _phones_in(alignment: Alignment, word: Interval) -> list[Interval]:
    inside = [
        p for p in alignment.phones if p.start >= word.start - 1e-6 and p.end <= word.end + 1e-6 and p.duration > 1e-3
    ]  # espeak-ng sometimes gives a phone of zero length
    if not inside:
        raise AudioError(f"the alignment of {alignment.text!r} has no phones in {word.label!r}")
    return inside


def _reversed(pair: WordPair) -> WordPair:
    return WordPair(pair.b, pair.a, pair.position, pair.phone_b, pair.phone_a, pair.place)


def _draw(weights: Float[np.ndarray, "state"], rng: np.random.Generator) -> int:
    return int(rng.choice(len(weights), p=weights / weights.sum()))


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -math.inf
