"""Names for features, such as ``/s/ 0.83``, with the evidence; no evidence, no name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from hooked_whisper.errors import PatchError
from hooked_whisper.features.phones.selectivity import Selectivity
from hooked_whisper.features.phones.top_examples import Purity
from hooked_whisper.protocols import SILENCE

Kind = Literal["phone", "class", "silence", "none"]
LEAST_F1, LEAST_PURITY = 0.5, 0.6  # a detector that is right more often than not; the purity asked of a phonetic neuron
NOTHING = "—"
_FEWEST = 10  # top examples, fewer are no evidence


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
    chance: float
    evidence: str
    enough: bool

    @property
    def lift(self) -> float:
        """0 at chance, 1 for a perfect detector."""
        return (self.score - self.chance) / (1 - self.chance)


class Evidence(NamedTuple):
    """What is known of every feature: its best phone and class on held-out speakers, and its top examples'."""

    phones: Selectivity
    top: Purity
    classes: Selectivity
    class_top: Purity


def autolabels(found: Evidence, control: Evidence) -> list[AutoLabel]:
    """A label for each feature.

    A phone or class is evident if its detector is: a held-out F1 above the largest that any feature reaches with
    shifted labels (the same search over labels and features), and besides either that F1 is at least 0.5 or the top
    examples are of that phone or class in at least 60 %, for the detector of high values. Or if its top examples are:
    at least 60 % of them, and more than of any feature with shifted labels. Silence needs an F1 of 0.5 by high values.
    Of several evident ones that names the feature whose F1 is farthest above its chance: that of firing always,
    2 p / (1 + p) for a share p of the positions, which is high for large classes and for silence.

    Args:
        control: the same search with shifted labels.

    Raises:
        PatchError: numbers of features that differ.
    """
    n = {len(found.phones.best), len(found.classes.best), len(found.top.n), len(found.class_top.n)}
    if len(n) != 1:
        raise PatchError(f"selectivity and purity are of different numbers of features: {sorted(n)}")
    floor, class_floor = _largest(control.phones), _largest(control.classes)
    labels = []
    for i in range(n.pop()):
        candidates = [
            _named("phone", i, found.phones, found.top, floor),
            _heard("phone", i, found.phones, found.top, control.top),
            _named("class", i, found.classes, found.class_top, class_floor),
            _heard("class", i, found.classes, found.class_top, control.class_top),
            _silence(i, found.phones, control.phones),
        ]
        labels.append(_pick([c for c in candidates if c is not None]))
    return labels


def _pick(candidates: list[_Candidate]) -> AutoLabel:
    evident = [c for c in candidates if c.enough]
    if not evident:
        tried = "; ".join(f"{c.label}: {c.evidence}" for c in candidates if c.kind != "silence")
        return AutoLabel(NOTHING, "none", "", float("nan"), f"not selective ({tried})" if tried else "nothing to judge")
    best = max(evident, key=lambda c: c.lift)  # the first among equals
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
    return _Candidate(kind, label, score, _chance(found, label), evidence, bool(enough))


def _heard(kind: Kind, i: int, found: Selectivity, top: Purity, control: Purity) -> _Candidate | None:
    """By its top examples, as published labels are: for phones too rare to be searched, or fired at only in part."""
    label = top.labels[i]
    if not label or top.n[i] < _FEWEST:
        return None
    score = float(found.f1_by_label[i, found.names.index(label)])
    chance = float(np.nanmax(control.purity)) if np.isfinite(control.purity).any() else 0.0
    evidence = (
        f"{top.hits[i]} of the top {top.n[i]} examples, {chance:.0%} at most with shifted labels; "
        f"F1 {score:.2f} on held-out speakers"
    )
    enough = bool(top.purity[i] >= LEAST_PURITY and top.purity[i] > chance)
    return _Candidate(kind, label, score, _chance(found, label), evidence, enough)


def _of_top(top: Purity, i: int, label: str) -> str:
    if top.labels[i] == label:
        return f"{top.hits[i]} of the top {top.n[i]} examples"
    return f"the top {top.n[i]} examples are mostly {top.labels[i] or 'unlabelled'}"


def _silence(i: int, found: Selectivity, control: Selectivity) -> _Candidate | None:
    if SILENCE not in found.names:
        return None
    at = found.names.index(SILENCE)
    score, shifted = float(found.f1_by_label[i, at]), control.f1_by_label[:, at]
    fires = found.auc_by_label[i, at] > 0.5  # a feature that is low in silence answers to speech
    floor = float(np.nanmax(shifted)) if np.isfinite(shifted).any() else 0.0
    evidence = f"F1 {score:.2f} for silence on held-out speakers, {floor:.2f} at most with shifted labels"
    enough = bool(fires) and score > floor and score >= LEAST_F1
    return _Candidate("silence", "silence", score, _chance(found, SILENCE), evidence, enough)


def _chance(found: Selectivity, label: str) -> float:
    share = float(found.shares[found.names.index(label)])
    return 2 * share / (1 + share)


def _largest(control: Selectivity) -> float:
    return float(np.nanmax(control.f1)) if np.isfinite(control.f1).any() else 0.0
