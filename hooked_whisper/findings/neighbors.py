"""F10: do words that sound alike, or are used alike, have similar token embeddings?

This module tests the synthetic corpus, whose grammar is known; :mod:`.english.neighbors` is the version for released
models.

Source: github.com/er537/whisper_interpretability, ``docs/index.md``, and its blog post, section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int

from hooked_whisper.analysis import cosine_matrix, nearest_tokens
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting
from hooked_whisper.findings.core.figures import (
    BLUE,
    GRAY,
    GREEN,
    INK,
    add_legend,
    alt_text,
    draw_bars,
    draw_controls,
    new_figure,
)
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Measurement, Table
from hooked_whisper.findings.core.statistics import auc, bootstrap, matrix_regression, regression_coefficients
from hooked_whisper.findings.core.synthetic_truth import Truth
from hooked_whisper.findings.core.two_protocols import TwoProtocols
from hooked_whisper.findings.english.neighbors import EnglishNeighbors
from hooked_whisper.hooked import HookedWhisper

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MATCHES = 10  # random pairs for each pair that sounds alike
NEAR_IN_FREQUENCY = 20
PERMUTATIONS = 1000
SHUFFLES = 20

AUC = "AUC of the cosine, sound-alike pairs against random ones"
P_SOUND, P_CONTEXT = "p-value of similar sound", "p-value of similar neighbours in sentences"
PREDICTORS = ("similar sound", "similar neighbours in sentences", "log frequency")


@dataclass(frozen=True, eq=False)
class SoundPairs:
    """Pairs of words that sound alike, and random pairs of words of similar frequencies."""

    alike: Int[np.ndarray, "pair 2"]
    random: Int[np.ndarray, "match 2"]

    def auc(self, cosine: Float[np.ndarray, "word word"], counts: Float[np.ndarray, "word"] | None = None) -> float:
        """Return the AUC of the cosine. ``counts`` says how often each word is in a bootstrap sample."""
        positive, negative = cosine[tuple(self.alike.T)], cosine[tuple(self.random.T)]
        if counts is None:
            return auc(positive, negative)
        return auc(positive, negative, *(counts[p[:, 0]] * counts[p[:, 1]] for p in (self.alike, self.random)))


def draw_pairs(truth: Truth, rng: np.random.Generator) -> SoundPairs:
    """Return the pairs that sound alike, and random pairs that do not, of words with similar frequencies."""
    alike = np.argwhere(np.triu(truth.sounds_alike, 1))
    n = len(truth.words)
    order = np.argsort(np.abs(truth.log_frequency[:, None] - truth.log_frequency[None, :]), axis=1, kind="stable")
    near = order[:, : min(NEAR_IN_FREQUENCY, n)]
    random = []
    for a, b in alike:
        tries = rng.integers(near.shape[1], size=(10 * MATCHES, 2))
        pairs = [(near[a, i], near[b, j]) for i, j in tries]
        random += [(x, y) for x, y in pairs if x != y and not truth.sounds_alike[x, y]][:MATCHES]
    return SoundPairs(alike, np.array(random, dtype=int).reshape(-1, 2))


def predictors(truth: Truth) -> dict[str, Float[np.ndarray, "word word"]]:
    """Return the predictors of the regression, by name."""
    frequency = truth.log_frequency
    mean = (frequency[:, None] + frequency[None, :]) / 2
    return dict(zip(PREDICTORS, (truth.phone_similarity, truth.context_similarity, mean), strict=True))


@dataclass(frozen=True, eq=False)
class WordCosines:
    """Cosine similarity of the words' embeddings.

    Attributes:
        cosines: by embedding: ``"raw"``, ``"mean-centred"`` and ``"untrained"``.
        tables: tables of the nearest words of the corpus to a few words.
    """

    truth: Truth
    cosines: Mapping[str, Float[np.ndarray, "word word"]]
    tables: tuple[Table, ...]


class SyntheticNeighbors(Experiment[WordCosines]):
    """F10 on the synthetic corpus, in which sound and use of every word are known."""

    id, title, claim = EnglishNeighbors.id, EnglishNeighbors.title, EnglishNeighbors.claim
    protocol = (
        "The cosine similarity of rows of the decoder's token embedding is measured for the words of the synthetic "
        "corpus. First, pairs that sound alike (one phone apart, or rhyming) are compared with random pairs of words "
        "of similar frequency. Second, over all pairs, the cosine is regressed on similarity of phones, similarity of "
        "neighbors in the grammar, and mean log frequency (all standardized), with one-sided p-values from "
        "permutations of the words. Intervals: 95 %, bootstrap over words."
    )
    needs_speech, own_speech = False, True
    published, published_summary = EnglishNeighbors.published, EnglishNeighbors.published_summary

    def setting(self, context: Context) -> Setting:
        parameters = {"matches": MATCHES, "near_in_frequency": NEAR_IN_FREQUENCY, "permutations": PERMUTATIONS}
        return replace(Setting.of(context, parameters), inputs={"seed": context.seed})  # no clips

    def measure(self, context: Context) -> WordCosines:
        """Read the embedding matrix. There is no forward pass."""
        truth = context.truth
        assert truth is not None
        cosines = {
            "raw": _cosine(context.model, truth, False),
            "mean-centred": _cosine(context.model, truth, True),
            "untrained": _cosine(context.untrained, truth, False),
        }
        return WordCosines(truth, cosines, _nearest(context.model, truth))

    def judge(self, measured: WordCosines, setting: Setting) -> Finding:
        truth, cosines, n = measured.truth, measured.cosines, len(measured.truth.words)
        rng = setting.rng("matched pairs")
        pairs = draw_pairs(truth, rng)
        aucs = {name: Estimate.of(pairs.auc(c), _auc_samples(pairs, c, rng)) for name, c in cosines.items()}
        x = predictors(truth)
        regressions = {name: matrix_regression(c, x, rng, PERMUTATIONS) for name, c in cosines.items()}
        spread = np.array([regression_coefficients(cosines["raw"], x, rng.integers(n, size=n)) for _ in range(200)])
        shuffled = [pairs.auc(cosines["raw"][np.ix_(o, o)]) for o in (rng.permutation(n) for _ in range(SHUFFLES))]
        raw, blank = regressions["raw"], regressions["untrained"]
        low, high = np.percentile(spread, [2.5, 97.5], axis=0)
        bound = Axis("bound", ("value", "low", "high"))
        return self.finding(
            setting,
            criteria=(
                Criterion(AUC, aucs["raw"], 0.8, "at least"),
                Criterion(P_SOUND, Estimate(raw.p_values[0]), 0.01, "at most"),
                Criterion(P_CONTEXT, Estimate(raw.p_values[1]), 0.01, "at most"),
            ),
            controls=(
                Control(
                    "untrained model",
                    "random embeddings",
                    {
                        AUC: aucs["untrained"],
                        P_SOUND: Estimate(blank.p_values[0]),
                        P_CONTEXT: Estimate(blank.p_values[1]),
                    },
                ),
                Control(
                    "shuffled labels",
                    f"the words' sounds assigned to random words ({SHUFFLES} times)",
                    {AUC: Estimate.of(float(np.mean(shuffled)), shuffled)},
                ),
            ),
            measurements=(
                Measurement(
                    "AUC by embedding",
                    (Axis("embedding", tuple(aucs)), bound),
                    np.array([estimate.row for estimate in aucs.values()]),
                ),
                Measurement(
                    "standardised coefficients",
                    (Axis("predictor", PREDICTORS), bound),
                    np.stack([raw.coefficients, low, high], axis=1),
                ),
                Measurement(
                    "permutation p-values",
                    (Axis("embedding", tuple(regressions)), Axis("predictor", PREDICTORS)),
                    np.stack([regression.p_values for regression in regressions.values()]),
                ),
                _histogram(cosines["raw"], pairs, truth),
            ),
            tables=measured.tables,
            notes=(
                f"{len(pairs.alike)} pairs of the {n} words sound alike. The regression explains "
                f"{raw.r_squared:.1%} of the variance of the cosine.",
                "Words that occur in the same contexts have similar neighbors in sentences. In this grammar, a model "
                "can learn nothing else about meaning: in the lexicon, sound and meaning are unrelated by design.",
                "Published neighbors are from Whisper's whole vocabulary; these are from the words of the corpus.",
            ),
        )

    def draw(self, finding: Finding) -> list[Figure]:
        """Draw the AUC and its controls, the distribution of cosines, and the coefficients of the regression."""
        cosines = finding.measurement("cosines")
        histogram, axes = new_figure(
            "Cosine of pairs of words", "cosine similarity of embeddings", "share of pairs (%)"
        )
        x = np.array(cosines.axis("cosine").entries, dtype=float)
        for name, color, line in zip(cosines.axes[0].entries, (BLUE, GRAY, GREEN), ("-", "--", "-."), strict=True):
            axes.plot(x, 100 * cosines.at(pairs=name), color=color, linestyle=line, label=name)
        axes.set_ylim(0, 135 * float(cosines.values.max()))
        add_legend(axes)
        histogram.set_label(
            "Distribution of cosines of pairs that sound alike, of random pairs, and of pairs with the same neighbors"
        )
        slopes = finding.measurement("standardised coefficients")
        coefficients, axes = new_figure("Predictors of the cosine", "standardized coefficient", "")
        labels = ["similar sound", "similar\nneighbors", "log\nfrequency"]
        y = np.arange(len(labels))[::-1]
        draw_bars(axes, y, slopes.values, [BLUE, GREEN, GRAY])
        axes.set_yticks(y, labels)
        axes.axvline(0, color=INK, linewidth=1)
        coefficients.set_label(
            alt_text("Standardized coefficients", slopes.values[:, 0], slopes.axes[0].entries, "", 1.0)
        )
        return [draw_controls(finding, 0, "AUC (0.5: chance)"), histogram, coefficients]


class Neighbors(TwoProtocols):
    """F10: neighbors in embedding space, in the synthetic corpus or in English."""

    organism, released = SyntheticNeighbors(), EnglishNeighbors()
    released_measurement = "AUC by kind of pair"
    needs_speech, own_speech = False, True


def _cosine(model: HookedWhisper, truth: Truth, centered: bool) -> Float[np.ndarray, "word word"]:
    rows = model.W_E[torch.from_numpy(truth.tokens).to(model.W_E.device)]
    return cosine_matrix(rows, centered).cpu().numpy()


def _auc_samples(pairs: SoundPairs, cosine: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = len(cosine)
    return bootstrap(n, lambda drawn: pairs.auc(cosine, np.bincount(drawn, minlength=n).astype(float)), rng, 400)


def _histogram(cosine: np.ndarray, pairs: SoundPairs, truth: Truth) -> Measurement:
    """Return histograms of the cosines of pairs that sound alike, of random pairs, and of pairs with the same
    neighbors."""
    upper = np.triu_indices(len(cosine), 1)
    context = truth.context_similarity[upper]
    akin = context >= np.quantile(context, 0.95)
    groups = {
        "sound alike": cosine[tuple(pairs.alike.T)],
        "random, as frequent": cosine[tuple(pairs.random.T)],
        "same neighbours (top 5 %)": cosine[upper][akin],
    }
    edges = np.linspace(min(v.min() for v in groups.values()), max(v.max() for v in groups.values()), 31)
    counts = np.stack([np.histogram(v, edges)[0] / max(len(v), 1) for v in groups.values()])
    middles = tuple(np.round((edges[1:] + edges[:-1]) / 2, 4).tolist())
    return Measurement("cosines", (Axis("pairs", tuple(groups)), Axis("cosine", middles)), counts, unit="share")


def _nearest(model: HookedWhisper, truth: Truth, n: int = 10) -> tuple[Table, ...]:
    among = torch.from_numpy(truth.tokens)
    index_of = {int(token): j for j, token in enumerate(truth.tokens)}
    tables = []
    for word in ("rug", "duck", "tea"):
        if word not in truth.words:
            continue
        i = truth.words.index(word)
        near = nearest_tokens(model, int(truth.tokens[i]), n, among, embeddings="raw")
        rows = tuple(
            (
                token.text,
                str(token.id),
                f"{token.value:.3f}",
                f"{truth.phone_distance[i, index_of[token.id]]:.0f}",
                f"{truth.context_similarity[i, index_of[token.id]]:.2f}",
            )
            for token in near
        )
        columns = ("token", "id", "cosine", "different phones", "similarity in use")
        tables.append(Table(f"Nearest to '␣{word}'", f"ours: {model.cfg.name}", columns, rows))
    return tuple(tables)
