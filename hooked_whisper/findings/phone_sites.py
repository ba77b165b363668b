"""Neurons, random directions, principal directions, mel bands and an untrained model on labelled speech: evaluated once
for the findings on phones (F5, F7, F8)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from hooked_whisper.features.autolabel import AutoLabel, Evidence, autolabels
from hooked_whisper.features.baselines import mel_bands
from hooked_whisper.features.bases import pca, random_orthonormal
from hooked_whisper.features.examples import ABSENT, Purity, TopExamples, purity
from hooked_whisper.features.labelled import LabelledClip, SiteCounts, evaluate_sites, site_activations
from hooked_whisper.features.labels import label_positions
from hooked_whisper.features.phones import classes
from hooked_whisper.features.polyphony import PhoneRanges, active_ranges
from hooked_whisper.features.selectivity import Selectivity
from hooked_whisper.features.sites import Site
from hooked_whisper.findings.context import Context, Utterance
from hooked_whisper.findings.finding import Criterion, Estimate
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import SILENCE

TOP = 20  # strongest examples of a feature, one per utterance
N_PRINCIPAL = 128  # principal directions; the later ones hold hardly any variance
FITTED = 40  # clips that principal directions are fitted on, and that correlations with mel bands are read from
ENOUGH_UTTERANCES, ENOUGH_PHONES, ENOUGH_SPEAKERS = 100, 10, 2
DRAWS = 2000
SAMPLE = (
    "Sites: encoder.blocks.*.mlp.hook_post of every block, at the positions of each clip in its 30 s window; labels by "
    "the alignment. Controls: random orthonormal directions of the same activations, labels turned in a circle within "
    "each utterance, the same architecture with random weights (on one half of the utterances)."
)


@dataclass(frozen=True, eq=False)
class Tops:
    """For each feature the strongest position of every utterance, strongest first; ``ABSENT`` where there is none.

    ids: labels of those positions, true and shifted; utterance: which one.
    """

    values: Float[np.ndarray, "feature k"]
    ids: Int[np.ndarray, "labelling feature k"]
    utterance: Int[np.ndarray, "feature k"]

    @classmethod
    def of(cls, top: TopExamples) -> Tops:
        return cls(top.values, np.stack([top.ids(0), top.ids(1)]), top.utterances)

    def among(self, chosen: Bool[np.ndarray, "utterance"], k: int = TOP) -> Tops:
        """The k strongest of some utterances."""
        there = (self.utterance >= 0) & np.append(chosen, False)[self.utterance]
        order = np.argsort(~there, axis=1, kind="stable")[:, :k]
        kept = np.take_along_axis(there, order, axis=1)
        values, utterance = (np.take_along_axis(x, order, axis=1) for x in (self.values, self.utterance))
        ids = np.take_along_axis(self.ids, order[None], axis=2)
        return Tops(np.where(kept, values, -np.inf), np.where(kept, ids, ABSENT), np.where(kept, utterance, ABSENT))


@dataclass(frozen=True, eq=False)
class PhoneSite:
    """What the findings on phones need of one site; the counts themselves are not kept.

    deciles: labels by range of activation.
    """

    tops: Tops
    names: tuple[str, ...]
    phones: Selectivity
    deciles: PhoneRanges

    @classmethod
    def of(cls, counts: SiteCounts) -> PhoneSite:
        return cls(Tops.of(counts.top), counts.names, counts.phones, active_ranges(counts.counts, "deciles"))

    def purity(self, chosen: Bool[np.ndarray, "utterance"], labelling: int = 0) -> tuple[Purity, Purity]:
        """Of the top examples among some utterances: for phones (silence is no majority), and for narrow classes."""
        ids = self.tops.among(chosen).ids[labelling]
        phones = purity(ids, self.names, without=frozenset([SILENCE]))
        return phones, purity(ids, self.names, classes(self.names))

    def alive(self, chosen: Bool[np.ndarray, "utterance"]) -> Bool[np.ndarray, "feature"]:
        """Whether a feature is positive in as many of the utterances as it has top examples."""
        return self.tops.among(chosen).values[:, -1] > 0


@dataclass(frozen=True, eq=False)
class NeuronSite(PhoneSite):
    """More of the neurons themselves. widths: ranges of equal width; the rest: as named, with shifted labels."""

    shifted: Selectivity
    classes: Selectivity
    shifted_classes: Selectivity
    widths: PhoneRanges
    shifted_deciles: PhoneRanges

    @classmethod
    def of(cls, counts: SiteCounts) -> NeuronSite:
        return cls(
            Tops.of(counts.top),
            counts.names,
            counts.phones,
            active_ranges(counts.counts, "deciles"),
            counts.shifted_phones,
            counts.classes,
            counts.shifted_classes,
            active_ranges(counts.counts, "width"),
            active_ranges(sum(counts.shifted[1:], start=counts.shifted[0]), "deciles"),
        )


@dataclass(frozen=True, eq=False)
class PhoneEvaluation:
    """Everything counted once. Tuples have a site per block; ``mel`` has no blocks.

    chooses, judges: halves of the utterances, with the same speakers. ``untrained`` saw the second half only.
    seconds, further: how long each utterance is, and how many are not among the context's own.
    bands: for ``neurons``, ``random`` and ``untrained`` the largest \\|correlation\\| of each feature with a mel band.
    """

    neurons: tuple[NeuronSite, ...]
    random: tuple[PhoneSite, ...]
    principal: tuple[PhoneSite, ...]
    untrained: tuple[PhoneSite, ...]
    mel: PhoneSite
    chooses: Bool[np.ndarray, "utterance"]
    judges: Bool[np.ndarray, "utterance"]
    bands: dict[str, tuple[Float[np.ndarray, "feature"], ...]]
    speakers: tuple[str, ...]
    seconds: Float[np.ndarray, "utterance"]
    further: int = 0

    @property
    def n_blocks(self) -> int:
        return len(self.neurons)

    @property
    def own(self) -> Bool[np.ndarray, "utterance"]:
        """All utterances of the untrained model's sites."""
        return np.ones(int(self.judges.sum()), dtype=bool)

    def labels(self, block: int) -> list[AutoLabel]:
        """Automatic labels of a block's neurons, from all utterances."""
        site, every = self.neurons[block], np.ones(len(self.judges), dtype=bool)
        top, shifted = site.purity(every), site.purity(every, 1)
        return autolabels(
            Evidence(site.phones, top[0], site.classes, top[1]),
            Evidence(site.shifted, shifted[0], site.shifted_classes, shifted[1]),
        )

    def inputs(self) -> dict[str, Any]:
        """For the record: the context's clips, and further held-out sentences, by other speakers too."""
        return {
            "utterances": len(self.judges),
            "seconds": round(float(self.seconds.sum()), 2),
            "median_seconds": round(float(np.median(self.seconds)), 2),
            "further clips": self.further,
            "speakers": list(self.speakers),
            "phones judged": int(self.neurons[0].phones.searched.sum()),
        }

    def gates(self) -> tuple[Criterion, ...]:
        phones = int(self.neurons[0].phones.searched.sum())
        return (
            Criterion("utterances", Estimate(len(self.judges)), ENOUGH_UTTERANCES, "at least", role="gate"),
            Criterion("phones said 50 times or more", Estimate(phones), ENOUGH_PHONES, "at least", role="gate"),
        )


