"""What an evaluation found: every score of dictionaries and baselines, as a table, as JSON and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hooked_whisper._support.storage import write_atomic
from hooked_whisper.errors import CheckpointError
from hooked_whisper.findings.core.finding import Estimate, format_number
from sae_lens_audio.evals.attached import CLEAN, MEAN, MEASURES, ZERO, AttachedScores, ConditionCounts
from sae_lens_audio.evals.decoder_rows import Duplicates
from sae_lens_audio.evals.phones import PhoneScores
from sae_lens_audio.evals.reconstruction import ReconstructionScores
from sae_lens_audio.evals.serialization import plain, restored, to_text
from sae_lens_audio.evals.stability import Match, Stability

FORMAT = "sae_lens_audio/evaluation/1"
SCORES, SHEET = "scores.json", "scores.png"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Dictionaries of one hook point beside what nobody had to train.

    Attributes:
        model: its name; hook, hook_out: where the dictionaries read, and (transcoders) what they predict.
        dictionaries: their names, in order, and what each is, in words.
        baselines: sparse baselines of equal L0 by name, and the dense basis each is of: its phones are that basis's.
        inputs: clips, speakers, rows, options.
        reconstruction: by name, dictionaries and sparse baselines.
        duplicates: of dictionaries.
        spliced: ``None`` if it was not run.
        phones: dictionaries and dense bases; random directions in number; mel bands. Empty if not run.
        stability: ``None`` unless dictionaries of several seeds were compared.
        notes: what was not done, and why.
    """

    model: str
    hook: str
    hook_out: str
    dictionaries: Mapping[str, str]
    baselines: Mapping[str, str]
    inputs: Mapping[str, Any]
    reconstruction: Mapping[str, ReconstructionScores]
    duplicates: Mapping[str, Duplicates]
    spliced: AttachedScores | None = None
    phones: Mapping[str, PhoneScores] = field(default_factory=dict)
    stability: Stability | None = None
    notes: Sequence[str] = ()

    def rows(self) -> list[dict[str, Any]]:
        """One dict per dictionary, baseline, control and condition: all that is known of each.

        An :class:`~hooked_whisper.findings.core.finding.Estimate` where there is an interval, else a number. Phones
        beside a sparse baseline are those of its dense basis.
        """
        controls = [name for name in self.phones if name not in {*self.dictionaries, *self.baselines.values()}]
        conditions = [] if self.spliced is None else list(self.spliced.conditions)
        known = [*self.dictionaries, *self.baselines, *controls]
        found = []
        for name in [*known, *(c for c in conditions if c not in known)]:
            kind = "dictionary" if name in self.dictionaries else "baseline" if name in self.baselines else "control"
            row: dict[str, Any] = {"name": name, "kind": kind if name in known else "condition"}
            row |= self._reconstructed(name) | self._spliced(name) | self._phones(self.baselines.get(name, name))
            found.append(row)
        return found

    def _reconstructed(self, name: str) -> dict[str, Any]:
        if name not in self.reconstruction:
            return {}
        one = self.reconstruction[name]
        scores = (
            "d_in", "n_features", "l0", "explained_variance", "explained_variance_per_position", "normalised_mse",
            "cosine", "relative_norm", "relative_bias", "dead_fraction", "dense_fraction",
        )  # fmt: skip
        found = {score: getattr(one, score) for score in scores}
        if name in self.duplicates:
            found |= {"duplicates": self.duplicates[name].share, "nearest_cosine": self.duplicates[name].median}
        return found

    def _spliced(self, name: str) -> dict[str, Any]:
        if self.spliced is None or name not in self.spliced.conditions:
            return {}
        found: dict[str, Any] = {}
        for measure in MEASURES:
            found[measure] = self.spliced.value(measure, name)
            if name == CLEAN:
                continue
            found[f"{measure}_change"] = self.spliced.change(measure, name)
            if name not in (ZERO, MEAN):
                found[f"{measure}_recovered_from_zero"] = self.spliced.recovered(measure, name, ZERO)
                found[f"{measure}_recovered_from_mean"] = self.spliced.recovered(measure, name, MEAN)
        return found

    def _phones(self, name: str) -> dict[str, Any]:
        if name not in self.phones:
            return {}
        one = self.phones[name]
        return {
            "phone_features": one.n_features,
            "alive_features": int(one.alive.sum()),
            "mean_f1": one.mean_f1,
            "share_f1_03": one.found_share,
            "phone_f1": one.phone_f1,
            "coverage": one.covered,
            "coverage_auc": one.covered_by_auc,
            "shifted_mean_f1": one.shifted_mean_f1,
            "shifted_phone_f1": one.shifted_phone_f1,
            "shifted_coverage": one.shifted_coverage,
        }

    def __str__(self) -> str:
        where = self.hook if self.hook == self.hook_out else f"{self.hook} -> {self.hook_out}"
        lines = [f"{self.model}, {where}: {', '.join(f'{k} {v}' for k, v in self.inputs.items() if k in _HEAD)}"]
        lines += [f"{name}: {what}" for name, what in self.dictionaries.items()]
        rows = self.rows()
        phones = [{"name": name, **self._phones(name)} for name in self.phones]
        for columns, of in zip(_TABLES, (rows, rows, phones), strict=True):
            lines += _table(of, columns)
        if self.stability is not None:
            lines += ["", in_words(self.stability)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_json(self) -> dict[str, Any]:
        """Everything, finite numbers and ``null``; ``table`` is :meth:`rows`, ``[value, low, high]`` for estimates."""
        return {"format": FORMAT, "table": plain(self.rows()), **plain(self)}

    def save(self, folder: str | Path) -> None:
        """Write ``scores.json`` and ``scores.png``; each is whole or the old one."""
        from sae_lens_audio.evals.sheet import draw_sheet, to_png

        picture = to_png(draw_sheet(self))
        text = to_text(self.to_json())
        write_atomic(Path(folder) / SHEET, picture)
        write_atomic(Path(folder) / SCORES, text.encode())


def in_words(found: Stability) -> str:
    """How many features other seeds find again."""
    again, one_to_one = found.mean("found_again"), found.mean("assigned_again")
    paired = "" if np.isnan(one_to_one) else f", {one_to_one:.1%} one to one"
    return (
        f"seeds: {again:.1%} of the features found again (a cosine above 0.7){paired}; "
        f"by random directions {found.mean('found_again', 'random'):.1%}"
    )


def load_evaluation(path: str | Path) -> Evaluation:
    """Read what :meth:`Evaluation.save` wrote: the folder, or its ``scores.json``.

    Raises:
        CheckpointError: no such file, one that is no evaluation, or one that is broken; names it.
    """
    file = Path(path) / SCORES if Path(path).is_dir() else Path(path)
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}): give the folder of an evaluation") from error
    except ValueError as error:
        raise CheckpointError(f"{file} is no JSON ({error}): evaluate again") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CheckpointError(f"{file} is not an evaluation of this version ({FORMAT}): evaluate again")

    def each(key: str, cls: type) -> dict[str, Any]:
        part = data.get(key)
        if not isinstance(part, dict):
            raise CheckpointError(f"{file} has no {key!r}: evaluate again")
        return {name: restored(cls, one, file) for name, one in part.items()}

    return restored(
        Evaluation,
        data,
        file,
        reconstruction=each("reconstruction", ReconstructionScores),
        duplicates=each("duplicates", Duplicates),
        phones=each("phones", PhoneScores),
        spliced=_spliced_of(data.get("spliced"), file),
        stability=_stability_of(data.get("stability"), file),
        notes=tuple(data.get("notes", ())),
    )


def _spliced_of(data: Any, file: Path) -> AttachedScores | None:
    if data is None:
        return None
    conditions = {name: restored(ConditionCounts, one, file) for name, one in data.get("conditions", {}).items()}
    return restored(AttachedScores, data, file, conditions=conditions)


def _stability_of(data: Any, file: Path) -> Stability | None:
    if data is None:
        return None
    pairs, random = (tuple(restored(Match, one, file) for one in data.get(key, ())) for key in ("pairs", "random"))
    return restored(Stability, data, file, pairs=pairs, random=random, itself=restored(Match, data.get("itself"), file))


_HEAD = ("clips", "speakers", "rows", "spliced clips")
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
    """Lines of one table: the rows that have something of it."""
    having = [row for row in rows if row.get(columns[0][1][0]) is not None]
    if not having:
        return []
    cells = [["", *(title for title, _ in columns)]]
    cells += [[row["name"], *(_cell(row, keys) for _, keys in columns)] for row in having]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns) + 1)]
    return [""] + [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in cells
    ]


def _cell(row: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """A number as people read it, with its interval where there is one; blank where there is none."""
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
