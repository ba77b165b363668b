"""Means with intervals over the cases, differences to the controls, and the verdict by thresholds fixed beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from benchmarks.feature_steering.edits import CONTROLS, EDITS, Edit
from hooked_whisper.findings.core.finding import Estimate
from hooked_whisper.findings.core.statistics import bootstrap

MEASURES = ("changed", "foil", "logprob", "preference", "others_changed", "others_logprob")
DRAWS = 2000
LEAST_SPEAKERS = 8  # with fewer, intervals resample clips

# Fixed before the first measurement on held-out voices. "The transcript follows the feature" if all hold, each with its
# whole interval:
FOIL_SHARE_BEYOND = 0.2  # push: share of foils written, minus that of each control
ERASE_LOGPROB_BEYOND = -0.5  # erase: change of the word's log-probability (nats), minus that of each control
OTHERS_CHANGED = 0.05  # push: share of the other words that change

Record = Mapping[str, Any]


def summarize(records: Sequence[Record], seed: int = 0) -> dict[str, Any]:
    """Return the estimates of one corpus; a record is a case with its outcomes by edit."""
    speakers = [record["case"]["speaker"] for record in records]
    by_speaker = len(set(speakers)) >= LEAST_SPEAKERS
    units = speakers if by_speaker else [record["case"]["clip"] for record in records]
    values = {
        edit: {measure: np.array([float(r["outcomes"][edit][measure]) for r in records]) for measure in MEASURES}
        for edit in EDITS
    }
    estimates = {
        edit: {measure: _row(estimate(column, units, seed)) for measure, column in columns.items()}
        for edit, columns in values.items()
    }
    beyond = {
        edit: {
            control: {
                measure: _row(estimate(values[edit][measure] - values[control][measure], units, seed))
                for measure in MEASURES
            }
            for control in controls
        }
        for edit, controls in CONTROLS.items()
    }
    return {
        "cases": len(records),
        "clips": len({record["case"]["clip"] for record in records}),
        "speakers": len(set(speakers)),
        "resampled": "speakers" if by_speaker else "clips",
        "estimates": estimates,
        "beyond_control": beyond,
        "criteria": criteria(estimates, beyond),
        "by_phone": _by_phone(records),
    }


def estimate(values: Float[np.ndarray, "case"], units: Sequence[str], seed: int = 0) -> Estimate:
    """Return the mean over cases and its 95 % interval, from a bootstrap over ``units`` (clips or speakers)."""
    names, index = np.unique(np.array(units), return_inverse=True)
    sums = np.bincount(index, values, minlength=len(names))
    counts = np.bincount(index, minlength=len(names))
    samples = bootstrap(
        len(names), lambda drawn: float(sums[drawn].sum() / counts[drawn].sum()), np.random.default_rng(seed), DRAWS
    )
    return Estimate.of(float(values.mean()), samples)


def criteria(estimates: Mapping[Edit, Any], beyond: Mapping[Edit, Any]) -> list[dict[str, Any]]:
    """Return each threshold with the estimate that it is compared with: of the strongest control for differences."""
    push = min(beyond["push"].items(), key=lambda item: item[1]["foil"][1])
    erase = max(beyond["erase"].items(), key=lambda item: item[1]["logprob"][2])
    others = estimates["push"]["others_changed"]
    return [
        {
            "name": f"push: share of foils written, minus {push[0]!r}",
            "estimate": push[1]["foil"],
            "at least": FOIL_SHARE_BEYOND,
            "met": push[1]["foil"][1] >= FOIL_SHARE_BEYOND,
        },
        {
            "name": f"erase: change of the word's log-probability (nats), minus {erase[0]!r}",
            "estimate": erase[1]["logprob"],
            "at most": ERASE_LOGPROB_BEYOND,
            "met": erase[1]["logprob"][2] <= ERASE_LOGPROB_BEYOND,
        },
        {
            "name": "push: share of the other words that change",
            "estimate": others,
            "at most": OTHERS_CHANGED,
            "met": others[2] <= OTHERS_CHANGED,
        },
    ]


def _by_phone(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Cases, share of foils written (push) and mean change of the word's log-probability (erase) by erased phone."""
    phones = sorted({record["case"]["phone"] for record in records})
    table = {}
    for phone in phones:
        rows = [record["outcomes"] for record in records if record["case"]["phone"] == phone]
        table[phone] = {
            "cases": len(rows),
            "push_foil": round(float(np.mean([row["push"]["foil"] for row in rows])), 3),
            "erase_logprob": round(float(np.mean([row["erase"]["logprob"] for row in rows])), 3),
        }
    return table


def _row(value: Estimate) -> list[float]:
    return [round(number, 4) for number in value.row]


__all__ = ["CONTROLS", "MEASURES", "Edit", "criteria", "estimate", "summarize"]
