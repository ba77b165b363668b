"""A sheet of figures of an evaluation: densities, reconstruction, attached SAEs, phones. Whiskers: 95 % intervals."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hooked_whisper.findings.core.figures import BASE_STYLE, BLUE, GRAY, GREEN, INK, ORANGE, PURPLE
from hooked_whisper.findings.core.finding import Estimate
from sae_lens_audio.evals.attached import CLEAN, MEAN, PADDING_TOO, ZERO
from sae_lens_audio.evals.evaluation import Evaluation, in_words
from sae_lens_audio.evals.phones import COVERS_AUC, COVERS_F1
from sae_lens_audio.evals.reconstruction import density_edges

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SAE_COLORS = (BLUE, "#7a5cc0", "#17537d", "#c2455d", "#2aa5b5", "#8a6d1f")  # in the order of the SAEs, then repeated
_OF_BASIS = {"neurons": ORANGE, "pca": GREEN, "random": GRAY, "mel bands": PURPLE, CLEAN: INK, MEAN: "#b5b9bd"}
_LONGEST = 30  # characters of a name
_STYLE: Any = {**BASE_STYLE, "font.size": 10.5, "axes.titlesize": 11.5, "axes.axisbelow": True}


def draw_sheet(evaluation: Evaluation) -> Figure:
    """Draw a panel for every score that was computed. The figure is not registered with pyplot."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels: list[Callable[[Axes], None]] = [
        lambda axes: _densities(axes, evaluation),
        lambda axes: _reconstruction(axes, evaluation),
    ]
    if evaluation.attached is not None:
        panels += [lambda axes: _words(axes, evaluation), lambda axes: _tokens(axes, evaluation)]
    if evaluation.phones:
        panels += [lambda axes: _phones(axes, evaluation), lambda axes: _coverage(axes, evaluation)]
    wide = bool(evaluation.phones)
    n_rows = len(panels) // 2
    bars = max(len(_shown(evaluation)), 6)
    with matplotlib.rc_context(_STYLE):
        heights = [0.9 + 0.32 * bars] * n_rows + [3.4] * wide
        engine = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
        figure = Figure(figsize=(13, sum(heights) + 0.8), layout=engine)
        grid = figure.add_gridspec(n_rows + wide, 2, height_ratios=heights)
        for k, draw in enumerate(panels):
            draw(figure.add_subplot(grid[k // 2, k % 2]))
        if wide:
            _by_phone(figure.add_subplot(grid[n_rows, :]), evaluation)
        where = (
            evaluation.hook if evaluation.hook == evaluation.hook_out else f"{evaluation.hook} → {evaluation.hook_out}"
        )
        head = f"{evaluation.model}, {where}: {evaluation.inputs.get('clips', '?')} clips (whiskers: 95 % intervals)"
        if evaluation.inputs.get("texts"):
            head += f"\ntexts: {evaluation.inputs['texts']}"
        figure.suptitle(head, x=0.01, ha="left", fontsize=13, fontweight="bold")
        if evaluation.stability is not None:
            figure.text(0.01, 0.0, in_words(evaluation.stability), fontsize=10, va="top")
    figure.set_label(f"Evaluation of {', '.join(evaluation.saes)} at {where}")
    return figure


def to_png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120, facecolor="white", bbox_inches="tight", metadata={"Software": None})
    return stream.getvalue()


def _shown(evaluation: Evaluation) -> list[str]:
    return [*evaluation.reconstruction, *([] if evaluation.attached is None else evaluation.attached.conditions)]


def color_of(evaluation: Evaluation, name: str) -> str:
    """Return the color of an SAE, baseline or condition, the same in all panels."""
    base = name.removesuffix(PADDING_TOO)
    if base in evaluation.saes:
        return _SAE_COLORS[list(evaluation.saes).index(base) % len(_SAE_COLORS)]
    if name == ZERO:
        return "#d6d9db"
    return _OF_BASIS.get(evaluation.baselines.get(name, name), "#5d646a")  # default: as many random directions


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _densities(axes: Axes, evaluation: Evaluation) -> None:
    most = max(evaluation.reconstruction[name].n_rows for name in evaluation.saes)
    edges = density_edges(most)
    for name in evaluation.saes:
        scores = evaluation.reconstruction[name]
        label = f"{_short(name)}: {scores.dead_fraction:.1%} dead, {scores.dense_fraction:.1%} dense"
        axes.stairs(scores.histogram(edges), edges, color=color_of(evaluation, name), linewidth=2, label=label)
    axes.axvline(-1, color=INK, linewidth=0.9, linestyle=":")
    axes.set_title("How often features fire")
    axes.set_xlabel("share of positions on which a feature fires (dotted: 10 %)")
    axes.set_ylabel("features per quarter of a decade")
    ticks = np.arange(np.ceil(edges[0]), 0.5)
    axes.set_xticks(ticks, [f"{100 * 10.0**t:g} %" for t in ticks])
    highest = max(evaluation.reconstruction[name].histogram(edges).max() for name in evaluation.saes)
    axes.set_ylim(0, highest * (1.1 + 0.1 * len(evaluation.saes)) + 1)
    axes.legend(loc="upper left")


def _reconstruction(axes: Axes, evaluation: Evaluation) -> None:
    names = list(evaluation.reconstruction)
    y = np.arange(len(names))[::-1]
    scores = [evaluation.reconstruction[name] for name in names]
    values = np.nan_to_num([s.explained_variance for s in scores])
    axes.barh(y, values, color=[color_of(evaluation, name) for name in names], height=0.62)
    positions = [s.explained_variance_per_position for s in scores]
    axes.plot(positions, y, "D", color="white", markeredgecolor=INK, markersize=6)
    lowest = min(0.0, *(p for p in positions if np.isfinite(p)), *values)
    axes.set_xlim(left=max(lowest, -1.0) * 1.1, right=1.32)
    for row, score, value in zip(y, scores, values, strict=True):
        axes.text(1.02, row, f"{value:.3f}  L0 {score.l0:.3g} of {score.d_in}", va="center", fontsize=9.5)
    axes.set_yticks(y, [_short(name) for name in names])
    axes.set_xticks(np.arange(0, 1.01, 0.2))
    axes.grid(axis="y", visible=False)
    axes.set_title("Reconstruction")
    axes.set_xlabel("explained variance (diamonds: mean over positions)")


def _words(axes: Axes, evaluation: Evaluation) -> None:
    attached = evaluation.attached
    assert attached is not None
    values = {name: _scaled(attached.wer(name), 100) for name in attached.conditions}
    changes = {name: _scaled(attached.change("wer", name), 100) for name in values if _is_sae(evaluation, name)}
    notes = {name: f"  ({_with_interval(change)})" for name, change in changes.items()}
    end = max(100.0, *(x for value in values.values() for x in value.row if np.isfinite(x)))
    _bars(axes, values, evaluation, end, notes)
    _clean_line(axes, values[CLEAN])
    axes.set_title("Word errors with the SAE attached (in brackets: change)")
    axes.set_xlabel(f"word errors, % of spoken words ({len(attached.clips)} clips; dotted: clean)")


def _tokens(axes: Axes, evaluation: Evaluation) -> None:
    """Logarithmic axis: the effect of SAEs is small beside that of ablations."""
    attached = evaluation.attached
    assert attached is not None
    values = {name: attached.cross_entropy(name) for name in attached.conditions}
    y = np.arange(len(values))[::-1]
    for row, (name, estimate) in zip(y, values.items(), strict=True):
        value, low, high = estimate.row
        if not value > 0:
            continue
        color = color_of(evaluation, name)
        inside = "white" if name.endswith(PADDING_TOO) else color
        error = [[value - max(low, 1e-9)], [high - value]] if np.isfinite(low) else None
        axes.errorbar(value, row, xerr=error, fmt="o", color=color, mfc=inside, markersize=8, capsize=3)
        axes.annotate(
            f"{value:.3g}", (high if np.isfinite(high) else value, row), (6, 0), textcoords="offset points",
            va="center", fontsize=9.5,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.margins(x=0.14)
    _clean_line(axes, values[CLEAN])
    axes.set_yticks(y, [_short(name) for name in values])
    axes.set_ylim(-0.6, len(values) - 0.4)
    axes.set_title("Next tokens with the SAE attached")
    axes.set_xlabel("cross-entropy of the reference, nats per token (dotted: clean)")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")


def _clean_line(axes: Axes, clean: Estimate) -> None:
    if clean.value is not None:
        axes.axvline(clean.value, color=INK, linewidth=0.9, linestyle=":")


def _is_sae(evaluation: Evaluation, name: str) -> bool:
    return name.removesuffix(PADDING_TOO) in evaluation.saes


def _with_interval(change: Estimate) -> str:
    value, low, high = change.row
    return f"{value:+.2g} [{low:+.2g}, {high:+.2g}]"


def _scaled(value: Estimate, scale: int) -> Estimate:
    return Estimate(*(None if x is None else scale * x for x in (value.value, value.low, value.high)))


def _bars(
    axes: Axes,
    values: Mapping[str, Estimate],
    evaluation: Evaluation,
    end: float | int,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Draw horizontal bars with whiskers, each with its value. ``end``: of the scale."""
    y = np.arange(len(values))[::-1]
    for row, (name, estimate) in zip(y, values.items(), strict=True):
        value, low, high = estimate.row
        if not np.isfinite(value):
            axes.text(0.01 * end, row, "undefined", va="center", fontsize=9.5)
            continue
        hatch = "////" if name.endswith(PADDING_TOO) else None
        axes.barh(
            row, value, color=color_of(evaluation, name), height=0.62, hatch=hatch, edgecolor="white", linewidth=0
        )
        if np.isfinite(low) and np.isfinite(high):
            axes.errorbar(value, row, xerr=[[value - low], [high - value]], color=INK, capsize=3, linewidth=1.1)
        beyond = max(value, high) if np.isfinite(high) else value
        axes.text(beyond + 0.015 * end, row, f"{value:.3g}{(notes or {}).get(name, '')}", va="center", fontsize=9.5)
    axes.set_yticks(y, [_short(name) for name in values])
    axes.set_xlim(0, end * 1.13)
    axes.grid(axis="y", visible=False)


def _phones(axes: Axes, evaluation: Evaluation) -> None:
    names = list(evaluation.phones)
    y = np.arange(len(names))[::-1]
    rows: Sequence[tuple[str, float, str, Callable[[Any], Estimate], Callable[[Any], float]]] = (
        ("best feature of a phone, mean over phones", 0.16, "s", lambda p: p.phone_f1, lambda p: p.shifted_phone_f1),
        ("best phone of a feature, mean over features", -0.16, "o", lambda p: p.mean_f1, lambda p: p.shifted_mean_f1),
    )
    for label, shift, marker, of, shifted in rows:
        for row, name in zip(y, names, strict=True):
            value, low, high = of(evaluation.phones[name]).row
            color = color_of(evaluation, name)
            if np.isfinite(value):
                error = [[value - low], [high - value]]
                axes.errorbar(value, row + shift, xerr=error, fmt=marker, color=color, markersize=7, capsize=3)
            shifted_value = shifted(evaluation.phones[name])
            axes.plot(shifted_value, row + shift, marker, markersize=5, markerfacecolor="none", markeredgecolor=color)
        axes.plot([], [], marker, color=INK, markersize=7, label=label)
    axes.plot(
        [], [], "o", markerfacecolor="none", markeredgecolor=INK, markersize=5, label="hollow: labels shifted in time"
    )
    axes.set_yticks(y, [f"{_short(name)} ({evaluation.phones[name].alive.sum()})" for name in names])
    axes.set_xlim(0, 1)
    axes.set_ylim(-2.3, len(names) - 0.4)  # room for the legend
    axes.grid(axis="y", visible=False)
    axes.set_title("Phones (in brackets: live features)")
    axes.set_xlabel("F1 on held-out speakers")
    axes.legend(loc="lower right")


def _coverage(axes: Axes, evaluation: Evaluation) -> None:
    _bars(axes, {name: _scaled(scores.covered, 100) for name, scores in evaluation.phones.items()}, evaluation, 100)
    n = len(next(iter(evaluation.phones.values())).phones)
    axes.set_title("Phones with a detector")
    axes.set_xlabel(f"% of {n} phones with a feature of AUC {COVERS_AUC:g} or F1 {COVERS_F1:g}")


def _by_phone(axes: Axes, evaluation: Evaluation) -> None:
    """Draw the F1 of every phone's best feature."""
    first = evaluation.phones[next(iter(evaluation.saes))]
    order = np.argsort(-first.best_f1)
    for name, scores in evaluation.phones.items():
        sae = name in evaluation.saes
        axes.plot(
            np.arange(len(order)), scores.best_f1[order], "o" if sae else "_", color=color_of(evaluation, name),
            markersize=7 if sae else 11, markeredgewidth=1 if sae else 2.4, linestyle="none",
            label=_short(name),
        )  # fmt: skip
    axes.set_xticks(np.arange(len(order)), [first.phones[i] for i in order])
    axes.set_xlim(-0.7, len(order) - 0.3)
    axes.set_ylim(0, 1)
    axes.set_title("Each phone's best feature")
    axes.set_xlabel("phone, in the order of the first SAE")
    axes.set_ylabel("F1 on held-out speakers")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
