"""F10: which words have embeddings that point the same way, and is it because they mean or because they sound alike?

Here on the synthetic corpus, whose grammar is known; :mod:`.english_neighbours` judges real Whisper.

Source: github.com/er537/whisper_interpretability, ``docs/index.md``, and its blog post, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from hooked_whisper.analysis import cosine_matrix, nearest_tokens
from hooked_whisper.findings.core import published
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Measurement, Table
from hooked_whisper.findings.core.statistics import auc, bootstrap, matrix_regression, regression_coefficients
from hooked_whisper.findings.core.synthetic_truth import Truth
from hooked_whisper.findings.english import neighbors as english_neighbours
from hooked_whisper.hooked import HookedWhisper

ID, TITLE = "F10", "Neighbors in embedding space"
CLAIM = "Tokens have similar embeddings if they are used alike, and also if they sound alike."
PROTOCOL = english_neighbours.PROTOCOL
WORLD_PROTOCOL = (
    "Cosine similarity of rows of the decoder's token embedding, for the words of the world. Do pairs that sound "
    "alike (one "
    "phone apart, or rhyming) have a higher cosine than random pairs of words as frequent? And, over all pairs: "
    "regression "
    "of the cosine on similarity of phones, similarity of neighbours in the grammar, and mean log frequency (all "
    "standardised); one-sided p-values from permutations of the words. Intervals: 95 %, bootstrap over words."
)
MATCHES = 10  # random pairs per pair that sounds alike
NEAR_IN_FREQUENCY = 20
PERMUTATIONS = 1000
SHUFFLES = 20

AUC = "AUC of the cosine, sound-alike pairs against random ones"
P_SOUND, P_CONTEXT = "p-value of similar sound", "p-value of similar neighbours in sentences"
PREDICTORS = ("similar sound", "similar neighbours in sentences", "log frequency")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs that sound alike, and for each of them random pairs of words of about the same frequencies."""

    alike: Int[np.ndarray, "pair 2"]
    random: Int[np.ndarray, "match 2"]

    def auc(self, cosine: Float[np.ndarray, "word word"], counts: Float[np.ndarray, "word"] | None = None) -> float:
        """``counts``: how often each word is in a bootstrap sample."""
        positive, negative = cosine[tuple(self.alike.T)], cosine[tuple(self.random.T)]
        if counts is None:
            return auc(positive, negative)
        return auc(positive, negative, *(counts[p[:, 0]] * counts[p[:, 1]] for p in (self.alike, self.random)))


def draw_pairs(truth: Truth, rng: np.random.Generator) -> Pairs:
    """Random pairs never sound alike; each of their words is near in frequency to the word it stands for."""
    alike = np.argwhere(np.triu(truth.sounds_alike, 1))
    n = len(truth.words)
    order = np.argsort(np.abs(truth.log_frequency[:, None] - truth.log_frequency[None, :]), axis=1, kind="stable")
    near = order[:, : min(NEAR_IN_FREQUENCY, n)]
    random = []
    for a, b in alike:
        tries = rng.integers(near.shape[1], size=(10 * MATCHES, 2))
        found = [(near[a, i], near[b, j]) for i, j in tries]
        random += [(x, y) for x, y in found if x != y and not truth.sounds_alike[x, y]][:MATCHES]
    return Pairs(alike, np.array(random, dtype=int).reshape(-1, 2))


def predictors(truth: Truth) -> dict[str, Float[np.ndarray, "word word"]]:
    frequency = truth.log_frequency
    mean = (frequency[:, None] + frequency[None, :]) / 2
    return dict(zip(PREDICTORS, (truth.phone_similarity, truth.context_similarity, mean), strict=True))


