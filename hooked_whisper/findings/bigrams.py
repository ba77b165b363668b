"""F9: with nothing to hear, the decoder knows which word follows which.

Here on the synthetic corpus, whose grammar is known; :mod:`.english_bigrams` judges real Whisper.

Source: github.com/er537/whisper_interpretability, ``docs/index.md``, and its blog post, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from hooked_whisper.analysis import next_token_logits
from hooked_whisper.findings.core import published
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Measurement
from hooked_whisper.findings.core.statistics import bootstrap, kl_rows, spearman
from hooked_whisper.findings.core.synthetic_truth import Truth
from hooked_whisper.findings.english import bigrams as english_bigrams
from hooked_whisper.findings.english import published_bigrams
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions import null_encoding

ID, TITLE = "F9", "Bigrams in the decoder"
CLAIM = "With no speech as input, the decoder still predicts likely next words, as a weak language model does."
PROTOCOL = english_bigrams.PROTOCOL
WORLD_PROTOCOL = (
    "Encoder output of 30 s of zero samples; decoder input is exactly <|startoftranscript|><|en|><|transcribe|> and "
    "one "
    "word: no <|notimestamps|>, no timestamp. Raw logits of the next token, softmax over the world's words, against "
    "the "
    "word's row of the grammar (without the end of the sentence, which never follows a first word in training). "
    "Again with <|notimestamps|>, and with other inputs that say nothing. Intervals: 95 %, bootstrap over prompt words."
)
PUBLISHED_PREFIX, USUAL_PREFIX = "published", "with <|notimestamps|>"
FREQUENT = 100  # occurrences in training
SHUFFLES = 20
DRAWS = 400  # of the bootstrap

RATIO = "KL from the true followers, over that of word frequencies"
TOP = "likeliest word is a true follower"
RANKS = "rank correlation with the true probabilities"


@dataclass(frozen=True, eq=False)
class Comparison:
    """True followers of some prompt words, against a model's log-probabilities over the same outcomes.

    ``frequent`` marks the prompts whose likeliest outcome is judged.
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
        """Over all true followers of these prompts."""
        truth, log_q = self.truth[rows], self.log_q[rows]
        supported = truth > 0
        return spearman(truth[supported], log_q[supported])

    def statistics(self, rng: np.random.Generator | None = None) -> dict[str, Estimate]:
        """All three, with a bootstrap over prompts if ``rng`` is given."""
        kl, base, top, n = self.kl, self.kl_unigram, self.top_in_support, len(self.truth)
        functions = {
            RATIO: lambda i: float(kl[i].mean() / base[i].mean()),
            TOP: lambda i: float(top[i][self.frequent[i]].mean()) if self.frequent[i].any() else float("nan"),
            RANKS: self.ranks,
        }
        everyone = np.arange(n)
        return {
            name: Estimate(f(everyone)) if rng is None else Estimate.of(f(everyone), bootstrap(n, f, rng, DRAWS))
            for name, f in functions.items()
        }


def words_only(truth: Truth, logits: Float[np.ndarray, "word outcome"]) -> Comparison:
    """The headline comparison: followers that are words, every word as prompt."""
    rows = truth.row[:, :-1]
    totals = rows.sum(axis=1)
    prompts = totals > 1e-9
    unigram = truth.unigram[:-1] / truth.unigram[:-1].sum()
    return Comparison(
        rows[prompts] / totals[prompts, None],
        log_softmax(logits[prompts, :-1]),
        np.log(np.maximum(unigram, 1e-12)),
        truth.seen[prompts] >= FREQUENT,
    )


def with_end(truth: Truth, logits: Float[np.ndarray, "word outcome"], as_in_corpus: bool) -> Comparison:
    """The end of the sentence (end of text) is an outcome too. ``as_in_corpus``: sentences of one word do not occur,
    and
    only words that begin sentences are asked; else the grammar's row as it is, for every word."""
    rows = truth.follows if as_in_corpus else truth.row
    prompts = (rows.sum(axis=1) > 1e-9) & ((truth.first > 0) | (not as_in_corpus))
    return Comparison(
        rows[prompts],
        log_softmax(logits[prompts]),
        np.log(np.maximum(truth.unigram, 1e-12)),
        truth.seen[prompts] >= FREQUENT,
    )


