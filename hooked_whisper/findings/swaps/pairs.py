"""The pairs of runs that word-swap patching compares: made, checked, and measured before anything is patched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.findings.core.context import ENCODER_BATCH, Context
from hooked_whisper.findings.core.sources import LEAD
from hooked_whisper.findings.core.transcripts import Transcriber
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.patching import (
    LogitDifference,
    Positions,
    RunInputs,
    first_difference,
    interval_spans,
    read_metric,
    read_positions,
)
from hooked_whisper.patching.corruptions.record import Corruption
from hooked_whisper.protocols import Interval
from hooked_whisper.synthetic.pairs import SpokenPair, third_words
from hooked_whisper.synthetic.synthetic_corpus import SyntheticCorpus

MARGIN = 5  # positions to both sides of the word that are patched with it
LEAST_GAP = 2.0  # logits between the two runs, as the recipe asks
MOST_TOKENS = 24  # of the transcript of one sentence


@dataclass(frozen=True, eq=False)
class Candidate:
    """Two sentences that differ in one word, and functions that make the sound when it is needed.

    Attributes:
        place: of the phone in which the words differ: onset, vowel, coda.
        index: number of the word in the sentence.
        load: returns the clip with A (clean) and with B (corrupt).
        load_thirds: yields the same pair with a third word in place of B, the best one first.
    """

    a: str
    b: str
    speaker: str
    place: str
    index: int
    text_a: str
    text_b: str
    load: Callable[[], Corruption]
    load_thirds: Callable[[], Iterator[Corruption]]


@dataclass(frozen=True, eq=False)
class SwapPair:
    """A pair of runs up to the token that predicts the word; ``gap`` is the metric of clean minus corrupt.

    word: the word's time in the clip (seconds). n_positions: encoder positions that the clip fills.
    """

    candidate: Candidate
    clean: RunInputs
    corrupt: RunInputs
    clean_out: Float[Tensor, "1 position d_model"]
    corrupt_out: Float[Tensor, "1 position d_model"]
    metric: LogitDifference
    word: Interval
    n_positions: int
    gap: float

    @property
    def tokens(self) -> Int[Tensor, "1 token"]:
        return self.clean.tokens

    @property
    def label(self) -> str:
        return f"{self.candidate.a}/{self.candidate.b} ({self.candidate.speaker})"

    def decoder_side(self) -> tuple[RunInputs, RunInputs]:
        """Clean and corrupt run from the encoder's output on: nothing is encoded again."""
        return RunInputs(self.tokens, encoder_out=self.clean_out), RunInputs(self.tokens, encoder_out=self.corrupt_out)

    def word_span(self, model: HookedWhisper) -> Positions:
        """The word's positions and the margin, inside the window."""
        return interval_spans([self.word], model.time, MARGIN)[0]

    def wrong_span(self, model: HookedWhisper) -> Positions | None:
        """As many positions at the clip's farther end; ``None`` if that reaches into the word's."""
        own = self.word_span(model)
        size = own.stop - own.start
        left = read_positions((0, size), label="wrong")
        right = read_positions((max(0, self.n_positions - size), self.n_positions), label="wrong")
        far = left if own.start > self.n_positions - own.stop else right
        return None if far.start < own.stop and own.start < far.stop else far


@dataclass(frozen=True, eq=False)
class Prepared:
    """Pairs that may be patched, and how many were tried and kept by place of the contrast."""

    pairs: tuple[SwapPair, ...]
    tried: Counter[str]
    kept: Counter[str]


def with_lead(pair: Corruption) -> Corruption:
    """The same pair behind half a second of silence."""
    lead = np.zeros(round(LEAD * 16_000), np.float32)
    clean, corrupt = (np.concatenate([lead, audio]) for audio in (pair.clean, pair.corrupt))
    return replace(pair, clean=clean, corrupt=corrupt, spans=tuple(s.shifted(LEAD) for s in pair.spans))


def candidates(synthetic: SyntheticCorpus, n: int, seed: int) -> list[Candidate]:
    """Pairs of the synthetic corpus, by held-out speakers of espeak-ng.

    Raises:
        RuntimeError, OSError, ImportError: there is no synthesizer.
    """
    return [
        Candidate(
            pair.a,
            pair.b,
            pair.speaker,
            pair.place,
            pair.index,
            pair.text_a,
            pair.text_b,
            partial(_spoken, pair),
            partial(_spoken_thirds, synthetic, pair),
        )
        for pair in synthetic.minimal_pairs(n, seed=seed)
    ]


