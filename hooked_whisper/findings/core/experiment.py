"""The base class of experiments: measure on a context, judge the numbers, draw the finding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np

from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.findings.core.context import Context, seeded_rng
from hooked_whisper.findings.core.finding import Finding
from hooked_whisper.findings.core.records import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Measured = TypeVar("Measured")


class Untestable(HookedWhisperError):
    """An experiment cannot run on this context. The message gives the reason and the remedy.

    inputs: facts about the clips that the finding records nevertheless.
    """

    def __init__(self, reason: str, inputs: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.inputs = dict(inputs or {})


@dataclass(frozen=True, eq=False)
class Setting:
    """What a judgment may use besides the measured numbers.

    model: name of the model.
    inputs, parameters: what the finding records about the clips and about the experiment.
    is_organism: whether the model was trained on a synthetic corpus whose truth is known.
    reference: see :class:`~hooked_whisper.findings.core.context.Context`.
    """

    model: str
    inputs: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    is_organism: bool = False
    reference: Literal["truth", "model"] = "truth"

    @classmethod
    def of(cls, context: Context, parameters: Mapping[str, Any]) -> Setting:
        """Return the setting of an experiment with these parameters on a context."""
        return cls(
            context.model.cfg.name,
            context.inputs(),
            dict(parameters),
            context.seed,
            context.is_organism,
            context.reference,
        )

    def rng(self, name: str) -> np.random.Generator:
        """Return the same generator as :meth:`Context.rng <hooked_whisper.findings.core.context.Context.rng>`."""
        return seeded_rng(self.seed, name)


class Experiment(ABC, Generic[Measured]):
    """One published claim and the protocol that tests it.

    ``run`` measures on a context and judges the numbers. A subclass sets the attributes and implements ``measure``,
    ``judge`` and ``draw``; thresholds are constants of its module, fixed before the numbers are seen.

    Attributes:
        id: short name, such as ``"F2"``, by which the registry, the command line and saved findings know it.
        needs_speech: whether it measures nothing without clips.
        own_speech: whether on a real Whisper model it uses only packaged sentences written for it, or no speech, so
            that another corpus changes nothing.
        after: id of the experiment that it follows in the registry; ``""``: last. Read for other packages only.
        published: what others published about the claim. published_summary: the same in one line.
    """

    id: str
    title: str
    claim: str
    protocol: str
    needs_speech: bool = True
    own_speech: bool = False
    after: str = ""
    published: tuple[Table, ...] = ()
    published_summary: str = ""

    @abstractmethod
    def measure(self, context: Context) -> Measured:
        """Run the models and return the numbers, as a frozen dataclass.

        Raises:
            Untestable: the context lacks what the protocol needs.
        """

    @abstractmethod
    def judge(self, measured: Measured, setting: Setting) -> Finding:
        """Return the finding: criteria, controls and measurements. A pure function; build it with :meth:`finding`."""

    @abstractmethod
    def draw(self, finding: Finding) -> list[Figure]:
        """Return the figures of a finding that has measurements, from these alone."""

    def parameters(self, context: Context) -> dict[str, Any]:
        """Return what the finding records about the protocol's settings."""
        return {}

    def setting(self, context: Context) -> Setting:
        """Return what :meth:`judge` gets of the context."""
        return Setting.of(context, self.parameters(context))

    def finding(self, setting: Setting, **fields: Any) -> Finding:
        """Return a finding with this experiment's identity and setting; ``fields`` are added to it or replace them."""
        about: dict[str, Any] = {
            "model": setting.model,
            "inputs": setting.inputs,
            "parameters": setting.parameters,
            "published": self.published,
            "published_summary": self.published_summary,
        }
        return Finding(self.id, self.title, self.claim, self.protocol, **(about | fields))

    def run(self, context: Context) -> Finding:
        """Measure and judge. On a context that cannot be tested, return a finding with the status "not testable"."""
        setting = self.setting(context)
        try:
            measured = self.measure(context)
        except Untestable as reason:
            return self.finding(setting, inputs=setting.inputs | reason.inputs, reason_untestable=str(reason))
        return self.judge(measured, setting)

    @property
    def module_name(self) -> str:
        """Name of the module that defines it, for the documentation."""
        return type(self).__module__

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, 'id', '?')}>"
