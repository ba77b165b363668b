"""HTML of the site's pages, in the look of the findings' page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from markupsafe import Markup

from hooked_whisper._support.mel_axis import FrequencyTick, frequency_ticks
from hooked_whisper._support.mel_image import mel_png
from hooked_whisper.report.page import _environment as report_environment
from hooked_whisper.report.units.data import FRAME_S, MeanMel, Number, SiteInfo, Unit, UnitExample
from hooked_whisper.report.units.figures import depth_figure, histogram_figure, onset_figure, phone_colors
from hooked_whisper.report.units.records import Record, dump, label_at


@dataclass(frozen=True)
class UnitCard:
    """An example as its card shows it.

    Attributes:
        number: index of the example in the page's data.
        words: words of the clip, and whether the peak is in them.
    """

    number: int
    example: UnitExample
    clip: Record
    name: str
    moment: str
    loop: tuple[float, float]
    phone: str
    words: tuple[tuple[str, bool], ...]

    @property
    def frequencies(self) -> tuple[FrequencyTick, ...]:
        """Marks of the frequency axis."""
        return frequency_ticks(self.clip["n_mels"])

    @property
    def alt(self) -> str:
        """Text alternative of the spectrogram."""
        e, phone = self.example, f" in /{self.phone}/" if self.phone else ""
        word = next((w for w, at_peak in self.words if at_peak), "")
        return (
            f"Mel spectrogram of {self.clip['duration']:.2f} s with the activation over it: {e.value:.3g} at "
            f"{e.peak_s:.2f} s{phone}{' of ' + word if word else ''}; from {float(e.trace.min()):.3g} to "
            f"{float(e.trace.max()):.3g}; looped from {self.loop[0]:.2f} to {self.loop[1]:.2f} s"
        )


@dataclass(frozen=True)
class SimilarUnit:
    """A unit with similar weights or the same strongest moments; ``None`` where it is not among the most similar."""

    index: int
    label: str
    linked: bool
    cosine: Number | None
    share: Number | None


@dataclass(frozen=True)
class NormBar:
    """The decoder norm of a feature at a hook point. percent: of the largest relative norm. share: of their sum."""

    hook: str
    norm: Number
    relative: Number
    percent: float
    share: float


@dataclass(frozen=True)
class Group:
    """Examples under one heading."""

    title: str
    cards: tuple[UnitCard, ...]


@dataclass(frozen=True)
class Segment:
    """The share of a phone in a row, in percent."""

    phone: str
    percent: float
    color: int | None
    title: str


def render_asset(template: str) -> str:
    """Content of a style sheet or script."""
    return str(_environment().get_template(template).render())


def render_index(info: SiteInfo, rows: Sequence[Sequence[Any]]) -> str:
    """HTML of the index.

    rows: from :func:`hooked_whisper.report.units.records.index_row`.
    """
    data = {"noun": info.noun, "rows": list(rows)}
    return str(
        _environment()
        .get_template("site.html.j2")
        .render(info=info, n=len(rows), depths=depth_figure(info.depths) if info.depths else None, data=embedded(data))
    )


def render_unit(info: SiteInfo, unit: Unit, place: int, clips: Mapping[str, Record], examples: Sequence[Record]) -> str:
    """HTML of a unit's page.

    Args:
        place: position of the unit in ``info.indices``.
        clips: records of clips by id.
        examples: data for the page's script, one entry per example of the unit.
    """
    colors = phone_colors(unit)
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
            onset=onset_figure(unit.onset, colors) if unit.onset else None,
            legend=[(phone, color) for phone, color in colors.items() if _in_ranges(phone, unit)],
            rows=_share_rows(unit, colors),
            base=_base_row(unit, colors),
            mel=_mel(unit.mean_mel) if unit.mean_mel else None,
            scale=scale,
            similar=_similar(unit, info),
            norms=_norms(unit),
            data=embedded({"scale": scale, "examples": list(examples)}),
        )
    )


def mean_mel_png(mean: MeanMel) -> bytes:
    """Picture of a mean spectrogram, for the unit's page and the index."""
    return mel_png(mean.values)


def embedded(value: Any) -> Markup:
    """JSON for a ``<script>``, escaped so that it cannot end the script or start a comment."""
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
    """Groups of examples: the strongest, ranges from high to low, random ones."""
    by_group: dict[Any, list[UnitCard]] = {}
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


def _card(number: int, example: UnitExample, clip: Record, record: Record) -> UnitCard:
    peak = example.peak_s
    words = tuple((label, start <= peak < end) for start, end, label in clip["words"])
    first, last = record["loop"]
    phone = label_at(clip["phones"], peak)
    return UnitCard(number, example, clip, record["clip"], record["moment"], (first, last), phone, words)


def _share_rows(unit: Unit, colors: Mapping[str, int]) -> list[tuple[Any, list[Segment]]]:
    """Ranges from high to low with their segments; phones without a color share one segment."""
    rows = []
    for r in reversed(unit.ranges):
        shares = {p.phone: float(p.share) for p in r.phones}
        titles = {
            p.phone: f"{p.phone}: {100 * p.share:.0f} % [{100 * p.low:.0f}, {100 * p.high:.0f}]" for p in r.phones
        }
        rows.append((r, _segments(shares, titles, colors)))
    return rows


def _in_ranges(phone: str, unit: Unit) -> bool:
    return any(p.phone == phone for r in unit.ranges for p in r.phones)


def _base_row(unit: Unit, colors: Mapping[str, int]) -> list[Segment]:
    shares = {p: float(v) for p, v in unit.base_rates.items()}
    return _segments(shares, {p: f"{p}: {100 * v:.1f} %" for p, v in shares.items()}, colors)


def _segments(shares: Mapping[str, float], titles: Mapping[str, str], colors: Mapping[str, int]) -> list[Segment]:
    named = sorted((p for p in shares if p in colors and shares[p] > 0), key=lambda p: colors[p])
    segments = [Segment(p, 100 * shares[p], colors[p], titles[p]) for p in named]
    others = 100 * sum(v for p, v in shares.items() if p not in colors)
    if others > 0:
        segments.append(Segment("other", others, None, f"other phones: {others:.0f} %"))
    return segments


def _similar(unit: Unit, info: SiteInfo) -> list[SimilarUnit]:
    """Similar units, first by weights and then by moments."""
    weights, moments = dict(unit.nearest), dict(unit.companions)
    return [
        SimilarUnit(index, info.labels.get(index, ""), index in info.indices, weights.get(index), moments.get(index))
        for index in dict.fromkeys([*weights, *moments])
    ]


def _norms(unit: Unit) -> list[NormBar]:
    relative = [float(entry.relative) for entry in unit.decoder_norms]
    largest, total = max(relative, default=0.0) or 1.0, sum(relative) or 1.0
    return [
        NormBar(entry.hook, entry.norm, entry.relative, 100 * part / largest, 100 * part / total)
        for entry, part in zip(unit.decoder_norms, relative, strict=True)
    ]


def _mel(mean: MeanMel) -> dict[str, Any]:
    frames = mean.values.shape[1]
    return {
        "percent": 100 * (mean.peak_frame + 0.5) / frames,
        "before_ms": round(1000 * mean.peak_frame * FRAME_S),
        "after_ms": round(1000 * (frames - 1 - mean.peak_frame) * FRAME_S),
        "frequencies": frequency_ticks(len(mean.values)),
    }
