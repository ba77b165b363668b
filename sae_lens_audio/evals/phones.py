"""Features as detectors of phones, on speakers they were not fitted on, beside bases of every kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

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

FOUND = 0.3  # F1 from which a feature is said to have a phone
COVERS_AUC, COVERS_F1 = 0.95, 0.7
DRAWS = 2000


class RarePhonesError(HookedWhisperError, ValueError):
    """No phone was said often enough to be judged.

    Cause: few clips. Fix: more of them, or a smaller ``min_tokens``.
    """


@dataclass(frozen=True, eq=False)
class PhoneScores:
    """What one basis tells of phones. F1 is on held-out speakers: phone, sign and threshold come from the others.

    Attributes:
        phones: those judged (said often enough, and not silence).
        label: each feature's best phone, as an index into ``phones``.
        f1: of that, by feature.
        alive: features that are not 0 everywhere; the others are in no mean.
        best_f1, best_feature, best_auc: of each phone, over the features that are alive. The best one is picked where
            it is judged, so that more features look better: compare with random directions of equal number.
        shifted_f1, shifted_best_f1: the same search on labels turned in a circle within each utterance.
        shifted_coverage: share of phones covered then.
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
    def of(cls, found: Selectivity, shifted: Selectivity, alive: Bool[np.ndarray, "feature"]) -> PhoneScores:
        """Of what was counted with the true and with the shifted labels.

        Raises:
            RarePhonesError: no phone was said often enough.
        """
        if not found.searched.any():
            raise RarePhonesError(
                f"none of the {len(found.names)} labels was said often enough to be judged: give more clips, or a "
                "smaller min_tokens"
            )
        place = np.cumsum(found.searched) - 1
        f1, auc = (_of_alive(x[:, found.searched], alive) for x in (found.f1_by_label, _either(found.auc_by_label)))
        turned = _of_alive(shifted.f1_by_label[:, found.searched], alive)
        turned_auc = _of_alive(_either(shifted.auc_by_label)[:, found.searched], alive)
        covered = (turned.max(0) >= COVERS_F1) | (turned_auc.max(0) >= COVERS_AUC)
        return cls(
            tuple(np.array(found.names, dtype=object)[found.searched]),
            place[found.best],
            found.f1,
            alive,
            f1.max(0),
            f1.argmax(0),
            auc.max(0),
            shifted.f1,
            turned.max(0),
            float(covered.mean()),
        )

    @property
    def n_features(self) -> int:
        return len(self.f1)

    @property
    def mean_f1(self) -> Estimate:
        """Best-phone F1, mean over features that are alive; 95 % by bootstrap over features."""
        return bootstrapped_mean(self.f1[self.alive])

    @property
    def found_share(self) -> Estimate:
        """Share of the features that are alive with a best-phone F1 of 0.3 or more."""
        return bootstrapped_mean((self.f1[self.alive] >= FOUND).astype(float))

    @property
    def phone_f1(self) -> Estimate:
        """F1 of each phone's best feature, mean over phones; 95 % by bootstrap over phones."""
        return bootstrapped_mean(self.best_f1)

    @property
    def covered(self) -> Estimate:
        """Share of phones for which some feature has an AUC of 0.95 or an F1 of 0.7."""
        return bootstrapped_mean(self._covers.astype(float))

    @property
    def covered_by_auc(self) -> Estimate:
        """Share of phones for which some feature has an AUC of 0.95."""
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

    def table(self) -> list[dict[str, Any]]:
        """One row per phone: its best feature, with F1 and AUC (the largest of any feature)."""
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
    """folds: groups of speakers; min_tokens: of a phone that is judged; memory: bytes of activations that are held in
    memory, more go to temporary files; inner: leave positions within 20 ms of a boundary out.
    """

    folds: int = 4
    min_tokens: int = MIN_TOKENS
    inner: bool = False
    memory: int = MEMORY
    seed: int = 0


