"""A linear phone probe on all neurons of a block, to compare a layer as a whole with its single neurons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.linalg import cho_factor, cho_solve
from torch import Tensor

from hooked_whisper.features.baselines import MelBands, shifted_labels
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.phones.labeled_rows import LabeledRows
from hooked_whisper.features.phones.row_labels import RowLabels
from hooked_whisper.features.phones.selectivity import MIN_TOKENS
from hooked_whisper.findings.core.finding import Estimate
from hooked_whisper.protocols import SILENCE

SHRINKAGE = 0.1  # added to each variance; features are standardized, so it is a tenth of the average variance
MEL_CONTEXT = 5  # positions (0.1 s) on each side that the log-mel probe gets, because a block also sees its context
DRAWS = 2000
TEXT = (
    "The layer as a whole is measured by a linear probe on all neurons of a block (discriminant analysis with pooled "
    f"covariance; {SHRINKAGE:g} of the average variance, a number fixed in advance, is added to each variance). It "
    f"uses the positions within phones that are said {MIN_TOKENS} times or more, and is tested on speakers other than "
    "those on which it is trained. Accuracy is the share of positions with the right phone; macro-F1 is the mean F1 "
    "over phones; 95 % intervals are from a bootstrap over speakers. "
    f"The log-mel is read by the same probe, with {20 * MEL_CONTEXT} ms on either side."
)


@dataclass(frozen=True, eq=False)
class LayerProbe:
    """Predictions of a probe on held-out speakers, counted by speaker.

    names: the phones. speakers: the rows of the counts.
    hits, answered, said: numbers of positions that are predicted correctly, that are predicted as the phone, and that
        have the phone.
    """

    names: tuple[str, ...]
    speakers: tuple[str, ...]
    hits: Int[np.ndarray, "speaker phone"]
    answered: Int[np.ndarray, "speaker phone"]
    said: Int[np.ndarray, "speaker phone"]

    def accuracies(self, drawn: Int[np.ndarray, "draw speaker"]) -> Float[np.ndarray, "draw"]:
        """Return the accuracy of each bootstrap sample. ``drawn`` says how often each speaker is in it."""
        return _ratio(drawn @ self.hits.sum(axis=1), drawn @ self.said.sum(axis=1))

    def macro_f1s(self, drawn: Int[np.ndarray, "draw speaker"]) -> Float[np.ndarray, "draw"]:
        """Return the macro-F1 of each bootstrap sample, over the phones that its speakers say."""
        said = drawn @ self.said
        f1 = _ratio(2 * (drawn @ self.hits), said + drawn @ self.answered)
        return _ratio(np.where(said > 0, f1, 0).sum(axis=1), (said > 0).sum(axis=1))

    @property
    def each_once(self) -> Int[np.ndarray, "draw speaker"]:
        return np.ones((1, len(self.speakers)), dtype=np.int64)

    @property
    def accuracy(self) -> float:
        return float(self.accuracies(self.each_once)[0])

    @property
    def macro_f1(self) -> float:
        return float(self.macro_f1s(self.each_once)[0])

    def draws(self, rng: np.random.Generator, count: int = DRAWS) -> Int[np.ndarray, "draw speaker"]:
        """Return how often each speaker is in each of ``count`` bootstrap samples."""
        n = len(self.speakers)
        return rng.multinomial(n, np.full(n, 1 / n), size=count)

    def accuracy_estimate(self, drawn: Int[np.ndarray, "draw speaker"]) -> Estimate:
        return Estimate.of(self.accuracy, self.accuracies(drawn))

    def macro_f1_estimate(self, drawn: Int[np.ndarray, "draw speaker"]) -> Estimate:
        return Estimate.of(self.macro_f1, self.macro_f1s(drawn))


@dataclass(frozen=True, eq=False)
class LayerProbes:
    """Probes of every block: of the model, with shifted labels, and of the untrained model; and a probe of the
    log-mel."""

    layers: tuple[LayerProbe, ...]
    shifted: tuple[LayerProbe, ...]
    untrained: tuple[LayerProbe, ...]
    mel: LayerProbe


def probe_layer(rows: LabeledRows, site: HookBasis, labels: RowLabels) -> tuple[LayerProbe, LayerProbe] | None:
    """Return the predictions of a probe on all features of a hook point, and of a probe with shifted labels.

    ``None`` if fewer than two phones are said ``labels.options.min_tokens`` times or more. Memory: four matrices of
    ``n_features ** 2``.
    """
    tokens = labels.tokens.sum(axis=0)
    searched = np.flatnonzero(
        (tokens >= labels.options.min_tokens) & np.array([name != SILENCE for name in labels.names])
    )
    if len(searched) < 2:
        return None
    number = np.full(len(labels.names) + 1, -1)  # the last entry is for positions without a label, -1
    number[searched] = np.arange(len(searched))
    names = tuple(labels.names[i] for i in searched)
    truth = [number[labels.ids[a:b]] for a, b in zip(labels.starts[:-1], labels.starts[1:], strict=True)]
    turned = shifted_labels(truth, np.random.default_rng(labels.options.seed))
    folds = labels.fold[labels.starts[:-1]]
    speakers = [rows.clips[i].speaker or f"#{i}" for i in labels.clips]
    data = _Data(rows, site, labels.clips, tuple(ids >= 0 for ids in truth))
    true, shifted = _cross_fit(data, [truth, turned], folds, len(names))
    return _counted(names, speakers, truth, true), _counted(names, speakers, turned, shifted)


@dataclass(frozen=True, eq=False)
class _Data:
    """Activations at the positions within phones, clip by clip."""

    rows: LabeledRows
    site: HookBasis
    clips: tuple[int, ...]
    labeled: tuple[Bool[np.ndarray, "position"], ...]

    def of(self, i: int) -> Float[Tensor, "position feature"]:
        x = self.rows.features(self.site, self.clips[i])
        x = with_context(x, MEL_CONTEXT) if isinstance(self.site.basis, MelBands) else x
        return x[torch.from_numpy(self.labeled[i])].float()

    def scale(self) -> tuple[Float[Tensor, "feature"], Float[Tensor, "feature"]]:
        """Return the mean and the inverse standard deviation of each feature (0 for constant features)."""
        n, total, squares = 0, torch.zeros(()).double(), torch.zeros(()).double()
        for i in range(len(self.clips)):
            x = self.of(i)
            n, total, squares = n + len(x), total + x.double().sum(0), squares + x.double().square().sum(0)
        mean = total / n
        variance = (squares / n - mean**2).clamp(min=0)
        return mean.float(), torch.where(variance > 1e-12, variance.rsqrt(), 0.0).float()


def with_context(x: Float[Tensor, "position feature"], reach: int) -> Float[Tensor, "position more"]:
    """Concatenate each row with ``reach`` neighbors on either side. The first and last row are repeated at the ends."""
    index = (torch.arange(len(x))[:, None] + torch.arange(-reach, reach + 1)).clamp(0, len(x) - 1)
    return x[index].flatten(1)


@dataclass
class _Moments:
    """Sums over rows: of products of features, and of features by class for each set of labels."""

    products: Float[Tensor, "feature feature"]
    sums: list[Float[Tensor, "class feature"]]
    counts: list[Float[Tensor, "class"]]

    @classmethod
    def zero(cls, width: int, n_classes: int, n_label_sets: int) -> _Moments:
        return cls(
            torch.zeros(width, width),
            [torch.zeros(n_classes, width) for _ in range(n_label_sets)],
            [torch.zeros(n_classes) for _ in range(n_label_sets)],
        )

    def add(self, x: Float[Tensor, "row feature"], label_sets: Sequence[Int[np.ndarray, "row"]]) -> None:
        self.products.addmm_(x.T, x)
        for sums, counts, labels in zip(self.sums, self.counts, label_sets, strict=True):
            ids = torch.from_numpy(labels)
            sums.index_add_(0, ids, x)
            counts.index_add_(0, ids, torch.ones(len(ids)))

    def __sub__(self, other: _Moments) -> _Moments:
        sums = [a - b for a, b in zip(self.sums, other.sums, strict=True)]
        counts = [a - b for a, b in zip(self.counts, other.counts, strict=True)]
        return _Moments(self.products - other.products, sums, counts)

    def rule(self, label_set: int) -> tuple[Float[Tensor, "class feature"], Float[Tensor, "class"]]:
        """Return weights and offsets of a linear discriminant analysis. A class without rows is never predicted."""
        count, sums = self.counts[label_set], self.sums[label_set]
        n = count.sum()
        means = sums / count.clamp(min=1)[:, None]
        within = self.products.addmm((means * count[:, None]).T, means, alpha=-1)
        within.div_(n).diagonal().add_(SHRINKAGE)
        # The matrix is symmetric; its transpose has the memory order that LAPACK can overwrite without a copy.
        factor = cho_factor(within.numpy().T, lower=True, overwrite_a=True, check_finite=False)
        weights = torch.from_numpy(cho_solve(factor, means.T.numpy(), check_finite=False).T)
        return weights, (count / n).log() - (weights * means).sum(1) / 2


def _cross_fit(
    data: _Data, label_sets: Sequence[Sequence[Int[np.ndarray, "_"]]], folds: Int[np.ndarray, "clip"], n_classes: int
) -> list[list[Int[np.ndarray, "_"]]]:
    """Return predictions at the labeled positions of each clip by a probe of the other folds, for each set of labels.

    Sums are computed again for each fold instead of being stored, because one matrix of products of ``large-v3`` needs
    100 MiB.
    """
    mean, scale = data.scale()

    def moments(clips: Iterable[int]) -> _Moments:
        total = _Moments.zero(len(mean), n_classes, len(label_sets))
        for i in clips:
            total.add((data.of(i) - mean) * scale, [labels[i][data.labeled[i]] for labels in label_sets])
        return total

    whole = moments(range(len(folds)))
    rules = []
    for fold in range(int(folds.max()) + 1):
        training = whole - moments(np.flatnonzero(folds == fold).tolist())
        rules.append([training.rule(k) for k in range(len(label_sets))])
        del training
    del whole
    answers: list[list[np.ndarray]] = [[] for _ in label_sets]
    for i in range(len(folds)):
        x = (data.of(i) - mean) * scale
        for k, (weights, offset) in enumerate(rules[folds[i]]):
            answers[k].append((x @ weights.T + offset).argmax(1).numpy())
    return answers


def _counted(
    names: tuple[str, ...],
    speakers: Sequence[str],
    labels: Sequence[Int[np.ndarray, "_"]],
    answers: Sequence[Int[np.ndarray, "_"]],
) -> LayerProbe:
    voices = tuple(sorted(set(speakers)))
    hits, answered, said = (np.zeros((len(voices), len(names)), dtype=np.int64) for _ in range(3))
    for speaker, ids, answer in zip(speakers, labels, answers, strict=True):
        k, true = voices.index(speaker), ids[ids >= 0]
        for counts, phones in ((hits, true[true == answer]), (answered, answer), (said, true)):
            counts[k] += np.bincount(phones, minlength=len(names))
    return LayerProbe(names, voices, hits, answered, said)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=np.asarray(b) > 0)


def drawn_speakers(probes: LayerProbes, rng: np.random.Generator) -> Int[np.ndarray, "draw speaker"]:
    """Return bootstrap samples of the speakers for all probes, so that differences are between the same speakers."""
    return probes.mel.draws(rng)


def estimates(probes: LayerProbes, rng: np.random.Generator) -> dict[str, list[Estimate]]:
    """Return macro-F1 by block for the probes and their controls."""
    drawn = drawn_speakers(probes, rng)
    groups = {
        "layer as a whole": probes.layers,
        "layer, shifted labels": probes.shifted,
        "layer, untrained model": probes.untrained,
        "log-mel, no layer": (probes.mel,) * len(probes.layers),
    }
    return {name: [probe.macro_f1_estimate(drawn) for probe in by_block] for name, by_block in groups.items()}


def accuracies(probes: LayerProbes, rng: np.random.Generator) -> list[Estimate]:
    """Return the accuracy of the layer as a whole, by block."""
    drawn = drawn_speakers(probes, rng)
    return [probe.accuracy_estimate(drawn) for probe in probes.layers]
