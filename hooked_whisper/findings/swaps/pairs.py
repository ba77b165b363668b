"""Pairs of runs for word-swap patching. They are checked and measured before anything is patched."""

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

MARGIN = 5  # positions on both sides of the word that are patched too
LEAST_GAP = 2.0  # least difference in logits between the two runs, as in the recipe
MOST_TOKENS = 24  # token limit for the transcript of one sentence


@dataclass(frozen=True, eq=False)
class Candidate:
    """Two sentences that differ in one word, and functions that load the clips.

    Attributes:
        place: where in the syllable the words differ: onset, vowel or coda.
        index: index of the word in the sentence.
        load: returns the clip with A (clean) and the clip with B (corrupt).
        load_thirds: yields the same pair with a third word in place of B, the most similar word first.
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
    """A pair of runs up to the token that predicts the word.

    Attributes:
        clean_out, corrupt_out: encoder outputs.
        word: time of the word in the clip (seconds).
        n_positions: number of encoder positions that the clip fills.
        gap: metric of the clean run minus metric of the corrupt run.
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
        """Return the clean and the corrupt run, both starting from the encoder's output."""
        return RunInputs(self.tokens, encoder_out=self.clean_out), RunInputs(self.tokens, encoder_out=self.corrupt_out)

    def word_span(self, model: HookedWhisper) -> Positions:
        """Return the word's positions with the margin, within the window."""
        return interval_spans([self.word], model.time, MARGIN)[0]

    def wrong_span(self, model: HookedWhisper) -> Positions | None:
        """Return the same number of positions at the clip's farther end, or ``None`` if they overlap the word's."""
        word = self.word_span(model)
        size = word.stop - word.start
        left = read_positions((0, size), label="wrong")
        right = read_positions((max(0, self.n_positions - size), self.n_positions), label="wrong")
        far = left if word.start > self.n_positions - word.stop else right
        return None if far.start < word.stop and word.start < far.stop else far


@dataclass(frozen=True, eq=False)
class PreparedPairs:
    """Accepted pairs, and the numbers of pairs that were tried and accepted, by place of the difference."""

    pairs: tuple[SwapPair, ...]
    tried: Counter[str]
    accepted: Counter[str]


def with_lead(pair: Corruption) -> Corruption:
    """Prepend half a second of silence to both clips."""
    lead = np.zeros(round(LEAD * 16_000), np.float32)
    clean, corrupt = (np.concatenate([lead, audio]) for audio in (pair.clean, pair.corrupt))
    return replace(pair, clean=clean, corrupt=corrupt, spans=tuple(s.shifted(LEAD) for s in pair.spans))


def synthetic_candidates(synthetic: SyntheticCorpus, n: int, seed: int) -> list[Candidate]:
    """Return pairs of the synthetic corpus, spoken by the held-out speakers of espeak-ng.

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
def prepare(
    context: Context, model: HookedWhisper, candidates: Sequence[Candidate], most: int, label: str
) -> PreparedPairs:
    """Return at most ``most`` pairs for which the model writes A for the clean clip and B for the corrupt clip, with a
    gap of :data:`LEAST_GAP` or more.

    This is step 1 of the recipe. The corrupt clips are transcribed first; if the model does not write B, the clean clip
    is not encoded. The progress bar is called ``label``.
    """
    pairs: list[SwapPair] = []
    tried: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    transcriber = Transcriber(model, "en", MOST_TOKENS)
    prompt = transcriber.prompt()
    for start in context.track(range(0, len(candidates), ENCODER_BATCH), label):
        batch = candidates[start : start + ENCODER_BATCH]
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
                return PreparedPairs(tuple(pairs), tried, accepted)
            tried[candidate.place] += 1
            if k not in of_clean:
                continue
            encoded = torch.cat([of_clean[k], corrupt[k : k + 1]])
            pair = _runs(model, prompt, candidate, sounds[k], mels[k], encoded)
            if pair.gap >= LEAST_GAP:
                accepted[candidate.place] += 1
                pairs.append(pair)
    return PreparedPairs(tuple(pairs), tried, accepted)


def _heard(texts: Iterable[str], candidates: Sequence[Candidate]) -> list[str]:
    """Return the word of each transcript at the index of the swapped word, or ``""`` if the transcript is too short."""
    return [(text.split()[c.index :] or [""])[0] for text, c in zip(texts, candidates, strict=True)]


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
    """Return the encoder output of each pair's clip with a third word in the slot, or ``None`` if no word fits."""
    outputs: list[Tensor | None] = []
    for start in range(0, len(pairs), ENCODER_BATCH):
        sounds = [next(pair.candidate.load_thirds(), None) for pair in pairs[start : start + ENCODER_BATCH]]
        mels = [sound.mels(model)[1] for sound in sounds if sound is not None]
        encoded = iter(model.embed_audio(torch.cat(mels)).split(1) if mels else ())
        outputs += [None if sound is None else next(encoded) for sound in sounds]
    return outputs
