"""The result of an experiment: numbers with intervals, controls, and a status.

The status is never set by hand: :data:`RULE` derives it from the criteria and the controls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hooked_whisper._support.showing import Showing, Summary
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
    """An estimate and the threshold that it must reach. A ``gate`` must hold before the claims are judged; it is not
    evidence for the claim."""

    name: str
    estimate: Estimate
    threshold: Number
    direction: Direction
    unit: str = ""
    role: Role = "claim"

    def met_by(self, estimate: Estimate) -> bool:
        """Return whether a value meets the threshold. An undefined value does not."""
        if estimate.value is None:
            return False
        at_least = self.direction == "at least"
        return estimate.value >= self.threshold if at_least else estimate.value <= self.threshold

    @property
    def passed(self) -> bool:
        return self.met_by(self.estimate)

    @property
    def clear(self) -> bool:
        """Whether the whole interval, if there is one, meets the threshold."""
        bound = self.estimate.low if self.direction == "at least" else self.estimate.high
        return self.passed and (bound is None or self.met_by(Estimate(bound)))


@dataclass(frozen=True)
class Control:
    """The statistics of the criteria, by name, under a condition in which the claim should not hold."""

    name: str
    description: str
    values: dict[str, Estimate]

    def reproduces(self, criteria: Sequence[Criterion]) -> bool:
        """Return whether the control meets every criterion that was measured on it, which counts against the claim."""
        measured = [c for c in criteria if c.name in self.values]
        return bool(measured) and all(c.met_by(self.values[c.name]) for c in measured)


@dataclass(frozen=True, eq=False, repr=False)
class Finding(Showing):
    """One experiment on one model: claim, protocol, numbers, and the status that follows from them.

    ``criteria`` and ``controls`` decide the status; the first claim is the headline. ``tables`` are from this run,
    ``published`` from other authors. ``reason_untestable`` says why nothing was measured, and ``error`` holds the
    exception that ended the experiment. ``seconds`` is the wall time of the run, and ``peak_mib`` the largest memory of
    the process while it ran (``None`` if not measured).
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
            raise ValueError(f"finding {self.id}: criteria are named {names}, expected a different name for each")
        for control in self.controls:
            unknown = set(control.values) - {c.name for c in self.claims}
            if unknown:
                raise ValueError(
                    f"finding {self.id}: control {control.name!r} measures {sorted(unknown)}, expected names of its "
                    f"criteria: {[c.name for c in self.claims]}"
                )

    def summary(self) -> Summary:
        title = f"Finding {self.id}: {self.title}: {self.status}"
        notes = (self.claim, f"model: {self.model}", f"decided by: {self.status_reason}")
        rows = tuple(
            (
                criterion.name,
                format_estimate(criterion.estimate),
                f"{criterion.direction} {format_number(criterion.threshold)}",
                "yes" if criterion.passed else "no",
            )
            for criterion in self.criteria
        )
        return Summary(title, notes, ("criterion", "measured", "needs", "met"), rows)

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
        """The criterion that decided the status.

        It is the first of: an unmet gate, a claim that a control also met, a failed claim, a claim whose interval
        crosses the threshold, and the headline.
        """
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
        """The status, by :data:`RULE`."""
        return self._verdict[0]

    @property
    def status_reason(self) -> str:
        """A sentence that says what decided the status."""
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
        """Return the figures that the experiment draws. There are none if the finding has no measurements or its
        experiment is not registered."""
        experiment = _find_experiment(self.id)
        return experiment.draw(self) if experiment is not None and self.measurements else []


def _no_experiment(id: str) -> Any:
    return None


_find_experiment: Callable[[str], Any] = _no_experiment


def draw_with(find: Callable[[str], Any]) -> None:
    """Set the function with which :meth:`Finding.draw` looks up the experiment of an id.

    The registry calls it on import. It cannot be imported here, because it imports the experiments, which import this
    module.
    """
    global _find_experiment
    _find_experiment = find


def describe(criterion: Criterion) -> str:
    """Format a criterion, as in ``"mean KL ratio: 0.71 [0.66, 0.76], needs at most 0.5"``."""
    estimate, unit = criterion.estimate, f" {criterion.unit}" if criterion.unit else ""
    needs = f"needs {criterion.direction} {format_number(criterion.threshold)}{unit}"
    return f"{criterion.name}: {format_estimate(estimate)}{unit}, {needs}"


def format_number(value: Number | None) -> str:
    """Format with three significant digits. An undefined number becomes a dash."""
    if value is None:
        return "–"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value)}"
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.1e}"


def format_estimate(estimate: Estimate) -> str:
    """Format a value with its interval, as in ``"0.71 [0.66, 0.76]"``."""
    text = format_number(estimate.value)
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{format_number(estimate.low)}, {format_number(estimate.high)}]"
