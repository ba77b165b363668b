"""F15: do the fragments of audio with the highest logit for a word contain the word?

This module tests the synthetic corpus; :mod:`.words.spoken_fragments` is the version for released models.

Source: ``token_to_segments.py`` of github.com/er537/whisper_interpretability, which reads the decoder's output before
its final norm. Here it is read after the norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting, Untestable
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Measurement
from hooked_whisper.findings.core.two_protocols import TwoProtocols
from hooked_whisper.findings.words.ranks import LEAST, TOP, RankedWords, draw_precision, rank
from hooked_whisper.findings.words.spoken_fragments import SpokenFragments
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SECONDS, TOKENS = 0.5, 5
MOST = 240
UNTRAINED_STEP = 4  # the untrained model is tested on every fourth fragment
ENOUGH_WORDS, ENOUGH_FRAGMENTS = 10, 100

PRECISION = "precision of a word's top fragments"


@dataclass(frozen=True)
class Fragment:
    """A fragment of an utterance. ``start`` is the index of its first sample."""

    utterance: int
    start: int


def fragments_of(context: Context) -> list[Fragment]:
    """Return the consecutive fragments of every utterance. If there are more than :data:`MOST`, return a random sample
    in their order."""
    length = round(SECONDS * context.model.time.sample_rate)
    fragments = [
        Fragment(i, start)
        for i, u in enumerate(context.utterances)
        for start in range(0, len(u.samples) - length + 1, length)
    ]
    if len(fragments) > MOST:
        sample = np.sort(context.rng("F15 fragments").permutation(len(fragments))[:MOST])
        fragments = [fragments[k] for k in sample.tolist()]
    return fragments


def contains(words: Sequence[Interval], start: float | int, end: float | int) -> set[str]:
    """Return the labels of the words that lie at least half within ``[start, end)`` seconds."""
    return {
        w.label for w in words if w.duration > 0 and min(w.end, end) - max(w.start, start) >= 0.5 * w.duration - 1e-9
    }


def labels_of(
    context: Context, fragments: Sequence[Fragment], words: Sequence[str]
) -> Bool[np.ndarray, "fragment word"]:
    """Return whether each fragment contains each word."""
    rate = context.model.time.sample_rate
    contents = [
        contains(context.utterances[f.utterance].alignment.words, f.start / rate, f.start / rate + SECONDS)
        for f in fragments
    ]
    labels = np.array([[word in content for word in words] for content in contents], dtype=bool)
    return labels.reshape(len(fragments), len(words))


@torch.no_grad()
def score(
    context: Context, model: HookedWhisper, fragments: Sequence[Fragment], tokens: Sequence[int]
) -> Float[np.ndarray, "fragment word"]:
    """Return the largest logit of each word's token over the first five tokens of greedy decoding."""
    length = round(SECONDS * model.time.sample_rate)
    prompt = context.transcriber(model).prompt()
    ids = torch.tensor(list(tokens), device=model.device)
    scores = []
    for batch in context.track(context.batches(range(len(fragments))), "F15 fragments"):
        cut = [fragments[k] for k in batch]
        audio = [context.utterances[f.utterance].samples[f.start : f.start + length] for f in cut]
        encoded = model.embed_audio(model.to_mel(audio))
        written = model.generate(prompt.expand(len(batch), -1), encoded, max_new_tokens=TOKENS, eot=model.tokenizer.eot)
        # The logits that predict a token are at the token before it, so they begin at the prompt's last token.
        logits = model.logits(written[:, :-1], encoded)[:, prompt.shape[1] - 1 :]
        scores.append(logits[..., ids].amax(1).float().cpu().numpy())
    return np.concatenate(scores)


@dataclass(frozen=True, eq=False)
class FragmentScores:
    """Scores of every word in every fragment, and whether the fragment contains the word.

    untrained: scores of the untrained model, for every fourth fragment.
    """

    words: tuple[str, ...]
    labels: Bool[np.ndarray, "fragment word"]
    scores: Float[np.ndarray, "fragment word"]
    untrained: Float[np.ndarray, "quarter word"]