def phone_evaluation(context: Context) -> PhoneEvaluation | str:
    """The one of this context, made when first asked for; or the reason why there is none."""
    if not context.utterances or context.reference != "truth":
        return "nobody knows the phones of these clips: give a model with a spoken world of its own"
    made: PhoneEvaluation | str = context.once("phone evaluation", lambda: _evaluate(context))
    return made


def _evaluate(context: Context) -> PhoneEvaluation | str:
    said = [u for u in context.labelled if any(i.label != SILENCE for i in u.alignment.phones)]
    speakers = tuple(sorted({u.alignment.speaker for u in said}))
    if not said:
        return "the clips' alignments have no phones"
    if len(speakers) < ENOUGH_SPEAKERS:
        return f"the clips with phones are of {len(speakers)} speaker: thresholds need others than those they judge"
    clips = [clip_of(u) for u in said]
    chooses = first_half([c.speaker for c in clips])
    fitted = [clips[i] for i in np.linspace(0, len(clips) - 1, min(FITTED, len(clips))).astype(int)]
    model, seed = context.model, context.seed
    hooks = [f"encoder.blocks.{b}.mlp.hook_post" for b in range(model.cfg.encoder.n_layers)]
    d = model.cfg.encoder.d_mlp
    random = [random_orthonormal(d, seed=seed + b) for b in range(len(hooks))]
    neurons = {f"neurons {b}": Site(hook) for b, hook in enumerate(hooks)}
    turned = {f"random {b}": Site(hook, random[b]) for b, hook in enumerate(hooks)}
    bands, rows = mel_correlations(model, fitted, neurons | turned)
    blank, _ = mel_correlations(context.untrained, fitted, neurons)
    principal = {
        f"principal {b}": Site(hook, pca(rows[f"neurons {b}"], min(N_PRINCIPAL, d, len(rows[f"neurons {b}"]))))
        for b, hook in enumerate(hooks)
    }
    del rows
    mel = {"mel": Site("encoder.hook_mel", mel_bands(model))}
    counts = _counted(context, model, clips, neurons | turned | principal | mel)
    second = [clip for clip, first in zip(clips, chooses, strict=True) if not first]
    blocks = range(len(hooks))
    evaluation = PhoneEvaluation(
        tuple(NeuronSite.of(counts.pop(f"neurons {b}")) for b in blocks),
        tuple(PhoneSite.of(counts.pop(f"random {b}")) for b in blocks),
        tuple(PhoneSite.of(counts.pop(f"principal {b}")) for b in blocks),
        (),
        PhoneSite.of(counts.pop("mel")),
        chooses,
        ~chooses,
        {
            "neurons": tuple(bands[f"neurons {b}"] for b in blocks),
            "random": tuple(bands[f"random {b}"] for b in blocks),
            "untrained": tuple(blank[f"neurons {b}"] for b in blocks),
        },
        speakers,
        np.array([len(c.audio) for c in clips]) / model.time.sample_rate,
        len(context.labelled) - len(context.utterances),
    )
    twin = _counted(context, context.untrained, second, neurons)
    return replace(evaluation, untrained=tuple(PhoneSite.of(twin.pop(f"neurons {b}")) for b in blocks))


