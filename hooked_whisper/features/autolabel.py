"""Names for features, such as ``/s/ 0.83``, with the evidence; no evidence, no name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hooked_whisper.errors import PatchError
from hooked_whisper.features.examples import Purity
from hooked_whisper.features.selectivity import Selectivity
from hooked_whisper.protocols import SILENCE

Kind = Literal["phone", "class", "silence", "none"]
LEAST_F1, LEAST_PURITY = 0.5, 0.6  # a detector that is right more often than not; the purity asked of a phonetic neuron
NOTHING = "—"


@dataclass(frozen=True, slots=True)
class AutoLabel:
    """What a feature is called, and why.

    text: ``"/s/ 0.83"``, ``"nasals 0.71"``, ``"silence 0.90"`` or ``"—"``.
    label: the phone or class alone; empty for none.
    score: held-out F1 of its detector; NaN for none.
    evidence: a sentence for people, also where the label is none.
    """

    text: str
    kind: Kind
    label: str
    score: float
    evidence: str


@dataclass(frozen=True)
class _Candidate:
    kind: Kind
    label: str
    score: float
    evidence: str
    enough: bool


def autolabels(
    phones: Selectivity,
    top: Purity,
    classes: Selectivity,
    class_top: Purity,
    control: Selectivity,
    class_control: Selectivity,
) -> list[AutoLabel]:
    """A label for each feature.

    A phone or class is evident if its held-out F1 is above the largest that any feature reaches with shifted labels
    (the same search over labels and features), and besides either that F1 is at least 0.5 or the top examples are of
    that phone or class in at least 60 %, for the detector of high values. Silence needs the F1 of 0.5 alone.
    Of several evident ones the highest F1 names the feature, a phone before a class before silence among equals.

    Args:
        phones, classes: cross-fitted selectivity; ``control``, ``class_control``: of shifted labels.
        top, class_top: purity of the top examples for the same labels.

    Raises:
        PatchError: numbers of features that differ.
    """
    n = {len(phones.best), len(classes.best), len(top.n), len(class_top.n)}
    if len(n) != 1:
        raise PatchError(f"selectivity and purity are of different numbers of features: {sorted(n)}")
    floor, class_floor = _largest(control), _largest(class_control)
    found = []
    for i in range(n.pop()):
        candidates = [
            _named("phone", i, phones, top, floor),
            _named("class", i, classes, class_top, class_floor),
            _silence(i, phones, control),
        ]
        found.append(_pick([c for c in candidates if c is not None]))
    return found


def _pick(candidates: list[_Candidate]) -> AutoLabel:
    evident = [c for c in candidates if c.enough]
    if not evident:
        tried = "; ".join(f"{c.label}: {c.evidence}" for c in candidates if c.kind != "silence")
        return AutoLabel(NOTHING, "none", "", float("nan"), f"not selective ({tried})" if tried else "nothing to judge")
    best = max(evident, key=lambda c: c.score)  # the first among equals
    shown = f"/{best.label}/" if best.kind == "phone" else best.label
    return AutoLabel(f"{shown} {best.score:.2f}", best.kind, best.label, best.score, best.evidence)


def _named(kind: Kind, i: int, found: Selectivity, top: Purity, floor: float) -> _Candidate | None:
    label, score = found.labels[i], float(found.f1[i])
    if not label or not np.isfinite(score):
        return None
    same = top.labels[i] == label and found.sign[i] > 0
    pure = same and top.purity[i] >= LEAST_PURITY
    side = "" if found.sign[i] > 0 else ", by low values"
    evidence = (
        f"best-{kind} F1 {score:.2f} (precision {found.precision[i]:.2f}, recall {found.recall[i]:.2f}{side}) on "
        f"held-out speakers, {floor:.2f} at most with shifted labels; {_of_top(top, i, label)}; AUC {found.auc[i]:.2f}"
    )
    enough = score > floor and found.agreement[i] > 0.5 and (score >= LEAST_F1 or bool(pure))
    return _Candidate(kind, label, score, evidence, bool(enough))


def _of_top(top: Purity, i: int, label: str) -> str:
    if top.labels[i] == label:
        return f"{top.hits[i]} of the top {top.n[i]} examples"
    return f"the top {top.n[i]} examples are mostly {top.labels[i] or 'unlabelled'}"


def _silence(i: int, found: Selectivity, control: Selectivity) -> _Candidate | None:
    if SILENCE not in found.names:
        return None
    at = found.names.index(SILENCE)
    score, shifted = float(found.f1_by_label[i, at]), control.f1_by_label[:, at]
    floor = float(np.nanmax(shifted)) if np.isfinite(shifted).any() else 0.0
    evidence = f"F1 {score:.2f} for silence on held-out speakers, {floor:.2f} at most with shifted labels"
    return _Candidate("silence", "silence", score, evidence, score > floor and score >= LEAST_F1)


def _largest(control: Selectivity) -> float:
    return float(np.nanmax(control.f1)) if np.isfinite(control.f1).any() else 0.0
