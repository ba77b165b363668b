"""Activations with planted features: labeled like speech, with the true dictionary known.

``planted_speech()`` draws clips of words by several speakers and makes each activation a sparse sum of unit directions.
The features are what a speech model might have: phones (a stop has two, its closure and its release), manners and
voicing, which several phones share, words, traits of speakers, silence, and background features that no label explains,
some of them with children that are active only within their parent. Manners with their phones, and parents with their
children, invite absorption. ``SPEAKERS_AND_NOISE`` has more traits and features of noise: the same positions exist once
more with noise.

Sources: synthetic activations as a test of SAEs and of their metrics: SynthSAEBench, and Chanin 2026, "Are Sparse
Autoencoder Benchmarks Reliable?" (arXiv 2605.18229), section 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper._support.showing import Showing, Summary
from hooked_whisper.errors import ArgumentError
from sae_lens_audio.benchmark.data import FOLDS, UNLABELED, BenchmarkData

HOOK = "planted"
MANNERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "stop": ("P", "B", "T", "D", "K", "G"),
        "affricate": ("CH", "JH"),
        "fricative": ("F", "V", "S", "Z", "SH", "HH"),
        "nasal": ("M", "N", "NG"),
        "approximant": ("L", "R", "W", "Y"),
        "vowel": ("AA", "AE", "IH", "IY", "UW", "EH", "ER"),
    }
)
VOICELESS = frozenset(["P", "T", "K", "CH", "F", "S", "SH", "HH"])
IN_PARTS = ("stop", "affricate")  # manners whose phones have a closure and a release
LOUDNESS: Mapping[str, float] = MappingProxyType(
    {"phone": 0.6, "part": 0.6, "manner": 1.0, "voiced": 0.8, "word": 0.6, "trait": 0.7, "silence": 1.0, "noise": 0.7}
)
"""Mean activation of each kind of feature; background features have 0.7. Classes are louder than their phones, so that
an SAE learns phones late; with loud phones every SAE detects them."""
LABELED = ("phone", "part", "manner", "voiced", "silence")  # kinds of features that phone labels determine
BACKGROUND_LOUDNESS = 0.7
FAMILY = 3  # features of a parent and its children, where features are nested
NOISE_SHARE = 0.6  # of the positions of noisy speech at which a parent of noise features is active
_DECORRELATION_STEPS, _DECORRELATION_RATE = 60, 0.1


@dataclass(frozen=True)
class PlantedConfig:
    """Sizes and noise of planted activations.

    d: width of the activations, smaller than the number of features. words: size of the vocabulary.
    traits: of speakers; each speaker has about half of them. nested_traits: traits 0, 3, 6, ... are parents, and a
    speaker has the two after each only with it. background: features that no label explains. noises: features of noise,
    nested in the same way; every second clip of the fitted ones has noise.
    speakers, fitted_speakers: who are scored, and who are fitted or trained on. clips: of each speaker.
    words_per_clip: spoken in each clip. slip: chance that a feature misses a position where it belongs, or is active at
    a position where it does not, in proportion to its frequency. noise: norm of the Gaussian noise of an activation.
    """

    d: int = 64
    words: int = 18
    traits: int = 6
    nested_traits: bool = False
    background: int = 42
    noises: int = 0
    speakers: int = 10
    fitted_speakers: int = 12
    clips: int = 3
    words_per_clip: int = 8
    slip: float | int = 0.05
    noise: float | int = 0.3

    def __post_init__(self) -> None:
        for name in ("d", "words", "traits", "speakers", "fitted_speakers", "clips", "words_per_clip"):
            if getattr(self, name) < (2 if name == "speakers" else 1):
                raise ArgumentError(f"{name} is {getattr(self, name)}: give 2 or more speakers, 1 or more of the rest")
        if min(self.background, self.noises, self.noise) < 0 or not 0 <= self.slip < 0.5:
            raise ArgumentError(
                f"background {self.background}, noises {self.noises} and noise {self.noise} must be 0 or more, slip "
                f"{self.slip} 0 or more and below 0.5"
            )


SPEAKERS_AND_NOISE = PlantedConfig(traits=12, nested_traits=True, background=24, noises=9, clips=4)
"""For metrics of speakers, which need four clips of each, and of noise."""


@dataclass(frozen=True, eq=False)
class PlantedFeatures:
    """The true dictionary.

    Attributes:
        names: such as ``"phone:AA"``, ``"closure:P"``, ``"manner:stop"``, ``"word:3"`` or ``"background:7"``.
        kinds: kind of each feature: a key of :data:`LOUDNESS`, or ``"background"``.
        directions: unit vectors. offset: the activation without features.
        children: pairs of a feature and one that is active only (but for slips) where the first is.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    directions: Float[Tensor, "feature d"]
    offset: Float[Tensor, "d"]
    children: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.names)

    def of_kind(self, *kinds: str) -> Int[np.ndarray, "n"]:
        """Return the indices of the features of these kinds."""
        return np.flatnonzero([kind in kinds for kind in self.kinds])


