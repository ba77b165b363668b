"""Matplotlib figures as inline SVG that takes its ink and grid colours from the page, light or dark."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hooked_whisper.findings.drawing import GRID, INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_SVG = 400_000  # characters; a figure with more (many points) goes in as a bitmap


@dataclass(frozen=True)
class Picture:
    """Markup of one figure, ready for a page, and what it shows in words."""

    markup: str
    alt: str


def picture(figure: Figure, key: str) -> Picture:
    """``key`` must differ between the figures of a page."""
    import matplotlib

    alt = str(figure.get_label()) or "figure"
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    if len(svg) > _MAX_SVG:
        return Picture(_bitmap(figure, alt), alt)
    return Picture(themed(svg, key, alt), alt)


def themed(svg: str, key: str, alt: str) -> str:
    """The ``<svg>`` element alone: no prolog, no outside names, ids of its own, colours by CSS variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    used = set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'xlink:href="#([^"]+)"', svg))
    svg = re.sub(r'\sid="([^"]*)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{key}-\1"', svg)
    svg = svg.replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
    svg = re.sub(r"font: ((?:bold )?[\d.]+px)[^;\"]*", r"font: \1 var(--font)", svg)
    # a line break in the label would end up in the page's source only, but an attribute is better without
    label = _attribute(" ".join(alt.split()))
    head = svg[: svg.index(">")]
    head = re.sub(r'\s(width|height|version)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{label}">' + svg[svg.index(">") + 1 :]


def _attribute(text: str) -> str:
    from markupsafe import escape

    return str(escape(text))


def _bitmap(figure: Figure, alt: str) -> str:
    import base64

    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=160, facecolor="white")
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{_attribute(alt)}">'
