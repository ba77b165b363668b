"""Published claims about Whisper as experiments: each runs on a model and returns a :class:`Finding`."""

from hooked_whisper._support.renamed import renamed_names
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting, Untestable
from hooked_whisper.findings.core.finding import RULE, Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Example, Measurement, Span, Table
from hooked_whisper.findings.core.serialization import load_findings, save_findings
from hooked_whisper.findings.core.synthetic_truth import Truth, make_truth
from hooked_whisper.findings.registry import REGISTRY, select_experiments
from hooked_whisper.findings.running import run_experiment

__all__ = [
    "REGISTRY",
    "RULE",
    "Axis",
    "Context",
    "Control",
    "Criterion",
    "Estimate",
    "Example",
    "Experiment",
    "Finding",
    "Measurement",
    "Setting",
    "Span",
    "Table",
    "Truth",
    "Untestable",
    "load_findings",
    "make_truth",
    "run_experiment",
    "save_findings",
    "select_experiments",
]

__getattr__ = renamed_names(
    __name__,
    {
        "Utterance": "hooked_whisper.corpora:Clip.aligned",
        "chosen": "select_experiments",
        "run_finding": "run_experiment",
    },
)
