"""Build a browsable site from a corpus: scan it, label units, read the examples again, write the pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from hooked_whisper._support.ranks import TorchRanks
from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper.corpora import Recording, own_text_fact
from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.features.crosscoder_latents import CrosscoderLatents, crosscoder_latents
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.scan import FIRES, HISTOGRAM_BINS, FeatureScan, ScanOptions, scan
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import FeatureBasis
from hooked_whisper.report.units.data import (
    ActivationRange,
    DecoderNorm,
    DepthHistogram,
    Histogram,
    MeanMel,
    SiteInfo,
    Unit,
    UnitExample,
    UnitStats,
)
from hooked_whisper.report.units.excerpts import linear_histogram
from hooked_whisper.report.units.gather import PEAK_FRAME, Gathered, Wanted, gather
from hooked_whisper.report.units.labeling import label_units
from hooked_whisper.report.units.neighbors import same_moments, similar_weights
from hooked_whisper.report.units.site import SiteWriter

T = TypeVar("T")


@dataclass(frozen=True)
class PageOptions:
    """What the pages show.

    Attributes:
        top: strongest examples of a unit, one per recording.
        per_range: examples from each activation range.
        ranges: number of activation ranges, of equal width.
        labeled: largest number of windows of aligned recordings to count phones on; 0: do not count phones.
        seed: of the samples.
    """

    top: int = 8
    per_range: int = 2
    ranges: int = 5
    labeled: int = 300
    seed: int = 0

    @property
    def scan(self) -> ScanOptions:
        return ScanOptions(k=max(self.top, 20), ranges=self.ranges, per_range=max(self.per_range, 2), seed=self.seed)


if not TYPE_CHECKING:
    PageOptions.__init__ = renamed_arguments(labelled="labeled")(PageOptions.__init__)


def build_site(
    model: HookedWhisper,
    corpus: Sequence[Recording],
    hook: str | Sequence[str],
    out: str | Path,
    *,
    units: Sequence[int] | None = None,
    basis: FeatureBasis | None = None,
    options: PageOptions | None = None,
    basis_name: str = "",
    title: str = "",
    described: str = "",
    command: str = "",
    progress: bool = True,
    ranks: TorchRanks | None = None,
) -> Path:
    """Write a site about the units of a hook point: an index and a page per unit, which open from the disk.

    The corpus is scanned once into ``out/scan`` (see :func:`hooked_whisper.features.scan.scan`; a killed scan is
    resumed), and recordings with examples are read a second time. Phones, labels and onsets need aligned recordings of
    at least two speakers; the pages omit them otherwise.

    Args:
        hook: the hook point; for a crosscoder, the list of its hook points. The pages of a crosscoder also show the
            decoder norm of each feature at each hook point.
        units: units that get a page (default: all).
        basis: basis of the units, see :class:`~hooked_whisper.features.HookBasis`.
        basis_name: name of the basis on the pages, such as ``"SAE topk-2"`` (default: its class).
        title: heading of the index (default: units, hook point and model).
        described: the corpus in words, for the index.
        command: command that made the site, for its footer.
        ranks: processes that share the scan; the first one writes the site.

    Returns:
        path of the index.

    Raises:
        HookedWhisperError: a unit does not exist, or as ``scan``.
    """
    options = PageOptions() if options is None else options
    out = Path(out)
    with ExitStack() as attached:
        latents = None
        if not isinstance(hook, str):
            hook, latents = attached.enter_context(crosscoder_latents(model, hook, basis))
            basis_name, basis = basis_name or type(basis).__name__, latents
        return _build(
            model,
            corpus,
            hook,
            out,
            units=units,
            basis=basis,
            latents=latents,
            options=options,
            basis_name=basis_name,
            title=title,
            described=described,
            command=command,
            progress=progress,
            ranks=ranks,
        )


def _build(
    model: HookedWhisper,
    corpus: Sequence[Recording],
    hook: str,
    out: Path,
    *,
    units: Sequence[int] | None,
    basis: FeatureBasis | None,
    latents: CrosscoderLatents | None,
    options: PageOptions,
    basis_name: str,
    title: str,
    described: str,
    command: str,
    progress: bool,
    ranks: TorchRanks | None,
) -> Path:
    """Scan, label and write; arguments as for :func:`build_site`.

    latents: those of an attached crosscoder, whose hook point is ``hook``.
    """
    bases = [HookBasis(hook, basis, "units")]
    corpus_scan = scan(model, corpus, bases, out / "scan", options.scan, progress=progress, ranks=ranks)
    if ranks is not None and ranks.rank:
        return out / "index.html"
    scanned = corpus_scan["units"]
    shown = list(range(scanned.n_features)) if units is None else list(units)
    wrong = [i for i in shown if not 0 <= i < scanned.n_features]
    if wrong or not shown:
        raise HookedWhisperError(
            f"units are {wrong or 'empty'}, expected 0 to {scanned.n_features - 1} at {scanned.hook}"
        )

    def track(steps: Iterable[T], name: str) -> Iterable[T]:
        return tqdm(steps, desc=name, disable=not progress)

    def features(activations: Tensor) -> Tensor:
        flat = activations.flatten(1)
        return (flat if basis is None else basis.encode(flat))[:, shown]

    labeling = label_units(
        model, corpus, scanned, basis, shown, options.labeled, options.seed, lambda x: track(x, "phones")
    )
    skipped = corpus_scan.header["failures"]
    texts = own_text_fact(corpus)
    facts = [
        ("recordings", str(corpus_scan.header["recordings"])),
        ("hours of sound", f"{corpus_scan.header['seconds'] / 3600:.2f}"),
        ("encoder positions", f"{scanned.positions:,}"),
        *([("texts", texts)] if texts else []),
        *([("recordings that could not be read", f"{len(skipped)}: {skipped[0]['reason']}")] if skipped else []),
        *labeling.facts,
    ]
    noun, basis_name = unit_noun(scanned.hook, basis), "" if basis is None else basis_name or type(basis).__name__
    named_hook = scanned.hook if latents is None else ", ".join(latents.hooks)
    info = SiteInfo(
        title or _title(noun, basis_name, named_hook, model.cfg.name),
        model.cfg.name,
        named_hook,
        (described or f"{corpus_scan.header['recordings']} recordings") + (f" (texts: {texts})" if texts else ""),
        tuple(shown),
        scanned.n_features,
        command,
        tuple(facts),
        noun,
        basis_name,
        labeling.measure,
        {index: label.text_with_scores for index, label in zip(shown, labeling.names, strict=False) if label.label},
        None if latents is None else depth_histogram(latents.depths()[scanned.maximum >= FIRES], latents.hooks),
    )
    writer = SiteWriter(out, info)
    wanted = [example for place, index in enumerate(shown) for example in _wanted(scanned, place, index, options)]
    seen = gather(model, corpus, scanned.hook, features, wanted, writer, lambda x: track(x, "clips"))
    weights, moments = similar_weights(model, scanned.hook, basis, shown), same_moments(scanned, shown)
    norms = None if latents is None else (latents.decoder_norms(), latents.relative_norms())
    for place, index in enumerate(track(shown, "pages")):
        unit = _unit(scanned, place, index, seen)
        if latents is not None and norms is not None:
            pairs = zip(latents.hooks, *(kind[index].tolist() for kind in norms), strict=True)
            unit = replace(unit, decoder_norms=tuple(DecoderNorm(*entry) for entry in pairs))
        writer.add_unit(labeling.add_to(replace(unit, nearest=weights[place], companions=moments[place]), place))
    writer.finish()
    return out / "index.html"


def depth_histogram(depths: Float[np.ndarray, "feature"], hooks: Sequence[str]) -> DepthHistogram:
    """Return the histogram of where a crosscoder's features write, see :meth:`CrosscoderLatents.depths`."""
    counts, edges = np.histogram(depths, bins=25, range=(0.0, 1.0))
    return DepthHistogram(Histogram(edges, counts), tuple(hooks))


