"""The top of the page: model, speech, amount of speech, and the number that decided each verdict."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hooked_whisper.findings.core.finding import STATUSES, Criterion, Direction, Estimate, Finding, format_number
from hooked_whisper.findings.core.records import Number
from hooked_whisper.report.card import ModelCard

MEANINGS = {
    "reproduced": "Every criterion is met, each with its whole 95% interval, and no control meets them all.",
    "partly": "More than half of the criteria are met, but one is missed or its interval crosses its threshold.",
    "not reproduced": "Half of the criteria or more are missed, or a control meets them too.",
    "measured, no verdict": "There are numbers, but a precondition is not met, or there is no truth to compare with.",
    "not testable": "There are no numbers. The reason and the remedy are given.",
    "error": "The experiment stopped with an error, which is given.",
}
IDS = (
    ("F", "claims from a 2023 write-up on the inside of Whisper (er537/whisper_interpretability) and its follow-ups"),
    ("L", "methods from other papers: DecoderLens, alignment heads"),
    ("W", "experiments that change one word, in the audio or in the text"),
)


@dataclass(frozen=True)
class Deciding:
    """The number that decided a verdict, its threshold, and its meaning.

    Attributes:
        by_control: name and number of a control that also meets the criteria, which it must not.
    """

    name: str
    estimate: Estimate
    threshold: Number
    direction: Direction
    unit: str
    meaning: str
    met: bool
    by_control: tuple[str, Estimate] | None = None

    @property
    def value(self) -> str:
        """The value, with enough digits to distinguish it from the threshold."""
        text, threshold = format_number(self.estimate.value), format_number(self.threshold)
        if self.estimate.value is None or text != threshold or self.estimate.value == self.threshold:
            return text
        longer = (f"{self.estimate.value:.{digits}g}" for digits in range(4, 17))
        return next((number for number in longer if float(number) != self.threshold), text)

    @property
    def needs(self) -> str:
        return f"{self.direction} {format_number(self.threshold)}"

    @property
    def interval(self) -> str:
        """``"0.512 to 0.61"``; empty if there is none."""
        low, high = self.estimate.low, self.estimate.high
        return "" if low is None or high is None else f"{format_number(low)} to {format_number(high)}"


def deciding(finding: Finding) -> Deciding | None:
    """Return the number that decided the verdict, or ``None`` if there is none."""
    criterion = finding.deciding
    if criterion is None or finding.status in ("not testable", "error"):
        return None
    controls = [k for k in finding.controls if finding.status == "not reproduced" and k.reproduces(finding.claims)]
    by_control = next(((k.name, k.values[criterion.name]) for k in controls if criterion.name in k.values), None)
    met = criterion.passed and by_control is None
    meaning = _meaning(criterion, by_control is not None)
    return Deciding(
        criterion.name,
        criterion.estimate,
        criterion.threshold,
        criterion.direction,
        criterion.unit,
        meaning,
        met,
        by_control,
    )


def _meaning(criterion: Criterion, by_control: bool) -> str:
    if criterion.role == "gate" and not criterion.passed:
        return "precondition not met"
    if by_control:
        return "a control meets it too"
    if not criterion.passed:
        return "missed"
    return "met" if criterion.clear else "met, but the interval crosses the threshold"


def tally(finding: Finding) -> str:
    """``"3 of 4 criteria met"``; empty for a finding without criteria or numbers."""
    if finding.status in ("not testable", "error") or len(finding.claims) < 2:
        return ""
    return f"{sum(c.passed for c in finding.claims)} of {len(finding.claims)} criteria met"


def facts(
    findings: Sequence[Finding], card: ModelCard | None, about: Mapping[str, str]
) -> tuple[tuple[str, str, str], ...]:
    """Return label, value and remark for the model, the speech, its amount, and the verdicts."""
    inputs = max((f.inputs for f in findings), key=lambda i: i.get("utterances", 0), default={})
    origin, _, remarks = (about.get("origin") or str(inputs.get("origin", ""))).partition("; ")
    counted = re.fullmatch(r"(.+): (\d+ clips by .+)", origin)
    source, amount = counted.groups() if counted else (origin, _amount(inputs))
    if not remarks and any(f.inputs.get("reference", "truth") != "truth" for f in findings):
        remarks = "the model's own transcripts are used as texts"
    counts = Counter(f.status for f in findings)
    verdicts = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    rows = [
        ("Model", model_name(findings, card), card.summary if card else ""),
        ("Speech", source or "none", remarks if source else "these findings need none"),
        ("How much", amount, ""),
        (f"{len(findings)} finding{'s' if len(findings) != 1 else ''}", verdicts, ""),
    ]
    return tuple(row for row in rows if row[1])


def model_name(findings: Sequence[Finding], card: ModelCard | None) -> str:
    """Return the name on the card, or otherwise in the findings."""
    return card.name if card else ", ".join(dict.fromkeys(f.model for f in findings)) or "a model"


def _amount(inputs: Mapping[str, Any]) -> str:
    """``"100 clips by 13 speakers, 5.2 minutes"``, as far as it is known."""
    if not inputs.get("utterances"):
        return ""
    text = f"{inputs['utterances']} clips"
    if speakers := inputs.get("speakers"):
        text += f" by {len(speakers)} speaker{'s' if len(speakers) != 1 else ''}"
    if seconds := inputs.get("seconds"):
        text += f", {seconds / 60:.1f} minutes" if seconds >= 60 else f", {seconds:.0f} seconds"
    return text


def cost(finding: Finding) -> str:
    """``"12 s, at most 900 MiB of memory"``; empty if neither was measured."""
    parts = [] if finding.seconds is None else [f"{finding.seconds:.0f} s"]
    parts += [] if finding.peak_mib is None else [f"at most {finding.peak_mib:.0f} MiB of memory"]
    return ", ".join(parts)


def plain(value: Any) -> str:
    """Format an input or parameter for reading: lists with commas, without quotes or braces."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {plain(v)}" for key, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(v) for v in value)
    if isinstance(value, float):
        return format_number(value) if math.isfinite(value) else "–"
    return str(value)
