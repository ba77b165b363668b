"""Measurements, tables and notes of F6 on released models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from hooked_whisper.findings.core.finding import Criterion, Estimate, describe
from hooked_whisper.findings.core.records import Axis, Measurement, Table
from sae_lens_audio.evals.phones import FOUND, PhoneScores
from sae_lens_audio.findings.phone_detectors import NamedFeature
from sae_lens_audio.findings.phone_features_drawing import (
    COVERAGE,
    CURVE,
    DISTRIBUTION,
    F1_BY_BASIS,
    NAMED_F1,
    NAMED_RANDOM,
    NAMED_SHIFTED,
    SHARE_BY_BASIS,
)
from sae_lens_audio.findings.phone_features_scores import (
    AS_MANY,
    AXES,
    MANY,
    RANDOM,
    SAES,
    SHOWN,
    BlockScores,
)
from sae_lens_audio.findings.published_names import EXISTS, NAMES
from sae_lens_audio.findings.trained_saes import TIED, TOPK, TrainedSAEs

_THIS_RUN = "this run, voices and sentences that were not trained on"


def measurements(blocks: Sequence[BlockScores]) -> tuple[Measurement, ...]:
    """Return all measurements; the learning curves only if every SAE of a kind was trained in this run."""
    curves = _curves(blocks)
    return (
        _by_basis(F1_BY_BASIS, blocks, SHOWN, lambda scores: scores.mean_f1),
        _by_basis(SHARE_BY_BASIS, blocks, SHOWN, lambda scores: scores.found_share),
        _coverage(blocks),
        _distribution(blocks[-1]),
        *([] if curves is None else [curves]),
        _by_name(NAMED_F1, blocks, lambda named: named.detector.f1),
        _by_name(NAMED_RANDOM, blocks, lambda named: named.random_f1),
        _by_name(NAMED_SHIFTED, blocks, lambda named: named.shifted_f1),
    )


def tables(blocks: Sequence[BlockScores]) -> tuple[Table, ...]:
    """Return the scores by block, the features published by name, and each phone's best feature."""
    return (
        _scores_table(blocks),
        _names_table(blocks),
        *(_phones_table(block, name) for block in blocks for name in SAES),
    )


def _by_basis(
    name: str, blocks: Sequence[BlockScores], kinds: Sequence[str], estimate: Callable[[PhoneScores], Estimate]
) -> Measurement:
    numbers = tuple(block.number for block in blocks)
    values = [[estimate(block.phones[kind]).row for block in blocks] for kind in kinds]
    axes = (Axis("features", tuple(kinds)), Axis("block", numbers), Axis("bound", ("value", "low", "high")))
    return Measurement(name, axes, np.array(values))


def _coverage(blocks: Sequence[BlockScores]) -> Measurement:
    """Return the share of phones for which some feature has the F1 that a named feature needs."""
    kinds, numbers = (TIED, RANDOM, TOPK, MANY, AXES), tuple(block.number for block in blocks)
    values = [[(block.phones[kind].best_f1 >= EXISTS).mean() for block in blocks] for kind in kinds]
    return Measurement(COVERAGE, (Axis("features", kinds), Axis("block", numbers)), np.array(values))


def _distribution(block: BlockScores) -> Measurement:
    """Return the share of features in each bin of best-phone F1."""
    edges, shown = np.linspace(0, 1, 11), (TIED, TOPK, RANDOM, AXES)
    counts = [np.histogram(block.f1(name), edges - 1e-9)[0] for name in shown]
    axes = (Axis("features", shown), Axis("F1 from", tuple(edges[:-1].round(2).tolist())))
    return Measurement(DISTRIBUTION, axes, np.array([c / max(1, c.sum()) for c in counts]))


