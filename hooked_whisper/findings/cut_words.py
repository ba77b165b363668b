"""F4: replace the encoder's output over a word with that of an input without speech. Does the word disappear?

Source: "chopping" in github.com/er537/whisper_interpretability, ``docs/index.md``, and its blog post, section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting, Untestable
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.published import CUT_TEXTS, CUTS_IN_SHORT
from hooked_whisper.findings.core.records import BOUNDS, Axis, Example, Measurement
from hooked_whisper.findings.core.row_decoding import transcribe_cuts
from hooked_whisper.findings.core.statistics import cluster_rate, peak_offset
from hooked_whisper.findings.core.transcripts import word_fates
from hooked_whisper.findings.cuts.figures import draw_cut_words
from hooked_whisper.findings.cuts.report import examples, fate_row, margin_note, margin_table, percent, whole_number
from hooked_whisper.findings.cuts.spans import (
    SILENCE_AFTER,
    Counts,
    Cuts,
    CutTarget,
    centered,
    covered_words,
    elsewhere,
    in_silence,
    one_per_utterance,
    targets_of,
    with_margin,
)
from hooked_whisper.interventions import baseline_encoding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLAIM = (
    "Replacing the encoder's output over a word with that of an input without speech removes this word, and no other "
    "word."
)
PROTOCOL = (
    "The encoder's output (after the final norm) over a word is replaced, at the same positions, with the encoder's "
    "output for 30 s of zero samples. Then the clip is decoded greedily without timestamps. The cut covers the word's "
    "aligned time, one more position of 20 ms on each side for rounding, and a margin on each side, which is varied "
    "from 0 to 200 ms. Only words of clips that are transcribed without an error before the cut are used. A word is "
    "gone if the new transcript, aligned with the old one, deletes it (nothing in its place) or replaces it (another "
    "word in its place). Intervals: 95 %, bootstrap over utterances."
)
NULL = "zero audio"
OFFSETS = tuple(range(-24, 25, 3))  # positions of 20 ms
MARGINS = (0, 50, 100, 150, 200)  # ms on each side
# Margin of the verdict. The published cuts of 0.5 and 1 s include a margin around the words; a cut of the aligned span
# only is another protocol, reported as margin 0. Alignment by cross-attention is accurate to about 100 ms (its
# boundaries are scored at that tolerance), so a cut with a smaller margin may miss part of the word. All criteria on
# words, including the loss of neighbors, use this margin. Words of the demo model's synthetic speech have exact times
# and need no margin.
VERDICT_MARGIN, VERDICT_MARGIN_EXACT = 100, 0
# For released models, fixed before any run: the target is gone in 80 % of the cuts, and the WER over the other words is
# at most 10 %. In a clip of ten words, 10 % would allow half of the direct neighbors to be lost. So the neighbors have
# a separate threshold that mirrors the first: four of five must stay, as four of five targets must go.
LEAST_GONE, MOST_OTHER_ERRORS, MOST_NEIGHBORS = 0.8, 0.1, 0.2
# The same for the demo model, which must also delete the word, that is, write nothing in its place.
LEAST_GONE_EXACT, MOST_OTHERS_EXACT = 0.9, 0.05
MOST_OFFSET = 100.0  # ms
# With 200 words, the interval of a rate of 0.8 is 5 or 6 points to either side. Each word is cut once per margin.
MOST_WORDS, MOST_PROFILES = 200, 80
UNTRAINED_UTTERANCES = 4
PUBLISHED_SECONDS = 0.5  # the shorter of the published cuts
# With 30 words, a rate of 0 or 1 is known within 10 points (rule of three). Other rates have an interval that the
# status takes into account.
ENOUGH_WORDS = 30

GONE, DELETED = "target word gone", "target word deleted, nothing in its place"
COLLATERAL, OTHER_ERRORS = "other words gone", "WER of the other words"
NEIGHBORS = "words right next to the target gone"
UNDER, OUTSIDE = "words gone whose middle was cut", "words gone whose middle was not cut"
PEAK = "distance of the most effective cut from the word"
STATISTICS = (GONE, DELETED, NEIGHBORS, COLLATERAL, OTHER_ERRORS, UNDER, OUTSIDE)


@dataclass(frozen=True, eq=False)
class MeasuredCuts:
    """Decoded cuts of the target words.

    by_place: cuts at each margin (``"margin 100"``), of the ``"published length"``, at another word (``"elsewhere"``),
        and in ``"silence"``.
    profile: 1 if a target is gone when its cut is moved by each of :data:`OFFSETS`, else 0; NaN if the cut would leave
        the window.
    n_words: number of words in clips that are transcribed without an error.
    correct, untrained_correct: share of clips that the model, or the untrained model, transcribes without an error.
    """

    by_place: dict[str, Cuts]
    profile: Float[np.ndarray, "target offset"]
    n_words: int
    n_clips: int
    correct: float
    untrained_correct: float
    seconds_per_position: float
    examples: tuple[Example, ...]


class CutWords(Experiment[MeasuredCuts]):
    """F4: replace the encoder's output over a word, and find out which words disappear."""

    id, title, claim, protocol = "F4", "Words cut out of the encoder's output", CLAIM, PROTOCOL
    published, published_summary = (CUT_TEXTS,), CUTS_IN_SHORT

    def parameters(self, context: Context) -> dict[str, Any]:
        prompt = context.transcriber().prompt()
        return {
            "null_input": NULL,
            "margins_ms": list(MARGINS),
            "verdict_margin_ms": verdict_margin(context.is_organism),
            "offsets_positions": list(OFFSETS),
            "prompt": context.model.to_str_tokens(prompt),
            "prompt_ids": prompt[0].tolist(),
        }

    def measure(self, context: Context) -> MeasuredCuts:
        """Decode about 1,600 cuts and, for the profile over offsets, up to 1,360 more."""
        if not context.utterances:
            raise Untestable("no speech: pass --audio or --corpus", {"clips_without_error": float("nan")})
        candidates = targets_of(context)
        correct = float(np.mean([a == b for a, b in zip(context.transcripts, context.references, strict=True)]))
        if not candidates:
            raise Untestable(
                "no clip with word times is transcribed without an error: pass clear speech whose texts and word times "
                "are known, or a larger model",
                {"clips_without_error": correct},
            )
        rng = context.rng("targets")
        targets = [candidates[i] for i in sorted(rng.permutation(len(candidates))[:MOST_WORDS])]
        null = baseline_encoding(context.model, NULL)[0]
        swept = {margin: [with_margin(context, target, margin) for target in targets] for margin in MARGINS}
        judged = swept[verdict_margin(context.is_organism)]
        spans: dict[str, Sequence[slice | None]] = {
            **{f"margin {margin}": [target.span for target in row] for margin, row in swept.items()},
            "published length": [centered(context, target, PUBLISHED_SECONDS).span for target in targets],
            "elsewhere": [elsewhere(context, target) for target in judged],
            "silence": [in_silence(context, target) for target in judged],
        }
        by_place = cut(context, targets, spans, null, "F4 cuts")
        at_verdict = by_place[f"margin {verdict_margin(context.is_organism)}"]
        return MeasuredCuts(
            by_place,
            _profile(context, targets, null, rng),
            len(candidates),
            len(context.utterances),
            correct,
            _untrained_share(context),
            context.seconds_per_position,
            examples(context, at_verdict, by_place["elsewhere"]),
        )

    def judge(self, measured: MeasuredCuts, setting: Setting) -> Finding:
        margin, rng = verdict_margin(setting.is_organism), setting.rng("bootstrap of cuts")
        sweep = {m: statistics_of(measured.by_place[f"margin {m}"], rng) for m in MARGINS}
        wide, far, quiet = (
            statistics_of(measured.by_place[name], rng) for name in ("published length", "elsewhere", "silence")
        )
        offset = peak(measured.profile, measured.seconds_per_position, rng)
        n_scored = len(measured.by_place[f"margin {margin}"].targets)
        on_words = criteria_of(setting.is_organism, sweep[margin])
        criteria = (
            *on_words,
            Criterion(PEAK, _distance(offset), MOST_OFFSET, "at most", unit="ms"),
            Criterion("words scored", Estimate(n_scored), ENOUGH_WORDS, "at least", role="gate"),
        )
        names = [c.name for c in on_words]
        about_target = [name for name in names if name in (GONE, DELETED)]
        controls = (
            # The cut word is one of its "other words", so it cannot serve as a control for the criteria on other words.
            Control(
                "cut at another word", "a cut of the same length at a distant word", {n: far[n] for n in about_target}
            ),
            Control(
                "cut in silence",
                f"a cut of the same length, {SILENCE_AFTER:g} s after the last word",
                {n: quiet[n] for n in names},
            ),
            Control(
                "untrained model",
                f"random weights transcribe {measured.untrained_correct:.0%} of the clips without an error, so there "
                "is no word that could disappear",
                dict.fromkeys(about_target, Estimate(None)),
            ),
        )
        return self.finding(
            setting,
            inputs=setting.inputs | {"clips_without_error": measured.correct},
            criteria=criteria,
            controls=controls,
            measurements=_measurements(measured, sweep, margin),
            tables=(margin_table(sweep, STATISTICS, margin, (f"{PUBLISHED_SECONDS:g} s around the word", wide)),),
            examples=measured.examples,
            notes=_notes(measured, setting, sweep, offset),
            extra={"most_effective_offset_ms": [offset.value, offset.low, offset.high]},
        )

    def draw(self, finding: Finding) -> list[Figure]:
        """Draw the words lost by margin, the fate of words, and the effect of moving the cut."""
        return draw_cut_words(finding)


