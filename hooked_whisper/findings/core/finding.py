"""The result of an experiment: numbers with intervals, controls, and a status.

The status is never set by hand: :data:`RULE` derives it from the criteria and the controls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hooked_whisper.findings.core.records import Example, Measurement, Number, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Status = Literal["reproduced", "partly", "not reproduced", "measured, no verdict", "not testable", "error"]
STATUSES: tuple[Status, ...] = (
    "reproduced",
    "partly",
    "not reproduced",
    "measured, no verdict",
    "not testable",
    "error",
)
Direction = Literal["at least", "at most"]
Role = Literal["claim", "gate"]

RULE = (
    "Not testable: there are no numbers; the reason and the remedy are given. Measured, no verdict: there are numbers, "
    "but a gate is not met (too few utterances, a model that cannot transcribe) or there is no truth to compare them "
    "with. Not reproduced: a control also meets every criterion measured on it, or at least half of the criteria fail. "
    "Reproduced: every criterion holds, and its whole 95 % interval is on the right side of the threshold. Partly: "
    "anything in between."
)


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; ``None`` where it is undefined or was not estimated."""

    value: Number | None
    low: Number | None = None
    high: Number | None = None

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None:
                number = float(number)
                object.__setattr__(self, name, number if np.isfinite(number) else None)

    @property
    def row(self) -> list[float]:
        """Value, low, high; NaN where undefined."""
        return [np.nan if x is None else x for x in (self.value, self.low, self.high)]

    @classmethod
    def of(cls, value: Number | np.floating[Any], samples: Sequence[float] | np.ndarray) -> Estimate:
        """Return a value with the percentile interval of bootstrap ``samples``; undefined samples are left out."""
        drawn = np.asarray(samples, dtype=float)
        drawn = drawn[np.isfinite(drawn)]
        if not len(drawn):
            return cls(float(value))
        low, high = np.percentile(drawn, [2.5, 97.5])
        return cls(float(value), float(low), float(high))


@dataclass(frozen=True)
class Criterion:
    """One condition of acceptance. A ``gate`` must hold before any claim is judged; it is not evidence for a claim."""

    name: str
    estimate: Estimate
    threshold: Number
    direction: Direction
    unit: str = ""
    role: Role = "claim"

    def met_by(self, estimate: Estimate) -> bool:
        """Return whether a value is on the right side of the threshold. An undefined value is not."""
        if estimate.value is None:
            return False
        at_least = self.direction == "at least"
        return estimate.value >= self.threshold if at_least else estimate.value <= self.threshold

    @property
    def passed(self) -> bool:
        return self.met_by(self.estimate)

    @property
    def clear(self) -> bool:
        """Whether the whole interval (if there is one) is on the right side."""
        bound = self.estimate.low if self.direction == "at least" else self.estimate.high
        return self.passed and (bound is None or self.met_by(Estimate(bound)))


@dataclass(frozen=True)
class Control:
    """The same statistics where the claim should not hold: criterion name -> estimate."""

    name: str
    description: str
    values: dict[str, Estimate]

    def reproduces(self, criteria: Sequence[Criterion]) -> bool:
        """Return whether it meets every criterion that was measured on it, which counts against the finding."""
        measured = [c for c in criteria if c.name in self.values]
        return bool(measured) and all(c.met_by(self.values[c.name]) for c in measured)


