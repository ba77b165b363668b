"""The base class of experiments with one protocol for the demo model and another one for released models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting
from hooked_whisper.findings.core.finding import Finding
from hooked_whisper.findings.core.records import PageLink

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure


class TwoProtocols(Experiment[Any]):
    """One claim with two protocols: ``organism`` for a model whose synthetic corpus is known, ``released`` for any
    other.

    Id, title, claim and protocol are those of ``released``.

    Attributes:
        released_measurement: name of a measurement that only ``released`` makes. It decides which of the two draws a
            saved finding.
    """

    organism: Experiment[Any]
    released: Experiment[Any]
    released_measurement: str

    def __init__(self) -> None:
        self.id, self.title = self.released.id, self.released.title
        self.claim, self.protocol = self.released.claim, self.released.protocol

    def version(self, is_organism: bool) -> Experiment[Any]:
        """Return the experiment that tests this kind of model."""
        return self.organism if is_organism else self.released

    def run(self, context: Context) -> Finding:
        return self.version(context.is_organism).run(context)

    def measure(self, context: Context) -> Any:
        return self.version(context.is_organism).measure(context)

    def judge(self, measured: Any, setting: Setting) -> Finding:
        return self.version(setting.is_organism).judge(measured, setting)

    def setting(self, context: Context) -> Setting:
        return self.version(context.is_organism).setting(context)

    def write_pages(self, finding: Finding, context: Context, folder: Path) -> tuple[PageLink, ...]:
        return self.version(context.is_organism).write_pages(finding, context, folder)

    def draw(self, finding: Finding) -> list[Figure]:
        names = [measurement.name for measurement in finding.measurements]
        return self.version(self.released_measurement not in names).draw(finding)