class SyntheticFragments(Experiment[FragmentScores]):
    """F15 on the synthetic corpus, with half-second fragments of utterances whose word times are known."""

    id, title, claim = SpokenFragments.id, SpokenFragments.title, SpokenFragments.claim
    protocol = (
        "Utterances are cut into consecutive fragments of 0.5 s. Each fragment is padded with silence to a full "
        "window, encoded and decoded greedily for 5 tokens (prompt without timestamps). The score of a word in a "
        "fragment is its largest logit at these 5 tokens. A fragment contains a word if at least half of the word's "
        "time lies in it. For each word that at least 3 fragments contain, fragments are ranked by score; precision "
        "is the share of the top k fragments that contain the word, with k = 10 or the number of fragments that "
        "contain it, if that is smaller. Reported is the mean over words. Intervals: 95 %, bootstrap over words. "
        "Controls: shuffled labels of fragments; a model with random weights, on every fourth fragment."
    )
    own_speech = True
    published, published_summary = SpokenFragments.published, SpokenFragments.published_summary

    def parameters(self, context: Context) -> dict[str, Any]:
        return {
            "seconds": SECONDS,
            "tokens": TOKENS,
            "top": TOP,
            "least_fragments_of_a_word": LEAST,
            "most_fragments": MOST,
            "prompt_ids": context.transcriber().prompt()[0].tolist(),
        }

    def measure(self, context: Context) -> FragmentScores:
        """Encode every fragment in a full window, which takes a few hundred encoder passes."""
        truth = context.truth
        assert truth is not None
        fragments = fragments_of(context) if any(u.alignment.words for u in context.utterances) else []
        if not fragments:
            raise Untestable("no clip of half a second or more has word times: pass --alignments")
        tokens = truth.tokens.tolist()
        return FragmentScores(
            truth.words,
            labels_of(context, fragments, truth.words),
            score(context, context.model, fragments, tokens),
            score(context, context.untrained, fragments[::UNTRAINED_STEP], tokens),
        )

    def judge(self, measured: FragmentScores, setting: Setting) -> Finding:
        labels, words = measured.labels, measured.words
        ranked = rank(measured.scores, labels, words)
        order = setting.rng("F15 shuffle").permutation(len(labels))
        shuffled = rank(measured.scores, labels[order], words)
        untrained = rank(measured.untrained, labels[::UNTRAINED_STEP], words)
        rng = setting.rng("F15 bootstrap")
        return self.finding(
            setting,
            criteria=(
                Criterion(PRECISION, ranked.estimate(rng), 0.9, "at least"),
                Criterion(
                    "words in 3 fragments or more", Estimate(len(ranked.words)), ENOUGH_WORDS, "at least", role="gate"
                ),
                Criterion("fragments", Estimate(len(labels)), ENOUGH_FRAGMENTS, "at least", role="gate"),
            ),
            controls=(
                Control(
                    "shuffled labels",
                    "each fragment with the words of another fragment",
                    {PRECISION: shuffled.estimate(rng)},
                ),
                Control(
                    "untrained model", "random weights, on every fourth fragment", {PRECISION: untrained.estimate(rng)}
                ),
            ),
            measurements=(
                Measurement(
                    "precision by word",
                    (Axis("word", ranked.words), Axis("value", ("precision", "fragments that contain it"))),
                    np.stack([ranked.precision, ranked.counts], 1),
                ),
            ),
            notes=_notes(ranked, len(labels)),
        )

    def draw(self, finding: Finding) -> list[Figure]:
        return draw_precision(finding)


class WordFragments(TwoProtocols):
    """F15: audio fragments with the highest logit for a word, on the synthetic corpus or on the packaged speech."""

    organism, released = SyntheticFragments(), SpokenFragments()
    released_measurement = "precision by measure"
    own_speech = True


def _notes(ranked: RankedWords, n_fragments: int) -> tuple[str, ...]:
    many = ranked.counts >= TOP
    at_top = float(ranked.precision[many].mean()) if many.any() else float("nan")
    return (
        f"{n_fragments} fragments; {len(ranked.words)} words are in {LEAST} or more of them. {int(many.sum())} words "
        f"are in {TOP} or more, with a mean precision at {TOP} of {at_top:.2f}.",
        "For a word that is in fewer than ten fragments, k is the number of these fragments, because precision at 10 "
        "could not reach 1. This is harder than finding ten of many, because all of its fragments must rank first.",
        "Fragments begin and end at any place: they contain halves of neighboring words, and a word longer than a "
        "fragment does not fit in any.",
    )