def phone_scores(
    model: HookedWhisper,
    clips: Sequence[Clip],
    hook: str,
    dictionaries: Mapping[str, FeatureBasis],
    bases: Mapping[str, LinearBasis],
    options: PhoneOptions | None = None,
    track: Track | None = None,
    also: Sequence[str] = (),
    on_rows: Callable[[LabeledRows], None] | None = None,
) -> dict[str, PhoneScores]:
    """All dictionaries and controls of a hook point in one pass over the clips.

    Controls: the ``bases`` (:func:`~sae_lens_audio.evals.baselines.linear_bases`: neurons, principal and random
    directions), dense as they are, which is the strongest form of them; random directions as many as the largest
    dictionary has features (``"random x1024"``); the bands of the log-mel (``"mel bands"``); and for each of these the
    same labels turned in a circle.

    Args:
        also: further hook points to read in the same pass; not scored.
        on_rows: called with the activations of all clips before phones are counted, say to keep a sample of them.

    Returns:
        scores by name, dictionaries first.

    Raises:
        ArgumentError: an SAE has the name of a control.
        PatchError: a hook point without a vector at every position, or NaN.
        RarePhonesError: no phone occurs often enough.
        AlignmentError: fewer than two speakers.
        CacheSizeError: no room for temporary files.
    """
    options = options or PhoneOptions()
    controls = {name: HookBasis(hook, basis) for name, basis in bases.items()}
    if dictionaries and bases:
        size = max(one.n_features for one in dictionaries.values())
        mean = next(iter(bases.values())).mean
        controls[f"random x{size}"] = HookBasis(hook, RandomFeatures.like(size, mean, options.seed))
    controls["mel bands"] = HookBasis("encoder.hook_mel", mel_bands(model))
    if taken := sorted(set(dictionaries) & set(controls)):
        raise ArgumentError(f"an SAE cannot be called {taken[0]!r}, the name of a control: give it another name")
    sites = {name: HookBasis(hook, one) for name, one in dictionaries.items()} | controls
    # of the strongest examples only the strongest is looked at: whether a feature ever fires
    counting = CountOptions(
        folds=options.folds,
        k=1,
        positions="inner" if options.inner else "all",
        min_tokens=options.min_tokens,
        seed=options.seed,
    )
    hooks = list(dict.fromkeys([*(site.hook for site in sites.values()), *also]))
    with (
        torch.no_grad(),
        collect_rows(
            model, clips, hooks, track=track, widest=max(_width(site) for site in sites.values()), memory=options.memory
        ) as rows,
    ):
        if on_rows is not None:
            on_rows(rows)
        labels = rows.labels(counting)
        return {name: _scores(rows.blocks(site, labels)) for name, site in sites.items()}


def _width(site: HookBasis) -> int:
    return 0 if site.basis is None else site.basis.n_features


def _scores(blocks: Iterable[FeatureCounts]) -> PhoneScores:
    parts = [(block.phones, block.shifted_phones, _alive(block)) for block in blocks]
    phones, shifted, alive = zip(*parts, strict=True)
    return PhoneScores.of(Selectivity.joined(phones), Selectivity.joined(shifted), np.concatenate(alive))


def _alive(site: FeatureCounts) -> Bool[np.ndarray, "feature"]:
    """Not 0 everywhere: above it somewhere, or of several values (those below 1/128 in size share a cell with 0)."""
    return (site.top.values[:, 0] > 0) | ((site.counts.totals > 0).sum(1) > 1)


def bootstrapped_mean(values: Float[np.ndarray, "n"], draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Mean and its 95 % percentile interval; undefined without values."""
    n = len(values)
    if not n:
        return Estimate(None)
    rng = np.random.default_rng(seed)
    at_once = max(1, (1 << 22) // n)
    samples = [values[rng.integers(n, size=(min(at_once, draws - at), n))].mean(1) for at in range(0, draws, at_once)]
    return Estimate.of(float(values.mean()), np.concatenate(samples))


def _either(auc: Float[np.ndarray, "feature label"]) -> Float[np.ndarray, "feature label"]:
    """For high values or for low ones, whichever is better."""
    return np.maximum(auc, 1 - auc)


def _of_alive(values: Float[np.ndarray, "feature phone"], alive: Bool[np.ndarray, "feature"]) -> np.ndarray:
    return np.where(alive[:, None] & np.isfinite(values), values, 0.0)