def cut(
    context: Context,
    targets: Sequence[CutTarget],
    spans: dict[str, Sequence[slice | None]],
    null: Float[Tensor, "position d_model"],
    label: str,
) -> dict[str, Cuts]:
    """Decode every target's clip with the target's span replaced by the same positions of ``null``, for each list of
    spans.

    Targets without a span, or whose span leaves the window, are left out. All cuts of a clip are decoded together, and
    identical cuts only once.
    """
    transcriber, n = context.transcriber(), context.model.cfg.encoder.n_ctx
    wanted: dict[int, set[tuple[int, int]]] = {}
    rows: dict[str, list[tuple[CutTarget, slice]]] = {}
    for name, row in spans.items():
        inside = [(t, s) for t, s in zip(targets, row, strict=True) if s is not None and s.start >= 0 and s.stop <= n]
        rows[name] = inside
        for target, span in inside:
            wanted.setdefault(target.utterance, set()).add((span.start, span.stop))
    texts: dict[tuple[int, int, int], str] = {}
    for utterance in context.track(sorted(wanted), label):
        cuts = sorted(wanted[utterance])
        limit = _token_limit(context, utterance)
        clip = context.encoded[utterance]
        for key, text in zip(
            cuts, transcribe_cuts(transcriber, clip, null, [slice(*c) for c in cuts], limit), strict=True
        ):
            texts[(utterance, *key)] = text
    return {name: _cuts(context, row, texts) for name, row in rows.items()}


