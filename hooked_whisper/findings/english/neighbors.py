"""F10 on real Whisper: do embeddings of English words that sound alike, or are used alike, point the same way?"""

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
from hooked_whisper.findings.english import load_english
from hooked_whisper.findings.english import published_neighbors as published_neighbours
from hooked_whisper.findings.english.word_pairs import N_WORDS, PairContrast, WordSimilarities, make_words
from hooked_whisper.hooked import HookedWhisper

PROTOCOL = (
    "Cosine similarity of rows of the decoder's token embedding, for 3,000 frequent English words that are one token. "
    "Sound: pairs one phone apart (not the last, which inflects) or rhyming (words of one syllable), by a pronouncing "
    "dictionary. Use: pairs that are among each other's five nearest by the words before and after them in a list of "
    "bigrams. Each kind of pair against random pairs of words as frequent and as long. Sound and spelling go together "
    "in English, so rhymes that are spelled differently (tea, key) are also judged alone, and a regression of the "
    "cosine on similarity of sound, spelling, use, and frequency separates them; one-sided p-values from permutations "
    "of the words. Intervals: 95 %, bootstrap over words."
)
SAMPLED_PAIRS = 200_000  # of the 4.5 million, for the regression
PERMUTATIONS = 300
DRAWS = 200  # of the bootstrap
SHUFFLES = 10

SOUND = "AUC of the cosine, sound-alike pairs against random ones"
UNSPELLED = "AUC of rhymes that are spelled differently"
USE = "AUC of pairs used alike"
P_SOUND, P_USE = "p-value of similar sound, given spelling", "p-value of similar use"
PREDICTORS = ("similar sound", "similar spelling", "similar use", "log frequency", "difference of log frequency")
SPELLED, EYE, RHYME, PHONE = "rhymes spelled alike", "spelled alike, no rhyme", "rhymes", "one phone apart"

# Thresholds, written before the first run on a real model. The published claim shows four words and has no number.
# SOUND, USE: 0.64 is the AUC of Cohen's (1988) medium effect (d = 0.5). The 0.8 of the demo world is not asked for: its
#   words have few neighbors in sound and sentences, and nothing else moves their embeddings.
# UNSPELLED: 0.56 is the AUC of Cohen's small effect (d = 0.2): what sound alone must do once spelling, which may be
#   learned from text, is taken away.
# P_SOUND, P_USE: 0.01, as for the demo world; here with spelling among the predictors.
THRESHOLDS = {SOUND: 0.64, UNSPELLED: 0.56, USE: 0.64}
P_THRESHOLD = 0.01


@dataclass(frozen=True, eq=False)
class Regression:
    """Standardized coefficients over sampled pairs of words, their intervals, and one-sided permutation p-values."""

    coefficients: Float[np.ndarray, "predictor"]
    samples: Float[np.ndarray, "draw predictor"]
    p_values: Float[np.ndarray, "predictor"]
    r_squared: float


@dataclass(frozen=True, eq=False)
class Design:
    """Predictors of some pairs of words."""

    pairs: Int[np.ndarray, "pair 2"]
    x: Float[np.ndarray, "pair predictor"]

    @classmethod
    def draw(cls, words: WordSimilarities, rng: np.random.Generator, n_pairs: int) -> Design:
        n = len(words.words)
        a = rng.integers(n, size=n_pairs)
        b = (a + rng.integers(1, n, size=n_pairs)) % n
        frequency = words.log_frequency
        columns = (
            words.sound[a, b],
            words.spelling[a, b],
            words.use[a, b],
            (frequency[a] + frequency[b]) / 2,
            np.abs(frequency[a] - frequency[b]),
        )
        return cls(np.stack([a, b], axis=1), np.stack([_standard(column) for column in columns], axis=1))

    def fit(
        self, cosine: Float[np.ndarray, "word word"], rng: np.random.Generator, permutations: int, draws: int
    ) -> Regression:
        """Permutations move the words of the cosine, which keeps the dependence of pairs that share a word.

        Source: Mantel 1967; Krackhardt 1988 (quadratic assignment).
        """
        n, (a, b) = len(cosine), self.pairs.T
        gram, y = np.linalg.inv(self.x.T @ self.x), _standard(cosine[a, b])
        coefficients = gram @ (self.x.T @ y)
        larger = np.ones(len(coefficients))
        for _ in range(permutations):
            order = rng.permutation(n)
            larger += gram @ (self.x.T @ _standard(cosine[order[a], order[b]])) >= coefficients
        samples = []
        for _ in range(draws):
            counts = np.bincount(rng.integers(n, size=n), minlength=n)
            weighted = self.x * (counts[a] * counts[b])[:, None]
            samples.append(np.linalg.solve(weighted.T @ self.x, weighted.T @ y))
        residual = y - self.x @ coefficients
        r_squared = 1 - float(residual @ residual) / max(float(y @ y), 1e-12)
        return Regression(coefficients, np.array(samples), larger / (permutations + 1), r_squared)