def _counted(
    context: Context, model: HookedWhisper, clips: Sequence[LabelledClip], sites: dict[str, Site]
) -> dict[str, SiteCounts]:
    """With an example of every utterance, so that halves can be told apart."""

    def track(steps: Sequence[list[int]]) -> Iterator[list[int]]:
        return context.track(steps, "phones")

    return evaluate_sites(model, clips, sites, k=len(clips), seed=context.seed, track=track)


def clip_of(utterance: Utterance) -> LabelledClip:
    return LabelledClip(utterance.audio, utterance.alignment, utterance.alignment.speaker)


def first_half(speakers: Sequence[str]) -> Bool[np.ndarray, "utterance"]:
    """Every second utterance of each speaker, so that both halves have the same speakers."""
    seen: dict[str, int] = {}
    found = []
    for speaker in speakers:
        found.append(seen.get(speaker, 0) % 2 == 0)
        seen[speaker] = seen.get(speaker, 0) + 1
    return np.array(found, dtype=bool)


def mel_correlations(
    model: HookedWhisper, clips: Sequence[LabelledClip], sites: dict[str, Site]
) -> tuple[dict[str, Float[np.ndarray, "feature"]], dict[str, torch.Tensor]]:
    """Largest absolute correlation of each feature with a mel band, over positions within phones; and all rows.

    Silence is left out: whatever tells speech from silence would correlate with every band. Constant features have 0.
    """
    mel = {"\0mel": Site("encoder.hook_mel", mel_bands(model))}
    rows = site_activations(model, clips, sites | mel)
    names = sorted({i.label for c in clips for i in c.alignment.phones} - {SILENCE})
    inside = np.concatenate(
        [
            label_positions(
                c.alignment, model.time.n_positions(len(c.audio) / model.time.sample_rate), names, model.time, c.offset
            ).ids
            >= 0
            for c in clips
        ]
    )
    kept = torch.from_numpy(inside)
    bands = _standard(rows.pop("\0mel")[kept])
    found = {name: (_standard(x[kept]).T @ bands / len(bands)).abs().amax(1).numpy() for name, x in rows.items()}
    return found, rows


def _standard(x: torch.Tensor) -> torch.Tensor:
    centred = x.float() - x.float().mean(0)
    spread = centred.square().mean(0).sqrt()
    return centred / torch.where(spread > 1e-12, spread, torch.inf)


def share(true: Bool[np.ndarray, "n"], rng: np.random.Generator) -> Estimate:
    """Of features; 95 % by bootstrap over features (of a share, that is a binomial draw)."""
    if not len(true):
        return Estimate(None)
    return Estimate.of(float(true.mean()), rng.binomial(len(true), true.mean(), DRAWS) / len(true))


def resampled_means(values: Float[np.ndarray, "n *more"], rng: np.random.Generator, draws: int = DRAWS) -> np.ndarray:
    """Means over the first axis, of bootstrap samples: ``[draw, *more]``."""
    n = len(values)
    if not n:
        return np.full((draws, *values.shape[1:]), np.nan)
    return rng.multinomial(n, np.full(n, 1 / n), size=draws) @ values / n


def short(name: str) -> str:
    """For a legend, where there is little room."""
    return name.removesuffix(" directions").removesuffix(" model")
