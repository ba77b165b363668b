"""Three tests of a metric: its spread over training seeds, its agreement with planted truth, and early against late
checkpoints.

The thresholds below were fixed before the first audit. They follow Chanin 2026, "Are Sparse Autoencoder Benchmarks
Reliable?" (arXiv 2605.18229), which tests SAEBench for reseed noise, validity on synthetic data, and discriminability
across training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from hooked_whisper._support.showing import format_cell
from hooked_whisper.errors import ArgumentError, check_option
from sae_lens_audio.benchmark.metric import Better

Verdict = Literal["passes", "weak", "fails", "not tested"]
TRUTH_PASSES, TRUTH_WEAK = 0.8, 0.5  # Spearman correlation with planted quality
_DIGITS = 6  # scores that differ by rounding errors are tied
LEVEL = 0.95  # of the confidence that a difference is not between seeds


@dataclass(frozen=True)
class SeedTest:
    """Differences that the metric shows, against its spread over seeds.

    Attributes:
        verdict: passes if all differences that were measured exceed ``smallest``; weak if some do; fails if none does.
        sd: standard deviation over seeds of one setting, pooled over settings.
        seeds: number of SAEs in settings of several seeds.
        smallest: the minimum reliable difference of two SAEs, ``t sqrt(2) sd``, where ``t`` is the 97.5 % point of
            Student's distribution with as many degrees of freedom as ``sd`` has.
        settings: range of the means of settings; ``None`` with a single setting.
        control: mean of the seeds minus the best control, positive if the SAEs are better.
    """

    verdict: Verdict
    sd: float | None = None
    seeds: int = 0
    smallest: float | None = None
    settings: float | None = None
    control: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class TruthTest:
    """Agreement with the planted quality of subjects.

    Attributes:
        verdict: passes with a ``correlation`` of 0.8 or more, weak with 0.5.
        correlation: Spearman's, over all subjects; positive if the metric calls better what is better.
        subjects: number of subjects with a score.
        by_damage: the same over the true dictionary and its copies with one kind of damage, and over trained SAEs.
    """

    verdict: Verdict
    correlation: float | None = None
    subjects: int = 0
    by_damage: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class TrendTest:
    """Checkpoints of one training, early to late.

    Attributes:
        verdict: passes if the last is better than the first by more than ``smallest`` and no step is worse by more than
            that; weak if the last is better; else fails.
        means: by share of the steps, over seeds.
        gain: last minus first, positive if the last is better.
        smallest: the minimum reliable difference of means over ``seeds`` trainings, ``t sqrt(2 / seeds) sd``.
        reversed: whether later checkpoints are worse by more than that.
    """

    verdict: Verdict
    means: Mapping[str, float] = field(default_factory=dict)
    gain: float | None = None
    smallest: float | None = None
    seeds: int = 0
    reversed: bool = False
    reason: str = ""


def seed_test(settings: Mapping[str, Sequence[float]], controls: Sequence[float], better: Better) -> SeedTest:
    """Compare differences with the spread over seeds.

    settings: scores of the seeds of each setting, those with most seeds first. controls: scores of all controls.
    """
    sign = _sign(better)
    groups = [np.asarray(values, dtype=float) for values in settings.values()]
    groups = [values[np.isfinite(values)] for values in groups]
    groups = [values for values in groups if len(values)]
    sd, freedom = _pooled_sd(groups)
    if sd is None:
        return SeedTest("not tested", reason="no setting was trained with several seeds")
    smallest = _t(freedom) * 2**0.5 * sd
    means = [float(values.mean()) for values in groups]
    several = max(groups, key=len)
    spread = max(means) - min(means) if len(means) > 1 else None
    defined = [x for x in controls if np.isfinite(x)]
    control = sign * float(several.mean()) - max(sign * x for x in defined) if defined else None
    side = "below" if control is not None and control < 0 else "above"
    contrasts = {"between settings": spread, f"{side} the best control": control}
    measured = {name: abs(x) for name, x in contrasts.items() if x is not None}
    if not measured:
        return SeedTest("not tested", sd, len(several), smallest, reason="one setting and no control")
    exceeding = [name for name, x in measured.items() if x > smallest]
    verdict: Verdict = "passes" if len(exceeding) == len(measured) else "weak" if exceeding else "fails"
    listed = ", ".join(f"{format_cell(x)} {name}" for name, x in measured.items())
    reason = f"differences of {listed}; the least reliable difference of two SAEs is {format_cell(smallest)}"
    n = sum(len(values) for values in groups if len(values) > 1)
    return SeedTest(verdict, sd, n, smallest, spread, control, reason)


def truth_test(
    scores: Mapping[str, float], quality: Mapping[str, float], damage: Mapping[str, str], better: Better, origin: str
) -> TruthTest:
    """Correlate scores with planted quality, by name of subject.

    damage: kind of damage of each subject. origin: the kind that each series of damage starts with.
    """
    sign = _sign(better)
    names = [name for name in quality if np.isfinite(scores.get(name, np.nan))]
    if len(names) < 4:
        return TruthTest("not tested", reason="planted activations have no such score")
    correlation = sign * _spearman([scores[n] for n in names], [quality[n] for n in names])
    by_damage = {}
    for kind in dict.fromkeys(damage.values()):
        series = [n for n in names if damage[n] == kind or (damage[n] == origin and kind != "trained")]
        varies = len({round(quality[n], _DIGITS) for n in series}) > 1  # some damage spares the features in question
        if len(series) > 2 and kind != origin and varies:
            by_damage[kind] = sign * _spearman([scores[n] for n in series], [quality[n] for n in series])
    verdict: Verdict = "passes" if correlation >= TRUTH_PASSES else "weak" if correlation >= TRUTH_WEAK else "fails"
    reason = f"correlation {correlation:.2f} with planted quality over {len(names)} subjects"
    if followed := [kind for kind, value in by_damage.items() if value >= TRUTH_PASSES]:
        reason += f"; follows {', '.join(followed)}"
    if blind := [kind for kind, value in by_damage.items() if value < TRUTH_WEAK]:
        reason += f"; does not follow {', '.join(blind)}"
    return TruthTest(verdict, correlation, len(names), by_damage, reason)


def trend_test(
    trajectories: Sequence[Mapping[float, float]], better: Better, seed_sd: float | None = None, seeds: int = 0
) -> TrendTest:
    """Compare checkpoints.

    Args:
        trajectories: for each training, the scores by share of its steps.
        seed_sd: standard deviation over seeds, used if there is a single trajectory. seeds: how many it is from.
    """
    sign = _sign(better)
    shares = sorted(set.intersection(*(set(t) for t in trajectories))) if trajectories else []
    untested = TrendTest("not tested", reason="no checkpoints of one training")
    if len(shares) < 2:
        return untested
    table = np.array([[t[share] for share in shares] for t in trajectories], dtype=float)
    table = table[np.isfinite(table).all(1)]
    if not len(table):
        return untested
    sd, freedom = _pooled_sd(list(table.T))
    if sd is None:
        sd, freedom = seed_sd, seeds - 1
    if sd is None or freedom < 1:
        return TrendTest("not tested", reason="checkpoints of one seed, and no other spread to compare with")
    smallest = _t(freedom) * (2 / len(table)) ** 0.5 * sd
    means = table.mean(0)
    steps = sign * np.diff(means)
    gain = float(sign * (means[-1] - means[0]))
    worse = bool((steps < -smallest).any())
    verdict: Verdict = "fails" if gain <= 0 or worse else "passes" if gain > smallest else "weak"
    listed = ", ".join(f"{format_cell(float(x))}" for x in means)
    reason = f"{listed} at {', '.join(f'{share:.3g}' for share in shares)} of the steps; reliable from "
    reason += f"a difference of {format_cell(smallest)}"
    by_share = {f"{share:.4g}": float(x) for share, x in zip(shares, means, strict=True)}
    return TrendTest(verdict, by_share, gain, smallest, len(table), gain < -smallest, reason)


def overall(seed: SeedTest, truth: TruthTest, trend: TrendTest) -> Verdict:
    """Combine three tests. A metric fails if it disagrees with the truth, or calls later checkpoints worse than earlier
    ones by more than seeds differ, or fails two tests. It passes if at least two tests were made and it passes all."""
    verdicts = [test.verdict for test in (seed, truth, trend) if test.verdict != "not tested"]
    if not verdicts:
        return "not tested"
    if truth.verdict == "fails" or trend.reversed or verdicts.count("fails") >= 2:
        return "fails"
    return "passes" if len(verdicts) >= 2 and set(verdicts) == {"passes"} else "weak"


def _sign(better: Better) -> int:
    check_option("better", better, get_args(Better))
    if better == "neither":
        raise ArgumentError("a metric that only describes an SAE cannot be audited: its better is 'neither'")
    return 1 if better == "higher" else -1


def _pooled_sd(groups: Sequence[np.ndarray]) -> tuple[float | None, int]:
    """Return the standard deviation within groups of two or more values, and its degrees of freedom."""
    several = [values for values in groups if len(values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    if not freedom:
        return None, 0
    return float((sum(((values - values.mean()) ** 2).sum() for values in several) / freedom) ** 0.5), freedom


def _t(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom))


def _spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the rank correlation; 0 if one side is constant."""
    from scipy.stats import rankdata

    x, y = rankdata(np.round(a, _DIGITS)), rankdata(np.round(b, _DIGITS))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])