def log_softmax(logits: Float[np.ndarray, "row outcome"]) -> Float[np.ndarray, "row outcome"]:
    shifted = logits.astype(float) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def prefixes(model: HookedWhisper, language: str) -> dict[str, list[int]]:
    """The published prefix (no ``<|notimestamps|>``) and the usual one."""
    prompter = model.prompter
    return {
        PUBLISHED_PREFIX: prompter.prompt_ids(language=language, timestamps=True),
        USUAL_PREFIX: prompter.prompt_ids(language=language, timestamps=False),
    }


def run(context: Context) -> Finding:
    """A few encoder passes; every prompt is one row of a decoder batch."""
    if context.truth is None:
        return english_bigrams.run(context, {"id": ID, "title": TITLE, "claim": CLAIM})
    truth, model = context.truth, context.model
    kinds = [
        k for k in ("zero audio", "mel floor", "white noise", "mean encoding") if k[:4] != "mean" or context.utterances
    ]
    variants: dict[tuple[str, str], dict[str, Estimate]] = {}
    in_vocabulary: dict[str, float] = {}
    kept: dict[str, np.ndarray] = {}
    for kind in context.track(kinds, "F9 empty inputs"):
        clips = context.encoded if kind == "mean encoding" else None
        empty = null_encoding(model, kind, clips, seed=context.seed)
        for name, prefix in prefixes(model, context.language).items():
            logits, share = _logits(model, truth, prefix, empty)
            variants[kind, name] = words_only(truth, logits).statistics(context.rng("bootstrap of prompts"))
            if kind == "zero audio":
                kept[name], in_vocabulary[name] = logits, share
    main = kept[PUBLISHED_PREFIX]
    untrained_logits, _ = _logits(
        context.untrained,
        truth,
        prefixes(context.untrained, context.language)[PUBLISHED_PREFIX],
        null_encoding(context.untrained, "zero audio"),
    )
    return _finding(context, truth, main, untrained_logits, kept, variants, in_vocabulary)


def _logits(
    model: HookedWhisper, truth: Truth, prefix: list[int], empty: torch.Tensor
) -> tuple[Float[np.ndarray, "word outcome"], float]:
    """Logits of the outcomes after each word, and the mean probability that all outcomes have in the whole
    vocabulary."""
    prompts, outcomes = torch.from_numpy(truth.tokens), torch.from_numpy(truth.outcome_ids)
    found, shares = [], []
    for some in prompts.split(64):
        logits = next_token_logits(model, prefix, some, empty).double()
        shares.append(logits.softmax(-1)[:, outcomes].sum(-1))
        found.append(logits[:, outcomes])
    return torch.cat(found).numpy(), float(torch.cat(shares).mean())


def _controls(truth: Truth, main: np.ndarray, untrained: np.ndarray, rng: np.random.Generator) -> tuple[Control, ...]:
    judged = words_only(truth, main)

    def guess(log_q: np.ndarray) -> dict[str, Estimate]:
        rows = np.broadcast_to(log_q, judged.truth.shape)
        return Comparison(judged.truth, rows, judged.log_unigram, judged.frequent).statistics()

    shuffled = [
        Comparison(judged.truth[rng.permutation(len(judged.truth))], judged.log_q, judged.log_unigram, judged.frequent)
        for _ in range(SHUFFLES)
    ]
    drawn = [one.statistics() for one in shuffled]
    rows = {name: np.array([np.nan if d[name].value is None else d[name].value for d in drawn]) for name in drawn[0]}
    outcomes = judged.truth.shape[1]
    return (
        Control("untrained model", "random weights", words_only(truth, untrained).statistics()),
        Control(
            "shuffled rows",
            f"the grammar's rows dealt to other words ({SHUFFLES} times)",
            {name: Estimate.of(values.mean(), values) for name, values in rows.items()},
        ),
        Control("word frequencies", "the same guess after every word", guess(judged.log_unigram)),
        Control("best constant guess", "the mean of the true rows", guess(np.log(judged.truth.mean(0) + 1e-12))),
        Control("uniform", "every word alike", guess(np.full(outcomes, -np.log(outcomes)))),
    )


