"""The result of an audit: a table of verdicts, and its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hooked_whisper._support.showing import Showing, Summary, Tabular
from hooked_whisper._support.storage import write_atomic
from hooked_whisper.errors import ArgumentError, CheckpointError, closest
from sae_lens_audio.benchmark.audit.criteria import SeedTest, TrendTest, TruthTest, Verdict, overall
from sae_lens_audio.evals.serialization import plain, read_scores, to_text

FORMAT = "sae_lens_audio/audit/1"
PACKAGED = Path(__file__).parents[1] / "audit.json"


@dataclass(frozen=True, repr=False)
class MetricAudit(Showing):
    """Three tests of one metric."""

    name: str
    title: str
    seeds: SeedTest
    truth: TruthTest
    trend: TrendTest

    @property
    def verdict(self) -> Verdict:
        """See :func:`~sae_lens_audio.benchmark.audit.criteria.overall`."""
        return overall(self.seeds, self.truth, self.trend)

    def summary(self) -> Summary:
        tests: dict[str, SeedTest | TruthTest | TrendTest] = {
            "seeds": self.seeds,
            "planted features": self.truth,
            "early and late": self.trend,
        }
        reasons = tuple(f"{name}: {test.verdict}. {test.reason}" for name, test in tests.items())
        return Summary(f"{self.title} ({self.name}): {self.verdict}", reasons)


@dataclass(frozen=True, eq=False, repr=False)
class Audit(Tabular):
    """Tests of all metrics that judge an SAE.

    Attributes:
        metrics: by name. Metrics that only describe an SAE, such as L0, and its cost are not audited.
        inputs: the benchmark, the SAEs and the planted activations that the tests used.
        planted: quality and scores of each subject on planted activations. planted_speakers_and_noise: the same where
            speakers have more traits, and noise has features.
    """

    metrics: Mapping[str, MetricAudit]
    inputs: Mapping[str, Any]
    planted: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    planted_speakers_and_noise: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """``"passes"``, ``"weak"``, ``"fails"`` or ``"not tested"`` by name of metric."""
        return {name: metric.verdict for name, metric in self.metrics.items()}

    def __getitem__(self, metric: str) -> MetricAudit:
        """
        Raises:
            ArgumentError: the metric was not audited; the message has similar names.
        """
        if metric not in self.metrics:
            near = ", ".join(closest(metric, self.metrics) or self.metrics)
            raise ArgumentError(f"no audit of {metric!r}: there are {near}")
        return self.metrics[metric]

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per metric: its verdict, the verdict of each test and the numbers behind it."""
        return [
            {
                "metric": name,
                "verdict": audited.verdict,
                "seeds": audited.seeds.verdict,
                "sd": audited.seeds.sd,
                "smallest_difference": audited.seeds.smallest,
                "settings": audited.seeds.settings,
                "control": audited.seeds.control,
                "truth": audited.truth.verdict,
                "correlation": audited.truth.correlation,
                "trend": audited.trend.verdict,
                "gain": audited.trend.gain,
                "smallest_gain": audited.trend.smallest,
            }
            for name, audited in self.metrics.items()
        ]

    def summary(self) -> Summary:
        columns = ("metric", "verdict", "seeds", "least difference", "truth", "correlation", "trend", "gain")
        keys = ("metric", "verdict", "seeds", "smallest_difference", "truth", "correlation", "trend", "gain")
        rows = tuple(tuple(row[key] for key in keys) for row in self.to_rows())
        title = f"Audit of {len(self.metrics)} metrics"
        notes = tuple(f"{name}: {value}" for name, value in self.inputs.items() if isinstance(value, str))
        return Summary(title, notes, columns, rows)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "format": FORMAT,
            "verdicts": self.verdicts,
            "inputs": plain(self.inputs),
            "metrics": plain(self.metrics),
            "planted": plain(self.planted),
            "planted_speakers_and_noise": plain(self.planted_speakers_and_noise),
        }

    def save(self, path: str | Path) -> None:
        """Write the JSON, atomically."""
        write_atomic(Path(path), to_text(self.to_json()).encode())


def load_audit(path: str | Path) -> Audit:
    """Read what :meth:`Audit.save` wrote.

    Raises:
        CheckpointError: the file does not exist, is not an audit, or is damaged.
    """
    file = Path(path)
    data = read_scores(file, (FORMAT,), "an audit", "the file of an audit", "audit")
    try:
        metrics = {
            name: MetricAudit(
                entry["name"],
                entry["title"],
                SeedTest(**entry["seeds"]),
                TruthTest(**entry["truth"]),
                TrendTest(**entry["trend"]),
            )
            for name, entry in data["metrics"].items()
        }
        return Audit(metrics, data["inputs"], data["planted"], data.get("planted_speakers_and_noise", {}))
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is damaged ({error!r}): audit again") from error


def packaged_audit() -> Audit:
    """Return the audit that the package has.

    Raises:
        CheckpointError: the installation lacks the file.
    """
    return load_audit(PACKAGED)
