"""The pairs of runs that word-swap patching compares: made, checked, and measured before anything is patched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.findings.context import ENCODER_BATCH, Context
from hooked_whisper.findings.sources import LEAD
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions import Inputs, LogitDifference, Span, first_difference, read_metric
from hooked_whisper.interventions.corruptions.record import Corruption
from hooked_whisper.interventions.sites import interval_spans
from hooked_whisper.protocols import Interval
from hooked_whisper.speech.pairs import SpokenPair, third_words
from hooked_whisper.speech.world import SpokenWorld

MARGIN = 5  # positions to both sides of the word that are patched with it
LEAST_GAP = 2.0  # logits between the two runs, as the recipe asks


@dataclass(frozen=True, eq=False)
class SwapPair:
    """A pair of runs up to the token that predicts the word; ``gap`` is the metric of clean minus corrupt.

    word: the word's time in the clip (seconds). n_positions: encoder positions that the clip fills.
    """

    spoken: SpokenPair
    clean: Inputs
    corrupt: Inputs
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
        return f"{self.spoken.a}/{self.spoken.b} ({self.spoken.speaker})"

    def decoder_side(self) -> tuple[Inputs, Inputs]:
        """Clean and corrupt run from the encoder's output on: nothing is encoded again."""
        return Inputs(self.tokens, encoder_out=self.clean_out), Inputs(self.tokens, encoder_out=self.corrupt_out)

    def word_span(self, model: HookedWhisper) -> Span:
        """The word's positions and the margin, inside the window."""
        return interval_spans([self.word], model.time, MARGIN)[0]

    def wrong_span(self, model: HookedWhisper) -> Span | None:
        """As many positions at the clip's farther end; ``None`` if that reaches into the word's."""
        own = self.word_span(model)
        size = own.stop - own.start
        left, right = Span("wrong", 0, size), Span("wrong", max(0, self.n_positions - size), self.n_positions)
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


def candidates(world: SpokenWorld, n: int, seed: int) -> list[SpokenPair]:
    """Spoken pairs by held-out speakers of espeak-ng.

    Raises:
        RuntimeError, OSError, ImportError: there is no synthesiser.
    """
    return world.minimal_pairs(n, seed=seed)


@torch.no_grad()
def prepare(context: Context, model: HookedWhisper, spoken: Sequence[SpokenPair], most: int, what: str) -> Prepared:
    """Step 1 of the recipe: keep pairs whose clean clip is written with A, the corrupt one with B, with a gap."""
    found: list[SwapPair] = []
    tried: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    transcriber = replace(context.transcriber(model), max_new_tokens=24)
    half = ENCODER_BATCH // 2
    for at in context.track(range(0, len(spoken), half), what):
        some = spoken[at : at + half]
        sound = [with_lead(one.corruption()) for one in some]
        mels = [pair.mels(model) for pair in sound]
        encoded = model.embed_audio(torch.cat([mel for both in mels for mel in both]))
        texts = transcriber(encoded)
        for k, one in enumerate(some):
            if len(found) == most:
                return Prepared(tuple(found), tried, kept)
            tried[one.place] += 1
            heard = [_word(text, one.index) for text in texts[2 * k : 2 * k + 2]]
            if heard != [one.a, one.b]:
                continue
            made = _runs(model, transcriber.prompt(), one, sound[k], mels[k], encoded[2 * k : 2 * k + 2])
            if made.gap >= LEAST_GAP:
                kept[one.place] += 1
                found.append(made)
    return Prepared(tuple(found), tried, kept)


def _word(text: str, index: int) -> str:
    words = text.split()
    return words[index] if index < len(words) else ""


def _runs(
    model: HookedWhisper,
    prompt: Int[Tensor, "1 token"],
    one: SpokenPair,
    sound: Corruption,
    mels: tuple[Tensor, Tensor],
    encoded: Float[Tensor, "two position d_model"],
) -> SwapPair:
    a, b = (
        torch.cat([prompt[0], model.to_tokens(f" {text}", prompt=False)[0].to(prompt)])
        for text in (one.text_a, one.text_b)
    )
    metric = first_difference(a, b)
    tokens = a[None, : metric.index + 1].to(model.device)
    hidden = model.decoder.hidden(tokens.expand(2, -1), encoded)
    values = read_metric(model, hidden, metric)
    return SwapPair(
        one,
        Inputs(tokens, mel=mels[0]),
        Inputs(tokens, mel=mels[1]),
        encoded[:1],
        encoded[1:],
        metric,
        sound.spans[0],
        model.time.n_positions(len(sound.clean) / 16_000),
        float(values[0] - values[1]),
    )


@torch.no_grad()
def third_output(
    model: HookedWhisper, world: SpokenWorld, pair: SwapPair
) -> Float[Tensor, "1 position d_model"] | None:
    """Encoder output of the same clip with a third word in the slot; ``None`` if no word fits it."""
    for word in third_words(pair.spoken, world.grammar, world.sounds)[:3]:
        try:
            sound = with_lead(pair.spoken.with_word(word))
            return model.embed_audio(sound.mels(model)[1])
        except (HookedWhisperError, ValueError):
            continue
    return None
