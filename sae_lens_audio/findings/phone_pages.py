"""The pages that the report links for F6: each phone's best feature of every SAE, with sound."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import torch

from hooked_whisper._support.storage import write_atomic
from hooked_whisper.corpora import Clip
from hooked_whisper.features.phones.labeled_rows import collect_rows
from hooked_whisper.features.phones.row_labels import CountOptions
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.finding import Finding
from hooked_whisper.findings.core.packing import n_packed
from hooked_whisper.findings.core.records import PageLink
from hooked_whisper.protocols import FeatureBasis
from sae_lens_audio.findings.feature_site import FeatureSite, LabeledMels, write_feature_site
from sae_lens_audio.findings.packaged_saes import RESIDUAL
from sae_lens_audio.findings.phone_features_scores import MIN_TOKENS, SAES
from sae_lens_audio.findings.published_names import NAMES, RULE

FOLDER = "features-of-phones"
MOST_PHONES = 40  # of a site, the best detected first
MOST_WINDOWS = 12  # six minutes of speech, so that the pages take about a minute
_FACTS = (
    ("phone labels", "from this speech; thresholds from other speakers than scores"),
    ("sentences on the pages", "scores on all speech of the finding"),
)
Record = Mapping[str, Any]


@dataclass(frozen=True)
class SAEColumn:
    """An SAE of the overview."""

    hook: str
    sae: str

    @property
    def title(self) -> str:
        return f"{self.sae}, block {self.hook.split('.')[2]}"

    @property
    def folder(self) -> str:
        """Folder of its pages, beside the overview."""
        return f"{self.hook.removesuffix(RESIDUAL)}-{self.sae.replace(' ', '-').lower()}"


@dataclass(frozen=True)
class FeatureCell:
    """One feature in the overview, with its scores on held-out speakers.

    Attributes:
        page, sound: paths from the overview; ``sound`` may be empty.
        words: at the strongest moments.
    """

    feature: int
    page: str
    sound: str
    precision: float
    recall: float
    f1: float
    average_precision: float
    verdict: str = ""
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class SoundRow:
    """A phone or published name, with one cell per SAE and block; ``None`` where no feature is known."""

    sound: str
    described: str
    cells: tuple[FeatureCell | None, ...]


def write_phone_pages(
    finding: Finding,
    context: Context,
    saes: Mapping[str, Mapping[str, FeatureBasis]],
    clips: Sequence[Clip],
    folder: Path,
) -> tuple[PageLink, ...]:
    """Write the overview and one site per SAE and block into ``folder/features-of-phones``.

    Args:
        finding: its ``extra["features"]`` has the best features.
        saes: by hook point and name.
        clips: held-out clips with phones, packed into windows.
    """
    records: Mapping[str, Mapping[str, Mapping[str, Sequence[Record]]]] = finding.extra.get("features", {})
    columns = [SAEColumn(hook, name) for hook in records for name in SAES if name in saes.get(hook, {})]
    if not columns:
        return ()
    windows = by_turns(clips)[:MOST_WINDOWS]
    options = CountOptions(k=len(windows), min_tokens=MIN_TOKENS, seed=context.seed)
    hooks = list(dict.fromkeys(column.hook for column in columns))
    cells: dict[str, dict[str, dict[SAEColumn, FeatureCell]]] = {
        "names": defaultdict(dict),
        "phones": defaultdict(dict),
    }
    out = folder / FOLDER
    corpus = _corpus(context, windows)

    def track(steps: Sequence[list[int]]) -> Any:
        return context.track(steps, "feature pages")

    with torch.no_grad(), collect_rows(context.model, windows, hooks, track=track) as rows:
        mels = LabeledMels(rows)
        for column in columns:
            known = records[column.hook][column.sae]
            phones = sorted(known["phones"], key=lambda record: -record["f1"])[:MOST_PHONES]
            shown = {"names": known["names"], "phones": phones}
            site = FeatureSite(
                column.hook,
                saes[column.hook][column.sae],
                f"the {column.sae} SAE",
                tuple(sorted({record["feature"] for records in shown.values() for record in records})),
                _remarks(shown),
                corpus,
                _FACTS,
            )
            sounds = write_feature_site(out / column.folder, site, rows, mels, options)
            for kind, group in shown.items():
                for record in group:
                    cells[kind][record["sound"]][column] = _cell(record, column.folder, sounds[record["feature"]])
    write_atomic(out / "index.html", _render(finding.model, columns, cells, corpus).encode())
    return (link_to_overview(),)


def link_to_overview() -> PageLink:
    return PageLink(f"{FOLDER}/index.html", "Hear the best feature of every phone, with precision and recall")


def by_turns(clips: Sequence[Clip]) -> list[Clip]:
    """Return the clips with the speakers taking turns, so that the first ones are by all speakers."""
    by_speaker: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        by_speaker[clip.speaker].append(clip)
    return [clip for clip in chain.from_iterable(zip_longest(*by_speaker.values())) if clip is not None]


def _remarks(shown: Mapping[str, Sequence[Record]]) -> dict[int, tuple[str, ...]]:
    """Say of each feature which phones and published names it is the best for."""
    remarks: dict[int, list[str]] = defaultdict(list)
    for record in shown["phones"]:
        remarks[record["feature"]].append(
            f"Of this SAE's features it detects /{record['sound']}/ best: {_scores(record)}, on held-out speakers."
        )
    for record in shown["names"]:
        remarks[record["feature"]].append(
            f"It is the best for the published feature “{record['sound']}” ({record['verdict']}): {_scores(record)}."
        )
    return {feature: tuple(lines) for feature, lines in remarks.items()}


def _scores(record: Record) -> str:
    side = "" if record["fires_high"] else ", by low values"
    return (
        f"precision {record['precision']:.2f}, recall {record['recall']:.2f}, F1 {record['f1']:.2f}{side}, average "
        f"precision {record['average_precision']:.2f} (chance {record['prevalence']:.3f})"
    )


def _corpus(context: Context, windows: Sequence[Clip]) -> str:
    """Describe the speech on the pages: ``"packaged speech: 80 clips by 2 speakers, 4.5 minutes"``."""
    name, _, _ = (context.facts or {}).get("origin", "held-out speech").partition(":")
    speakers, seconds = {clip.speaker for clip in windows}, sum(clip.duration for clip in windows)
    return f"{name}: {n_packed(windows)} clips by {len(speakers)} speakers, {seconds / 60:.1f} minutes"


def _cell(record: Record, folder: str, sound: str) -> FeatureCell:
    feature = record["feature"]
    return FeatureCell(
        feature,
        f"{folder}/units/{feature}.html",
        f"{folder}/{sound}" if sound else "",
        record["precision"],
        record["recall"],
        record["f1"],
        record["average_precision"],
        record.get("verdict", ""),
        tuple(dict.fromkeys(heard.rpartition(" (")[0] for heard in record["heard"])),
    )


def _render(
    model: str,
    columns: Sequence[SAEColumn],
    cells: Mapping[str, Mapping[str, Mapping[SAEColumn, FeatureCell]]],
    corpus: str,
) -> str:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loader = ChoiceLoader([PackageLoader("sae_lens_audio.findings"), PackageLoader("hooked_whisper.report")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    described = {name.name: name.sound for name in NAMES}
    names = [name for name in described if name in cells["names"]]
    rows = {"names": names, "phones": sorted(cells["phones"])}

    def rows_of(kind: str) -> list[SoundRow]:
        about = described if kind == "names" else {}
        return [
            SoundRow(sound, about.get(sound, ""), tuple(cells[kind][sound].get(column) for column in columns))
            for sound in rows[kind]
        ]

    return environment.get_template("phones.html.j2").render(
        model=model, columns=columns, names=rows_of("names"), phones=rows_of("phones"), rule=RULE, corpus=corpus
    )
