"""One page for a run: summary, findings, and the command to repeat it. The file includes everything it needs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hooked_whisper._support.storage import write_atomic
from hooked_whisper.corpora import Clip
from hooked_whisper.findings.core.finding import RULE, STATUSES, Finding, format_estimate, format_number
from hooked_whisper.findings.core.records import Example, Measurement, PageLink
from hooked_whisper.findings.registry import REGISTRY
from hooked_whisper.report.card import ModelCard
from hooked_whisper.report.figures import Picture, picture
from hooked_whisper.report.overview import IDS, MEANINGS, Deciding, cost, deciding, facts, model_name, plain, tally
from hooked_whisper.report.sound import Player, Waveform, damped, player, waveform
from hooked_whisper.text import DiffOp, word_diff

log = logging.getLogger(__name__)

OWN_SPEECH = "hooked-whisper reproduce --model tiny.en --corpus recordings/ --out out/own"
_MOST_CELLS = 160
_ABOUT = ("version", "command", "origin", "date", "seconds")
SYMBOLS = {
    "reproduced": "✓",
    "partly": "◐",
    "not reproduced": "✗",
    "measured, no verdict": "≈",
    "not testable": "–",
    "error": "!",
}


@dataclass(frozen=True)
class Line:
    """One transcript, as a word diff from the reference."""

    condition: str
    ops: tuple[DiffOp, ...]
    text: str


@dataclass(frozen=True)
class Card:
    """An example with its sound."""

    example: Example
    lines: tuple[Line, ...]
    players: tuple[Player, ...]
    waveform: Waveform | None


@dataclass(frozen=True)
class Grid:
    """A measurement as a table. The last axis becomes the columns."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A finding with everything that its section shows."""

    finding: Finding
    deciding: Deciding | None
    tally: str
    cost: str
    pictures: tuple[Picture, ...]
    cards: tuple[Card, ...]
    grids: tuple[Grid, ...]


def render_page(
    findings: Sequence[Finding],
    utterances: Sequence[Clip] = (),
    card: ModelCard | None = None,
    about: Mapping[str, str] | None = None,
    attention: Mapping[str, str] | None = None,
    pages: Mapping[str, Sequence[PageLink]] | None = None,
) -> str:
    """Return the HTML of the page.

    Args:
        utterances: clips of the examples; examples without a clip have no player.
        card: description of the model.
        about: facts about the run (``version``, ``command``, ``origin``, ``date``, ``seconds``).
        attention: id of a finding -> page about the attention that it is about, to link, see
            :func:`~hooked_whisper.report.attention.write_attention_pages`.
        pages: id of a finding -> other pages to link, see
            :func:`~hooked_whisper.report.linked_pages.write_linked_pages`.
    """
    by_id = {u.id: u for u in utterances}
    sections = [_section(f, by_id) for f in findings]
    template = _environment().get_template("index.html.j2")
    return template.render(
        sections=sections,
        card=card,
        model=model_name(findings, card),
        facts=facts(findings, card, about or {}),
        about=dict.fromkeys(_ABOUT, "") | dict(about or {}),
        rule=RULE,
        symbols=SYMBOLS,
        meanings=MEANINGS,
        attention=dict(attention or {}),
        pages=dict(pages or {}),
        ids=IDS,
        statuses=[(status, n) for status in STATUSES if (n := sum(f.status == status for f in findings))],
        command=OWN_SPEECH,
        only="" if {f.id for f in findings} >= set(REGISTRY) else ",".join(f.id for f in findings),
    )


def write_page(path: str | Path, *args: Any, **kwargs: Any) -> None:
    """Write the HTML of :func:`render_page` atomically."""
    write_atomic(Path(path), render_page(*args, **kwargs).encode())


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("hooked_whisper.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["estimate"] = format_estimate
    environment.filters["number"] = format_number
    environment.filters["plain"] = plain
    environment.filters["css_class"] = lambda status: status.replace(",", "").replace(" ", "-")
    environment.filters["markup"] = Markup  # for our own SVG only
    return environment


def _section(finding: Finding, utterances: Mapping[str, Clip]) -> Section:
    pictures = _pictures(finding)
    cards = tuple(_card(e, utterances.get(e.utterance)) for e in finding.examples)
    grids = tuple(g for m in finding.measurements if (g := _grid(m)) is not None)
    return Section(finding, deciding(finding), tally(finding), cost(finding), pictures, cards, grids)


def _pictures(finding: Finding) -> tuple[Picture, ...]:
    """Return the figures of a finding, or none if they cannot be drawn, as with a file of another version."""
    try:
        return tuple(picture(figure, f"{finding.id}-{k}") for k, figure in enumerate(finding.draw()))
    except Exception as error:
        log.warning("%s: the figures cannot be drawn: %s: %s", finding.id, type(error).__name__, error)
        return ()


def _card(example: Example, utterance: Clip | None) -> Card:
    lines = tuple(Line(name, tuple(word_diff(example.reference, text)), text) for name, text in example.transcripts)
    if utterance is None:
        return Card(example, lines, (), None)
    players = [player(utterance.samples, f"{example.utterance}: the original clip")]
    if example.spans:
        words = ", ".join(s.label for s in example.spans)
        cut = damped(utterance.samples, example.spans)
        players.append(player(cut, f"{example.utterance}: the clip with the cut span ({words}) turned down"))
    playable = tuple(p for p in players if p is not None)
    return Card(example, lines, playable, waveform(utterance, example.spans))


def _grid(m: Measurement) -> Grid | None:
    """Return a small measurement as a table, or ``None``. An axis (value, low, high) becomes one cell."""
    if m.values.ndim == 0 or m.values.size > _MOST_CELLS:
        return None
    axes, values = list(m.axes), m.values
    bounds = axes[-1].entries == ("value", "low", "high")
    if bounds:
        axes = axes[:-1]
    columns = axes[-1] if len(axes) > 1 else None
    leading = axes[:-1] if columns is not None else axes
    unit = f" ({m.unit})" if m.unit else ""

    def cell(v: Any) -> str:
        if not bounds:
            return format_number(_known(v))
        value, low, high = (_known(x) for x in v)
        text = format_number(value)
        return text if low is None or high is None else f"{text} [{format_number(low)}, {format_number(high)}]"

    rows: list[tuple[str, ...]] = []

    def walk(prefix: tuple[str, ...], block: Any, depth: int) -> None:
        if depth == len(leading):
            cells = tuple(cell(v) for v in block) if columns is not None else (cell(block),)
            rows.append((*prefix, *cells))
            return
        for entry, part in zip(leading[depth].entries, block, strict=True):
            walk((*prefix, str(entry)), part, depth + 1)

    walk((), values, 0)
    names = tuple(a.name + (f" ({a.unit})" if a.unit else "") for a in leading)
    header = (*names, *(tuple(str(e) for e in columns.entries) if columns is not None else (m.name,)))
    return Grid(m.name + unit, header, tuple(rows))


def _known(x: Any) -> float | None:
    return float(x) if x == x else None