def comparisons(words: WordSimilarities, rng: np.random.Generator) -> dict[str, PairContrast]:
    """Each kind of pair beside its matched random pairs; the first three are judged."""
    unspelled = set(map(tuple, words.rhymes_spelled_differently.tolist()))
    spelled = [pair for pair in words.rhymes.tolist() if tuple(pair) not in unspelled]
    kinds = {
        SOUND: words.sound_alike,
        UNSPELLED: words.rhymes_spelled_differently,
        USE: words.used_alike,
        RHYME: words.rhymes,
        PHONE: words.one_phone_apart,
        SPELLED: np.array(spelled, dtype=np.int64).reshape(-1, 2),
        EYE: words.eye_rhymes,
    }
    return {name: PairContrast(pairs, words.matched(pairs, rng)) for name, pairs in kinds.items()}


def run(context: Context, identity: dict[str, Any]) -> Finding:
    """``identity``: id, title and claim of the finding. Reads the embedding alone: no forward pass."""
    english = load_english()
    words = make_words(english, N_WORDS)
    tokens = english.token_ids(context.model)[words.rows]
    sets = comparisons(words, context.rng("matched pairs of words"))
    cosines = {
        "raw": _cosine(context.model, tokens, False),
        "mean-centered": _cosine(context.model, tokens, True),
        "untrained": _cosine(context.untrained, tokens, False),
    }
    design = Design.draw(words, context.rng("sampled pairs"), SAMPLED_PAIRS)
    aucs, regressions = {}, {}
    for name, cosine in context.track(cosines.items(), "F10 embeddings"):
        rng = context.rng("bootstrap of words")
        aucs[name] = {kind: _estimate(pairs, cosine, rng) for kind, pairs in sets.items()}
        regressions[name] = design.fit(cosine, context.rng("permutations"), PERMUTATIONS, DRAWS)
    beside = published_neighbours.compare(context.model, context.untrained)
    raw = regressions["raw"]
    criteria = (
        *(Criterion(name, aucs["raw"][name], THRESHOLDS[name], "at least") for name in THRESHOLDS),
        *(Criterion(name, Estimate(p), P_THRESHOLD, "at most") for name, p in _p_values(raw).items()),
        *beside.criteria,
    )
    return Finding(
        **identity,
        protocol=PROTOCOL,
        model=context.model.cfg.name,
        inputs={"seed": context.seed},
        parameters={
            "words": len(words.words),
            "pairs": {name: len(pairs.pairs) for name, pairs in sets.items()},
            "sampled_pairs": SAMPLED_PAIRS,
            "permutations": PERMUTATIONS,
        },
        criteria=criteria,
        controls=(
            *_controls(context, sets, cosines["raw"], aucs["untrained"], regressions["untrained"]),
            *beside.controls,
        ),
        measurements=_measurements(sets, cosines["raw"], aucs, regressions),
        tables=(_kinds(words, sets), *beside.tables, *_nearest(context.model, words, tokens)),
        published=tuple(published.neighbour_table(word) for word in published.NEIGHBOURS),
        published_summary=published.NEIGHBOURS_IN_SHORT,
        notes=(
            f"{len(sets[SOUND].pairs)} pairs sound alike, {len(sets[UNSPELLED].pairs)} of them rhyme and are spelled "
            f"differently, {len(sets[USE].pairs)} are used alike. The regression explains {raw.r_squared:.1%} of the "
            f"variance of the cosine ({regressions['mean-centered'].r_squared:.1%} mean-centered).",
            "The raw cosine is judged, as it was published; mean-centered cosines are beside it.",
            "WordSimilarities of the same sound (their, there) are left out, because many are two spellings of one word "
            "(color, colour). Use is what a list of bigrams knows of meaning.",
        ),
    )


def _p_values(regression: Regression) -> dict[str, float]:
    p_values = dict(zip(PREDICTORS, regression.p_values.tolist(), strict=True))
    return {P_SOUND: p_values["similar sound"], P_USE: p_values["similar use"]}


def _cosine(model: HookedWhisper, tokens: Int[np.ndarray, "word"], centered: bool) -> Float[np.ndarray, "word word"]:
    rows = model.W_E[torch.from_numpy(tokens).to(model.W_E.device)]
    return cosine_matrix(rows, centered).cpu().numpy()


def _estimate(pairs: PairContrast, cosine: Float[np.ndarray, "word word"], rng: np.random.Generator) -> Estimate:
    return Estimate.of(pairs.auc(cosine), pairs.auc_samples(cosine, rng, DRAWS))


