"""Label features, such as ``/s/ 0.83``, with the evidence for the label. A feature without evidence has no label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper.errors import PatchError
from hooked_whisper.features.phones.selectivity import Selectivity
from hooked_whisper.features.phones.top_examples import Purity
from hooked_whisper.protocols import SILENCE

Kind = Literal["phone", "class", "silence", "none"]
LEAST_F1, LEAST_PURITY = 0.5, 0.6  # of a detector, and of the top examples
NOTHING = "—"
_MIN_EXAMPLES = 10  # fewer top examples are not evidence


@dataclass(frozen=True, slots=True)
class AutoLabel:
    """The label of a feature and its evidence.

    Attributes:
        text: ``"/s/ 0.83"``, ``"nasals 0.71"``, ``"silence 0.90"`` or ``"—"``.
        label: the phone or class; empty for none.
        score, precision, recall: held-out scores of its detector, ``score`` is the F1; NaN for none.
        lift: how far the F1 is above chance: 0 at chance, 1 for a perfect detector. Without a label, that of the best
            candidate; NaN without candidates.
        evidence: a sentence; if there is no label, the reason.
    """

    text: str
    kind: Kind
    label: str
    score: float
    evidence: str
    lift: float = float("nan")
    precision: float = float("nan")
    recall: float = float("nan")

    @property
    def text_with_scores(self) -> str:
        """``"/s/ 0.83 (precision 0.90, recall 0.77)"``; :attr:`text` without a label, or if they are undefined."""
        if not self.precision + self.recall >= 0:
            return self.text
        return f"{self.text} (precision {self.precision:.2f}, recall {self.recall:.2f})"


class _Scores(NamedTuple):
    """Held-out scores of a detector."""

    f1: float
    precision: float
    recall: float


@dataclass(frozen=True)
class _Candidate:
    kind: Kind
    label: str
    scores: _Scores
    chance: float
    evidence: str
    enough: bool

    @property
    def score(self) -> float:
        return self.scores.f1

    @property
    def lift(self) -> float:
        """0 at chance, 1 for a perfect detector."""
        return (self.score - self.chance) / (1 - self.chance)


class Evidence(NamedTuple):
    """Selectivity of every feature on held-out speakers and purity of its top examples, for phones and for classes."""

    phones: Selectivity
    top: Purity
    classes: Selectivity
    class_top: Purity


@renamed_arguments(found="evidence")
def autolabels(evidence: Evidence, control: Evidence) -> list[AutoLabel]:
    """Label each feature with the phone or class, or silence, that it is most selective for.

    A phone or class is a candidate for one of two reasons:

    - Its detector: the held-out F1 is above the largest that any feature reaches with shifted labels, and either the F1
      is at least 0.5, or the detector is of high values and at least 60 % of the top examples have the label.
    - Its top examples: at least 60 % have the label, and more than of any feature with shifted labels.

    Silence is a candidate with an F1 of at least 0.5 for high values. The label is the candidate whose F1 is farthest
    above chance. Chance is the F1 of a detector that always fires, 2 p / (1 + p) for a label with a share p of the
    positions; it is high for large classes and silence.

    Args:
        control: evidence from the same search with shifted labels.

    Raises:
        PatchError: the parts of the evidence have different numbers of features.
    """
    n = {len(evidence.phones.best), len(evidence.classes.best), len(evidence.top.n), len(evidence.class_top.n)}
    if len(n) != 1:
        raise PatchError(
            f"selectivity and purity have {sorted(n)} features, expected the same number in all parts of the evidence"
        )
    floor, class_floor = _largest(control.phones), _largest(control.classes)
    labels = []
    for i in range(n.pop()):
        candidates = [
            _from_detector("phone", i, evidence.phones, evidence.top, floor),
            _from_top_examples("phone", i, evidence.phones, evidence.top, control.top),
            _from_detector("class", i, evidence.classes, evidence.class_top, class_floor),
            _from_top_examples("class", i, evidence.classes, evidence.class_top, control.class_top),
            _silence_candidate(i, evidence.phones, control.phones),
        ]
        labels.append(_pick([c for c in candidates if c is not None]))
    return labels


def _pick(candidates: list[_Candidate]) -> AutoLabel:
    evident = [c for c in candidates if c.enough]
    if not evident:
        tried = "; ".join(f"{c.label}: {c.evidence}" for c in candidates if c.kind != "silence")
        reason = f"not selective ({tried})" if tried else "no label to test"
        highest = max((c.lift for c in candidates if np.isfinite(c.lift)), default=float("nan"))
        return AutoLabel(NOTHING, "none", "", float("nan"), reason, highest)
    best = max(evident, key=lambda c: c.lift)  # of equal candidates the first
    shown = f"/{best.label}/" if best.kind == "phone" else best.label
    return AutoLabel(
        f"{shown} {best.score:.2f}", best.kind, best.label, best.score, best.evidence, best.lift,
        best.scores.precision, best.scores.recall,
    )  # fmt: skip


def _from_detector(kind: Kind, i: int, selectivity: Selectivity, top: Purity, floor: float) -> _Candidate | None:
    label, score = selectivity.labels[i], float(selectivity.f1[i])
    if not label or not np.isfinite(score):
        return None
    same = top.labels[i] == label and selectivity.sign[i] > 0
    pure = same and top.purity[i] >= LEAST_PURITY
    side = "" if selectivity.sign[i] > 0 else ", by low values"
    precision, recall, auc = float(selectivity.precision[i]), float(selectivity.recall[i]), selectivity.auc[i]
    evidence = (
        f"best-{kind} F1 {score:.2f} (precision {precision:.2f}, recall {recall:.2f}{side}) on held-out speakers, "
        f"{floor:.2f} at most with shifted labels; {_top_in_words(top, i, label)}; AUC {auc:.2f}"
    )
    enough = score > floor and selectivity.agreement[i] > 0.5 and (score >= LEAST_F1 or bool(pure))
    scores = _Scores(score, precision, recall)
    return _Candidate(kind, label, scores, _chance(selectivity, label), evidence, bool(enough))


def _from_top_examples(kind: Kind, i: int, selectivity: Selectivity, top: Purity, control: Purity) -> _Candidate | None:
    """Candidate from the top examples, as in published labels; includes phones that are too rare for a detector."""
    label = top.labels[i]
    if not label or top.n[i] < _MIN_EXAMPLES:
        return None
    scores = _of_label(selectivity, i, label)
    chance = float(np.nanmax(control.purity)) if np.isfinite(control.purity).any() else 0.0
    evidence = (
        f"{top.hits[i]} of the top {top.n[i]} examples, {chance:.0%} at most with shifted labels; "
        f"F1 {scores.f1:.2f} (precision {scores.precision:.2f}, recall {scores.recall:.2f}) on held-out speakers"
    )
    enough = bool(top.purity[i] >= LEAST_PURITY and top.purity[i] > chance)
    return _Candidate(kind, label, scores, _chance(selectivity, label), evidence, enough)


def _top_in_words(top: Purity, i: int, label: str) -> str:
    if top.labels[i] == label:
        return f"{top.hits[i]} of the top {top.n[i]} examples"
    return f"the top {top.n[i]} examples are mostly {top.labels[i] or 'unlabeled'}"


def _silence_candidate(i: int, selectivity: Selectivity, control: Selectivity) -> _Candidate | None:
    if SILENCE not in selectivity.names:
        return None
    label = selectivity.names.index(SILENCE)
    scores, shifted = _of_label(selectivity, i, SILENCE), control.f1_by_label[:, label]
    responds = selectivity.auc_by_label[i, label] > 0.5  # a feature that is low in silence responds to speech
    floor = float(np.nanmax(shifted)) if np.isfinite(shifted).any() else 0.0
    evidence = (
        f"F1 {scores.f1:.2f} (precision {scores.precision:.2f}, recall {scores.recall:.2f}) for silence on held-out "
        f"speakers, {floor:.2f} at most with shifted labels"
    )
    enough = bool(responds) and scores.f1 > floor and scores.f1 >= LEAST_F1
    return _Candidate("silence", "silence", scores, _chance(selectivity, SILENCE), evidence, enough)


def _of_label(selectivity: Selectivity, i: int, label: str) -> _Scores:
    place = i, selectivity.names.index(label)
    return _Scores(*(float(x[place]) for x in (
        selectivity.f1_by_label, selectivity.precision_by_label, selectivity.recall_by_label,
    )))  # fmt: skip


def _chance(selectivity: Selectivity, label: str) -> float:
    share = float(selectivity.shares[selectivity.names.index(label)])
    return 2 * share / (1 + share)


def _largest(control: Selectivity) -> float:
    return float(np.nanmax(control.f1)) if np.isfinite(control.f1).any() else 0.0
