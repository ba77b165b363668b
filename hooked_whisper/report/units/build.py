"""From a corpus to a browsable site: scan, label, look again at the examples, write the pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hooked_whisper._support.ranks import TorchRanks
from hooked_whisper.corpora import Recording, own_text_fact
from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.scan import FIRES, HISTOGRAM_BINS, FeatureScan, ScanOptions, scan
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import FeatureBasis
from hooked_whisper.report.units.data import (
    ActivationRange,
    Example,
    Histogram,
    MeanMel,
    SiteInfo,
    Unit,
    UnitStats,
)
from hooked_whisper.report.units.excerpts import linear_histogram
from hooked_whisper.report.units.gather import PEAK_FRAME, Gathered, Wanted, gather
from hooked_whisper.report.units.labeling import Labelling, label_units
from hooked_whisper.report.units.site import SiteWriter

T = TypeVar("T")
_NEAREST = 5


@dataclass(frozen=True)
class PageOptions:
    """What the pages show.

    top: strongest examples of a unit, one per recording. per_range: examples from each activation range.
    ranges: how many, of equal width. labelled: most windows of aligned recordings that phones are counted on; 0: none.
    """

    top: int = 8
    per_range: int = 2
    ranges: int = 5
    labelled: int = 300
    seed: int = 0

    @property
    def scan(self) -> ScanOptions:
        return ScanOptions(k=max(self.top, 20), ranges=self.ranges, per_range=max(self.per_range, 2), seed=self.seed)


def build_site(
    model: HookedWhisper,
    corpus: Sequence[Recording],
    hook: str,
    out: str | Path,
    *,
    units: Sequence[int] | None = None,
    basis: FeatureBasis | None = None,
    options: PageOptions | None = None,
    title: str = "",
    described: str = "",
    command: str = "",
    progress: bool = True,
    ranks: TorchRanks | None = None,
) -> Path:
    """Write a site about the units of a hook point: an index, and a page for each, which open from the disk.

    The corpus is scanned once (``out/scan``, see :func:`hooked_whisper.features.scan.scan`; killed, it goes on);
    recordings that examples are from are read a second time. Phones, labels and onsets need recordings with alignments
    by two speakers or more; without them the pages show the rest.

    Args:
        units: which get a page (default: all).
        basis: reads the activations, see :class:`~hooked_whisper.features.HookBasis`.
        ranks: processes that share the scan; the first of them writes the site.
        described: the corpus, in words. command: what made the site, for its footer.

    Returns:
        the index.

    Raises:
        HookedWhisperError: units that do not exist; what ``scan`` raises.
    """
    options = PageOptions() if options is None else options
    out = Path(out)
    sites = [HookBasis(hook, basis, "units")]
    found = scan(model, corpus, sites, out / "scan", options.scan, progress=progress, ranks=ranks)
    if ranks is not None and ranks.rank:
        return out / "index.html"
    scanned = found["units"]
    chosen = list(range(scanned.n_features)) if units is None else list(units)
    wrong = [i for i in chosen if not 0 <= i < scanned.n_features]
    if wrong or not chosen:
        raise HookedWhisperError(f"{scanned.hook} has units 0 to {scanned.n_features - 1}, not {wrong or 'none'}")

    def track(steps: Iterable[T], what: str) -> Iterable[T]:
        return tqdm(steps, desc=what, disable=not progress)

    def features(activations: Tensor) -> Tensor:
        flat = activations.flatten(1)
        return (flat if basis is None else basis.encode(flat))[:, chosen]

    labelling = label_units(
        model, corpus, scanned, basis, chosen, options.labelled, options.seed, lambda x: track(x, "phones")
    )
    skipped = found.header["failures"]
    texts = own_text_fact(corpus)
    facts = [
        ("recordings", str(found.header["recordings"])),
        ("hours of sound", f"{found.header['seconds'] / 3600:.2f}"),
        ("encoder positions", f"{scanned.positions:,}"),
        *([("texts", texts)] if texts else []),
        *([("recordings that could not be read", f"{len(skipped)}: {skipped[0]['reason']}")] if skipped else []),
        *labelling.facts,
    ]
    info = SiteInfo(
        title or f"{scanned.hook} of {model.cfg.name}",
        model.cfg.name,
        scanned.hook,
        (described or f"{found.header['recordings']} recordings") + (f" (texts: {texts})" if texts else ""),
        tuple(chosen),
        scanned.n_features,
        command,
        tuple(facts),
    )
    writer = SiteWriter(out, info)
    wanted = [one for place, index in enumerate(chosen) for one in _wanted(scanned, place, index, options)]
    seen = gather(model, corpus, scanned.hook, features, wanted, writer, lambda x: track(x, "clips"))
    near = _nearest(model, scanned.hook, basis, chosen)
    for place, index in enumerate(track(chosen, "pages")):
        writer.add_unit(_unit(scanned, place, index, seen, labelling, near))
    writer.finish()
    return out / "index.html"


def _wanted(scanned: FeatureScan, place: int, index: int, options: PageOptions) -> list[Wanted]:
    """The examples of one unit: strongest first, then from every range."""
    if scanned.maximum[index] < FIRES:
        return []
    top, ranges = scanned.top, scanned.ranges["equal width"]
    there = np.flatnonzero(top.recordings[index, : options.top] >= 0)
    found = [Wanted(place, int(top.recordings[index, r]), int(top.positions[index, r]), "top", int(r)) for r in there]
    sampled = ranges.examples
    for part in range(ranges.counts.shape[1]):
        low, high = float(ranges.edges[index, part]), float(ranges.edges[index, part + 1])
        share = float(ranges.counts[index, part]) / max(scanned.positions, 1)
        for rank in np.flatnonzero(sampled.recordings[index, part, : options.per_range] >= 0):
            at = (index, part, rank)
            where = int(sampled.recordings[at]), int(sampled.positions[at])
            found.append(Wanted(place, *where, part, int(rank), low, high, share))
    return found


def _unit(
    scanned: FeatureScan,
    place: int,
    index: int,
    seen: Gathered,
    labelling: Labelling,
    near: Callable[[int], tuple[tuple[int, float], ...]],
) -> Unit:
    largest = float(scanned.maximum[index])
    dead = largest < FIRES
    stats = UnitStats(
        float(scanned.firing_rate[index]),
        float(scanned.mean[index]),
        float(scanned.variance[index]),
        largest,
        float(scanned.minimum[index]),
        dead,
    )
    edges = HISTOGRAM_BINS.edges[HISTOGRAM_BINS.per_sign + 1 :].numpy()
    mel = seen.mean_mels.get(place)
    unit = Unit(
        index,
        stats,
        histogram=None if dead else Histogram(*linear_histogram(scanned.histogram[index], edges, largest)),
        ranges=() if dead else _ranges(scanned, index),
        mean_mel=None if mel is None else MeanMel(mel, PEAK_FRAME),
        nearest=near(place),
        notes=("It was never active on this corpus.",) if dead else (),
        examples=tuple(sorted(seen.examples.get(place, []), key=_order)),
    )
    return labelling.add_to(unit, place)


def _order(example: Example) -> tuple[int, int, int]:
    """Strongest first, then ranges from high to low."""
    return (0, 0, example.rank) if example.group == "top" else (1, -int(example.group), example.rank)


def _ranges(scanned: FeatureScan, index: int) -> tuple[ActivationRange, ...]:
    ranges = scanned.ranges["equal width"]
    bounds, counts = ranges.edges[index], ranges.counts[index]
    return tuple(
        ActivationRange(float(low), float(high), int(count), (), 0.0)
        for low, high, count in zip(bounds[:-1], bounds[1:], counts, strict=True)
    )


def _nearest(
    model: HookedWhisper, hook: str, basis: FeatureBasis | None, chosen: Sequence[int]
) -> Callable[[int], tuple[tuple[int, float], ...]]:
    """Units that write most alike (cosine of output weights): of MLP neurons; nothing is known of others."""
    if basis is not None or not hook.endswith("mlp.hook_post"):
        return lambda place: ()
    block = int(hook.split(".")[2])
    written = torch.nn.functional.normalize(model.encoder.W_out[block].detach().float(), dim=-1)  # [d_mlp, d_model]
    rows = written[list(chosen)] @ written.T
    rows[torch.arange(len(chosen)), list(chosen)] = -2.0
    cosines, indices = rows.topk(min(_NEAREST, rows.shape[1] - 1), dim=1)

    def near(place: int) -> tuple[tuple[int, float], ...]:
        return tuple(zip(indices[place].tolist(), cosines[place].tolist(), strict=True))

    return near
