"""F9: without speech as input, does the decoder predict likely next words?

This module tests the synthetic corpus, whose grammar is known; :mod:`.english.bigrams` is the version for released
models.

Source: github.com/er537/whisper_interpretability, ``docs/index.md``, and its blog post, section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from hooked_whisper.analysis import next_token_logits
from hooked_whisper.findings.core import published
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting
from hooked_whisper.findings.core.figures import (
    BLUE,
    GREEN,
    ORANGE,
    add_legend,
    alt_text,
    draw_bars,
    draw_controls,
    new_figure,
)
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Measurement
from hooked_whisper.findings.core.statistics import bootstrap, kl_rows, spearman
from hooked_whisper.findings.core.synthetic_truth import Truth
from hooked_whisper.findings.core.two_protocols import TwoProtocols
from hooked_whisper.findings.english import published_bigrams
from hooked_whisper.findings.english.bigrams import PUBLISHED_PREFIX, EnglishBigrams, prefix_ids
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions import baseline_encoding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FREQUENT = 100  # occurrences in training
SHUFFLES = 20
DRAWS = 400  # of the bootstrap

RATIO = "KL from the true followers, over that of word frequencies"
TOP = "likeliest word is a true follower"
RANKS = "rank correlation with the true probabilities"
NAMES = (RATIO, TOP, RANKS)


@dataclass(frozen=True, eq=False)
class FollowerFit:
    """True probabilities of what follows each prompt word, and a model's log-probabilities of the same outcomes.

    frequent: whether a prompt is frequent enough that its most likely outcome is judged.
    """

    truth: Float[np.ndarray, "prompt outcome"]
    log_q: Float[np.ndarray, "prompt outcome"]
    log_unigram: Float[np.ndarray, "outcome"]
    frequent: Bool[np.ndarray, "prompt"]

    @property
    def kl(self) -> Float[np.ndarray, "prompt"]:
        return kl_rows(self.truth, self.log_q)

    @property
    def kl_unigram(self) -> Float[np.ndarray, "prompt"]:
        return kl_rows(self.truth, np.broadcast_to(self.log_unigram, self.truth.shape))

    @property
    def top_in_support(self) -> Float[np.ndarray, "prompt"]:
        best = self.log_q.argmax(1)
        return (self.truth[np.arange(len(best)), best] > 0).astype(float)

    def ranks(self, rows: np.ndarray) -> float:
        """Return the rank correlation over all true followers of the prompts with these indices."""
        truth, log_q = self.truth[rows], self.log_q[rows]
        supported = truth > 0
        return spearman(truth[supported], log_q[supported])

    def statistics(self, rng: np.random.Generator | None = None) -> dict[str, Estimate]:
        """Return the three statistics, with a bootstrap over prompts if ``rng`` is given."""
        kl, base, top, n = self.kl, self.kl_unigram, self.top_in_support, len(self.truth)
        functions = {
            RATIO: lambda i: float(kl[i].mean() / base[i].mean()),
            TOP: lambda i: float(top[i][self.frequent[i]].mean()) if self.frequent[i].any() else float("nan"),
            RANKS: self.ranks,
        }
        all_prompts = np.arange(n)
        return {
            name: Estimate(f(all_prompts)) if rng is None else Estimate.of(f(all_prompts), bootstrap(n, f, rng, DRAWS))
            for name, f in functions.items()
        }


def words_only(truth: Truth, logits: Float[np.ndarray, "word outcome"]) -> FollowerFit:
    """Return the comparison that is judged: outcomes are words, and every word is a prompt."""
    rows = truth.row[:, :-1]
    totals = rows.sum(axis=1)
    prompts = totals > 1e-9
    unigram = truth.unigram[:-1] / truth.unigram[:-1].sum()
    return FollowerFit(
        rows[prompts] / totals[prompts, None],
        log_softmax(logits[prompts, :-1]),
        np.log(np.maximum(unigram, 1e-12)),
        truth.seen[prompts] >= FREQUENT,
    )


def with_end(truth: Truth, logits: Float[np.ndarray, "word outcome"], as_in_corpus: bool) -> FollowerFit:
    """Return the comparison with the end of the sentence (end of text) as an outcome.

    as_in_corpus: use sentences of two words or more, and only words that begin sentences as prompts. Otherwise use the
        grammar's row of every word.
    """
    rows = truth.follows if as_in_corpus else truth.row
    prompts = (rows.sum(axis=1) > 1e-9) & ((truth.first > 0) | (not as_in_corpus))
    return FollowerFit(
        rows[prompts],
        log_softmax(logits[prompts]),
        np.log(np.maximum(truth.unigram, 1e-12)),
        truth.seen[prompts] >= FREQUENT,
    )


def log_softmax(logits: Float[np.ndarray, "row outcome"]) -> Float[np.ndarray, "row outcome"]:
    shifted = logits.astype(float) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@dataclass(frozen=True, eq=False)
class FollowerLogits:
    """Logits of the outcomes (the corpus's words and the end) after every word.

    Attributes:
        logits: logits by input and prefix.
        untrained: logits of the untrained model with zero audio and the published prefix.
        in_vocabulary: total probability of the outcomes with zero audio, averaged over words, by prefix.
        n_vocab: size of the vocabulary.
    """

    truth: Truth
    logits: Mapping[tuple[str, str], Float[np.ndarray, "word outcome"]]
    untrained: Float[np.ndarray, "word outcome"]
    in_vocabulary: Mapping[str, float]
    n_vocab: int

    @property
    def by_prefix(self) -> dict[str, np.ndarray]:
        """Logits with zero audio."""
        return {prefix: rows for (kind, prefix), rows in self.logits.items() if kind == "zero audio"}


class SyntheticBigrams(Experiment[FollowerLogits]):
    """F9 on the synthetic corpus: logits compared with the transition probabilities of the grammar."""

    id, title, claim = EnglishBigrams.id, EnglishBigrams.title, EnglishBigrams.claim
    protocol = (
        "The encoder's input is 30 s of zero samples; the decoder's input is exactly "
        "<|startoftranscript|><|en|><|transcribe|> and one word, without <|notimestamps|> and without a timestamp. The "
        "raw logits of the next token, as a softmax over the corpus's words, are compared with the word's row of the "
        "grammar (without the end of the sentence, which never follows a first word in training). Repeated with "
        "<|notimestamps|>, and with other inputs without speech. Intervals: 95 %, bootstrap over prompt words."
    )
    needs_speech, own_speech = False, True
    published, published_summary = published_bigrams.PUBLISHED, published.BIGRAMS_IN_SHORT

    def parameters(self, context: Context) -> dict[str, Any]:
        ids = prefix_ids(context.model, context.language)
        return {
            "prefix_ids": ids,
            "prefixes": {name: context.model.to_str_tokens(prefix) for name, prefix in ids.items()},
            "null_input": "zero audio",
            "frequent": FREQUENT,
        }

    def measure(self, context: Context) -> FollowerLogits:
        """Run the encoder on a few inputs without speech, and the decoder on every word for each input and prefix."""
        truth, model, untrained = context.truth, context.model, context.untrained
        assert truth is not None
        kinds = ["zero audio", "mel floor", "white noise", *(["mean encoding"] if context.utterances else [])]
        logits: dict[tuple[str, str], np.ndarray] = {}
        in_vocabulary: dict[str, float] = {}
        for kind in context.track(kinds, "F9 inputs without speech"):
            clips = context.encoded if kind == "mean encoding" else None
            empty = baseline_encoding(model, kind, clips, seed=context.seed)
            for name, prefix in prefix_ids(model, context.language).items():
                logits[kind, name], share = _logits(model, truth, prefix, empty)
                if kind == "zero audio":
                    in_vocabulary[name] = share
        prefix = prefix_ids(untrained, context.language)[PUBLISHED_PREFIX]
        blank, _ = _logits(untrained, truth, prefix, baseline_encoding(untrained, "zero audio"))
        return FollowerLogits(truth, logits, blank, in_vocabulary, model.cfg.decoder.n_vocab)

    def judge(self, measured: FollowerLogits, setting: Setting) -> Finding:
        truth, main = measured.truth, measured.by_prefix[PUBLISHED_PREFIX]
        variants = {
            key: words_only(truth, logits).statistics(setting.rng("bootstrap of prompts"))
            for key, logits in measured.logits.items()
        }
        headline = variants["zero audio", PUBLISHED_PREFIX]
        fit = words_only(truth, main)
        shares = ", ".join(f"{share:.1%} ({name} prefix)" for name, share in measured.in_vocabulary.items())
        return self.finding(
            setting,
            criteria=(
                Criterion(RATIO, headline[RATIO], 0.5, "at most"),
                Criterion(TOP, headline[TOP], 0.9, "at least"),
                Criterion(RANKS, headline[RANKS], 0.6, "at least"),
            ),
            controls=_controls(fit, words_only(truth, measured.untrained), setting.rng("shuffled rows")),
            measurements=_measurements(measured, variants, setting.rng("bootstrap of prompts with end")),
            tables=published_bigrams.our_tables(setting.model, truth, measured.by_prefix),
            notes=(
                f"{len(fit.truth)} prompt words; {int(fit.frequent.sum())} of them occur {FREQUENT} times or more in "
                "the training sentences.",
                f"Mean total probability of the corpus's words and the end among all {measured.n_vocab} tokens: "
                f"{shares}.",
                "Whisper did not see the published prefix in training: <|transcribe|> was always followed by "
                "<|notimestamps|> or a timestamp. The demo model saw it in 15 % of its sentences, and in 3 % of its "
                "clips every word was masked and the transcript kept, so both parts of this test occurred in its "
                "training.",
                "The published lists are of Whisper tiny, ours of a model trained on a synthetic corpus: compare which "
                "kinds of words they contain, not the numbers.",
            ),
        )

    def draw(self, finding: Finding) -> list[Figure]:
        """Draw the controls, true against predicted probabilities, and the inputs without speech."""
        pairs = finding.measurement("probability of true followers")
        scatter, axes = new_figure("Followers of a word", "probability in the grammar", "probability by the model")
        p, q = pairs.at(whose="grammar"), np.maximum(pairs.at(whose="model"), 1e-6)
        axes.scatter(p, q, s=9, color=BLUE, alpha=0.45, linewidths=0)
        ends = [float(p.min()), 1.0]
        axes.plot(ends, ends, color=ORANGE, linestyle="--", linewidth=1.2, label="equal")
        axes.set_xscale("log")
        axes.set_yscale("log")
        add_legend(axes)
        scatter.set_label(
            f"Scatter of {len(p)} true followers: probability in the grammar against probability by the model"
        )
        table = finding.measurement("statistics by input and prefix")
        ratio = table.axis("statistic").entries[0]
        inputs, axes = new_figure("Inputs without speech", "KL over that of word frequencies", "")
        kinds, prefix_names = table.axis("input").entries, table.axis("prefix").entries
        y = np.arange(len(kinds))[::-1]
        for k, (prefix, color) in enumerate(zip(prefix_names, (BLUE, GREEN), strict=True)):
            bars = table.at(prefix=prefix, statistic=ratio)
            draw_bars(axes, y + 0.2 - 0.4 * k, bars, [color] * len(kinds), height=0.36)
            axes.barh([0], [0], color=color, label=prefix)
        axes.set_yticks(y, kinds)
        values = table.at(statistic=ratio, bound="value")[:, 0]
        inputs.set_label(alt_text(f"{ratio}, published prefix", values, [str(k) for k in kinds], "", 1.0))
        axes.axvline(0.5, color=ORANGE, linestyle="--")
        add_legend(axes, below=True)
        return [draw_controls(finding, 0, "KL over that of word frequencies"), scatter, inputs]


class Bigrams(TwoProtocols):
    """F9: the decoder as a bigram model, on the synthetic corpus or on English."""

    organism, released = SyntheticBigrams(), EnglishBigrams()
    released_measurement = "statistics by prompt"
    needs_speech, own_speech = False, True


def _logits(
    model: HookedWhisper, truth: Truth, prefix: list[int], empty: torch.Tensor
) -> tuple[Float[np.ndarray, "word outcome"], float]:
    """Return the logits of the outcomes after each word, and the mean total probability of the outcomes."""
    prompts, outcomes = torch.from_numpy(truth.tokens), torch.from_numpy(truth.outcome_ids)
    rows, shares = [], []
    for batch in prompts.split(64):
        logits = next_token_logits(model, prefix, batch, empty).double()
        shares.append(logits.softmax(-1)[:, outcomes].sum(-1))
        rows.append(logits[:, outcomes])
    return torch.cat(rows).numpy(), float(torch.cat(shares).mean())


def _controls(fit: FollowerFit, untrained: FollowerFit, rng: np.random.Generator) -> tuple[Control, ...]:
    def guess(log_q: np.ndarray) -> dict[str, Estimate]:
        rows = np.broadcast_to(log_q, fit.truth.shape)
        return FollowerFit(fit.truth, rows, fit.log_unigram, fit.frequent).statistics()

    shuffled = [
        FollowerFit(fit.truth[rng.permutation(len(fit.truth))], fit.log_q, fit.log_unigram, fit.frequent)
        for _ in range(SHUFFLES)
    ]
    statistics = [shuffle.statistics() for shuffle in shuffled]
    rows = {
        name: np.array([np.nan if s[name].value is None else s[name].value for s in statistics])
        for name in statistics[0]
    }
    outcomes = fit.truth.shape[1]
    return (
        Control("untrained model", "random weights", untrained.statistics()),
        Control(
            "shuffled rows",
            f"the grammar's rows assigned to random words ({SHUFFLES} times)",
            {name: Estimate.of(values.mean(), values) for name, values in rows.items()},
        ),
        Control("word frequencies", "the same prediction after every word", guess(fit.log_unigram)),
        Control("best constant guess", "the mean of the true rows", guess(np.log(fit.truth.mean(0) + 1e-12))),
        Control("uniform", "the same probability for every word", guess(np.full(outcomes, -np.log(outcomes)))),
    )


def _measurements(
    measured: FollowerLogits, variants: dict[tuple[str, str], dict[str, Estimate]], rng: np.random.Generator
) -> tuple[Measurement, ...]:
    truth, main = measured.truth, measured.by_prefix[PUBLISHED_PREFIX]
    kinds = tuple(dict.fromkeys(kind for kind, _ in variants))
    prefix_names = tuple(measured.by_prefix)
    table = np.array([[[variants[k, p][n].row for n in NAMES] for p in prefix_names] for k in kinds])
    fit = words_only(truth, main)
    by_outcomes = {
        "words only, every word": variants["zero audio", PUBLISHED_PREFIX],
        "with the end, as in the training sentences": with_end(truth, main, True).statistics(rng),
        "with the end, row of the grammar": with_end(truth, main, False).statistics(rng),
    }
    bound = Axis("bound", ("value", "low", "high"))
    return (
        Measurement(
            "statistics by input and prefix",
            (Axis("input", kinds), Axis("prefix", prefix_names), Axis("statistic", NAMES), bound),
            table,
        ),
        Measurement(
            "statistics by what may follow",
            (Axis("outcomes", tuple(by_outcomes)), Axis("statistic", NAMES), bound),
            np.array([[estimates[n].row for n in NAMES] for estimates in by_outcomes.values()]),
        ),
        Measurement(
            "KL by prompt",
            (Axis("word", _prompt_words(truth)), Axis("guess", ("model", "word frequencies"))),
            np.stack([fit.kl, fit.kl_unigram], axis=1),
            unit="nats",
        ),
        _scatter(fit),
    )


def _prompt_words(truth: Truth) -> tuple[str, ...]:
    return tuple(w for w, total in zip(truth.words, truth.row[:, :-1].sum(1), strict=True) if total > 1e-9)


def _scatter(fit: FollowerFit, most: int = 1500) -> Measurement:
    """Return true and predicted probabilities of at most ``most`` true followers, evenly spaced."""
    supported = fit.truth > 0
    p, q = fit.truth[supported], np.exp(fit.log_q[supported])
    sample = np.unique(np.linspace(0, len(p) - 1, min(most, len(p))).astype(int))
    return Measurement(
        "probability of true followers",
        (Axis("pair", tuple(range(len(sample)))), Axis("whose", ("grammar", "model"))),
        np.stack([p[sample], q[sample]], axis=1),
    )