def _wanted(scanned: FeatureScan, place: int, index: int, options: PageOptions) -> list[Wanted]:
    """Examples of one unit: the strongest, then those of every range."""
    if scanned.maximum[index] < FIRES:
        return []
    top, ranges = scanned.top, scanned.ranges["equal width"]
    examples = [
        Wanted(place, int(top.recordings[index, rank]), int(top.positions[index, rank]), "top", int(rank))
        for rank in np.flatnonzero(top.recordings[index, : options.top] >= 0)
    ]
    sampled = ranges.examples
    for part in range(ranges.counts.shape[1]):
        low, high = float(ranges.edges[index, part]), float(ranges.edges[index, part + 1])
        share = float(ranges.counts[index, part]) / max(scanned.positions, 1)
        for rank in np.flatnonzero(sampled.recordings[index, part, : options.per_range] >= 0):
            entry = (index, part, rank)
            recording, position = int(sampled.recordings[entry]), int(sampled.positions[entry])
            examples.append(Wanted(place, recording, position, part, int(rank), low, high, share))
    return examples


def _title(noun: str, basis_name: str, hook: str, model: str) -> str:
    return f"{f'Features of {basis_name} at' if basis_name else f'{noun.capitalize()}s of'} {hook} in {model}"


def unit_noun(hook: str, basis: FeatureBasis | None) -> str:
    """Return what one unit is called: a neuron, a dimension of other activations, or a feature of a basis."""
    if basis is not None:
        return "feature"
    return "neuron" if ".mlp.hook_" in hook else "dimension"


def _unit(scanned: FeatureScan, place: int, index: int, seen: Gathered) -> Unit:
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
    return Unit(
        index,
        stats,
        histogram=None if dead else Histogram(*linear_histogram(scanned.histogram[index], edges, largest)),
        ranges=() if dead else _ranges(scanned, index),
        mean_mel=None if mel is None else MeanMel(mel, PEAK_FRAME),
        notes=("It was never active on this corpus.",) if dead else (),
        examples=tuple(sorted(seen.examples.get(place, []), key=_order)),
    )


def _order(example: UnitExample) -> tuple[int, int, int]:
    """Sort key: the strongest first, then ranges from high to low."""
    return (0, 0, example.rank) if example.group == "top" else (1, -int(example.group), example.rank)


def _ranges(scanned: FeatureScan, index: int) -> tuple[ActivationRange, ...]:
    ranges = scanned.ranges["equal width"]
    bounds, counts = ranges.edges[index], ranges.counts[index]
    return tuple(
        ActivationRange(float(low), float(high), int(count), (), 0.0)
        for low, high, count in zip(bounds[:-1], bounds[1:], counts, strict=True)
    )
