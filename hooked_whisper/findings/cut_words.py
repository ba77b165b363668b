"""F4: words cut out of the encoder's output. Its positions over a word are replaced by those of an empty input.

Source: "chopping" in github.com/er537/whisper_interpretability, ``docs/index.md``, and its blog post, section 2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.findings import published
from hooked_whisper.findings.context import Context
from hooked_whisper.findings.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.records import Axis, Example, Measurement, Span
from hooked_whisper.findings.statistics import cluster_rate, peak_offset
from hooked_whisper.findings.transcripts import DECODER_BATCH, Outcome, word_fates
from hooked_whisper.interventions import null_encoding, replace_spans

ID, TITLE = "F4", "Words cut out of the encoder's output"
CLAIM = "Replacing the encoder's output over a word by that of an empty input deletes this word, and only this word."
PROTOCOL = (
    "Encoder output (after the final norm) over a word's positions, one more on either side, is replaced by the "
    "encoder "
    "output of 30 s of zero samples at the same positions; then greedy decoding without timestamps. Only words of "
    "clips "
    "that are transcribed without an error beforehand are scored. A word is gone if the alignment of the new "
    "transcript "
    "with the old one does not keep it: deleted (nothing in its place) or replaced (another word in its place). "
    "Intervals: 95 %, bootstrap over utterances."
)
NULL = "zero audio"
MARGIN = 1  # positions on either side of the word
OFFSETS = tuple(range(-24, 25, 3))  # positions of 20 ms
MOST_WORDS, MOST_PROFILES = 300, 80
UNTRAINED_UTTERANCES = 16
SILENCE_AFTER = 0.5  # seconds from the last word's end to the cut of the silence control
ENOUGH_WORDS = 50

GONE, DELETED = "target word gone", "target word deleted, nothing in its place"
COLLATERAL = "other words gone"
PEAK = "distance of the most effective cut from the word"


@dataclass(frozen=True)
class Target:
    """One word to cut out: its utterance, its number in the text, its positions."""

    utterance: int
    word: int
    span: slice

    @property
    def length(self) -> int:
        return self.span.stop - self.span.start

    def moved(self, positions: int) -> slice:
        return slice(self.span.start + positions, self.span.stop + positions)


def targets_of(context: Context) -> list[Target]:
    """Every word with a time, in clips that are transcribed without an error."""
    time, found = context.model.time, []
    for i, utterance in enumerate(context.utterances):
        words = utterance.alignment.words
        if context.transcripts[i] != context.references[i] or len(words) != len(context.references[i].split()):
            continue
        for number, word in enumerate(words):
            if word.duration <= 0 or word.end > time.duration:
                continue
            span = time.span(word.start, word.end, rounding="outer")
            span = slice(max(0, span.start - MARGIN), min(time.n_ctx, span.stop + MARGIN))
            found.append(Target(i, number, span))
    return found


def elsewhere(context: Context, target: Target) -> slice | None:
    """A span as long as the target's, on the middle of a word far from it; ``None`` if there is no such word."""
    time, words = context.model.time, context.utterances[target.utterance].alignment.words
    far = sorted(range(len(words)), key=lambda w: -abs(w - target.word))
    for number in far[:1]:
        middle = time.position((words[number].start + words[number].end) / 2)
        start = max(0, middle - target.length // 2)
        span = slice(start, start + target.length)
        apart = span.stop <= target.span.start or span.start >= target.span.stop
        if number != target.word and apart and span.stop <= time.n_ctx:
            return span
    return None


def silence(context: Context, target: Target) -> slice | None:
    """A span as long as the target's, in the silence behind the last word."""
    time = context.model.time
    at = context.utterances[target.utterance].alignment.words[-1].end + SILENCE_AFTER
    if at >= time.duration:
        return None
    start = time.position(at)
    return slice(start, start + target.length) if start + target.length <= time.n_ctx else None


@dataclass(frozen=True)
class Cuts:
    """Decoded cuts: which targets, and what became of their texts."""

    targets: list[Target]
    texts: list[str]
    outcomes: list[Outcome]

    def fates(self, wanted: Callable[[str], bool]) -> Float[np.ndarray, "target"]:
        """One where the target's own fate is wanted."""
        pairs = zip(self.targets, self.outcomes, strict=True)
        return np.array([float(wanted(o.fates[t.word])) for t, o in pairs])

    def others(self, wanted: Callable[[str], bool]) -> tuple[Float[np.ndarray, "target"], Float[np.ndarray, "target"]]:
        """How many of the other words have a fate, out of how many."""
        hits, counts = [], []
        for t, o in zip(self.targets, self.outcomes, strict=True):
            rest = [f for k, f in enumerate(o.fates) if k != t.word]
            hits.append(sum(map(wanted, rest)))
            counts.append(len(rest))
        return np.array(hits, dtype=float), np.array(counts, dtype=float)

    @property
    def groups(self) -> np.ndarray:
        return np.array([t.utterance for t in self.targets], dtype=int)


def cut(
    context: Context,
    targets: Sequence[Target],
    spans: Sequence[slice | None],
    null: Float[Tensor, "position d_model"],
    what: str,
) -> Cuts:
    """Decode every target's clip with its span replaced; many cuts ride one batch, nothing is encoded again."""
    transcribe = context.transcriber()
    pairs = [(t, s) for t, s in zip(targets, spans, strict=True) if s is not None and s.start >= 0]
    texts: list[str] = []
    chunks = [pairs[at : at + DECODER_BATCH] for at in range(0, len(pairs), DECODER_BATCH)]
    for chunk in context.track(chunks, what):
        rows = [replace_spans(context.encoded[t.utterance], [s], null) for t, s in chunk]
        texts += transcribe(torch.cat(rows))
    kept = [t for t, _ in pairs]
    outcomes = [word_fates(context.references[t.utterance], text) for t, text in zip(kept, texts, strict=True)]
    return Cuts(kept, texts, outcomes)


def run(context: Context) -> Finding:
    """Decodes about 900 cuts and, for the profile over offsets, up to 1,360 more."""
    if not context.utterances:
        return _finding(context, reason="no speech: pass --audio or --corpus")
    found = targets_of(context)
    share = np.mean([a == b for a, b in zip(context.transcripts, context.references, strict=True)])
    if not found:
        return _finding(context, reason="no clip with word times is transcribed without an error", share=float(share))
    rng = context.rng("targets")
    some = [found[i] for i in sorted(rng.permutation(len(found))[:MOST_WORDS])]
    null = null_encoding(context.model, NULL)[0]
    runs = {
        "word": cut(context, some, [t.span for t in some], null, "F4 word"),
        "elsewhere": cut(context, some, [elsewhere(context, t) for t in some], null, "F4 another word"),
        "silence": cut(context, some, [silence(context, t) for t in some], null, "F4 silence"),
    }
    profile = _profile(context, some, null, rng)
    return _finding(context, runs, profile, len(found), float(share))


def _profile(
    context: Context, targets: Sequence[Target], null: Tensor, rng: np.random.Generator
) -> Float[np.ndarray, "target offset"]:
    """Whether the target is gone when the cut is moved; NaN where it would leave the window. One word per utterance."""
    shuffled = [targets[i] for i in rng.permutation(len(targets))]
    chosen = list({t.utterance: t for t in shuffled}.values())[:MOST_PROFILES]
    n = context.model.cfg.encoder.n_ctx
    grid = [(row, col, t) for row, t in enumerate(chosen) for col in range(len(OFFSETS))]
    spans = [t.moved(OFFSETS[col]) for _, col, t in grid]
    inside = [s if s.start >= 0 and s.stop <= n else None for s in spans]
    done = cut(context, [t for *_, t in grid], inside, null, "F4 moved cuts")
    gone = iter(done.fates(lambda fate: fate != "kept"))
    profile = np.full((len(chosen), len(OFFSETS)), np.nan)
    for (row, col, _), span in zip(grid, inside, strict=True):
        if span is not None:
            profile[row, col] = next(gone)
    return profile


def _untrained_share(context: Context) -> float:
    some = range(min(UNTRAINED_UTTERANCES, len(context.utterances)))
    with torch.no_grad():
        texts = context.transcriber(context.untrained)(context.untrained.embed_audio(context.mels(some)))
    return float(np.mean([text == context.references[i] for i, text in zip(some, texts, strict=True)]))


def _statistics(cuts: Cuts, rng: np.random.Generator) -> dict[str, Estimate]:
    if not cuts.targets:
        return {GONE: Estimate(None), DELETED: Estimate(None), COLLATERAL: Estimate(None)}
    ones = np.ones(len(cuts.targets))
    return {
        GONE: cluster_rate(cuts.fates(lambda f: f != "kept"), ones, cuts.groups, rng),
        DELETED: cluster_rate(cuts.fates(lambda f: f == "deleted"), ones, cuts.groups, rng),
        COLLATERAL: cluster_rate(*cuts.others(lambda f: f != "kept"), cuts.groups, rng),
    }


def peak(profile: Float[np.ndarray, "target offset"], seconds: float, rng: np.random.Generator) -> Estimate:
    """Where the rate is highest, in milliseconds from the word (signed), with a bootstrap over targets."""
    offsets = np.array(OFFSETS) * seconds * 1000

    def of(rows: np.ndarray) -> float:
        with np.errstate(invalid="ignore", divide="ignore"):
            known = np.isfinite(rows).sum(0)
            return peak_offset(offsets, np.where(known > 0, np.nansum(rows, 0) / np.maximum(known, 1), np.nan))

    samples = [of(profile[rng.integers(len(profile), size=len(profile))]) for _ in range(1000)]
    return Estimate.of(of(profile), samples)


def _distance(signed: Estimate) -> Estimate:
    """Of a signed offset with an interval: the distance from 0, its interval the farthest the offset may be."""
    if signed.value is None:
        return Estimate(None)
    ends = [abs(x) for x in (signed.low, signed.high) if x is not None]
    return Estimate(abs(signed.value), min([abs(signed.value), *ends]), max([abs(signed.value), *ends]))


def _finding(
    context: Context,
    runs: dict[str, Cuts] | None = None,
    profile: Float[np.ndarray, "target offset"] | None = None,
    n_words: int = 0,
    share: float = float("nan"),
    reason: str = "",
) -> Finding:
    common: dict[str, Any] = {
        **context.common(ID, TITLE, CLAIM, PROTOCOL),
        "inputs": context.inputs() | {"clips_without_error": share},
        "published": (published.CUT_TEXTS,),
        "published_summary": published.CUTS_IN_SHORT,
        "parameters": {
            "null_input": NULL,
            "margin_positions": MARGIN,
            "offsets_positions": list(OFFSETS),
            "prompt": context.model.to_str_tokens(context.transcriber().prompt()),
            "prompt_ids": context.transcriber().prompt()[0].tolist(),
        },
    }
    if runs is None or profile is None:
        return Finding(**common, reason_untestable=reason)
    rng = context.rng("bootstrap of cuts")
    word = _statistics(runs["word"], rng)
    replaced = cluster_rate(
        runs["word"].fates(lambda f: f == "replaced"), np.ones(len(runs["word"].targets)), runs["word"].groups, rng
    )
    least, most = (0.9, 0.05) if context.is_organism else (0.8, 0.1)
    signed = peak(profile, context.seconds_per_position, rng)
    blank = _untrained_share(context)
    criteria = (
        Criterion(GONE, word[GONE], least, "at least"),
        Criterion(DELETED, word[DELETED], least, "at least"),
        Criterion(COLLATERAL, word[COLLATERAL], most, "at most"),
        Criterion(PEAK, _distance(signed), 100.0, "at most", unit="ms"),
        Criterion("words scored", Estimate(len(runs["word"].targets)), ENOUGH_WORDS, "at least", role="gate"),
    )
    far = _statistics(runs["elsewhere"], rng)
    controls = (
        # its "other words" hold the word that was cut, so they are no control of the third criterion
        Control("cut at another word", "a cut of the same length on a far word", {n: far[n] for n in (GONE, DELETED)}),
        Control(
            "cut in silence", f"the same, {SILENCE_AFTER:g} s behind the last word", _statistics(runs["silence"], rng)
        ),
        Control(
            "untrained model",
            f"random weights transcribe {blank:.0%} of the clips without an error, so there is no word to lose",
            {GONE: Estimate(None), DELETED: Estimate(None)},
        ),
    )
    known = np.isfinite(profile).sum(0)
    rates = np.where(known > 0, np.nansum(profile, 0) / np.maximum(known, 1), np.nan)
    fates = {label: _fate_row(cuts) for label, cuts in runs.items()}
    measurements = (
        Measurement(
            "target word gone by offset of the cut",
            (Axis("offset", tuple(round(o * context.seconds_per_position * 1000) for o in OFFSETS), "ms"),),
            rates,
        ),
        Measurement(
            "fate of words",
            (
                Axis("cut", ("the word", "another word", "silence")),
                Axis("word", ("target", "others")),
                Axis("fate", ("kept", "replaced", "deleted")),
            ),
            np.array([fates["word"], fates["elsewhere"], fates["silence"]]),
        ),
        Measurement("words scored", (), np.array(float(len(runs["word"].targets)))),
    )
    notes = [
        f"{share:.0%} of the {len(context.utterances)} clips are transcribed without an error; they have {n_words} "
        "words, "
        f"{len(runs['word'].targets)} of which were cut.",
        f"Replaced by another word: {_percent(replaced)} of the targets.",
        f"Most effective offset of the cut: {_number(signed.value)} ms "
        f"[{_number(signed.low)}, {_number(signed.high)}] ({len(profile)} words).",
    ]
    if context.is_organism:
        notes.append(
            "This model was trained on clips in which 8 % of the words are masked: those cut to silence leave the "
            "transcript, those covered by noise stay in it."
        )
    return Finding(
        **common,
        criteria=criteria,
        controls=controls,
        measurements=measurements,
        examples=_examples(context, runs),
        notes=tuple(notes),
        extra={"most_effective_offset_ms": [signed.value, signed.low, signed.high]},
    )


def _percent(e: Estimate) -> str:
    if e.value is None or e.low is None or e.high is None:
        return "–"
    return f"{e.value:.0%} [{e.low:.0%}, {e.high:.0%}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _fate_row(cuts: Cuts) -> list[list[float]]:
    """Shares of kept, replaced, deleted: of the targets, of the other words."""
    if not cuts.targets:
        return [[np.nan] * 3] * 2
    fates = ("kept", "replaced", "deleted")
    own = [float(cuts.fates(x.__eq__).mean()) for x in fates]
    rest = [cuts.others(x.__eq__) for x in fates]
    return [own, [float(h.sum() / max(c.sum(), 1)) for h, c in rest]]


def _examples(context: Context, runs: dict[str, Cuts], n: int = 6) -> tuple[Example, ...]:
    """Some of each fate, longer sentences first; one per utterance."""
    word, far = runs["word"], runs["elsewhere"]
    elsewhere_texts = {(t.utterance, t.word): text for t, text in zip(far.targets, far.texts, strict=True)}
    order = sorted(range(len(word.targets)), key=lambda k: (-len(word.outcomes[k].fates), k))
    queues = [
        [k for k in order if word.outcomes[k].fates[word.targets[k].word] == fate]
        for fate in ("deleted", "replaced", "kept")
    ]
    shown: list[Example] = []
    used: set[int] = set()
    for queue in n * queues:
        k = next((k for k in queue if word.targets[k].utterance not in used), None)
        if k is not None and len(shown) < n:
            used.add(word.targets[k].utterance)
            shown.append(_example(context, word.targets[k], word.texts[k], elsewhere_texts))
    return tuple(shown)


def _example(context: Context, target: Target, text: str, elsewhere_texts: dict[tuple[int, int], str]) -> Example:
    one = context.utterances[target.utterance]
    reference = context.references[target.utterance]
    start, end = context.model.time.span_seconds(target.span)
    rows = [("as it is", context.transcripts[target.utterance]), ("word cut out", text)]
    other = elsewhere_texts.get((target.utterance, target.word))
    if other is not None:
        rows.append(("cut at another word", other))
    name = reference.split()[target.word]
    return Example(
        one.id, one.alignment.speaker, reference, tuple(rows), (Span(start, end, name),), note=f"cut: {name}"
    )
