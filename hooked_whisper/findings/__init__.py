"""Published findings about Whisper as experiments: each runs on a model and gives a :class:`Finding`."""

from hooked_whisper.findings.core.context import Context, Utterance
from hooked_whisper.findings.core.finding import RULE, Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Example, Measurement, Span, Table
from hooked_whisper.findings.core.registry import REGISTRY, chosen, run_finding
from hooked_whisper.findings.core.serialization import load_findings, save_findings
from hooked_whisper.findings.core.synthetic_truth import Truth, make_truth

__all__ = [
    "REGISTRY",
    "RULE",
    "Axis",
    "Context",
    "Control",
    "Criterion",
    "Estimate",
    "Example",
    "Finding",
    "Measurement",
    "Span",
    "Table",
    "Truth",
    "Utterance",
    "chosen",
    "load_findings",
    "make_truth",
    "run_finding",
    "save_findings",
]
