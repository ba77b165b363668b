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
from hooked_whisper.findings.core.records import PageLink, Table

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

Measured = TypeVar("Measured")


class Untestable(HookedWhisperError):
    """Raised by an experiment that cannot run on its context. The message gives the reason and the remedy.

    inputs: facts about the clips, which the finding records anyway.
    """

    def __init__(self, reason: str, inputs: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.inputs = dict(inputs or {})


@dataclass(frozen=True, eq=False)
class Setting:
    """The facts besides the measured numbers on which a verdict may depend.

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
    ``judge`` and ``draw``. Thresholds are module constants, fixed before the first numbers were seen.

    Attributes:
        id: short name, such as ``"F2"``, used by the registry, the command line and saved findings.
        needs_speech: whether it needs clips to measure anything.
        own_speech: whether on a released Whisper model it uses only packaged sentences written for it, or no speech at
            all. Its numbers then do not depend on the corpus.
        after: id of the experiment that it follows in the registry; ``""`` puts it last. Used only for experiments of
            other packages.
        published: results of other authors on the claim. published_summary: the same in one line.
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
        """Run the models and return the numbers as a frozen dataclass.

        Raises:
            Untestable: the context lacks what the protocol needs.
        """

    @abstractmethod
    def judge(self, measured: Measured, setting: Setting) -> Finding:
        """Return the finding with its criteria, controls and measurements. A pure function; it calls
        :meth:`finding`."""

    @abstractmethod
    def draw(self, finding: Finding) -> list[Figure]:
        """Return figures of a finding that has measurements. They use nothing but the finding."""

    def write_pages(self, finding: Finding, context: Context, folder: Path) -> tuple[PageLink, ...]:
        """Write pages with sound that the page of findings links, and return the links; none by default.

        Args:
            finding: of this experiment on this context, or one that an earlier run saved.
            folder: of the page of findings.
        """
        return ()

    def parameters(self, context: Context) -> dict[str, Any]:
        """Return the settings of the protocol, which the finding records."""
        return {}

    def setting(self, context: Context) -> Setting:
        """Return the facts about the context that :meth:`judge` receives."""
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
        """Measure and judge. If :meth:`measure` raises :class:`Untestable`, return a finding with the status
        "not testable"."""
        setting = self.setting(context)
        try:
            measured = self.measure(context)
        except Untestable as reason:
            return self.finding(setting, inputs=setting.inputs | reason.inputs, reason_untestable=str(reason))
        return self.judge(measured, setting)

    @property
    def module_name(self) -> str:
        """Name of the module that defines the experiment, for the documentation."""
        return type(self).__module__

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, 'id', '?')}>"