def _standard(values: Float[np.ndarray, "pair"]) -> Float[np.ndarray, "pair"]:
    spread = values.std()
    return (values - values.mean()) / (spread if spread > 0 else 1.0)


def _controls(
    context: Context,
    sets: dict[str, PairContrast],
    raw: Float[np.ndarray, "word word"],
    untrained: dict[str, Estimate],
    blank: Regression,
) -> tuple[Control, ...]:
    rng = context.rng("shuffled words")
    shuffled: dict[str, list[float]] = {name: [] for name in THRESHOLDS}
    for _ in range(SHUFFLES):
        order = rng.permutation(len(raw))
        moved = raw[np.ix_(order, order)]
        for name in shuffled:
            shuffled[name].append(sets[name].auc(moved))
    return (
        Control(
            "untrained model",
            "random embeddings",
            {
                **{name: untrained[name] for name in THRESHOLDS},
                **{name: Estimate(p) for name, p in _p_values(blank).items()},
            },
        ),
        Control(
            "shuffled words",
            f"sounds and uses dealt to other words ({SHUFFLES} times)",
            {name: Estimate.of(float(np.mean(values)), values) for name, values in shuffled.items()},
        ),
    )


def _measurements(
    sets: dict[str, PairContrast],
    raw: Float[np.ndarray, "word word"],
    aucs: dict[str, dict[str, Estimate]],
    regressions: dict[str, Regression],
) -> tuple[Measurement, ...]:
    bound = Axis("bound", ("value", "low", "high"))
    coefficients = [
        np.stack([r.coefficients, *np.percentile(r.samples, [2.5, 97.5], axis=0)], axis=1) for r in regressions.values()
    ]
    embedding = Axis("embedding", tuple(aucs))
    return (
        Measurement(
            "AUC by kind of pair",
            (embedding, Axis("pairs", tuple(sets)), bound),
            np.array([[estimate.row for estimate in kinds.values()] for kinds in aucs.values()]),
        ),
        Measurement(
            "standardized coefficients", (embedding, Axis("predictor", PREDICTORS), bound), np.stack(coefficients)
        ),
        Measurement(
            "permutation p-values",
            (embedding, Axis("predictor", PREDICTORS)),
            np.stack([r.p_values for r in regressions.values()]),
        ),
        _histogram(sets, raw),
    )


def _histogram(sets: dict[str, PairContrast], cosine: Float[np.ndarray, "word word"]) -> Measurement:
    groups = {
        "sound alike": cosine[tuple(sets[SOUND].pairs.T)],
        "random, as frequent and long": cosine[tuple(sets[SOUND].random.T)],
        "used alike": cosine[tuple(sets[USE].pairs.T)],
    }
    values = np.concatenate(list(groups.values()))
    edges = np.linspace(values.min(), values.max(), 41)
    counts = np.stack([np.histogram(group, edges)[0] / max(len(group), 1) for group in groups.values()])
    middles = tuple(np.round((edges[1:] + edges[:-1]) / 2, 4).tolist())
    return Measurement("cosines", (Axis("pairs", tuple(groups)), Axis("cosine", middles)), counts, unit="share")


def _kinds(words: WordSimilarities, sets: dict[str, PairContrast], n: int = 6) -> Table:
    rows = []
    for name, comparison in sets.items():
        shown = np.unique(np.linspace(0, len(comparison.pairs) - 1, min(n, len(comparison.pairs))).astype(int))
        examples = ", ".join(f"{words.words[a]}-{words.words[b]}" for a, b in comparison.pairs[shown])
        rows.append((name, str(len(comparison.pairs)), examples))
    return Table("Pairs of words", "dictionary and list of bigrams", ("kind", "pairs", "examples"), tuple(rows))


def _nearest(model: HookedWhisper, words: WordSimilarities, tokens: Int[np.ndarray, "word"], n: int = 10) -> tuple[Table, ...]:
    """Nearest words of the list to a few words, raw and mean-centered, with how they sound and are used."""
    row_of = {int(token): i for i, token in enumerate(tokens)}
    among = torch.from_numpy(tokens)
    tables = []
    for word in ("duck", "tea", "red", "seven"):
        if word not in words.words:
            continue
        i = words.words.index(word)
        for centered in (False, True):
            near = nearest_tokens(model, int(tokens[i]), n, among, centred=centered)
            rows = tuple(
                (
                    token.text,
                    str(token.id),
                    f"{token.value:.3f}",
                    str(int(words.phone_distance[i, row_of[token.id]])),
                    f"{words.use[i, row_of[token.id]]:.2f}",
                )
                for token in near
            )
            title = f"Nearest to '␣{word}' among the words" + (", mean-centered" if centered else "")
            columns = ("token", "id", "cosine", "phones apart", "alike in use")
            tables.append(Table(title, f"ours: {model.cfg.name}", columns, rows))
    return tuple(tables)