def run(context: Context) -> Finding:
    """Reads the embedding alone: no forward pass."""
    if context.truth is None:
        return english_neighbours.run(context, {"id": ID, "title": TITLE, "claim": CLAIM})
    truth = context.truth
    rng = context.rng("matched pairs")
    pairs = draw_pairs(truth, rng)
    cosines = {
        "raw": _cosine(context.model, truth, False),
        "mean-centred": _cosine(context.model, truth, True),
        "untrained": _cosine(context.untrained, truth, False),
    }
    n = len(truth.words)
    found = {name: Estimate.of(pairs.auc(c), _auc_samples(pairs, c, rng)) for name, c in cosines.items()}
    x = predictors(truth)
    regressions = {name: matrix_regression(c, x, rng, PERMUTATIONS) for name, c in cosines.items()}
    spread = np.array([regression_coefficients(cosines["raw"], x, rng.integers(n, size=n)) for _ in range(200)])
    shuffled = [pairs.auc(cosines["raw"][np.ix_(o, o)]) for o in (rng.permutation(n) for _ in range(SHUFFLES))]
    raw, blank = regressions["raw"], regressions["untrained"]
    criteria = (
        Criterion(AUC, found["raw"], 0.8, "at least"),
        Criterion(P_SOUND, Estimate(raw.p_values[0]), 0.01, "at most"),
        Criterion(P_CONTEXT, Estimate(raw.p_values[1]), 0.01, "at most"),
    )
    controls = (
        Control(
            "untrained model",
            "random embeddings",
            {AUC: found["untrained"], P_SOUND: Estimate(blank.p_values[0]), P_CONTEXT: Estimate(blank.p_values[1])},
        ),
        Control(
            "shuffled labels",
            f"the words' sounds dealt to other words ({SHUFFLES} times)",
            {AUC: Estimate.of(float(np.mean(shuffled)), shuffled)},
        ),
    )
    low, high = np.percentile(spread, [2.5, 97.5], axis=0)
    measurements = (
        Measurement(
            "AUC by embedding",
            (Axis("embedding", tuple(found)), Axis("bound", ("value", "low", "high"))),
            np.array([e.row for e in found.values()]),
        ),
        Measurement(
            "standardised coefficients",
            (Axis("predictor", PREDICTORS), Axis("bound", ("value", "low", "high"))),
            np.stack([raw.coefficients, low, high], axis=1),
        ),
        Measurement(
            "permutation p-values",
            (Axis("embedding", tuple(regressions)), Axis("predictor", PREDICTORS)),
            np.stack([r.p_values for r in regressions.values()]),
        ),
        _histogram(cosines["raw"], pairs, truth),
    )
    return Finding(
        **_common(context),
        criteria=criteria,
        controls=controls,
        measurements=measurements,
        tables=_tables(context, truth),
        published=tuple(published.neighbour_table(word) for word in published.NEIGHBOURS),
        published_summary=published.NEIGHBOURS_IN_SHORT,
        notes=(
            f"{len(pairs.alike)} pairs of the {n} words sound alike; the regression explains "
            f"{raw.r_squared:.1%} of the variance of the cosine.",
            "Words that may stand in the same places have similar neighbours in sentences: this is what meaning can "
            "be to a "
            "model of this grammar. Sound and meaning are unrelated in the lexicon by design.",
            "Published neighbours are from Whisper's whole vocabulary; ours are among the words of the world.",
        ),
    )


def _cosine(model: HookedWhisper, truth: Truth, centred: bool) -> Float[np.ndarray, "word word"]:
    rows = model.W_E[torch.from_numpy(truth.tokens).to(model.W_E.device)]
    return cosine_matrix(rows, centred).cpu().numpy()


def _auc_samples(pairs: Pairs, cosine: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = len(cosine)
    return bootstrap(n, lambda drawn: pairs.auc(cosine, np.bincount(drawn, minlength=n).astype(float)), rng, 400)


def _histogram(cosine: np.ndarray, pairs: Pairs, truth: Truth) -> Measurement:
    """How the cosines of sound-alike, random and same-context pairs are distributed."""
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


def _tables(context: Context, truth: Truth, n: int = 10) -> tuple[Table, ...]:
    among = torch.from_numpy(truth.tokens)
    tables = []
    for word in ("rug", "duck", "tea"):
        if word not in truth.words:
            continue
        i = truth.words.index(word)
        near = nearest_tokens(context.model, int(truth.tokens[i]), n, among)
        by_id = {int(t): j for j, t in enumerate(truth.tokens)}
        rows = tuple(
            (
                t.text,
                str(t.id),
                f"{t.value:.3f}",
                f"{truth.phone_distance[i, by_id[t.id]]:.0f}",
                f"{truth.context_similarity[i, by_id[t.id]]:.2f}",
            )
            for t in near
        )
        columns = ("token", "id", "cosine", "phones apart", "alike in use")
        tables.append(Table(f"Nearest to '␣{word}'", f"ours: {context.model.cfg.name}", columns, rows))
    return tuple(tables)


def _common(context: Context) -> dict[str, Any]:
    return {
        **context.common(ID, TITLE, CLAIM, WORLD_PROTOCOL),
        "inputs": {"seed": context.seed},  # no clips
        "parameters": {"matches": MATCHES, "near_in_frequency": NEAR_IN_FREQUENCY, "permutations": PERMUTATIONS},
    }