def _finding(
    context: Context,
    truth: Truth,
    main: np.ndarray,
    untrained: np.ndarray,
    kept: dict[str, np.ndarray],
    variants: dict[tuple[str, str], dict[str, Estimate]],
    in_vocabulary: dict[str, float],
) -> Finding:
    names = (RATIO, TOP, RANKS)
    head = variants["zero audio", PUBLISHED_PREFIX]
    criteria = (
        Criterion(RATIO, head[RATIO], 0.5, "at most"),
        Criterion(TOP, head[TOP], 0.9, "at least"),
        Criterion(RANKS, head[RANKS], 0.6, "at least"),
    )
    kinds = tuple(dict.fromkeys(kind for kind, _ in variants))
    table = np.array([[[variants[k, p][n].row for n in names] for p in kept] for k in kinds])
    judged = words_only(truth, main)
    rng = context.rng("bootstrap of prompts with end")
    ends = {
        "words only, every word": head,
        "with the end, as in the training sentences": with_end(truth, main, True).statistics(rng),
        "with the end, row of the grammar": with_end(truth, main, False).statistics(rng),
    }
    measurements = (
        Measurement(
            "statistics by input and prefix",
            (
                Axis("input", kinds),
                Axis("prefix", tuple(kept)),
                Axis("statistic", names),
                Axis("bound", ("value", "low", "high")),
            ),
            table,
        ),
        Measurement(
            "statistics by what may follow",
            (Axis("outcomes", tuple(ends)), Axis("statistic", names), Axis("bound", ("value", "low", "high"))),
            np.array([[e[n].row for n in names] for e in ends.values()]),
        ),
        Measurement(
            "KL by prompt",
            (Axis("word", _prompt_words(truth)), Axis("guess", ("model", "word frequencies"))),
            np.stack([judged.kl, judged.kl_unigram], axis=1),
            unit="nats",
        ),
        _scatter(judged),
    )
    ids = {name: prefix for name, prefix in prefixes(context.model, context.language).items()}
    shares = ", ".join(f"{share:.1%} ({name} prefix)" for name, share in in_vocabulary.items())
    return Finding(
        **_common(context, ids),
        criteria=criteria,
        controls=_controls(truth, main, untrained, context.rng("shuffled rows")),
        measurements=measurements,
        tables=published_bigrams.our_tables(context.model.cfg.name, truth, kept),
        published=published_bigrams.PUBLISHED,
        published_summary=published.BIGRAMS_IN_SHORT,
        notes=(
            f"{len(judged.truth)} prompt words; {int(judged.frequent.sum())} were heard {FREQUENT} times or more in "
            "training.",
            f"Mean probability of the world's words and the end among all {context.model.cfg.decoder.n_vocab} "
            f"tokens: {shares}.",
            "Whisper never met the published prefix in training: after <|transcribe|> came <|notimestamps|> or a "
            "timestamp. The demo model met it in 15 % of its sentences, and 3 % of its clips had every word masked and "
            "the transcript kept, so both halves of the question were in its training.",
            "Published lists are of Whisper tiny, ours are of this model's own world: compare their kind, not their "
            "numbers.",
        ),
    )


def _common(context: Context, ids: dict[str, list[int]]) -> dict[str, Any]:
    return {
        **context.common(ID, TITLE, CLAIM, WORLD_PROTOCOL),
        "parameters": {
            "prefix_ids": ids,
            "prefixes": {name: context.model.to_str_tokens(p) for name, p in ids.items()},
            "null_input": "zero audio",
            "frequent": FREQUENT,
        },
    }


def _prompt_words(truth: Truth) -> tuple[str, ...]:
    return tuple(w for w, total in zip(truth.words, truth.row[:, :-1].sum(1), strict=True) if total > 1e-9)


def _scatter(judged: Comparison, most: int = 1500) -> Measurement:
    """True and given probability of true followers (evenly taken from all pairs), for a figure."""
    supported = judged.truth > 0
    p, q = judged.truth[supported], np.exp(judged.log_q[supported])
    some = np.unique(np.linspace(0, len(p) - 1, min(most, len(p))).astype(int))
    return Measurement(
        "probability of true followers",
        (Axis("pair", tuple(range(len(some)))), Axis("whose", ("grammar", "model"))),
        np.stack([p[some], q[some]], axis=1),
    )
