"""Tables, notes and examples of F4, the words cut out of the encoder's output."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.finding import Criterion, Estimate, describe
from hooked_whisper.findings.core.records import Example, Span, Table
from hooked_whisper.findings.cuts.spans import Cuts, CutTarget


def margin_table(
    sweep: dict[int, dict[str, Estimate]],
    statistics: Sequence[str],
    verdict: int,
    published: tuple[str, dict[str, Estimate]],
) -> Table:
    """Return a table with one row per margin, and one row for cuts of the published length."""
    rows = [
        (f"{margin} ms{' (verdict)' if margin == verdict else ''}", *(percent(rates[name]) for name in statistics))
        for margin, rates in sweep.items()
    ]
    rows.append((published[0], *(percent(published[1][name]) for name in statistics)))
    return Table("Cuts by margin on each side of the word", "this run", ("margin", *statistics), tuple(rows))


def margin_note(margin: int, criteria: Sequence[Criterion]) -> str:
    """Return a sentence that says which criteria on words would be met at another margin."""
    met = "; ".join(f"{describe(c)} ({'met' if c.passed else 'not met'})" for c in criteria)
    prefix = "With the aligned span only (margin 0)" if margin == 0 else f"At a margin of {margin} ms"
    return f"{prefix}: {met}."


def percent(rate: Estimate) -> str:
    """Format a rate with its interval."""
    if rate.value is None or rate.low is None or rate.high is None:
        return "–"
    return f"{rate.value:.0%} [{rate.low:.0%}, {rate.high:.0%}]"


def whole_number(value: float | None) -> str:
    """Format a number without decimals. An undefined number becomes a dash."""
    return "–" if value is None else f"{value:.0f}"


def fate_row(cuts: Cuts) -> list[list[float]]:
    """Return the shares of kept, replaced and deleted words, for the targets and for the other words."""
    if not cuts.targets:
        return [[np.nan] * 3] * 2
    fates = ("kept", "replaced", "deleted")
    targets = [float(cuts.fates(fate.__eq__).mean()) for fate in fates]
    others = [cuts.others(fate.__eq__) for fate in fates]
    return [targets, [float(hits.sum() / max(counts.sum(), 1)) for hits, counts in others]]


def examples(context: Context, word: Cuts, far: Cuts, n: int = 6) -> tuple[Example, ...]:
    """Return examples of each fate, one per utterance, from the longest sentences."""
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


def _example(context: Context, target: CutTarget, text: str, elsewhere_texts: dict[tuple[int, int], str]) -> Example:
    clip = context.utterances[target.utterance]
    reference = context.references[target.utterance]
    start, end = context.model.time.span_seconds(target.span)
    rows = [("as it is", context.transcripts[target.utterance]), ("word cut out", text)]
    other = elsewhere_texts.get((target.utterance, target.word))
    if other is not None:
        rows.append(("cut at another word", other))
    name = reference.split()[target.word]
    return Example(
        clip.id, clip.alignment.speaker, reference, tuple(rows), (Span(start, end, name),), note=f"cut: {name}"
    )
