"""Lists of tokens in the form of the published ones, and their comparison."""

from __future__ import annotations

from dataclasses import dataclass

from hooked_whisper.findings.core.finding import Control, Criterion
from hooked_whisper.findings.core.records import Table


@dataclass(frozen=True)
class PublishedComparison:
    """Tables of this model, and criteria and controls if the published lists are of the same model."""

    tables: tuple[Table, ...]
    criteria: tuple[Criterion, ...] = ()
    controls: tuple[Control, ...] = ()
