"""F15: the fragments of audio that raise a word's logit most. Is the word in them?

Source: ``token_to_segments.py`` of github.com/er537/whisper_interpretability, which read the decoder's output before
its final norm; here it is read after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from hooked_whisper.errors import AudioError
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.figures import BLUE, alt_text, draw_controls, new_figure
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Measurement, Table
from hooked_whisper.findings.words import spoken_fragments
from hooked_whisper.findings.words.ranks import LEAST, TOP, Ranked, rank
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ID, TITLE = "F15", "Audio fragments that raise a word"
CLAIM = "The half-second fragments of audio that raise a word's logit most are those that contain the word."
PROTOCOL = spoken_fragments.PROTOCOL
SYNTHETIC_PROTOCOL = (
    "Utterances are cut into fragments of 0.5 s, one after the other; each is padded with silence to a full window, "
    "encoded and decoded greedily for 5 tokens (prompt without timestamps). A word's score in a fragment is its "
    "largest logit at these 5 tokens. A fragment contains a word if at least half of the word's time lies in it. "
    "Words that at least 3 fragments contain are ranked; precision is the share that contain it of its top k "
    "fragments, with k = 10 or as many as contain it, if they are fewer; mean over words. Intervals: 95 %, bootstrap "
    "over words. Controls: fragments' labels shuffled; a model with random weights, on every fourth fragment."
)
SECONDS, TOKENS = 0.5, 5
MOST = 240
TWIN_STEP = 4  # the untrained model gets one fragment in four
ENOUGH_WORDS, ENOUGH_FRAGMENTS = 10, 100

PRECISION = "precision of a word's top fragments"
SAID = Table(
    "Published",
    "code alone (token_to_segments.py)",
    ("words", "fragments", "result"),
    (("' the', ' I', ' in' and others", "0.5 s of LibriSpeech, first 5 tokens", "none given"),),
)


@dataclass(frozen=True)
class Fragment:
    """Where a fragment is from: utterance, and first sample."""

    utterance: int
    start: int


def fragments_of(context: Context) -> list[Fragment]:
    """Whole fragments of every utterance; if there are too many, as many drawn at random, in order."""
    length = round(SECONDS * context.model.time.sample_rate)
    found = [
        Fragment(i, start)
        for i, u in enumerate(context.utterances)
        for start in range(0, len(u.samples) - length + 1, length)
    ]
    if len(found) > MOST:
        kept = np.sort(context.rng("F15 fragments").permutation(len(found))[:MOST])
        found = [found[k] for k in kept.tolist()]
    return found


def contains(words: Sequence[Interval], start: float | int, end: float | int) -> set[str]:
    """Labels of the words of which at least half lies in ``[start, end)`` seconds."""
    return {
        w.label for w in words if w.duration > 0 and min(w.end, end) - max(w.start, start) >= 0.5 * w.duration - 1e-9
    }


def labels_of(
    context: Context, fragments: Sequence[Fragment], words: Sequence[str]
) -> Bool[np.ndarray, "fragment word"]:
    rate = context.model.time.sample_rate
    held = [
        contains(context.utterances[f.utterance].alignment.words, f.start / rate, f.start / rate + SECONDS)
        for f in fragments
    ]
    return np.array([[w in some for w in words] for some in held], dtype=bool).reshape(len(fragments), len(words))


@torch.no_grad()
def score(
    context: Context, model: HookedWhisper, fragments: Sequence[Fragment], tokens: Sequence[int]
) -> Float[np.ndarray, "fragment word"]:
    """Largest logit of each word's token at the first five tokens of greedy decoding."""
    length = round(SECONDS * model.time.sample_rate)
    prompt = context.transcriber(model).prompt()
    ids = torch.tensor(list(tokens), device=model.device)
    scores = []
    for batch in context.track(context.batches(range(len(fragments))), "F15 fragments"):
        cut = [fragments[k] for k in batch]
        audio = [context.utterances[f.utterance].samples[f.start : f.start + length] for f in cut]
        encoded = model.embed_audio(model.to_mel(audio))
        written = model.generate(prompt.expand(len(batch), -1), encoded, max_new_tokens=TOKENS, eot=model.tokenizer.eot)
        # what predicts a token stands before it: from the prompt's last token on
        logits = model.logits(written[:, :-1], encoded)[:, prompt.shape[1] - 1 :]
        scores.append(logits[..., ids].amax(1).float().cpu().numpy())
    return np.concatenate(scores)


