"""One figure sheet of an evaluation: densities, reconstruction, splices, phones; whiskers are 95 % intervals."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hooked_whisper.findings.core.figures import BLUE, GRAY, GREEN, GRID, INK, ORANGE, PURPLE
from hooked_whisper.findings.core.finding import Estimate
from sae_lens_audio.evals.attached import CLEAN, MEAN, PADDING_TOO, ZERO
from sae_lens_audio.evals.evaluation import Evaluation, in_words
from sae_lens_audio.evals.phones import COVERS_AUC, COVERS_F1
from sae_lens_audio.evals.reconstruction import density_edges

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SAE_COLORS = (BLUE, "#7a5cc0", "#17537d", "#c2455d", "#2aa5b5", "#8a6d1f")  # in their order, then again
_OF_BASIS = {"neurons": ORANGE, "pca": GREEN, "random": GRAY, "mel bands": PURPLE, CLEAN: INK, MEAN: "#b5b9bd"}
_LONGEST = 30  # characters of a name
_STYLE: Any = {
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}


def draw_sheet(found: Evaluation) -> Figure:
    """Panels of what was run. Not registered with pyplot, so that nothing needs closing."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels: list[Callable[[Axes], None]] = [
        lambda axes: _densities(axes, found),
        lambda axes: _reconstruction(axes, found),
    ]
    if found.attached is not None:
        panels += [lambda axes: _words(axes, found), lambda axes: _tokens(axes, found)]
    if found.phones:
        panels += [lambda axes: _phones(axes, found), lambda axes: _coverage(axes, found)]
    wide = bool(found.phones)
    n_rows = len(panels) // 2
    bars = max(len(_shown(found)), 6)
    with matplotlib.rc_context(_STYLE):
        heights = [0.9 + 0.32 * bars] * n_rows + [3.4] * wide
        engine = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
        figure = Figure(figsize=(13, sum(heights) + 0.8), layout=engine)
        grid = figure.add_gridspec(n_rows + wide, 2, height_ratios=heights)
        for k, draw in enumerate(panels):
            draw(figure.add_subplot(grid[k // 2, k % 2]))
        if wide:
            _by_phone(figure.add_subplot(grid[n_rows, :]), found)
        where = found.hook if found.hook == found.hook_out else f"{found.hook} → {found.hook_out}"
        head = f"{found.model}, {where}: {found.inputs.get('clips', '?')} clips (whiskers: 95 % intervals)"
        if found.inputs.get("texts"):
            head += f"\ntexts: {found.inputs['texts']}"
        figure.suptitle(head, x=0.01, ha="left", fontsize=13, fontweight="bold")
        if found.stability is not None:
            figure.text(0.01, 0.0, in_words(found.stability), fontsize=10, va="top")
    figure.set_label(f"Evaluation of {', '.join(found.saes)} at {where}")
    return figure


def to_png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120, facecolor="white", bbox_inches="tight", metadata={"Software": None})
    return stream.getvalue()


def _shown(found: Evaluation) -> list[str]:
    return [*found.reconstruction, *([] if found.attached is None else found.attached.conditions)]


def colour_of(found: Evaluation, name: str) -> str:
    """The same for one thing in all panels."""
    own = name.removesuffix(PADDING_TOO)
    if own in found.saes:
        return _SAE_COLORS[list(found.saes).index(own) % len(_SAE_COLORS)]
    if name == ZERO:
        return "#d6d9db"
    return _OF_BASIS.get(found.baselines.get(name, name), "#5d646a")  # the last: random directions in number


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _densities(axes: Axes, found: Evaluation) -> None:
    most = max(found.reconstruction[name].n_rows for name in found.saes)
    edges = density_edges(most)
    for name in found.saes:
        one = found.reconstruction[name]
        label = f"{_short(name)}: {one.dead_fraction:.1%} dead, {one.dense_fraction:.1%} dense"
        axes.stairs(one.histogram(edges), edges, color=colour_of(found, name), linewidth=2, label=label)
    axes.axvline(-1, color=INK, linewidth=0.9, linestyle=":")
    axes.set_title("How often features fire")
    axes.set_xlabel("share of positions on which a feature fires (dotted: 10 %)")
    axes.set_ylabel("features per quarter of a decade")
    ticks = np.arange(np.ceil(edges[0]), 0.5)
    axes.set_xticks(ticks, [f"{100 * 10.0**t:g} %" for t in ticks])
    highest = max(found.reconstruction[name].histogram(edges).max() for name in found.saes)
    axes.set_ylim(0, highest * (1.1 + 0.1 * len(found.saes)) + 1)
    axes.legend(loc="upper left")


def _reconstruction(axes: Axes, found: Evaluation) -> None:
    names = list(found.reconstruction)
    y = np.arange(len(names))[::-1]
    scores = [found.reconstruction[name] for name in names]
    values = np.nan_to_num([s.explained_variance for s in scores])
    axes.barh(y, values, color=[colour_of(found, name) for name in names], height=0.62)
    positions = [s.explained_variance_per_position for s in scores]
    axes.plot(positions, y, "D", color="white", markeredgecolor=INK, markersize=6)
    lowest = min(0.0, *(p for p in positions if np.isfinite(p)), *values)
    axes.set_xlim(left=max(lowest, -1.0) * 1.1, right=1.32)
    for at, one, value in zip(y, scores, values, strict=True):
        axes.text(1.02, at, f"{value:.3f}  L0 {one.l0:.3g} of {one.d_in}", va="center", fontsize=9.5)
    axes.set_yticks(y, [_short(name) for name in names])
    axes.set_xticks(np.arange(0, 1.01, 0.2))
    axes.grid(axis="y", visible=False)
    axes.set_title("What is reconstructed")
    axes.set_xlabel("explained variance (diamonds: mean over positions)")


def _words(axes: Axes, found: Evaluation) -> None:
    attached = found.attached
    assert attached is not None
    values = {name: _scaled(attached.wer(name), 100) for name in attached.conditions}
    changes = {name: _scaled(attached.change("wer", name), 100) for name in values if _is_sae(found, name)}
    notes = {name: f"  ({_with_interval(change)})" for name, change in changes.items()}
    end = max(100.0, *(x for value in values.values() for x in value.row if np.isfinite(x)))
    _bars(axes, values, found, end, notes)
    _clean_line(axes, values[CLEAN])
    axes.set_title("Words wrong, spliced in (in brackets: more than clean)")
    axes.set_xlabel(f"word errors, % of the words said ({len(attached.clips)} clips; dotted: clean)")


def _tokens(axes: Axes, found: Evaluation) -> None:
    """On a logarithmic axis: what SAEs cost is small beside what ablations do."""
    attached = found.attached
    assert attached is not None
    values = {name: attached.cross_entropy(name) for name in attached.conditions}
    y = np.arange(len(values))[::-1]
    for at, (name, estimate) in zip(y, values.items(), strict=True):
        value, low, high = estimate.row
        if not value > 0:
            continue
        colour = colour_of(found, name)
        inside = "white" if name.endswith(PADDING_TOO) else colour
        error = [[value - max(low, 1e-9)], [high - value]] if np.isfinite(low) else None
        axes.errorbar(value, at, xerr=error, fmt="o", color=colour, mfc=inside, markersize=8, capsize=3)
        axes.annotate(
            f"{value:.3g}", (high if np.isfinite(high) else value, at), (6, 0), textcoords="offset points", va="center",
            fontsize=9.5,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.margins(x=0.14)
    _clean_line(axes, values[CLEAN])
    axes.set_yticks(y, [_short(name) for name in values])
    axes.set_ylim(-0.6, len(values) - 0.4)
    axes.set_title("Next tokens, spliced in")
    axes.set_xlabel("cross-entropy of what was said, nats a token (dotted: clean)")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")


def _clean_line(axes: Axes, clean: Estimate) -> None:
    if clean.value is not None:
        axes.axvline(clean.value, color=INK, linewidth=0.9, linestyle=":")


def _is_sae(found: Evaluation, name: str) -> bool:
    return name.removesuffix(PADDING_TOO) in found.saes


def _with_interval(change: Estimate) -> str:
    value, low, high = change.row
    return f"{value:+.2g} [{low:+.2g}, {high:+.2g}]"


def _scaled(value: Estimate, scale: int) -> Estimate:
    return Estimate(*(None if x is None else scale * x for x in (value.value, value.low, value.high)))


def _bars(
    axes: Axes,
    values: Mapping[str, Estimate],
    found: Evaluation,
    end: float | int,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Horizontal bars with whiskers, the value behind each; ``end`` of the scale."""
    y = np.arange(len(values))[::-1]
    for at, (name, estimate) in zip(y, values.items(), strict=True):
        value, low, high = estimate.row
        if not np.isfinite(value):
            axes.text(0.01 * end, at, "undefined", va="center", fontsize=9.5)
            continue
        hatch = "////" if name.endswith(PADDING_TOO) else None
        axes.barh(at, value, color=colour_of(found, name), height=0.62, hatch=hatch, edgecolor="white", linewidth=0)
        if np.isfinite(low) and np.isfinite(high):
            axes.errorbar(value, at, xerr=[[value - low], [high - value]], color=INK, capsize=3, linewidth=1.1)
        beyond = max(value, high) if np.isfinite(high) else value
        axes.text(beyond + 0.015 * end, at, f"{value:.3g}{(notes or {}).get(name, '')}", va="center", fontsize=9.5)
    axes.set_yticks(y, [_short(name) for name in values])
    axes.set_xlim(0, end * 1.13)
    axes.grid(axis="y", visible=False)


def _phones(axes: Axes, found: Evaluation) -> None:
    names = list(found.phones)
    y = np.arange(len(names))[::-1]
    rows: Sequence[tuple[str, float, str, Callable[[Any], Estimate], Callable[[Any], float]]] = (
        ("best feature of a phone, mean over phones", 0.16, "s", lambda p: p.phone_f1, lambda p: p.shifted_phone_f1),
        ("best phone of a feature, mean over features", -0.16, "o", lambda p: p.mean_f1, lambda p: p.shifted_mean_f1),
    )
    for label, shift, marker, of, shifted in rows:
        for at, name in zip(y, names, strict=True):
            value, low, high = of(found.phones[name]).row
            colour = colour_of(found, name)
            if np.isfinite(value):
                error = [[value - low], [high - value]]
                axes.errorbar(value, at + shift, xerr=error, fmt=marker, color=colour, markersize=7, capsize=3)
            turned = shifted(found.phones[name])
            axes.plot(turned, at + shift, marker, markersize=5, markerfacecolor="none", markeredgecolor=colour)
        axes.plot([], [], marker, color=INK, markersize=7, label=label)
    axes.plot(
        [], [], "o", markerfacecolor="none", markeredgecolor=INK, markersize=5, label="hollow: labels shifted in time"
    )
    axes.set_yticks(y, [f"{_short(name)} ({found.phones[name].alive.sum()})" for name in names])
    axes.set_xlim(0, 1)
    axes.set_ylim(-2.3, len(names) - 0.4)  # room for the legend
    axes.grid(axis="y", visible=False)
    axes.set_title("Phones (features that fire in brackets)")
    axes.set_xlabel("F1 on speakers that thresholds were not chosen on")
    axes.legend(loc="lower right")


def _coverage(axes: Axes, found: Evaluation) -> None:
    _bars(axes, {name: _scaled(one.covered, 100) for name, one in found.phones.items()}, found, 100)
    n = len(next(iter(found.phones.values())).phones)
    axes.set_title("Phones that some feature finds")
    axes.set_xlabel(f"% of {n} phones with a feature of AUC {COVERS_AUC:g} or F1 {COVERS_F1:g}")


def _by_phone(axes: Axes, found: Evaluation) -> None:
    """Every phone's best feature: SAEs and the controls that matter most."""
    first = found.phones[next(iter(found.saes))]
    order = np.argsort(-first.best_f1)
    for name, one in found.phones.items():
        sae = name in found.saes
        axes.plot(
            np.arange(len(order)), one.best_f1[order], "o" if sae else "_", color=colour_of(found, name),
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