@dataclass(frozen=True, eq=False)
class Finding:
    """One experiment on one model: claim, protocol, numbers, and the status that follows from them.

    ``criteria`` and ``controls`` decide the status; the first claim is the headline. ``tables`` are this run's,
    ``published`` are other authors'. ``reason_untestable``: why nothing was measured. ``error``: the exception that
    ended the experiment.
    ``seconds`` is the wall time of the run, ``peak_mib`` the largest memory of the process while it ran (``None``: not
    measured).
    """

    id: str
    title: str
    claim: str
    protocol: str
    model: str
    inputs: dict[str, Any]
    parameters: dict[str, Any]
    criteria: tuple[Criterion, ...] = ()
    controls: tuple[Control, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    tables: tuple[Table, ...] = ()
    published: tuple[Table, ...] = ()
    published_summary: str = ""
    examples: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()
    reason_untestable: str = ""
    error: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    peak_mib: float | None = None

    def __post_init__(self) -> None:
        names = [c.name for c in self.criteria]
        if len(set(names)) != len(names):
            raise ValueError(f"finding {self.id}: criteria need different names, got {names}")
        for control in self.controls:
            unknown = set(control.values) - {c.name for c in self.claims}
            if unknown:
                raise ValueError(f"finding {self.id}: control {control.name!r} measures no criterion {sorted(unknown)}")

    def __repr__(self) -> str:
        return f"Finding({self.id}, {self.title!r}, {self.status})"

    @property
    def claims(self) -> tuple[Criterion, ...]:
        return tuple(c for c in self.criteria if c.role == "claim")

    @property
    def gates(self) -> tuple[Criterion, ...]:
        return tuple(c for c in self.criteria if c.role == "gate")

    @property
    def statistic(self) -> Criterion | None:
        """The headline: the first claim."""
        return self.claims[0] if self.claims else None

    @property
    def deciding(self) -> Criterion | None:
        """The criterion that decided the status: the first unmet gate, else the first claim that failed, else the first
        whose interval crosses the threshold, else the headline. If a control decided, the first claim that the control
        met."""
        unmet = [gate for gate in self.gates if not gate.passed]
        met_by_control = [
            c for k in self.controls if k.reproduces(self.claims) for c in self.claims if c.name in k.values
        ]
        failed = [c for c in self.claims if not c.passed]
        unclear = [c for c in self.claims if not c.clear]
        order = (*unmet, *met_by_control, *failed, *unclear, *self.claims)
        return order[0] if order else None

    @cached_property
    def _verdict(self) -> tuple[Status, str]:
        if self.error:
            return "error", self.error
        if self.reason_untestable:
            return "not testable", self.reason_untestable
        no_verdict: Status = "measured, no verdict" if self._has_numbers else "not testable"
        for gate in self.gates:
            if not gate.passed:
                return no_verdict, f"gate not met: {describe(gate)}"
        claims = self.claims
        if not claims:
            return no_verdict, "there is nothing to compare with"
        for control in self.controls:
            if control.reproduces(claims):
                return "not reproduced", f"the control {control.name!r} meets the same criteria"
        failed = [c for c in claims if not c.passed]
        if 2 * len(failed) >= len(claims):
            return "not reproduced", "; ".join(describe(c) for c in failed)
        unclear = [c for c in claims if c.passed and not c.clear]
        if failed or unclear:
            return "partly", "; ".join(describe(c) for c in (*failed, *unclear))
        return "reproduced", "every criterion holds with its whole interval, and no control meets them"

    @property
    def _has_numbers(self) -> bool:
        return bool(self.measurements) or any(c.estimate.value is not None for c in self.claims)

    @property
    def status(self) -> Status:
        """By :data:`RULE`."""
        return self._verdict[0]

    @property
    def status_reason(self) -> str:
        """What decided the status."""
        return self._verdict[1]

    def measurement(self, name: str) -> Measurement:
        """Return the measurement of a name.

        Raises:
            KeyError: the finding has no such measurement.
        """
        for measurement in self.measurements:
            if measurement.name == name:
                return measurement
        raise KeyError(f"finding {self.id} has no measurement {name!r}: {[m.name for m in self.measurements]}")

    def draw(self) -> list[Figure]:
        """Return the figures that its experiment draws. A finding without measurements, or whose experiment is not
        registered, has none."""
        experiment = _find_experiment(self.id)
        return experiment.draw(self) if experiment is not None and self.measurements else []


def _no_experiment(id: str) -> Any:
    return None


_find_experiment: Callable[[str], Any] = _no_experiment


def draw_with(find: Callable[[str], Any]) -> None:
    """Set how :meth:`Finding.draw` finds the experiment of an id. The registry calls this once, on import: it imports
    the experiments, which import this module."""
    global _find_experiment
    _find_experiment = find


def describe(criterion: Criterion) -> str:
    """``"mean KL ratio 0.71 [0.66, 0.76], needs at most 0.5"``"""
    estimate, unit = criterion.estimate, f" {criterion.unit}" if criterion.unit else ""
    needs = f"needs {criterion.direction} {format_number(criterion.threshold)}{unit}"
    return f"{criterion.name}: {format_estimate(estimate)}{unit}, {needs}"


def format_number(value: Number | None) -> str:
    """Format with three significant digits; an undefined number is a dash."""
    if value is None:
        return "–"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value)}"
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.1e}"


def format_estimate(estimate: Estimate) -> str:
    text = format_number(estimate.value)
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{format_number(estimate.low)}, {format_number(estimate.high)}]"