def run(context: Context) -> Finding:
    """Encodes every fragment in a full window: a few hundred encoder passes."""
    truth = context.truth
    if truth is None:
        try:
            return spoken_fragments.run(context, {"id": ID, "title": TITLE, "claim": CLAIM, "published": (SAID,)})
        except AudioError as error:
            return _finding(context, reason=f"fragments of speech need the packaged speech ({error})")
    fragments = fragments_of(context) if any(u.alignment.words for u in context.utterances) else []
    if not fragments:
        return _finding(context, reason="no clip of half a second has words with their times: pass --alignments")
    words, tokens = truth.words, truth.tokens.tolist()
    labels = labels_of(context, fragments, words)
    scores = score(context, context.model, fragments, tokens)
    ours = rank(scores, labels, words)
    shuffled = rank(scores, labels[context.rng("F15 shuffle").permutation(len(labels))], words)
    blank = rank(score(context, context.untrained, fragments[::TWIN_STEP], tokens), labels[::TWIN_STEP], words)
    return _finding(context, fragments, ours, shuffled, blank)


def _finding(
    context: Context,
    fragments: Sequence[Fragment] = (),
    ours: Ranked | None = None,
    shuffled: Ranked | None = None,
    blank: Ranked | None = None,
    reason: str = "",
) -> Finding:
    common: dict[str, Any] = {
        **context.common(ID, TITLE, CLAIM, SYNTHETIC_PROTOCOL),
        "published": (SAID,),
        "published_summary": "code without a result",
        "parameters": {
            "seconds": SECONDS,
            "tokens": TOKENS,
            "top": TOP,
            "least_fragments_of_a_word": LEAST,
            "most_fragments": MOST,
            "prompt_ids": context.transcriber().prompt()[0].tolist(),
        },
    }
    if ours is None or shuffled is None or blank is None:
        return Finding(**common, reason_untestable=reason)
    rng = context.rng("F15 bootstrap")
    criteria = (
        Criterion(PRECISION, ours.estimate(rng), 0.9, "at least"),
        Criterion("words in 3 fragments or more", Estimate(len(ours.words)), ENOUGH_WORDS, "at least", role="gate"),
        Criterion("fragments", Estimate(len(fragments)), ENOUGH_FRAGMENTS, "at least", role="gate"),
    )
    controls = (
        Control("shuffled labels", "each fragment with the words of another", {PRECISION: shuffled.estimate(rng)}),
        Control("untrained model", "random weights, every fourth fragment", {PRECISION: blank.estimate(rng)}),
    )
    many = ours.counts >= TOP
    ten = float(ours.precision[many].mean()) if many.any() else float("nan")
    return Finding(
        **common,
        criteria=criteria,
        controls=controls,
        measurements=(
            Measurement(
                "precision by word",
                (Axis("word", ours.words), Axis("value", ("precision", "fragments that contain it"))),
                np.stack([ours.precision, ours.counts], 1),
            ),
        ),
        notes=(
            f"{len(fragments)} fragments; {len(ours.words)} words are in {LEAST} or more of them, {int(many.sum())} in "
            f"{TOP} or more (mean precision at {TOP} of these: {ten:.2f}).",
            "A word that is in fewer than ten fragments is ranked by as many as contain it: precision at 10 could not "
            "reach 1. This asks for all of its fragments, which is harder than for ten of many.",
            "Fragments begin and end anywhere: neighbours' halves are in them, and words longer than the fragment fit "
            "in none.",
        ),
    )


def draw(finding: Finding) -> list[Figure]:
    """The mean beside its controls; every word by how often it is said."""
    if not finding.measurements:
        return []
    table = finding.measurement("precision by word")
    figure, axes = new_figure("Precision by word", "fragments that contain the word", "share of its top fragments")
    counts, precision = table.at(value="fragments that contain it"), table.at(value="precision")
    axes.scatter(counts, precision, color=BLUE, alpha=0.5, s=24)
    axes.set_ylim(-0.03, 1.03)
    figure.set_label(alt_text("Precision by word", precision, [str(w) for w in table.axes[0].entries], "", 1.0))
    return [draw_controls(finding, 0, "precision"), figure]