def _curves(blocks: Sequence[BlockScores]) -> Measurement | None:
    names = [name for name in SAES if all(name in block.trained.curves for block in blocks)]
    if not names:
        return None
    values = np.array([[block.trained.curves[name] for block in blocks] for name in names])
    parts = tuple(((np.arange(values.shape[2]) + 1) / values.shape[2]).round(2).tolist())
    numbers = tuple(block.number for block in blocks)
    return Measurement(
        CURVE, (Axis("SAE", tuple(names)), Axis("block", numbers), Axis("share of steps", parts)), values
    )


def _by_name(title: str, blocks: Sequence[BlockScores], value: Callable[[NamedFeature], float]) -> Measurement:
    """Return a value by published name, SAE and block; NaN where the sound is said too rarely."""
    values = [[[_value(block.named[sae].get(name.name), value) for block in blocks] for sae in SAES] for name in NAMES]
    numbers = tuple(block.number for block in blocks)
    axes = (Axis("published", tuple(name.name for name in NAMES)), Axis("SAE", SAES), Axis("block", numbers))
    return Measurement(title, axes, np.array(values))


def _value(named: NamedFeature | None, value: Callable[[NamedFeature], float]) -> float:
    return value(named) if named is not None and named.enough else float("nan")


def _scores_table(blocks: Sequence[BlockScores]) -> Table:
    columns = (
        "block", "features", "number", "alive", "L0", "explained variance", "dead", "mean best-phone F1",
        f"share with F1 {FOUND:g}", "mean F1, shifted labels", "phone's best F1", f"phones with F1 {EXISTS:g}",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for block in blocks:
        for name in SHOWN:
            phones, scores = block.phones[name], block.reconstruction.get(name)
            rows.append((
                str(block.number), name, str(phones.n_features), str(int(phones.alive.sum())),
                f"{scores.l0:.1f}" if scores else "", f"{scores.explained_variance:.3f}" if scores else "",
                f"{scores.dead_fraction:.1%}" if scores else "", _number(phones.mean_f1), _number(phones.found_share),
                f"{phones.shifted_mean_f1:.3f}", _number(phones.phone_f1), f"{(phones.best_f1 >= EXISTS).mean():.2f}",
            ))  # fmt: skip
    return Table("Scores by block", _THIS_RUN, columns, tuple(rows))


def _names_table(blocks: Sequence[BlockScores]) -> Table:
    columns = (
        "published", "sound", "published in block", "SAE", "block", "times said", "feature", "precision", "recall",
        "F1", "average precision", "F1, best random direction", "F1, shifted labels", "verdict", "strongest in",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for name in NAMES:
        for sae in SAES:
            for block in blocks:
                if (named := block.named[sae].get(name.name)) is None:
                    continue
                best = named.detector
                rows.append((
                    name.name, name.sound, "" if name.block is None else str(name.block), sae, str(block.number),
                    str(named.tokens), str(best.feature), f"{best.precision:.2f}", f"{best.recall:.2f}",
                    f"{best.f1:.2f}", f"{best.average_precision:.2f}", f"{named.random_f1:.2f}",
                    f"{named.shifted_f1:.2f}", named.verdict_in_words, ", ".join(best.heard),
                ))  # fmt: skip
    return Table("Features published by name, and the best feature for each", _THIS_RUN, columns, tuple(rows))


def _phones_table(block: BlockScores, sae: str) -> Table:
    """Return each phone's best feature, the phone with the highest F1 first."""
    scores, control = block.phones[sae], block.phones[AS_MANY[sae]]
    columns = (
        "phone", "feature", "precision", "recall", "F1", "average precision", "its chance level",
        "F1, best random direction", "F1, shifted labels", "strongest in",
    )  # fmt: skip
    rows = []
    for i in np.argsort(-scores.best_f1, kind="stable"):
        best = block.detectors[sae][scores.phones[i]]
        rows.append((
            best.sound, f"{best.feature}{'' if best.fires_high else ' (low values)'}", f"{best.precision:.2f}",
            f"{best.recall:.2f}", f"{best.f1:.2f}", f"{best.average_precision:.2f}", f"{best.prevalence:.3f}",
            f"{control.best_f1[i]:.2f}", f"{scores.shifted_best_f1[i]:.2f}", ", ".join(best.heard),
        ))  # fmt: skip
    return Table(f"Each phone's best feature of {sae}, block {block.number}", _THIS_RUN, columns, tuple(rows))


def notes(
    blocks: Sequence[BlockScores], saes: TrainedSAEs, claims: Sequence[Criterion], topk: Sequence[Criterion]
) -> tuple[str, ...]:
    """Return the notes of the finding.

    topk: the claims with the estimates of TopK.
    """
    parts = []
    for block in blocks:
        tied, other = block.reconstruction[TIED], block.reconstruction[TOPK]
        parts.append(
            f"block {block.number}: the published form explains {tied.explained_variance:.3f} of the variance with "
            f"{tied.l0:.0f} of {tied.n_features} features active at a position, TopK {other.explained_variance:.3f} "
            f"with {other.l0:.0f} of {other.n_features}"
        )
    best = ", ".join(f"{name} {blocks[-1].phones[name].best_f1.mean():.2f}" for name in (TIED, RANDOM, TOPK, MANY))
    dense = all(block.reconstruction[TIED].l0 > block.reconstruction[TIED].n_features / 2 for block in blocks)
    missed = [describe(criterion) for criterion in topk if not criterion.passed]
    return (
        f"Reconstruction of held-out speech: {'; '.join(parts)}.",
        *_growth(blocks),
        *(
            ["The published form is not sparse here: more than half of its features are active at a position."]
            if dense
            else []
        ),
        "TopK by the same criteria: " + (f"it misses {'; '.join(missed)}." if missed else "it meets all of them."),
        f"F1 of each phone's best feature, mean over phones, block {blocks[-1].number}: {best}. This asks "
        "whether every phone has a feature, not whether every feature has a phone: a feature for part of a phone, or "
        "for a variant of it, has a low F1.",
        *(_names_note(blocks, sae) for sae in SAES),
        *_training(blocks, saes),
        "The indices of features are specific to these SAEs. The word error rate with an SAE attached is not measured.",
    )


def _growth(blocks: Sequence[BlockScores]) -> list[str]:
    if not all(TIED in block.trained.curves for block in blocks):
        return []
    curves = {block.number: block.trained.curves[TIED] for block in blocks}
    growth = ", ".join(f"{c[-1] - c[len(c) // 2]:+.3f} in block {number}" for number, c in curves.items())
    return [f"In the last two fifths of the steps the published form's explained variance changed by {growth}."]


def _names_note(blocks: Sequence[BlockScores], sae: str) -> str:
    """Say which published names have a feature in some block."""
    by_verdict: dict[str, list[str]] = {}
    for name in NAMES:
        features = [block.named[sae][name.name] for block in blocks if name.name in block.named[sae]]
        if features:
            best = max(features, key=lambda named: named.detector.f1)
            shared = "".join(f", the feature of {other}" for other in best.same_as)
            by_verdict.setdefault(best.verdict, []).append(f"{name.name} ({best.detector.f1:.2f}{shared})")
    listed = "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in by_verdict.items())
    return f"Features published by name, best F1 of {sae} in any block: {listed}."


def _training(blocks: Sequence[BlockScores], saes: TrainedSAEs) -> list[str]:
    if all(origin.is_loaded for block in blocks for origin in block.trained.origins.values()):
        return []
    return [
        f"SAEs of this run were trained once, on {saes.n_rows:,} positions of {saes.recordings:,} recordings in "
        f"{saes.windows} windows."
    ]


def claims_of(claims: Sequence[Criterion], estimates: Sequence[Estimate]) -> list[Criterion]:
    """Return the claims with other estimates."""
    return [replace(claim, estimate=estimate) for claim, estimate in zip(claims, estimates, strict=True)]


def _number(estimate: Estimate) -> str:
    return "" if estimate.value is None else f"{estimate.value:.3f}"