def _cuts(context: Context, row: list[tuple[CutTarget, slice]], texts: dict[tuple[int, int, int], str]) -> Cuts:
    written = [texts[(t.utterance, s.start, s.stop)] for t, s in row]
    fates = [word_fates(context.references[t.utterance], text) for (t, _), text in zip(row, written, strict=True)]
    targets = [replace(t, span=s) for t, s in row]
    return Cuts(targets, written, fates, [covered_words(context, t, t.span) for t in targets])


def _token_limit(context: Context, utterance: int) -> int:
    """Return a token limit of twice the clip's text. A longer transcript is wrong in any case."""
    tokens = context.model.tokenizer.encode(f" {context.utterances[utterance].text}")
    return min(context.transcriber().max_new_tokens, 2 * len(tokens) + 4)


def verdict_margin(is_organism: bool) -> int:
    """Return the margin on each side of the word, in milliseconds, on which the verdict is based."""
    return VERDICT_MARGIN_EXACT if is_organism else VERDICT_MARGIN


def _profile(
    context: Context, targets: Sequence[CutTarget], null: Tensor, rng: np.random.Generator
) -> Float[np.ndarray, "target offset"]:
    """Return 1 if the target is gone when a cut without margin is moved by each offset, else 0; NaN if the cut leaves
    the window.

    One word of each utterance is used.
    """
    few = one_per_utterance(targets, rng, MOST_PROFILES)
    n = context.model.cfg.encoder.n_ctx
    spans = {str(offset): [t.moved(offset) for t in few] for offset in OFFSETS}
    runs = cut(context, few, dict(spans), null, "F4 moved cuts")
    profile = np.full((len(few), len(OFFSETS)), np.nan)
    for column, (name, row) in enumerate(spans.items()):
        inside = [i for i, s in enumerate(row) if s.start >= 0 and s.stop <= n]
        profile[inside, column] = runs[name].fates(lambda fate: fate != "kept")
    return profile


def _untrained_share(context: Context) -> float:
    clips = range(min(UNTRAINED_UTTERANCES, len(context.utterances)))
    with torch.no_grad():
        texts = context.transcriber(context.untrained)(context.untrained.embed_audio(context.mels(clips)))
    return float(np.mean([text == context.references[i] for i, text in zip(clips, texts, strict=True)]))


def statistics_of(cuts: Cuts, rng: np.random.Generator) -> dict[str, Estimate]:
    """Return all rates of :data:`STATISTICS`, with a bootstrap over utterances."""
    if not cuts.targets:
        return dict.fromkeys(STATISTICS, Estimate(None))
    ones = np.ones(len(cuts.targets))
    rates: dict[str, Counts] = {
        GONE: (cuts.fates(_gone), ones),
        DELETED: (cuts.fates("deleted".__eq__), ones),
        NEIGHBORS: cuts.neighbors(_gone),
        COLLATERAL: cuts.others(_gone),
        OTHER_ERRORS: cuts.other_errors(),
        UNDER: cuts.under(_gone),
        OUTSIDE: cuts.outside(_gone),
    }
    return {name: cluster_rate(hits, counts, cuts.groups, rng) for name, (hits, counts) in rates.items()}


