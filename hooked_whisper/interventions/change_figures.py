"""The figure of a transcript change: a bar for every word of the unedited text, over its seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hooked_whisper._support.heatmap import plain
from hooked_whisper._support.plotly_figures import Backend, check_backend, markup

if TYPE_CHECKING:
    from hooked_whisper.interventions.transcript_changes import WordChange

_COLORS = {"kept": "#6b7280", "changed": "#ca8a04", "gone": "#c2410c"}
_Y = "change of log-probability (nats)"
_LEAST_NUMBER = 0.05  # smaller changes have no number
_MOST_NUMBERS = 40  # words whose bars also have a number


def draw_word_changes(words: Sequence[WordChange], title: str, *, backend: Backend = "matplotlib") -> Any:
    """Draw the changes of log-probability; side by side if a word has no time. New words have no bar."""
    scored = [word for word in words if word.logprob_change is not None]
    timed = bool(scored) and all(word.start is not None and word.end is not None for word in scored)
    spans = [(word.start or 0.0, word.end or 0.0) if timed else (k, k + 0.9) for k, word in enumerate(scored)]
    if check_backend(backend) == "plotly":
        return _plotly(scored, spans, title, timed)
    return _matplotlib(scored, spans, title, timed)


def _matplotlib(words: Sequence[WordChange], spans: Sequence[tuple[float, float]], title: str, timed: bool) -> Any:
    from matplotlib.figure import Figure

    wide = min(14.0, max(5.0, 0.34 * len(words) + 1.2))
    figure = Figure(figsize=(wide, 3.4), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for fate, color in _COLORS.items():
        part = [(span, word) for span, word in zip(spans, words, strict=True) if word.fate == fate]
        if part:
            axes.bar(
                [span[0] for span, _ in part],
                [word.logprob_change or 0.0 for _, word in part],
                width=[span[1] - span[0] for span, _ in part],
                align="edge",
                color=color,
                edgecolor="white",
                label=fate,
            )
    centers = [(start + end) / 2 for start, end in spans]
    for center, word in zip(centers, words, strict=True) if len(words) <= _MOST_NUMBERS else ():
        change = word.logprob_change or 0.0
        if abs(change) < _LEAST_NUMBER:
            continue
        side = "top" if change < 0 else "bottom"
        axes.text(center, change, f"{change:+.1f}", ha="center", va=side, fontsize=7)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(centers, [plain(word.before) for word in words], rotation=60, ha="right", fontsize=8)
    axes.set_ylabel(_Y)
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    if timed:
        seconds = axes.secondary_xaxis("top")
        seconds.set_xlabel("time (s)")
    if words:
        axes.legend(title="word", fontsize=8)
    axes.set_title(plain(title), loc="left", fontsize=12, fontweight="bold")
    figure.set_label(title)
    return figure


def _plotly(words: Sequence[WordChange], spans: Sequence[tuple[float, float]], title: str, timed: bool) -> Any:
    from plotly import graph_objects

    centers = [(start + end) / 2 for start, end in spans]
    bars = graph_objects.Bar(
        x=centers,
        y=[word.logprob_change for word in words],
        width=[end - start for start, end in spans],
        marker_color=[_COLORS[word.fate] for word in words],
        customdata=[[markup(word.before), word.fate, *span] for word, span in zip(words, spans, strict=True)],
        hovertemplate="%{customdata[0]} (%{customdata[1]})<br>%{y:+.3f} nats"
        + ("<br>%{customdata[2]:.2f}-%{customdata[3]:.2f} s" if timed else "")
        + "<extra></extra>",
    )
    figure = graph_objects.Figure(bars)
    figure.update_layout(title=markup(title), xaxis_title="time (s)" if timed else "word", yaxis_title=_Y)
    figure.update_xaxes(tickvals=centers, ticktext=[markup(word.before) for word in words])
    return figure
