"""Evaluation of neurons and their controls on labeled speech, which the experiments on phones share (F5, F7, F8).

The controls are random and principal directions, mel bands, and an untrained model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from hooked_whisper.corpora import Clip
from hooked_whisper.corpora.packing import SPARE
from hooked_whisper.features.baselines import mel_bands
from hooked_whisper.features.bases import pca, random_orthonormal
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.phones.articulation import classes
from hooked_whisper.features.phones.autolabel import AutoLabel, Evidence, autolabels
from hooked_whisper.features.phones.counts import FeatureCounts
from hooked_whisper.features.phones.labeled_rows import MEL, LabeledRows, collect_rows
from hooked_whisper.features.phones.position_labels import label_positions
from hooked_whisper.features.phones.row_labels import CountOptions, RowLabels
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Untestable
from hooked_whisper.findings.core.finding import Criterion, Estimate
from hooked_whisper.findings.phones.layer_probes import LayerProbe, LayerProbes, probe_layer
from hooked_whisper.findings.phones.summaries import MOST_LAG, Named, NeuronSite, PhoneSite, TopPurity, Tops
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import SILENCE

N_PRINCIPAL = 128  # principal directions; further ones have hardly any variance
FITTED = 40  # clips for fitting principal directions and for correlations with mel bands
FITTED_ROWS = 20_000  # most positions of these clips
_FEATURES_AT_ONCE = 512  # features whose correlations are computed together
ENOUGH_UTTERANCES, ENOUGH_PHONES, ENOUGH_SPEAKERS = 100, 10, 2
DRAWS = 2000
SAMPLE = (
    "Activations are those of encoder.blocks.*.mlp.hook_post at the positions of the clips, with several clips of one "
    "speaker in a 30 s window (one clip for the demo model, which was trained on single sentences). Labels are from "
    "the alignment. Controls: random orthonormal directions of the same activations; labels shifted in a circle "
    "within each utterance; the same architecture with random weights (on one half of the utterances; its probes on "
    "all)."
)


@dataclass(frozen=True, eq=False)
class PhoneEvaluation:
    """Phone statistics of all features. Tuples have one entry per block.

    neurons, random, principal, untrained, mel: statistics of neurons, random directions, principal directions, neurons
        of the untrained model, and mel bands.
    chooses, judges: masks of two halves of the utterances with the same speakers. ``untrained`` has only the second.
    bands: largest absolute correlation of each feature with a mel band, for ``neurons``, ``random`` and ``untrained``.
    speakers, seconds: the speakers, and the duration of each utterance.
    further: number of utterances that are additional clips (:attr:`Context.more_speech`).
    probes: a linear phone probe of each layer as a whole; ``None`` if fewer than two phones are said often enough.
    top_purity: purity of the top examples of neurons and random directions; may be empty. sizes: its numbers of
        utterances.
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
    probes: LayerProbes | None = None
    top_purity: dict[str, tuple[TopPurity, ...]] = field(default_factory=dict)
    sizes: tuple[int, ...] = ()

    @property
    def n_blocks(self) -> int:
        return len(self.neurons)

    @property
    def all_judged(self) -> Bool[np.ndarray, "utterance"]:
        """Mask of all utterances on which the untrained model was evaluated."""
        return np.ones(int(self.judges.sum()), dtype=bool)

    def labels(self, block: int) -> list[AutoLabel]:
        """Return automatic labels of the neurons of a block, from all utterances."""
        site, every = self.neurons[block], np.ones(len(self.judges), dtype=bool)
        top, shifted = site.purity(every), site.purity(every, 1)
        return autolabels(
            Evidence(site.phones, top[0], site.classes, top[1]),
            Evidence(site.shifted, shifted[0], site.shifted_classes, shifted[1]),
        )

    def inputs(self) -> dict[str, Any]:
        """Return facts about all clips, including the additional ones, for the record."""
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


def phone_evaluation(context: Context) -> PhoneEvaluation:
    """Return the evaluation of a context, which is computed once.

    Raises:
        Untestable: the context has no clips, no phones, or only one speaker.
    """
    if not context.utterances:
        raise Untestable("there are no clips: pass a corpus with phone alignments by --corpus and --alignments")
    return context.once("phone evaluation", lambda: _evaluate(context))


