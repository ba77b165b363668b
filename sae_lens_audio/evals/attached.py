"""Scores of the model with an SAE attached: word errors and next-token predictions with its reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from hooked_whisper._support.showing import Showing, Summary, Tabular, counted
from hooked_whisper.errors import ArgumentError, check_option, closest
from hooked_whisper.findings.core.finding import Estimate

CLEAN, ZERO, MEAN = "clean", "zero ablation", "mean ablation"
PADDING_TOO = ", padding too"
Measure = Literal["wer", "cross_entropy", "kl"]
MEASURES: tuple[Measure, ...] = ("wer", "cross_entropy", "kl")
DRAWS = 2000


@dataclass(frozen=True, eq=False, repr=False)
class ConditionCounts(Showing):
    """One condition, by clip.

    texts: greedy transcripts. errors: their word errors.
    nats: negative log-probability of the reference tokens and the end token, each given those before it.
    kl: KL(clean || condition) of the next-token distributions at the same tokens, summed, in nats.
    """

    texts: tuple[str, ...]
    errors: Int[np.ndarray, "clip"]
    nats: Float[np.ndarray, "clip"]
    kl: Float[np.ndarray, "clip"]


@dataclass(frozen=True, eq=False, repr=False)
class AttachedScores(Tabular):
    """Word error rate, cross-entropy and KL divergence of every condition, with 95 % intervals.

    Intervals are bootstrapped over clips, with the same draws for all conditions, so that differences are paired.

    Attributes:
        hook, hook_out: the hook point that is read, and the one that is replaced (another for transcoders).
        where: replaced positions: those of ``"sound"``, tokens of the ``"text"``, or ``"all"``.
        clips, references: ids, and normalized reference texts.
        words, tokens: number of each clip; the end token counts.
        conditions: ``"clean"``, SAEs and baselines by name, ``"mean ablation"``, ``"zero ablation"``, and
            ``"<name>, padding too"`` for conditions that also replace padding.
    """

    hook: str
    hook_out: str
    where: str
    clips: tuple[str, ...]
    references: tuple[str, ...]
    words: Int[np.ndarray, "clip"]
    tokens: Int[np.ndarray, "clip"]
    conditions: Mapping[str, ConditionCounts]
    seed: int = 0

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per condition: its name, and each measure with the ends of its interval (``_low``,
        ``_high``)."""
        return [
            {"condition": name}
            | {key: number for measure in MEASURES for key, number in self._with_ends(measure, name)}
            for name in self.conditions
        ]

    def _with_ends(self, measure: Measure, condition: str) -> tuple[tuple[str, float | None], ...]:
        estimate = self.value(measure, condition)
        return ((measure, estimate.value), (f"{measure}_low", estimate.low), (f"{measure}_high", estimate.high))

    def summary(self) -> Summary:
        title = f"AttachedScores: {self.hook}, {counted(len(self.clips), 'clip')}, {int(self.words.sum())} words"
        rows = tuple((row["condition"], *(row[measure] for measure in MEASURES)) for row in self.to_rows())
        columns = ("condition", "WER", "cross-entropy (nats per token)", "KL (nats per token)")
        return Summary(title, (f"replaced positions: {self.where}",), columns, rows)

    def value(self, measure: Measure, condition: str) -> Estimate:
        """Return word errors per word of the reference, or nats per token.

        Raises:
            ArgumentError: an unknown measure or condition.
        """
        check_option("measure", measure, MEASURES)
        return Estimate.of(*self._rates(measure, condition))

    def wer(self, condition: str) -> Estimate:
        """Return word errors per word of the reference."""
        return self.value("wer", condition)

    def cross_entropy(self, condition: str) -> Estimate:
        """Return nats per token of the reference, teacher-forced."""
        return self.value("cross_entropy", condition)

    def kl(self, condition: str) -> Estimate:
        """Return KL(clean || condition) of the next token, in nats."""
        return self.value("kl", condition)

    def change(self, measure: Measure, condition: str, base: str = CLEAN) -> Estimate:
        """Return ``condition - base``, paired over clips."""
        check_option("measure", measure, MEASURES)
        (value, samples), (other, others) = self._rates(measure, condition), self._rates(measure, base)
        return Estimate.of(value - other, samples - others)

    def recovered(self, measure: Measure, condition: str, ablation: str = ZERO) -> Estimate:
        """Return ``(ablated - condition) / (ablated - clean)``: 1 equals clean, 0 equals the ablation.

        Undefined where the ablation does no harm. Check the raw values too: an ablation that destroys the model makes
        every SAE look good.
        """
        check_option("measure", measure, MEASURES)
        (value, samples), (clean, cleans), (worst, worsts) = (
            self._rates(measure, name) for name in (condition, CLEAN, ablation)
        )
        if not worst - clean > 0:
            return Estimate(None)
        harm = worsts - cleans
        return Estimate.of(
            (worst - value) / (worst - clean),
            np.divide(worsts - samples, harm, out=np.full(len(harm), np.nan), where=harm > 0),
        )

    def _rates(self, measure: Measure, condition: str) -> tuple[float, Float[np.ndarray, "draw"]]:
        """Return the rate over all clips, and that of every bootstrap sample."""
        if condition not in self.conditions:
            near = closest(condition, self.conditions)
            raise ArgumentError(f"no condition {condition!r} was run; conditions: {near or ', '.join(self.conditions)}")
        result = self.conditions[condition]
        sums, counts = {
            "wer": (result.errors, self.words),
            "cross_entropy": (result.nats, self.tokens),
            "kl": (result.kl, self.tokens),
        }[measure]
        drawn = self._draws @ counts
        samples = np.divide(self._draws @ sums, drawn, out=np.full(len(drawn), np.nan), where=drawn > 0)
        return float(sums.sum() / max(counts.sum(), 1)), samples

    @cached_property
    def _draws(self) -> Float[np.ndarray, "draw clip"]:
        """Number of times each clip is in each bootstrap sample."""
        n = len(self.clips)
        rng = np.random.default_rng([self.seed, n])
        return rng.multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(np.float64)
