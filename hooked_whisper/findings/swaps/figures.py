"""Figures of W1, word-swap patching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hooked_whisper._support.heatmap import heat_map
from hooked_whisper.findings.core.figures import BLUE, ORANGE, add_legend, alt_text, draw_controls, new_figure
from hooked_whisper.findings.core.finding import Finding
from hooked_whisper.findings.core.records import Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_word_swap(finding: Finding) -> list[Figure]:
    """Draw the word's span and its controls; encoder blocks; decoder components; heads; and the effect by distance."""
    encoder = finding.measurement("encoder by block and stretch")
    parts = finding.measurement("decoder at the predicting token")
    heads = finding.measurement("cross-attention heads at the predicting token")
    unit = "share of the gap"
    figures = [draw_controls(finding, 0, unit)]
    for table, title, x, y, rows, columns in (
        (
            encoder.at(bound="value"),
            "Residual stream of the encoder",
            "span",
            "into",
            *_labels(encoder, "into", "stretch"),
        ),
        (parts.values, "Decoder at the predicting token", "component", "block", *_labels(parts, "block", "part")),
        (
            heads.values,
            "Cross-attention heads at the predicting token",
            "head",
            "block",
            *_labels(heads, "block", "head"),
        ),
    ):
        figures.append(heat_map(table, title=title, x=x, y=y, unit=unit, rows=rows, columns=columns, scale="diverging"))
    profile = finding.measurement("effect by distance from the word's middle")
    seconds = np.array(profile.axis("window").entries, dtype=float)
    figure, axes = new_figure(
        "Effect by distance from the word", "distance from the word's middle (s)", "share of the gap"
    )
    axes.plot(seconds, profile.values[:, 0], color=BLUE, marker="o", label="100 ms of the encoder's output")
    axes.fill_between(seconds, profile.values[:, 1], profile.values[:, 2], color=BLUE, alpha=0.2, linewidth=0)
    axes.axhline(0, color=ORANGE, linewidth=1)
    figure.set_label(
        alt_text("Effect by distance from the word", profile.values[:, 0], [f"{t:.1f} s" for t in seconds])
    )
    add_legend(axes)
    return [*figures, figure]


def _labels(table: Measurement, rows: str, columns: str) -> tuple[Sequence[str], Sequence[str]]:
    return [str(e) for e in table.axis(rows).entries], [str(e) for e in table.axis(columns).entries]
