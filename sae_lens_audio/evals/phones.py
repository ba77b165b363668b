"""Features as phone detectors on held-out speakers, beside several kinds of bases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from hooked_whisper._support.heatmap import bar_chart
from hooked_whisper._support.plotly_figures import Backend, check_backend
from hooked_whisper._support.renamed import renamed_arguments, renamed_method
from hooked_whisper._support.showing import Summary, Tabular, counted
from hooked_whisper.corpora import Clip
from hooked_whisper.errors import ArgumentError, HookedWhisperError
from hooked_whisper.features.baselines import mel_bands
from hooked_whisper.features.bases import LinearBasis
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.phones.counts import FeatureCounts
from hooked_whisper.features.phones.labeled_rows import LabeledRows, Track, collect_rows
from hooked_whisper.features.phones.row_labels import CountOptions
from hooked_whisper.features.phones.selectivity import MIN_TOKENS, Selectivity
from hooked_whisper.features.spool import MEMORY
from hooked_whisper.findings.core.finding import Estimate
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import FeatureBasis
from sae_lens_audio.evals.baselines import RandomFeatures

FOUND = 0.3  # minimum F1 of a feature that detects a phone
COVERS_AUC, COVERS_F1 = 0.95, 0.7
DRAWS = 2000


class RarePhonesError(HookedWhisperError, ValueError):
    """No phone occurs often enough to be judged.

    Cause: too few clips. Fix: more clips, or a smaller ``min_tokens``.
    """


@dataclass(frozen=True, eq=False, repr=False)
class PhoneScores(Tabular):
    """Phone scores of one basis. F1 is on held-out speakers: phone, sign and threshold come from the others.

    Attributes:
        phones: the judged phones: frequent enough, and not silence.
        label: best phone of each feature, as an index into ``phones``. f1: F1 of that phone, by feature.
        alive: features that are not 0 everywhere; means are over these.
        best_f1, best_feature, best_auc: of each phone, over live features. The best feature is selected on the data it
            is scored on, which favors larger bases: compare with equally many random directions.
        shifted_f1, shifted_best_f1, shifted_coverage: the same with labels rotated within each utterance.
    """

    phones: tuple[str, ...]
    label: Int[np.ndarray, "feature"]
    f1: Float[np.ndarray, "feature"]
    alive: Bool[np.ndarray, "feature"]
    best_f1: Float[np.ndarray, "phone"]
    best_feature: Int[np.ndarray, "phone"]
    best_auc: Float[np.ndarray, "phone"]
    shifted_f1: Float[np.ndarray, "feature"]
    shifted_best_f1: Float[np.ndarray, "phone"]
    shifted_coverage: float

    @classmethod
    def of(cls, true: Selectivity, shifted: Selectivity, alive: Bool[np.ndarray, "feature"]) -> PhoneScores:
        """Compute scores from selectivity for the true and for the shifted labels.

        Raises:
            RarePhonesError: no phone occurs often enough.
        """
        if not true.searched.any():
            raise RarePhonesError(
                f"none of the {len(true.names)} labels occurs often enough to be judged: give more clips, or a "
                "smaller min_tokens"
            )
        index = np.cumsum(true.searched) - 1
        f1, auc = (_of_alive(x[:, true.searched], alive) for x in (true.f1_by_label, _either(true.auc_by_label)))
        shifted_f1 = _of_alive(shifted.f1_by_label[:, true.searched], alive)
        shifted_auc = _of_alive(_either(shifted.auc_by_label)[:, true.searched], alive)
        covered = (shifted_f1.max(0) >= COVERS_F1) | (shifted_auc.max(0) >= COVERS_AUC)
        return cls(
            tuple(np.array(true.names, dtype=object)[true.searched]),
            index[true.best],
            true.f1,
            alive,
            f1.max(0),
            f1.argmax(0),
            auc.max(0),
            shifted.f1,
            shifted_f1.max(0),
            float(covered.mean()),
        )

    @property
    def n_features(self) -> int:
        return len(self.f1)

    @property
    def mean_f1(self) -> Estimate:
        """Best-phone F1, mean over live features; 95 % interval by bootstrap over features."""
        return bootstrapped_mean(self.f1[self.alive])

    @property
    def found_share(self) -> Estimate:
        """Share of live features with a best-phone F1 of at least 0.3."""
        return bootstrapped_mean((self.f1[self.alive] >= FOUND).astype(float))

    @property
    def phone_f1(self) -> Estimate:
        """F1 of each phone's best feature, mean over phones; 95 % interval by bootstrap over phones."""
        return bootstrapped_mean(self.best_f1)

    @property
    def covered(self) -> Estimate:
        """Share of phones for which some feature has an AUC of at least 0.95 or an F1 of at least 0.7."""
        return bootstrapped_mean(self._covers.astype(float))

    @property
    def covered_by_auc(self) -> Estimate:
        """Share of phones for which some feature has an AUC of at least 0.95."""
        return bootstrapped_mean((self.best_auc >= COVERS_AUC).astype(float))

    @property
    def shifted_mean_f1(self) -> float:
        return float(self.shifted_f1[self.alive].mean()) if self.alive.any() else float("nan")

    @property
    def shifted_phone_f1(self) -> float:
        return float(self.shifted_best_f1.mean())

    @property
    def _covers(self) -> Bool[np.ndarray, "phone"]:
        return (self.best_f1 >= COVERS_F1) | (self.best_auc >= COVERS_AUC)

    def summary(self) -> Summary:
        title = f"PhoneScores: {counted(self.n_features, 'feature')}, {counted(len(self.phones), 'phone')}"
        notes = (
            f"phones covered: {self.covered.value:.1%}; best F1 of a phone, mean {self.phone_f1.value:.3g} "
            f"(shifted labels {self.shifted_phone_f1:.3g})",
        )
        ordered = sorted(self.to_rows(), key=lambda row: -row["f1"])
        rows = tuple((row["phone"], row["feature"], row["f1"], row["auc"], row["shifted_f1"]) for row in ordered[:12])
        columns = ("phone", "best feature", "F1", "AUC", "F1, shifted labels")
        return Summary(title, notes, columns, rows, len(ordered))

    def plot(self, title: str = "", *, backend: Backend = "matplotlib") -> Any:
        """Draw the best F1 of every phone, the best on top. ``backend="plotly"`` returns a plotly figure."""
        check_backend(backend)
        order = np.argsort(-self.best_f1, kind="stable")
        return bar_chart(
            [self.phones[k] for k in order],
            self.best_f1[order].astype(float),
            title=title or "Best held-out F1 of any feature, by phone",
            unit="F1",
            facecolor="white",
            backend=backend,
        )

    table = renamed_method("table", "to_rows")

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one row per phone: its best feature, F1, and the largest AUC of any feature."""
        return [
            {
                "phone": phone,
                "feature": int(self.best_feature[i]),
                "f1": float(self.best_f1[i]),
                "auc": float(self.best_auc[i]),
                "shifted_f1": float(self.shifted_best_f1[i]),
            }
            for i, phone in enumerate(self.phones)
        ]


@dataclass(frozen=True)
class PhoneOptions:
    """folds: number of speaker groups. min_tokens: minimum tokens of a phone. memory: bytes of activations in memory;
    the rest goes to temporary files. inner: exclude positions within 20 ms of a boundary.
    """

    folds: int = 4
    min_tokens: int = MIN_TOKENS
    inner: bool = False
    memory: int = MEMORY
    seed: int = 0


@renamed_arguments(dictionaries="saes")
def phone_scores(
    model: HookedWhisper,
    clips: Sequence[Clip],
    hook: str,
    saes: Mapping[str, FeatureBasis],
    bases: Mapping[str, LinearBasis],
    options: PhoneOptions | None = None,
    track: Track | None = None,
    also: Sequence[str] = (),
    on_rows: Callable[[LabeledRows], None] | None = None,
) -> dict[str, PhoneScores]:
    """Score SAEs and controls of a hook point in one pass over the clips.

    Controls: the dense ``bases`` (:func:`~sae_lens_audio.evals.baselines.linear_bases`: neurons, principal and random
    directions); as many random directions as the largest SAE has features (``"random x1024"``); log-mel bands (``"mel
    bands"``); and for each basis, labels rotated within each utterance.

    Args:
        also: further hook points to read in the same pass; not scored.
        on_rows: called with the activations of all clips before phones are counted, say to keep a sample of them.

    Returns:
        Scores by name, SAEs first.

    Raises:
        ArgumentError: an SAE has the name of a control.
        PatchError: a hook point without a vector at every position, or NaN.
        RarePhonesError: no phone occurs often enough.
        AlignmentError: fewer than two speakers.
        CacheSizeError: no room for temporary files.
    """
    options = options or PhoneOptions()
    controls = {name: HookBasis(hook, basis) for name, basis in bases.items()}
    if saes and bases:
        size = max(sae.n_features for sae in saes.values())
        mean = next(iter(bases.values())).mean
        controls[f"random x{size}"] = HookBasis(hook, RandomFeatures.like(size, mean, options.seed))
    controls["mel bands"] = HookBasis("encoder.hook_mel", mel_bands(model))
    if reserved := sorted(set(saes) & set(controls)):
        raise ArgumentError(f"an SAE cannot be called {reserved[0]!r}, the name of a control: give it another name")
    bases_at = {name: HookBasis(hook, sae) for name, sae in saes.items()} | controls
    # k=1: only the strongest example is needed, to know whether a feature ever fires
    counting = CountOptions(
        folds=options.folds,
        k=1,
        positions="inner" if options.inner else "all",
        min_tokens=options.min_tokens,
        seed=options.seed,
    )
    hooks = list(dict.fromkeys([*(site.hook for site in bases_at.values()), *also]))
    with (
        torch.no_grad(),
        collect_rows(
            model,
            clips,
            hooks,
            track=track,
            widest=max(_width(site) for site in bases_at.values()),
            memory=options.memory,
        ) as rows,
    ):
        if on_rows is not None:
            on_rows(rows)
        labels = rows.labels(counting)
        return {name: _scores(rows.blocks(site, labels)) for name, site in bases_at.items()}


def _width(site: HookBasis) -> int:
    return 0 if site.basis is None else site.basis.n_features


def _scores(blocks: Iterable[FeatureCounts]) -> PhoneScores:
    parts = [(block.phones, block.shifted_phones, _alive(block)) for block in blocks]
    phones, shifted, alive = zip(*parts, strict=True)
    return PhoneScores.of(Selectivity.joined(phones), Selectivity.joined(shifted), np.concatenate(alive))


def _alive(site: FeatureCounts) -> Bool[np.ndarray, "feature"]:
    """Features that are not 0 everywhere. Values below 1/128 in size share a histogram bin with 0."""
    return (site.top.values[:, 0] > 0) | ((site.counts.totals > 0).sum(1) > 1)


def bootstrapped_mean(values: Float[np.ndarray, "n"], draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Return the mean with its 95 % percentile interval; undefined without values."""
    n = len(values)
    if not n:
        return Estimate(None)
    rng = np.random.default_rng(seed)
    step = max(1, (1 << 22) // n)
    samples = [values[rng.integers(n, size=(min(step, draws - k), n))].mean(1) for k in range(0, draws, step)]
    return Estimate.of(float(values.mean()), np.concatenate(samples))


def _either(auc: Float[np.ndarray, "feature label"]) -> Float[np.ndarray, "feature label"]:
    """Return the AUC for high or for low values, whichever is better."""
    return np.maximum(auc, 1 - auc)


def _of_alive(values: Float[np.ndarray, "feature phone"], alive: Bool[np.ndarray, "feature"]) -> np.ndarray:
    return np.where(alive[:, None] & np.isfinite(values), values, 0.0)
