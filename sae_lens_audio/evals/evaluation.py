"""The result of an evaluation: scores of SAEs and baselines, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hooked_whisper._support.renamed import renamed_property
from hooked_whisper._support.showing import Summary, Tabular
from hooked_whisper._support.storage import write_atomic
from hooked_whisper.errors import CheckpointError
from hooked_whisper.findings.core.finding import Estimate, format_number
from sae_lens_audio.evals.attached import CLEAN, MEAN, MEASURES, ZERO, AttachedScores, ConditionCounts
from sae_lens_audio.evals.decoder_rows import Duplicates
from sae_lens_audio.evals.phones import PhoneScores
from sae_lens_audio.evals.reconstruction import ReconstructionScores
from sae_lens_audio.evals.serialization import plain, read_scores, restored, to_text
from sae_lens_audio.evals.stability import Match, Stability

FORMAT, FORMAT_1 = "sae_lens_audio/evaluation/2", "sae_lens_audio/evaluation/1"
_KEYS_OF_1 = {"spliced": "attached", "dictionaries": "saes", "normalised_mse": "normalized_mse"}  # in version 1
SCORES, SHEET = "scores.json", "scores.png"


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Tabular):
    """Scores of SAEs of one hook point beside baselines that need no training.

    Attributes:
        model: its name. hook, hook_out: the hook points that the SAEs read and reconstruct or predict.
        saes: description of each SAE by name, in order.
        baselines: name of the dense basis of each sparse baseline; its phone scores are that basis's.
        inputs: clips, speakers, rows, options.
        reconstruction: by name of SAE or sparse baseline. duplicates: by name of SAE.
        attached: scores of the model with SAEs attached; ``None`` if not run.
        phones: by name of SAE, dense basis, as many random directions, or mel bands. Empty if not run.
        stability: ``None`` unless SAEs of several seeds were compared.
        notes: what was skipped, and why.
    """

    model: str
    hook: str
    hook_out: str
    saes: Mapping[str, str]
    baselines: Mapping[str, str]
    inputs: Mapping[str, Any]
    reconstruction: Mapping[str, ReconstructionScores]
    duplicates: Mapping[str, Duplicates]
    attached: AttachedScores | None = None
    phones: Mapping[str, PhoneScores] = field(default_factory=dict)
    stability: Stability | None = None
    notes: Sequence[str] = ()

    dictionaries = renamed_property("dictionaries", "saes")
    spliced = renamed_property("spliced", "attached")

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict with all scores per SAE, baseline, control and condition.

        An :class:`~hooked_whisper.findings.core.finding.Estimate` where there is an interval, else a number. The
        phone scores of a sparse baseline are those of its dense basis.
        """
        controls = [name for name in self.phones if name not in {*self.saes, *self.baselines.values()}]
        conditions = [] if self.attached is None else list(self.attached.conditions)
        scored = [*self.saes, *self.baselines, *controls]
        rows = []
        for name in [*scored, *(c for c in conditions if c not in scored)]:
            kind = "SAE" if name in self.saes else "baseline" if name in self.baselines else "control"
            row: dict[str, Any] = {"name": name, "kind": kind if name in scored else "condition"}
            row |= self._reconstructed(name) | self._attached(name) | self._phones(self.baselines.get(name, name))
            rows.append(row)
        return rows

    def to_rows(self) -> list[dict[str, Any]]:
        """Return :meth:`rows` with numbers only: an estimate becomes its value and the ends of its interval (``_low``,
        ``_high``)."""
        return [
            {key: number for name, value in row.items() for key, number in _numbers(name, value)} for row in self.rows()
        ]

    def summary(self) -> Summary:
        where = self.hook if self.hook == self.hook_out else f"{self.hook} -> {self.hook_out}"
        columns = ("name", "kind", "l0", "explained_variance", "wer", "kl", "mean_f1", "coverage")
        rows = self.to_rows()
        shown = [column for column in columns if any(row.get(column) is not None for row in rows)]
        head = ", ".join(f"{name} {value}" for name, value in self.inputs.items() if name in _HEAD)
        notes = (*((head,) if head else ()), *(f"note: {note}" for note in self.notes))
        cells = tuple(tuple(row.get(column) for column in shown) for row in rows)
        return Summary(f"Evaluation: {self.model}, {where}", notes, tuple(shown), cells)

    def plot(self) -> Any:
        """Draw the sheet of all scores, as in ``scores.png`` (matplotlib)."""
        from sae_lens_audio.evals.sheet import draw_sheet

        return draw_sheet(self)

    def _reconstructed(self, name: str) -> dict[str, Any]:
        if name not in self.reconstruction:
            return {}
        reconstruction = self.reconstruction[name]
        names = (
            "d_in", "n_features", "l0", "explained_variance", "explained_variance_per_position", "normalized_mse",
            "cosine", "relative_norm", "relative_bias", "dead_fraction", "dense_fraction",
        )  # fmt: skip
        scores = {score: getattr(reconstruction, score) for score in names}
        if name in self.duplicates:
            scores |= {"duplicates": self.duplicates[name].share, "nearest_cosine": self.duplicates[name].median}
        return scores

    def _attached(self, name: str) -> dict[str, Any]:
        if self.attached is None or name not in self.attached.conditions:
            return {}
        scores: dict[str, Any] = {}
        for measure in MEASURES:
            scores[measure] = self.attached.value(measure, name)
            if name == CLEAN:
                continue
            scores[f"{measure}_change"] = self.attached.change(measure, name)
            if name not in (ZERO, MEAN):
                scores[f"{measure}_recovered_from_zero"] = self.attached.recovered(measure, name, ZERO)
                scores[f"{measure}_recovered_from_mean"] = self.attached.recovered(measure, name, MEAN)
        return scores

    def _phones(self, name: str) -> dict[str, Any]:
        if name not in self.phones:
            return {}
        scores = self.phones[name]
        return {
            "phone_features": scores.n_features,
            "alive_features": int(scores.alive.sum()),
            "mean_f1": scores.mean_f1,
            "share_f1_03": scores.found_share,
            "phone_f1": scores.phone_f1,
            "coverage": scores.covered,
            "coverage_auc": scores.covered_by_auc,
            "shifted_mean_f1": scores.shifted_mean_f1,
            "shifted_phone_f1": scores.shifted_phone_f1,
            "shifted_coverage": scores.shifted_coverage,
        }

    def __str__(self) -> str:
        where = self.hook if self.hook == self.hook_out else f"{self.hook} -> {self.hook_out}"
        lines = [f"{self.model}, {where}: {', '.join(f'{k} {v}' for k, v in self.inputs.items() if k in _HEAD)}"]
        lines += [f"{name}: {what}" for name, what in self.saes.items()]
        rows = self.rows()
        phones = [{"name": name, **self._phones(name)} for name in self.phones]
        for columns, of in zip(_TABLES, (rows, rows, phones), strict=True):
            lines += _table(of, columns)
        if self.stability is not None:
            lines += ["", in_words(self.stability)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values; ``table`` is :meth:`rows`, with ``[value, low, high]`` for estimates."""
        return {"format": FORMAT, "table": plain(self.rows()), **plain(self)}

    def save(self, folder: str | Path) -> None:
        """Write ``scores.json`` and ``scores.png``, each atomically."""
        from sae_lens_audio.evals.sheet import draw_sheet, to_png

        image = to_png(draw_sheet(self))
        text = to_text(self.to_json())
        write_atomic(Path(folder) / SHEET, image)
        write_atomic(Path(folder) / SCORES, text.encode())


def in_words(stability: Stability) -> str:
    """Describe in one sentence how many features recur across seeds."""
    again, one_to_one = stability.mean("found_again"), stability.mean("assigned_again")
    paired = "" if np.isnan(one_to_one) else f", {one_to_one:.1%} one to one"
    return (
        f"seeds: {again:.1%} of the features found again (a cosine above 0.7){paired}; "
        f"by random directions {stability.mean('found_again', 'random'):.1%}"
    )


def load_evaluation(path: str | Path) -> Evaluation:
    """Read what :meth:`Evaluation.save` wrote: the folder, or its ``scores.json``.

    Raises:
        CheckpointError: the file does not exist, is not an evaluation, or is damaged.
    """
    file = Path(path) / SCORES if Path(path).is_dir() else Path(path)
    data = read_scores(file, (FORMAT, FORMAT_1), "an evaluation", "the folder of an evaluation", "evaluate")
    if data["format"] == FORMAT_1:
        data = _from_version_1(data)

    def each(key: str, cls: type) -> dict[str, Any]:
        part = data.get(key)
        if not isinstance(part, dict):
            raise CheckpointError(f"{file} has no {key!r}: evaluate again")
        return {name: restored(cls, scores, file) for name, scores in part.items()}

    return restored(
        Evaluation,
        data,
        file,
        reconstruction=each("reconstruction", ReconstructionScores),
        duplicates=each("duplicates", Duplicates),
        phones=each("phones", PhoneScores),
        attached=_attached_of(data.get("attached"), file),
        stability=_stability_of(data.get("stability"), file),
        notes=tuple(data.get("notes", ())),
    )


def _from_version_1(data: dict[str, Any]) -> dict[str, Any]:
    data = {_KEYS_OF_1.get(key, key): value for key, value in data.items()}
    if isinstance(data.get("reconstruction"), dict):
        for name, scores in data["reconstruction"].items():
            data["reconstruction"][name] = {_KEYS_OF_1.get(key, key): value for key, value in scores.items()}
    return data


def _attached_of(data: Any, file: Path) -> AttachedScores | None:
    if data is None:
        return None
    conditions = {name: restored(ConditionCounts, counts, file) for name, counts in data.get("conditions", {}).items()}
    return restored(AttachedScores, data, file, conditions=conditions)


def _stability_of(data: Any, file: Path) -> Stability | None:
    if data is None:
        return None
    pairs, random = (tuple(restored(Match, match, file) for match in data.get(key, ())) for key in ("pairs", "random"))
    return restored(Stability, data, file, pairs=pairs, random=random, itself=restored(Match, data.get("itself"), file))


_HEAD = ("clips", "speakers", "rows", "attached clips", "spliced clips")
_TABLES: tuple[tuple[tuple[str, tuple[str, ...]], ...], ...] = (
    (
        ("L0 / d_in", ("l0", "d_in")),
        ("features", ("n_features",)),
        ("explained variance", ("explained_variance",)),
        ("per position", ("explained_variance_per_position",)),
        ("cosine", ("cosine",)),
        ("bias", ("relative_bias",)),
        ("dead", ("dead_fraction",)),
        ("dense", ("dense_fraction",)),
        ("duplicates", ("duplicates",)),
    ),
    (
        ("WER", ("wer",)),
        ("more than clean", ("wer_change",)),
        ("nats/token", ("cross_entropy",)),
        ("recovered: zero", ("cross_entropy_recovered_from_zero",)),
        ("mean", ("cross_entropy_recovered_from_mean",)),
        ("KL, nats", ("kl",)),
    ),
    (
        ("alive", ("alive_features",)),
        ("F1 of features", ("mean_f1",)),
        ("0.3 or more", ("share_f1_03",)),
        ("F1 of phones", ("phone_f1",)),
        ("shifted", ("shifted_phone_f1",)),
        ("coverage", ("coverage",)),
    ),
)
_SHARES = {"wer", "wer_change", "dead_fraction", "dense_fraction", "duplicates", "share_f1_03", "coverage"}


def _table(rows: Sequence[Mapping[str, Any]], columns: tuple[tuple[str, tuple[str, ...]], ...]) -> list[str]:
    """Return the lines of one table, with the rows that have a value in its first column."""
    shown = [row for row in rows if row.get(columns[0][1][0]) is not None]
    if not shown:
        return []
    cells = [["", *(title for title, _ in columns)]]
    cells += [[row["name"], *(_cell(row, keys) for _, keys in columns)] for row in shown]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns) + 1)]
    return [""] + [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in cells
    ]


def _cell(row: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """Format a number with its interval if it has one; blank if there is no value."""
    values = [row.get(key) for key in keys]
    if values[0] is None:
        return ""
    return " / ".join(_number(value, keys[0] in _SHARES) for value in values)


def _number(value: Any, share: bool) -> str:
    if isinstance(value, int):
        return str(value)
    estimate = value if isinstance(value, Estimate) else Estimate(value)
    if estimate.value is None:
        return "–"
    scale = 100 if share else 1
    text = [
        None if x is None else format_number(_rounded(scale * x)) for x in (estimate.value, estimate.low, estimate.high)
    ]
    unit = "%" if share else ""
    return f"{text[0]}{unit}" if text[1] is None else f"{text[0]}{unit} [{text[1]}, {text[2]}]"


def _rounded(value: float | int) -> float:
    return float(f"{value:.3g}")


def _numbers(name: str, value: Any) -> tuple[tuple[str, Any], ...]:
    if isinstance(value, Estimate):
        return ((name, value.value), (f"{name}_low", value.low), (f"{name}_high", value.high))
    return ((name, value),)