@dataclass(frozen=True, eq=False, repr=False)
class PlantedSpeech(Showing):
    """Planted activations with their labels and the truth about them.

    Attributes:
        data: what metrics see: activations, phones, silence, speakers and clips.
        features: the true dictionary.
        truth: true feature activations of ``data``. fitted_truth: of the rows of other speakers in ``data.fitted``.
        noisy: activations of the same positions with noise, by hook point; none without features of noise.
        noisy_truth: their true feature activations.
    """

    config: PlantedConfig
    seed: int
    data: BenchmarkData
    features: PlantedFeatures
    truth: Float[Tensor, "row feature"]
    fitted_truth: Float[Tensor, "fitted feature"]
    noisy: Mapping[str, Float[Tensor, "row d"]]
    noisy_truth: Float[Tensor, "noisy feature"]

    @property
    def rows(self) -> Float[Tensor, "row d"]:
        return self.data.rows[HOOK]

    @property
    def fitted(self) -> Float[Tensor, "fitted d"]:
        return self.data.fitted[HOOK]

    @cached_property
    def all_rows(self) -> Float[Tensor, "any d"]:
        """``rows``, then those with noise."""
        return torch.cat([self.rows, *self.noisy.values()])

    @cached_property
    def all_active(self) -> Bool[Tensor, "any feature"]:
        """Where each feature is active in ``all_rows``."""
        return torch.cat([self.truth, self.noisy_truth]) > 0

    @cached_property
    def active(self) -> Bool[Tensor, "row feature"]:
        """Where each feature is active."""
        return self.truth > 0

    def summary(self) -> Summary:
        kinds = dict.fromkeys(self.features.kinds)
        active = self.active.double()
        rows = tuple(
            (kind, len(index), float(active[:, index].mean()), float(active[:, index].sum(1).mean()))
            for kind in kinds
            if len(index := self.features.of_kind(kind))
        )
        data = self.data
        title = f"PlantedSpeech: {len(self.features)} features in {self.config.d} dimensions, seed {self.seed}"
        notes = (
            f"{data.n_rows} positions and {len(self.fitted)} fitted, {len(data.speakers)} speakers, {len(data.phones)} "
            f"phones, {data.silent.mean():.0%} silence, {active.sum(1).mean():.1f} features at a position",
            *(("the same positions once more with noise, which is not counted here",) if self.noisy else ()),
        )
        return Summary(title, notes, ("kind", "features", "share of positions", "at a position"), rows)


def planted_speech(config: PlantedConfig | None = None, seed: int = 0) -> PlantedSpeech:
    """Draw planted activations. The same configuration and seed give the same rows."""
    config = config or PlantedConfig()
    rng = np.random.default_rng([seed, 229])
    features = _features(config, rng)
    vocabulary = _vocabulary(config, rng)
    traits = rng.random((config.speakers + config.fitted_speakers, config.traits)) < 0.5
    if config.nested_traits:
        traits &= traits[:, _parents(config.traits)]
    scored = _Labels.draw(config, vocabulary, config.speakers, rng)
    fitted = _Labels.draw(config, vocabulary, config.fitted_speakers, rng)
    truth = _activations(config, features, scored, traits[: config.speakers], rng)
    fitted_truth = _activations(config, features, fitted, traits[config.speakers :], rng)
    noisy_truth, noisy = truth[:0], {}
    if config.noises:
        fitted_truth = _with_noise(config, features, fitted_truth, fitted.clip % 2 == 1, rng)
        noisy_truth = _with_noise(config, features, truth, np.ones(len(truth), dtype=bool), rng)
        noisy = {HOOK: _rows(config, features, noisy_truth, rng)}
    rows, fitted_rows = (_rows(config, features, x, rng) for x in (truth, fitted_truth))
    data = BenchmarkData(
        model="planted",
        hook=HOOK,
        rows={HOOK: rows},
        fitted={HOOK: fitted_rows},
        phones=PHONES,
        phone=scored.phone,
        silent=scored.phone == UNLABELED,
        speaker=scored.speaker,
        clip=scored.clip,
        fold=rng.permutation(config.speakers)[scored.speaker] % min(FOLDS, config.speakers),
        token=scored.token,
        speakers=tuple(f"speaker {i}" for i in range(config.speakers)),
    )
    return PlantedSpeech(config, seed, data, features, truth, fitted_truth, noisy, noisy_truth)