def _gone(fate: str) -> bool:
    return fate != "kept"


def peak(profile: Float[np.ndarray, "target offset"], seconds: float, rng: np.random.Generator) -> Estimate:
    """Return the offset from the word, in milliseconds, at which the rate is highest, with a bootstrap over
    targets."""
    offsets = np.array(OFFSETS) * seconds * 1000

    def of(rows: np.ndarray) -> float:
        with np.errstate(invalid="ignore", divide="ignore"):
            known = np.isfinite(rows).sum(0)
            return peak_offset(offsets, np.where(known > 0, np.nansum(rows, 0) / np.maximum(known, 1), np.nan))

    samples = [of(profile[rng.integers(len(profile), size=len(profile))]) for _ in range(1000)]
    return Estimate.of(of(profile), samples)


def _distance(signed: Estimate) -> Estimate:
    """Return the absolute value of an offset. The interval covers the absolute values of its ends."""
    if signed.value is None:
        return Estimate(None)
    ends = [abs(x) for x in (signed.low, signed.high) if x is not None]
    return Estimate(abs(signed.value), min([abs(signed.value), *ends]), max([abs(signed.value), *ends]))


def criteria_of(is_organism: bool, rates: dict[str, Estimate]) -> tuple[Criterion, ...]:
    """Return the criteria on words, for the rates at one margin."""
    if is_organism:
        return (
            Criterion(GONE, rates[GONE], LEAST_GONE_EXACT, "at least"),
            Criterion(DELETED, rates[DELETED], LEAST_GONE_EXACT, "at least"),
            Criterion(COLLATERAL, rates[COLLATERAL], MOST_OTHERS_EXACT, "at most"),
        )
    return (
        Criterion(GONE, rates[GONE], LEAST_GONE, "at least"),
        Criterion(OTHER_ERRORS, rates[OTHER_ERRORS], MOST_OTHER_ERRORS, "at most"),
        Criterion(NEIGHBORS, rates[NEIGHBORS], MOST_NEIGHBORS, "at most"),
    )


def _measurements(
    measured: MeasuredCuts, sweep: dict[int, dict[str, Estimate]], margin: int
) -> tuple[Measurement, ...]:
    profile, by_place = measured.profile, measured.by_place
    judged = by_place[f"margin {margin}"]
    rates = np.nanmean(np.where(np.isfinite(profile).any(0), profile, 0), axis=0)
    rates[~np.isfinite(profile).any(0)] = np.nan
    shown = {"the word": judged, "another word": by_place["elsewhere"], "silence": by_place["silence"]}
    offsets = tuple(round(offset * measured.seconds_per_position * 1000) for offset in OFFSETS)
    return (
        Measurement(
            "words gone by margin",
            (Axis("margin", MARGINS, "ms"), Axis("statistic", STATISTICS), BOUNDS),
            np.array([[sweep[m][name].row for name in STATISTICS] for m in MARGINS]),
        ),
        Measurement("target word gone by offset of the cut", (Axis("offset", offsets, "ms"),), rates),
        Measurement(
            "fate of words",
            (
                Axis("cut", tuple(shown)),
                Axis("word", ("target", "others")),
                Axis("fate", ("kept", "replaced", "deleted")),
            ),
            np.array([fate_row(cuts) for cuts in shown.values()]),
        ),
        Measurement("words scored", (), np.array(float(len(judged.targets)))),
    )


def _notes(
    measured: MeasuredCuts, setting: Setting, sweep: dict[int, dict[str, Estimate]], offset: Estimate
) -> tuple[str, ...]:
    margin = verdict_margin(setting.is_organism)
    n_scored = len(measured.by_place[f"margin {margin}"].targets)
    notes = [
        f"{measured.correct:.0%} of the {measured.n_clips} clips are transcribed without an error. They have "
        f"{measured.n_words} words, {n_scored} of which were cut.",
        f"The verdict uses a margin of {margin} ms on each side.",
        margin_note(0, criteria_of(setting.is_organism, sweep[0])),
        f"At a margin of {margin} ms, the target is deleted in {percent(sweep[margin][DELETED])} of the cuts. In the "
        "other cuts that removed it, the decoder wrote another word in its place.",
        f"The most effective offset of a cut without margin is {whole_number(offset.value)} ms "
        f"[{whole_number(offset.low)}, {whole_number(offset.high)}] ({len(measured.profile)} words).",
    ]
    if setting.is_organism:
        notes.append(
            "This model was trained on clips in which 8 % of the words are masked. Words replaced by silence are left "
            "out of the transcript; words covered by noise stay in it."
        )
    return tuple(notes)
