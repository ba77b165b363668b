"""Words to change: a consonant of a correctly transcribed word, and the word that another consonant would give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from benchmarks.feature_steering.phone_latents import NAMES
from hooked_whisper import HookedWhisper
from hooked_whisper.corpora import cmu_dictionary
from hooked_whisper.interventions.forced_text import Times, words_of_tokens
from hooked_whisper.protocols import SILENCE, Alignment, Interval
from hooked_whisper.text.wer import bare_word

Phones = tuple[str, ...]
_BY_RARITY = "JH CH TH Y SH G NG HH B P V F W M DH K Z L R S D N T"
CONSONANTS = tuple(_BY_RARITY.split(" "))
"""Those of the CMU dictionary, rare ones first, without ZH, which is SH in TIMIT's folding."""
LEAST_PHONES = 3  # shorter words are mostly decided by their neighbors


@dataclass(frozen=True)
class Case:
    """A word with a phone to erase, and the phone to push instead.

    word, foil: single tokens that differ in ``phone`` and ``other``.
    written: index of the word in the transcript. token: index of its token in the transcript's tokens.
    start, stop: encoder positions of the phone. away: first position of an equally long span for the control.
    """

    clip: str
    speaker: str
    word: str
    foil: str
    phone: str
    other: str
    written: int
    token: int
    foil_token: int
    start: int
    stop: int
    away: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Neighbors:
    """Words of one token by their pronunciations."""

    model: HookedWhisper

    @cached_property
    def tokens(self) -> Mapping[str, int]:
        """Token of each lower-case word that is one token after a space."""
        tokenizer = self.model.tokenizer
        texts = ((tokenizer.decode([token]), token) for token in range(tokenizer.eot))
        return {text[1:]: token for text, token in texts if text[:1] == " " and text[1:].isalpha() and text.islower()}

    @cached_property
    def spelled(self) -> Mapping[Phones, tuple[str, ...]]:
        """Words by pronunciation."""
        words: dict[Phones, tuple[str, ...]] = {}
        for word, pronunciations in cmu_dictionary().words.items():
            if word in self.tokens:
                for phones in pronunciations:
                    words[phones] = (*words.get(phones, ()), word)
        return words

    def foils(self, word: str, phone: str) -> list[tuple[str, str]]:
        """Return the other consonants and words that replacing the only ``phone`` of a word gives."""
        pronunciations = cmu_dictionary().words.get(word, ())
        foils = []
        for phones in pronunciations[:1]:
            if phones.count(phone) != 1 or len(phones) < LEAST_PHONES:
                continue
            k = phones.index(phone)
            for other in CONSONANTS:
                changed = (*phones[:k], other, *phones[k + 1 :])
                if other != phone and changed not in pronunciations:
                    foils += [(other, foil) for foil in self.spelled.get(changed, ())]
        return foils


def cases_of_clip(
    model: HookedWhisper,
    neighbors: Neighbors,
    alignment: Alignment,
    text: str,
    ids: Sequence[int],
    times: Times,
    logprobs: Float[Tensor, "token vocab"],
    most: int,
    margin: int,
) -> list[Case]:
    """Return at most ``most`` cases of one clip, in words with rare consonants first.

    Args:
        text, ids, times: of the transcript, see :func:`hooked_whisper.interventions.clean_transcripts`.
        logprobs: next-token log-probabilities at each text token; the most probable foil is taken.
    """
    by_start = {word.start: word for word in alignment.words}
    first_token = {word: k for k, word in reversed(list(enumerate(words_of_tokens(model, ids))))}
    candidates: list[tuple[int, float, Case]] = []
    for written, (word, time) in enumerate(zip(text.split(), times, strict=True)):
        spoken = None if time is None else by_start.get(time[0])
        name, token = bare_word(word), first_token.get(written)
        if spoken is None or token is None or bare_word(spoken.label) != name:
            continue
        if ids[token] != neighbors.tokens.get(name):  # capital letters, or several tokens
            continue
        for phone, interval in _single_consonants(alignment, spoken):
            foils = neighbors.foils(name, phone)
            if not foils:
                continue
            scored = [(float(logprobs[token, neighbors.tokens[foil]]), other, foil) for other, foil in foils]
            score, other, foil = max(scored)
            start, stop = _positions(model, alignment, interval, margin)
            away = _away(model, alignment, (phone, other), spoken, stop - start, margin)
            if away is None:
                continue
            case = Case(
                alignment.utterance,
                alignment.speaker,
                name,
                foil,
                phone,
                other,
                written,
                token,
                neighbors.tokens[foil],
                start,
                stop,
                away,
            )
            candidates.append((CONSONANTS.index(phone), -score, case))
    cases: dict[str, Case] = {}
    for _, _, case in sorted(candidates, key=lambda candidate: candidate[:2]):
        cases.setdefault(case.word, case)
    return list(cases.values())[:most]


def _single_consonants(alignment: Alignment, word: Interval) -> Iterator[tuple[str, Interval]]:
    """The consonants that occur once in a word, by the alignment."""
    phones = [p for p in alignment.phones if word.start <= (p.start + p.end) / 2 < word.end]
    labels = [p.label for p in phones]
    for interval in phones:
        if interval.label in CONSONANTS and labels.count(interval.label) == 1:
            yield interval.label, interval


def _positions(model: HookedWhisper, alignment: Alignment, interval: Interval, margin: int) -> tuple[int, int]:
    n = model.time.n_positions(alignment.duration)
    start, stop = model.time.position(interval.start), model.time.position(interval.end)
    return max(0, start - margin), min(n, max(stop, start + 1) + margin)


def _away(
    model: HookedWhisper, alignment: Alignment, phones: tuple[str, str], word: Interval, length: int, margin: int
) -> int | None:
    """Return the first position of the nearest span of speech outside the word, without either phone."""
    n = model.time.n_positions(alignment.duration)
    blocked = np.zeros(n, dtype=bool)
    near = [word, *(p for p in alignment.phones if p.label in (*phones, SILENCE) or p.label not in NAMES)]
    for interval in near:
        start, stop = _positions(model, alignment, interval, margin if interval.label in phones else 0)
        blocked[start:stop] = True
    free = np.lib.stride_tricks.sliding_window_view(blocked, length).sum(1) if n >= length else np.zeros(0)
    if not len(free) or free.min() > 0:
        return None
    starts = np.flatnonzero(free == 0)
    center = model.time.position(word.start)
    return int(starts[np.abs(starts - center).argmin()])