def _evaluate(context: Context) -> PhoneEvaluation:
    said = [u for u in context.labelled if any(i.label != SILENCE for i in u.alignment.phones)]
    speakers = tuple(sorted({u.alignment.speaker for u in said}))
    if not said:
        raise Untestable("these clips have no phone alignment: pass --alignments, or run `hooked-whisper align`")
    if len(speakers) < ENOUGH_SPEAKERS:
        raise Untestable(
            f"the clips with phones have {len(speakers)} speaker, expected {ENOUGH_SPEAKERS} or more, because "
            "thresholds are chosen on some speakers and tested on others: pass clips of more speakers"
        )
    clips = list(said)
    chooses = first_half([c.speaker for c in clips])
    fitted = _fitted(context.model, clips)
    hooks = [f"encoder.blocks.{b}.mlp.hook_post" for b in range(context.model.cfg.encoder.n_layers)]
    with _collected(context, context.model, clips, hooks) as rows:
        labels = rows.labels(_options(context, len(clips)))
        order = context.rng("order of clips").permutation(len(clips))
        named = Named(labels.names, classes(labels.names), labels.lagged(MOST_LAG), order)
        blocks = [
            _evaluate_block(context, rows, labels, hook, b, fitted, chooses, named) for b, hook in enumerate(hooks)
        ]
        mel_site = HookBasis(MEL, mel_bands(context.model))
        mel = PhoneSite.joined(rows.blocks(mel_site, labels), chooses)
        probes = [probe_layer(rows, HookBasis(hook), labels) for hook in context.track(hooks, "layer probes")]
        mel_probe = probe_layer(rows, mel_site, labels)
    # The untrained model is evaluated on the second half only, but its probes are trained on all clips.
    reading = [*np.flatnonzero(~chooses).tolist(), *np.flatnonzero(chooses).tolist()]
    n = int((~chooses).sum())
    with _collected(context, context.untrained, [clips[i] for i in reading], hooks) as rows:
        labels = rows.labels(_options(context, n), range(n))
        every = np.ones(n, dtype=bool)
        untrained = tuple(PhoneSite.joined(rows.blocks(HookBasis(hook), labels), every) for hook in hooks)
        fitted_here = [reading.index(i) for i in fitted]
        untrained_bands = tuple(mel_correlations(rows, HookBasis(hook), fitted_here) for hook in hooks)
        labels = rows.labels(_options(context, len(clips)))
        untrained_probes = [probe_layer(rows, HookBasis(hook), labels) for hook in context.track(hooks, "layer probes")]
    neurons, random, principal, neuron_bands, random_bands, purities = zip(*blocks, strict=True)
    return PhoneEvaluation(
        neurons,
        random,
        principal,
        untrained,
        mel,
        chooses,
        ~chooses,
        {"neurons": neuron_bands, "random": random_bands, "untrained": untrained_bands},
        speakers,
        np.array([len(c.samples) for c in clips]) / context.model.time.sample_rate,
        len(context.labelled) - len(context.utterances),
        _probes(probes, untrained_probes, mel_probe),
        {"neurons": tuple(pair[0] for pair in purities), "random directions": tuple(pair[1] for pair in purities)},
        named.sizes,
    )


Probed = tuple[LayerProbe, LayerProbe] | None


def _probes(blocks: Sequence[Probed], untrained: Sequence[Probed], mel: Probed) -> LayerProbes | None:
    known, control = [pair for pair in blocks if pair], [pair for pair in untrained if pair]
    if not known or not control or mel is None:
        return None
    return LayerProbes(
        tuple(true for true, _ in known),
        tuple(turned for _, turned in known),
        tuple(true for true, _ in control),
        mel[0],
    )


def _evaluate_block(
    context: Context,
    rows: LabeledRows,
    labels: RowLabels,
    hook: str,
    block: int,
    fitted: Sequence[int],
    chooses: Bool[np.ndarray, "utterance"],
    named: Named,
) -> tuple[
    NeuronSite,
    PhoneSite,
    PhoneSite,
    Float[np.ndarray, "feature"],
    Float[np.ndarray, "feature"],
    tuple[TopPurity, TopPurity],
]:
    """Return statistics of the neurons, random directions and principal directions of an encoder block.

    Also return the correlations of neurons and random directions with mel bands, and the purities of both. Directions
    are computed one block at a time, because those of ``large-v3`` need 100 MiB per block.
    """
    neuron_purity: list[TopPurity] = []
    random_purity: list[TopPurity] = []
    counts = _with_purity(rows.blocks(HookBasis(hook), labels), neuron_purity, named, chooses)
    neurons = NeuronSite.joined(counts, chooses)
    d = context.model.cfg.encoder.d_mlp
    turned = HookBasis(hook, random_orthonormal(d, seed=context.seed + block))
    random = PhoneSite.joined(_with_purity(rows.blocks(turned, labels), random_purity, named, chooses), chooses)
    bands = [mel_correlations(rows, site, fitted) for site in (HookBasis(hook), turned)]
    del turned
    fit = torch.cat([rows.features(HookBasis(hook), i) for i in fitted])
    basis = pca(fit, min(N_PRINCIPAL, d, len(fit)))
    del fit
    principal = PhoneSite.joined(rows.blocks(HookBasis(hook, basis), labels), chooses)
    return (
        neurons,
        random,
        principal,
        bands[0],
        bands[1],
        (TopPurity.joined(neuron_purity), TopPurity.joined(random_purity)),
    )


