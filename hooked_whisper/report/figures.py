"""Matplotlib figures as inline SVG that uses the colors of the page, light or dark."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hooked_whisper.findings.core.figures import GRID, INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_SVG = 400_000  # characters; larger figures (many points) become bitmaps
_MARGIN = 4  # points around the axes of a thumbnail


@dataclass(frozen=True)
class Picture:
    """One figure as an ``<svg>`` element, and the view box of its thumbnail.

    Attributes:
        markup: the element for the page; its id is ``id``.
        alt: a text description.
        title: the first sentence of ``alt``.
        width, height: size of its view box.
        thumbnail: the view box of its first axes, without their labels.
    """

    markup: str
    alt: str
    id: str
    title: str
    width: float
    height: float
    thumbnail: str


def picture(figure: Figure, key: str) -> Picture:
    """Return a figure as SVG. ``key`` becomes the id of the element and must be unique on the page."""
    import matplotlib

    alt = str(figure.get_label()) or "figure"
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    width, height = (72 * float(inches) for inches in figure.get_size_inches())
    markup = _bitmap(figure, key, alt, width, height) if len(svg) > _MAX_SVG else themed(svg, key, alt)
    return Picture(markup, alt, key, alt.split(". ")[0], width, height, _thumbnail(figure, width, height))


def themed(svg: str, key: str, alt: str) -> str:
    """Return only the ``<svg>`` element, without prolog and namespaces, with unique ids, and with CSS variables for
    colors and fonts. ``--figure-text`` sets the opacity of the text, so that a thumbnail can hide it.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    used = set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'xlink:href="#([^"]+)"', svg))
    svg = re.sub(r'\sid="([^"]*)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{key}-\1"', svg)
    svg = svg.replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
    svg = re.sub(r"font: ((?:bold )?[\d.]+px)[^;\"]*", r"font: \1 var(--font, sans-serif)", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--font, sans-serif)", svg)
    svg = svg.replace('<text style="', '<text style="opacity: var(--figure-text, 1); ')
    head = svg[: svg.index(">")]
    head = re.sub(r'\s(width|height|version)="[^"]*"', "", head)
    return f"{head} {_names(key, alt)}>" + svg[svg.index(">") + 1 :]


def _names(key: str, alt: str) -> str:
    from markupsafe import escape

    # an attribute should have no line breaks
    return f'id="{escape(key)}" role="img" aria-label="{escape(" ".join(alt.split()))}"'


def _bitmap(figure: Figure, key: str, alt: str, width: float, height: float) -> str:
    """Return a figure with many points as a PNG inside an ``<svg>``, so that a thumbnail can refer to it."""
    import base64

    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=160, facecolor="white")
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    size = f'width="{width:g}" height="{height:g}"'
    image = f'<image {size} href="data:image/png;base64,{data}"/>'
    return f'<svg viewBox="0 0 {width:g} {height:g}" {_names(key, alt)}>{image}</svg>'


def _thumbnail(figure: Figure, width: float, height: float) -> str:
    """Return the view box of the first axes, or of the whole figure if there are none."""
    if not figure.axes:
        return f"0 0 {width:g} {height:g}"
    box = figure.axes[0].get_position()
    left, top = box.x0 * width - _MARGIN, (1 - box.y1) * height - _MARGIN
    return f"{left:.1f} {top:.1f} {box.width * width + 2 * _MARGIN:.1f} {box.height * height + 2 * _MARGIN:.1f}"