PHONES = tuple(sorted(phone for phones in MANNERS.values() for phone in phones))
_MANNER_OF = {phone: manner for manner, phones in MANNERS.items() for phone in phones}


@dataclass(frozen=True, eq=False)
class _Labels:
    """Labels of positions, in order: phone (-1 in silence), whether in the first part of a phone, word (-1 in silence),
    speaker, clip, and the number of the interval in its clip."""

    phone: Int[np.ndarray, "row"]
    first: Bool[np.ndarray, "row"]
    word: Int[np.ndarray, "row"]
    speaker: Int[np.ndarray, "row"]
    clip: Int[np.ndarray, "row"]
    token: Int[np.ndarray, "row"]

    @classmethod
    def draw(
        cls, config: PlantedConfig, vocabulary: Sequence[Sequence[int]], n_speakers: int, rng: np.random.Generator
    ) -> _Labels:
        intervals = []  # length, positions of the first part, phone, word, speaker, clip, token
        for clip in range(n_speakers * config.clips):
            words = rng.permutation(np.arange(config.words_per_clip) + rng.integers(len(vocabulary))) % len(vocabulary)
            token = 0
            for number, word in enumerate([-1, *words, -1]):
                spoken = [UNLABELED] if word < 0 else list(vocabulary[word])
                pause = word >= 0 and number < len(words) and rng.random() < 0.3
                for phone in [*spoken, UNLABELED] if pause else spoken:
                    n = int(rng.integers(3, 9)) if phone >= 0 else int(rng.integers(4, 13))
                    label = word if phone >= 0 else -1
                    intervals.append((n, int(rng.integers(1, n)), phone, label, clip // config.clips, clip, token))
                    token += 1
        lengths, first, *columns = (np.array(column) for column in zip(*intervals, strict=True))
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        phone, word, speaker, of_clip, token_of = (np.repeat(column, lengths) for column in columns)
        return cls(phone, within < np.repeat(first, lengths), word, speaker, of_clip, token_of)


def _features(config: PlantedConfig, rng: np.random.Generator) -> PlantedFeatures:
    named = [("phone", f"phone:{phone}") for phone in PHONES if _MANNER_OF[phone] not in IN_PARTS]
    named += [
        ("part", f"{part}:{phone}")
        for phone in PHONES
        if _MANNER_OF[phone] in IN_PARTS
        for part in ("closure", "release")
    ]
    named += [("manner", f"manner:{manner}") for manner in MANNERS]
    named += [("voiced", "voiced"), ("silence", "silence")]
    named += [("word", f"word:{i}") for i in range(config.words)]
    named += [("trait", f"trait:{i}") for i in range(config.traits)]
    named += [("background", f"background:{i}") for i in range(config.background)]
    named += [("noise", f"noise:{i}") for i in range(config.noises)]
    names = tuple(name for _, name in named)
    number = {name: i for i, name in enumerate(names)}
    children = [
        (number[f"manner:{manner}"], number[f"{part}:{phone}"])
        for manner, phones in MANNERS.items()
        for phone in phones
        for part in (("closure", "release") if manner in IN_PARTS else ("phone",))
    ]
    nested = {"trait": config.traits if config.nested_traits else 0, "background": config.background}
    nested["noise"] = config.noises
    children += [
        (number[f"{kind}:{parent}"], number[f"{kind}:{i}"])
        for kind, n in nested.items()
        for i, parent in enumerate(_parents(n).tolist())
        if i != parent
    ]
    drawn = torch.from_numpy(rng.standard_normal((len(names), config.d)))
    offset = torch.from_numpy(rng.standard_normal(config.d)).float()
    kinds = tuple(kind for kind, _ in named)
    return PlantedFeatures(names, kinds, _decorrelated(drawn).float(), offset, tuple(children))


def _decorrelated(x: Float[Tensor, "feature d"]) -> Float[Tensor, "feature d"]:
    """Return unit vectors with smaller cosines among them than random ones have."""
    for _ in range(_DECORRELATION_STEPS):
        x = x / x.norm(dim=1, keepdim=True)
        cosines = x @ x.T
        cosines.fill_diagonal_(0)
        x = x - _DECORRELATION_RATE * cosines @ x
    return x / x.norm(dim=1, keepdim=True)


def _vocabulary(config: PlantedConfig, rng: np.random.Generator) -> list[list[int]]:
    """Return words of 3 to 5 phones; phones are dealt in turn, so that all are about equally frequent."""
    lengths = rng.integers(3, 6, config.words)
    dealt = np.concatenate([rng.permutation(len(PHONES)) for _ in range(-(-int(lengths.sum()) // len(PHONES)))])
    return [list(map(int, part)) for part in np.split(dealt[: lengths.sum()], np.cumsum(lengths)[:-1])]


def _activations(
    config: PlantedConfig,
    features: PlantedFeatures,
    labels: _Labels,
    traits: Bool[np.ndarray, "speaker trait"],
    rng: np.random.Generator,
) -> Float[Tensor, "row feature"]:
    on = np.zeros((len(labels.phone), len(features)), dtype=bool)
    number = {name: i for i, name in enumerate(features.names)}
    spoken = labels.phone != UNLABELED
    for i, phone in enumerate(PHONES):
        said = labels.phone == i
        if _MANNER_OF[phone] in IN_PARTS:
            on[:, number[f"closure:{phone}"]] = said & labels.first
            on[:, number[f"release:{phone}"]] = said & ~labels.first
        else:
            on[:, number[f"phone:{phone}"]] = said
        on[said, number[f"manner:{_MANNER_OF[phone]}"]] = True
        on[said, number["voiced"]] = phone not in VOICELESS
    on[:, number["silence"]] = ~spoken
    for i in range(config.words):
        on[:, number[f"word:{i}"]] = labels.word == i
    intervals = np.cumsum(np.diff(labels.token, prepend=-1) != 0) - 1
    heard = rng.random((intervals[-1] + 1, config.traits)) < 0.8
    on[:, features.of_kind("trait")] = traits[labels.speaker] & heard[intervals] & spoken[:, None]
    rates = np.geomspace(0.1, 0.02, max(config.background, 1))[: config.background]  # of parents
    on[:, features.of_kind("background")] = _nested_runs(rates, len(on), rng)
    slips = rng.random(on.shape) < np.where(on, config.slip, config.slip * on.mean(0))
    on ^= slips
    of_interval = 0.15 * rng.standard_normal((intervals[-1] + 1, len(features)))[intervals]
    values = _levels(features) * (1 + of_interval + 0.1 * rng.standard_normal(on.shape)).clip(0.3)
    return torch.from_numpy(np.where(on, values, 0)).float()


def _with_noise(
    config: PlantedConfig,
    features: PlantedFeatures,
    truth: Float[Tensor, "row feature"],
    noisy: Bool[np.ndarray, "row"],
    rng: np.random.Generator,
) -> Float[Tensor, "row feature"]:
    """Return feature activations with features of noise at the noisy positions; they slip as others do."""
    noise = features.of_kind("noise")
    on = _nested_runs(np.full(len(noise), NOISE_SHARE), len(truth), rng) & noisy[:, None]
    on ^= rng.random(on.shape) < np.where(on, config.slip, config.slip * on.mean(0))
    values = _levels(features)[noise] * (1 + 0.1 * rng.standard_normal(on.shape)).clip(0.3)
    heard = truth.clone()
    heard[:, noise] = torch.from_numpy(np.where(on, values, 0)).float()
    return heard


def _levels(features: PlantedFeatures) -> Float[np.ndarray, "feature"]:
    return np.array([LOUDNESS.get(kind, BACKGROUND_LOUDNESS) for kind in features.kinds])


def _parents(n: int) -> Int[np.ndarray, "feature"]:
    """Return the parent of each nested feature: features 0, 3, 6, ... for themselves and the two after them."""
    return np.arange(n) // FAMILY * FAMILY


def _nested_runs(
    rates: Float[np.ndarray, "feature"], n_rows: int, rng: np.random.Generator
) -> Bool[np.ndarray, "row feature"]:
    """Return runs of about five positions of nested features.

    rates: shares of the positions that parents cover; children are active in 40 % of their parent's runs.
    """
    on = np.zeros((n_rows, len(rates)), dtype=bool)
    for i, parent in enumerate(_parents(len(rates)).tolist()):
        on[:, i] = _runs(n_rows, rates[i], rng) if i == parent else on[:, parent] & _runs(n_rows, 0.4, rng)
    return on


def _runs(n: int, share: float, rng: np.random.Generator) -> Bool[np.ndarray, "row"]:
    """Return a mask of runs with mean length 5 that covers this share of the positions."""
    lengths = rng.geometric(1 / 5, size=n)
    states = np.repeat(rng.random(n) < share, lengths)
    return states[:n]


def _rows(
    config: PlantedConfig, features: PlantedFeatures, truth: Float[Tensor, "row feature"], rng: np.random.Generator
) -> Float[Tensor, "row d"]:
    noise = torch.from_numpy(rng.standard_normal((len(truth), config.d)) * config.noise / config.d**0.5).float()
    return features.offset + truth @ features.directions + noise