def _with_purity(
    blocks: Iterator[FeatureCounts], purities: list[TopPurity], named: Named, half: Bool[np.ndarray, "utterance"]
) -> Iterator[FeatureCounts]:
    """Yield the blocks of features, and append the purity of each block's top examples to ``purities``."""
    for counts in blocks:
        purities.append(TopPurity.of(Tops.of(counts.top), named, half))
        yield counts


def _collected(context: Context, model: HookedWhisper, clips: Sequence[Clip], hooks: Sequence[str]) -> LabeledRows:
    def track(steps: Sequence[list[int]]) -> Iterator[list[int]]:
        return context.track(steps, "phones")

    room = None if context.is_organism else model.time.duration - SPARE
    return collect_rows(model, clips, [*hooks, MEL], track=track, widest=model.cfg.encoder.d_mlp, room=room)


def _options(context: Context, n_clips: int) -> CountOptions:
    """Return options that keep one example of every utterance, from which top examples of each half are taken later."""
    return CountOptions(k=n_clips, seed=context.seed)


def _fitted(model: HookedWhisper, clips: Sequence[Clip]) -> list[int]:
    """Return the indices of at most :data:`FITTED` evenly spaced clips with at most :data:`FITTED_ROWS` positions."""
    longest = max(model.time.n_positions(len(clip.samples) / model.time.sample_rate) for clip in clips)
    n = min(FITTED, len(clips), max(1, FITTED_ROWS // max(1, longest)))
    return np.linspace(0, len(clips) - 1, n).astype(int).tolist()


def first_half(speakers: Sequence[str]) -> Bool[np.ndarray, "utterance"]:
    """Return a mask of every second utterance of each speaker, so that both halves have the same speakers."""
    seen: dict[str, int] = {}
    mask = []
    for speaker in speakers:
        mask.append(seen.get(speaker, 0) % 2 == 0)
        seen[speaker] = seen.get(speaker, 0) + 1
    return np.array(mask, dtype=bool)


def mel_correlations(rows: LabeledRows, site: HookBasis, clips: Sequence[int]) -> Float[np.ndarray, "feature"]:
    """Return the largest absolute correlation of each feature with a mel band, over positions within phones of
    ``clips``.

    Silence is left out, because any feature that separates speech from silence would correlate with every band.
    Constant features have 0.
    """
    model = rows.model
    fitted = [rows.clips[i] for i in clips]
    names = sorted({i.label for c in fitted for i in c.alignment.phones} - {SILENCE})
    lengths = [int(rows.starts[i + 1] - rows.starts[i]) for i in clips]
    inside = [
        torch.from_numpy(label_positions(clip.alignment, n, names, model.time, clip.offset).ids >= 0)
        for clip, n in zip(fitted, lengths, strict=True)
    ]
    mel = torch.cat(
        [rows.features(HookBasis(MEL, mel_bands(model)), i)[mask] for i, mask in zip(clips, inside, strict=True)]
    )
    features, start = torch.empty(len(mel), rows.width(site)), 0
    for i, mask in zip(clips, inside, strict=True):
        stop = start + int(mask.sum())
        features[start:stop] = rows.features(site, i)[mask]
        start = stop
    bands = _standard(mel)
    parts = features.split(_FEATURES_AT_ONCE, dim=1)
    return torch.cat([(_standard(x).T @ bands / len(bands)).abs().amax(1) for x in parts]).numpy()


def _standard(x: torch.Tensor) -> torch.Tensor:
    centered = x.float() - x.float().mean(0)
    spread = centered.square().mean(0).sqrt()
    return centered / torch.where(spread > 1e-12, spread, torch.inf)


def share(true: Bool[np.ndarray, "n"], rng: np.random.Generator) -> Estimate:
    """Return the share of features, with a bootstrap over features, which for a share is a binomial draw."""
    if not len(true):
        return Estimate(None)
    return Estimate.of(float(true.mean()), rng.binomial(len(true), true.mean(), DRAWS) / len(true))


def resampled_means(values: Float[np.ndarray, "n *more"], rng: np.random.Generator, draws: int = DRAWS) -> np.ndarray:
    """Return means over the first axis of bootstrap samples: ``[draw, *more]``."""
    n = len(values)
    if not n:
        return np.full((draws, *values.shape[1:]), np.nan)
    return rng.multinomial(n, np.full(n, 1 / n), size=draws) @ values / n


def short(name: str) -> str:
    """Shorten a name for a legend."""
    return name.removesuffix(" directions").removesuffix(" model")
