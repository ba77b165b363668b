"""HTML of the site's pages, in the look of the findings' page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from markupsafe import Markup

from hooked_whisper.report.page import _environment as report_environment
from hooked_whisper.report.units.data import FRAME_S, Example, MeanMel, SiteInfo, Unit
from hooked_whisper.report.units.figures import histogram_figure, onset_figure, phone_colours
from hooked_whisper.report.units.images import mel_png
from hooked_whisper.report.units.records import Record, dump, label_at


@dataclass(frozen=True)
class Card:
    """An example as its card shows it. number: of the example within the page's data."""

    number: int
    example: Example
    clip: Record
    name: str
    moment: str
    loop: tuple[float, float]
    phone: str
    words: tuple[tuple[str, bool], ...]
    """The words said, and whether the peak falls on them."""

    @property
    def alt(self) -> str:
        e, where = self.example, f" in /{self.phone}/" if self.phone else ""
        word = next((w for w, here in self.words if here), "")
        return (
            f"Mel spectrogram of {self.clip['duration']:.2f} s with the activation over it: {e.value:.3g} at "
            f"{e.peak_s:.2f} s{where}{' of ' + word if word else ''}; from {float(e.trace.min()):.3g} to "
            f"{float(e.trace.max()):.3g}; looped from {self.loop[0]:.2f} to {self.loop[1]:.2f} s"
        )


@dataclass(frozen=True)
class Group:
    """Examples under one heading."""

    title: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Segment:
    """A phone's part of a row of shares, in percent."""

    phone: str
    percent: float
    colour: int | None
    title: str


def render_asset(template: str) -> str:
    return str(_environment().get_template(template).render())


def render_index(info: SiteInfo, rows: Sequence[Sequence[Any]]) -> str:
    """HTML of the index. rows: of :func:`hooked_whisper.report.units.records.index_row`."""
    return str(_environment().get_template("site.html.j2").render(info=info, n=len(rows), rows=embedded(rows)))


def render_unit(info: SiteInfo, unit: Unit, place: int, clips: Mapping[str, Record], examples: Sequence[Record]) -> str:
    """HTML of a unit's page.

    Args:
        place: where in ``info.indices`` the unit stands.
        clips: records by id.
        examples: for the page's program, one for each of the unit's.
    """
    colours = phone_colours(unit)
    low, high = min(0.0, float(unit.stats.min)), float(unit.stats.max)
    scale = (low, high if high > low else low + 1.0)
    return str(
        _environment()
        .get_template("unit.html.j2")
        .render(
            info=info,
            unit=unit,
            previous=info.indices[place - 1] if place else None,
            following=info.indices[place + 1] if place + 1 < len(info.indices) else None,
            groups=_groups(unit, clips, examples),
            histogram=histogram_figure(unit.histogram, unit) if unit.histogram else None,
            onset=onset_figure(unit.onset, colours) if unit.onset else None,
            legend=[(phone, colour) for phone, colour in colours.items() if _in_ranges(phone, unit)],
            rows=_share_rows(unit, colours),
            base=_base_row(unit, colours),
            mel=_mel(unit.mean_mel) if unit.mean_mel else None,
            scale=scale,
            linked={i for i, _ in unit.nearest if i in info.indices},
            data=embedded({"scale": scale, "examples": list(examples)}),
        )
    )


def embedded(value: Any) -> Markup:
    """JSON for a ``<script>``: no text in it can end the script, or begin a comment."""
    text = dump(value)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@cache
def _environment() -> Any:
    from jinja2 import ChoiceLoader, PackageLoader

    base = report_environment()
    return base.overlay(loader=ChoiceLoader([PackageLoader("hooked_whisper.report.units"), base.loader]))


def _groups(unit: Unit, clips: Mapping[str, Record], examples: Sequence[Record]) -> list[Group]:
    """The strongest, then ranges from high to low, then random ones."""
    by_group: dict[Any, list[Card]] = {}
    for number, (example, record) in enumerate(zip(unit.examples, examples, strict=True)):
        by_group.setdefault(example.group, []).append(_card(number, example, clips[example.clip], record))
    titles: dict[Any, str] = {"top": "Strongest"}
    for i, r in reversed(list(enumerate(unit.ranges))):
        titles[i] = f"From {r.low:.3g} to {r.high:.3g}"
    titles["random"] = "Drawn at random"
    return [
        Group(title, tuple(sorted(by_group[key], key=lambda c: c.example.rank)))
        for key, title in titles.items()
        if key in by_group
    ]


def _card(number: int, example: Example, clip: Record, record: Record) -> Card:
    peak = example.peak_s
    words = tuple((label, start <= peak < end) for start, end, label in clip["words"])
    first, last = record["loop"]
    phone = label_at(clip["phones"], peak)
    return Card(number, example, clip, record["clip"], record["moment"], (first, last), phone, words)


def _share_rows(unit: Unit, colours: Mapping[str, int]) -> list[tuple[Any, list[Segment]]]:
    """Ranges from high to low, each with its segments; phones without a colour are one segment."""
    rows = []
    for r in reversed(unit.ranges):
        shares = {p.phone: float(p.share) for p in r.phones}
        titles = {
            p.phone: f"{p.phone}: {100 * p.share:.0f} % [{100 * p.low:.0f}, {100 * p.high:.0f}]" for p in r.phones
        }
        rows.append((r, _segments(shares, titles, colours)))
    return rows


def _in_ranges(phone: str, unit: Unit) -> bool:
    return any(p.phone == phone for r in unit.ranges for p in r.phones)


def _base_row(unit: Unit, colours: Mapping[str, int]) -> list[Segment]:
    shares = {p: float(v) for p, v in unit.base_rates.items()}
    return _segments(shares, {p: f"{p}: {100 * v:.1f} %" for p, v in shares.items()}, colours)


def _segments(shares: Mapping[str, float], titles: Mapping[str, str], colours: Mapping[str, int]) -> list[Segment]:
    named = sorted((p for p in shares if p in colours and shares[p] > 0), key=lambda p: colours[p])
    segments = [Segment(p, 100 * shares[p], colours[p], titles[p]) for p in named]
    others = 100 * sum(v for p, v in shares.items() if p not in colours)
    if others > 0:
        segments.append(Segment("other", others, None, f"other phones: {others:.0f} %"))
    return segments


def _mel(mean: MeanMel) -> dict[str, Any]:
    frames = mean.values.shape[1]
    data = base64.b64encode(mel_png(mean.values)).decode("ascii")
    return {
        "uri": f"data:image/png;base64,{data}",
        "percent": 100 * (mean.peak_frame + 0.5) / frames,
        "before_ms": round(1000 * mean.peak_frame * FRAME_S),
        "after_ms": round(1000 * (frames - 1 - mean.peak_frame) * FRAME_S),
    }