def _spoken(pair: SpokenPair) -> Corruption:
    return with_lead(pair.corruption())


def _spoken_thirds(synthetic: SyntheticCorpus, pair: SpokenPair) -> Iterator[Corruption]:
    for word in third_words(pair, synthetic.grammar, synthetic.sounds)[:3]:
        try:
            yield with_lead(pair.with_word(word))
        except (HookedWhisperError, ValueError):  # too long or too short for the slot
            continue


@torch.no_grad()
def prepare(context: Context, model: HookedWhisper, some: Sequence[Candidate], most: int, what: str) -> Prepared:
    """Step 1 of the recipe: keep pairs whose clean clip is written with A, the corrupt one with B, with a gap.

    The spliced clips (B) are read first: where one is not written with B, the clean clip is not encoded.
    """
    pairs: list[SwapPair] = []
    tried: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    transcriber = Transcriber(model, "en", MOST_TOKENS)
    prompt = transcriber.prompt()
    for start in context.track(range(0, len(some), ENCODER_BATCH), what):
        batch = some[start : start + ENCODER_BATCH]
        sounds = [candidate.load() for candidate in batch]
        mels = [sound.mels(model) for sound in sounds]
        corrupt = model.embed_audio(torch.cat([mel for _, mel in mels]))
        heard = _heard(transcriber(corrupt), batch)
        right = [k for k, candidate in enumerate(batch) if heard[k] == candidate.b]
        if right:
            clean = model.embed_audio(torch.cat([mels[k][0] for k in right]))
            heard = _heard(transcriber(clean), [batch[k] for k in right])
            of_clean = {k: clean[n : n + 1] for n, k in enumerate(right) if heard[n] == batch[k].a}
        else:
            of_clean = {}
        for k, candidate in enumerate(batch):
            if len(pairs) == most:
                return Prepared(tuple(pairs), tried, kept)
            tried[candidate.place] += 1
            if k not in of_clean:
                continue
            encoded = torch.cat([of_clean[k], corrupt[k : k + 1]])
            pair = _runs(model, prompt, candidate, sounds[k], mels[k], encoded)
            if pair.gap >= LEAST_GAP:
                kept[candidate.place] += 1
                pairs.append(pair)
    return Prepared(tuple(pairs), tried, kept)


def _heard(texts: Iterable[str], some: Sequence[Candidate]) -> list[str]:
    """The word that each transcript has in the place of the swapped word; empty if it is too short."""
    return [(text.split()[c.index :] or [""])[0] for text, c in zip(texts, some, strict=True)]


def _runs(
    model: HookedWhisper,
    prompt: Int[Tensor, "1 token"],
    candidate: Candidate,
    sound: Corruption,
    mels: tuple[Tensor, Tensor],
    encoded: Float[Tensor, "two position d_model"],
) -> SwapPair:
    a, b = (
        torch.cat([prompt[0], model.to_tokens(f" {text}", prompt=False)[0].to(prompt)])
        for text in (candidate.text_a, candidate.text_b)
    )
    metric = first_difference(a, b)
    tokens = a[None, : metric.index + 1].to(model.device)
    hidden = model.decoder.hidden(tokens.expand(2, -1), encoded)
    values = read_metric(model, hidden, metric)
    return SwapPair(
        candidate,
        RunInputs(tokens, mel=mels[0]),
        RunInputs(tokens, mel=mels[1]),
        encoded[:1],
        encoded[1:],
        metric,
        sound.spans[0],
        model.time.n_positions(len(sound.clean) / 16_000),
        float(values[0] - values[1]),
    )


@torch.no_grad()
def third_outputs(model: HookedWhisper, pairs: Sequence[SwapPair]) -> list[Float[Tensor, "1 position d_model"] | None]:
    """Encoder output of each pair's clip with a third word in the slot; ``None`` where no word fits it."""
    outputs: list[Tensor | None] = []
    for start in range(0, len(pairs), ENCODER_BATCH):
        sounds = [next(pair.candidate.load_thirds(), None) for pair in pairs[start : start + ENCODER_BATCH]]
        mels = [sound.mels(model)[1] for sound in sounds if sound is not None]
        encoded = iter(model.embed_audio(torch.cat(mels)).split(1) if mels else ())
        outputs += [None if sound is None else next(encoded) for sound in sounds]
    return outputs
