"""F7: do a neuron's strongest activations belong to one phone, and its weaker ones to several similar phones?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from hooked_whisper.features.phones.measures import wilson
from hooked_whisper.features.phones.polyphony import (
    EQUAL_N,
    ConfusionTest,
    RangeSummary,
    confusions,
    spearman_with_order,
)
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting
from hooked_whisper.findings.core.figures import (
    BLUE,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    STYLE,
    add_legend,
    alt_text,
    new_figure,
)
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.published import BLOG
from hooked_whisper.findings.core.records import BOUNDS, Axis, Measurement, Table
from hooked_whisper.findings.phones.evaluation import (
    SAMPLE,
    PhoneEvaluation,
    phone_evaluation,
    resampled_means,
    share,
    short,
)
from hooked_whisper.findings.phones.summaries import RangeExample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FALLS, ENOUGH, LARGEST_P = -0.5, 0.5, 0.01
PERMUTATIONS = 1000
N_SHOWN, MOST_LABELS = 3, 5

CLAIM = "A neuron's strongest activations come from one phone, and its weaker ones from several similar phones."
PROTOCOL = (
    f"{SAMPLE} The active values (above 1/128) of each neuron are divided into deciles. The entropy of the label "
    f"(phone or silence) within each decile is the mean entropy of {EQUAL_N} examples drawn from it, the same number "
    "for all deciles, so that all have the same bias. The entropy of a neuron falls if the Spearman correlation of "
    f"the ten entropies with the order of the deciles is {FALLS} or less. Neurons of all blocks count if they have "
    f"{EQUAL_N} examples in three deciles or more. Confusions: the mean articulatory distance (share of features of "
    "place, manner and so on that differ) of the other phones to the most common phone of the top decile, over all "
    f"neurons, compared with {PERMUTATIONS} permutations of the inventory that keep base rates. Every position is an "
    "example; neighboring positions are not independent, but the control with shifted labels has the same dependence. "
    "Interval: 95 %, bootstrap over neurons. Counts in ranges of equal width are shown as in the publication."
)
SHARE = "share of neurons whose entropy falls"
P_VALUE = "p of confusions as near as these"

PUBLISHED = (
    Table(
        "Neuron 1, tiny, block 2: sounds by range of activation",
        f"{BLOG}, counts read off a figure",
        ("activation", "j", "ch", "sh", "tr"),
        (
            ("3.70-3.92", "0", "0", "1", "0"),
            ("3.47-3.70", "1", "1", "0", "0"),
            ("3.25-3.47", "0", "1", "2", "0"),
            ("3.02-3.25", "7", "1", "5", "0"),
            ("2.79-3.02", "4", "7", "4", "4"),
            ("2.57-2.79", "10", "6", "15", "1"),
            ("2.33-2.57", "10", "11", "20", "4"),
        ),
    ),
    Table(
        "Neuron 3, tiny, block 2: sounds by range of activation",
        f"{BLOG}, counts read off a figure; the last range has twice the width",
        ("activation", "c", "g", "unknown", "sh"),
        (
            ("3.75-4.21", "1", "0", "0", "0"),
            ("3.29-3.74", "5", "0", "0", "0"),
            ("2.82-3.28", "5", "0", "0", "0"),
            ("2.36-2.82", "13", "4", "0", "0"),
            ("1.90-2.36", "28", "7", "1", "0"),
            ("0.97-1.90", "87", "28", "5", "3"),
        ),
    ),
)
PUBLISHED_IN_SHORT = "tiny, two neurons: counts by range, which rise at low activations for any neuron; no controls"


class Polyphony(Experiment[PhoneEvaluation]):
    """F7: measure how many phones a neuron responds to, from its weakest to its strongest activations."""

    id, title, claim, protocol = "F7", "Polyphonetic neurons", CLAIM, PROTOCOL
    published, published_summary = PUBLISHED, PUBLISHED_IN_SHORT

    def parameters(self, context: Context) -> dict[str, Any]:
        return {
            "examples": EQUAL_N,
            "spearman": FALLS,
            "share": ENOUGH,
            "largest_p": LARGEST_P,
            "permutations": PERMUTATIONS,
        }

    def measure(self, context: Context) -> PhoneEvaluation:
        """Return the evaluation that F5, F7 and F8 share."""
        return phone_evaluation(context)

    def judge(self, measured: PhoneEvaluation, setting: Setting) -> Finding:
        groups = {
            "neurons": RangeSummary.joined([site.deciles for site in measured.neurons]),
            "random directions": RangeSummary.joined([site.deciles for site in measured.random]),
            "shifted labels": RangeSummary.joined([site.shifted_deciles for site in measured.neurons]),
            "untrained model": RangeSummary.joined([site.deciles for site in measured.untrained]),
        }
        entropies = {name: ranges.equal_entropies for name, ranges in groups.items()}
        trends = {name: spearman_with_order(entropy) for name, entropy in entropies.items()}
        shares = {name: share(fall(trend), setting.rng(f"F7 {name}")) for name, trend in trends.items()}
        near = {name: confusions(ranges, setting.rng("F7 confusions"), PERMUTATIONS) for name, ranges in groups.items()}
        p = {name: Estimate(test.pooled_p) for name, test in near.items()}
        descriptions = {
            "random directions": "random orthonormal directions of the same activations",
            "shifted labels": "the neurons, with the labels of each utterance shifted in a circle",
            "untrained model": "random weights, on half of the utterances",
        }
        return self.finding(
            setting,
            inputs=setting.inputs | measured.inputs(),
            criteria=(
                Criterion(SHARE, shares["neurons"], ENOUGH, "at least"),
                Criterion(P_VALUE, p["neurons"], LARGEST_P, "at most"),
                *measured.gates(),
                Criterion(
                    "neurons with three ranges or more",
                    Estimate(int(np.isfinite(trends["neurons"]).sum())),
                    20,
                    "at least",
                    role="gate",
                ),
            ),
            controls=tuple(
                Control(name, text, {SHARE: shares[name], P_VALUE: p[name]}) for name, text in descriptions.items()
            ),
            measurements=(_entropies(setting, entropies), *_selective(measured)),
            tables=(_summary(groups, trends, shares, near), _blocks(trends, measured.n_blocks)),
            notes=(
                "With five ranges of equal width from zero to the maximum, the share of neurons whose entropy falls "
                f"is {_share_by_width(measured)}. The top ranges have few examples, so fewer neurons have three "
                "ranges to compare.",
                "The deciles are those of all positions. The alternative of one example per utterance and range was "
                "not tested.",
                "If the entropy of random directions also falls, any direction of these activations is more selective "
                "at high values; only a larger share is a property of the neurons.",
            ),
        )

    def draw(self, finding: Finding) -> list[Figure]:
        """Draw the effective number of phones by decile, and the phones of the most selective neurons."""
        table = finding.measurement("effective number of phones by decile")
        x = np.array(table.axis("decile").entries)
        figure, axes = new_figure(
            "Number of phones by activation", "decile of the active values (10: strongest)", "effective phones"
        )
        looks = ((BLUE, "o", "-"), (ORANGE, "^", "-"), (GRAY, "x", ":"), (PURPLE, "s", "--"))
        for name, (color, marker, line) in zip(table.axis("features").entries, looks, strict=True):
            values = table.at(features=name)
            axes.plot(x, values[:, 0], color=color, marker=marker, linestyle=line, label=short(name))
            axes.fill_between(x, values[:, 1], values[:, 2], color=color, alpha=0.2, linewidth=0)
        axes.set_ylim(bottom=0)
        add_legend(axes, below=True)
        neurons = table.at(features="neurons", bound="value")
        figure.set_label(alt_text("Effective number of phones, neurons", neurons, [f"decile {k}" for k in x], "", 1.0))
        if all(measurement.name != "phones by decile" for measurement in finding.measurements):
            return [figure]
        return [
            figure,
            _draw_ranges(finding, "phones by decile"),
            _draw_ranges(finding, "phones by range of equal width"),
        ]


def fall(trend: Float[np.ndarray, "feature"]) -> np.ndarray:
    """Return whether the trend falls, for each feature that has a trend."""
    return trend[np.isfinite(trend)] <= FALLS


def _entropies(setting: Setting, entropies: dict[str, np.ndarray]) -> Measurement:
    """Return the effective number of phones (exp of the entropy), averaged over features."""
    rows = []
    for name, entropy in entropies.items():
        whole = np.exp(entropy[np.isfinite(entropy).all(axis=1)])
        samples = resampled_means(whole, setting.rng(f"F7 entropy {name}"), 400)
        mean = whole.mean(axis=0) if len(whole) else np.full(entropy.shape[1], np.nan)
        rows.append(np.stack([mean, *np.percentile(samples.reshape(400, -1), [2.5, 97.5], axis=0)], axis=1))
    n = rows[0].shape[0]
    return Measurement(
        "effective number of phones by decile",
        (
            Axis("features", tuple(entropies)),
            Axis("decile", tuple(range(1, n + 1))),
            BOUNDS,
        ),
        np.array(rows),
        "phones",
    )


def _selective(evaluation: PhoneEvaluation) -> tuple[Measurement, ...]:
    """Return the counts by range of the most selective neurons for three different phones, and the base rates."""
    ranked = sorted(
        ((b, phone, example) for b, site in enumerate(evaluation.neurons) for phone, example in site.examples.items()),
        key=lambda item: (-item[2].f1, item[0], item[2].neuron),
    )
    shown: dict[str, tuple[int, RangeExample]] = {}
    for b, phone, example in ranked:
        shown.setdefault(phone, (b, example))
        if len(shown) == N_SHOWN:
            break
    if not shown:
        return ()
    neurons = Axis("neuron", tuple(f"{b}.{example.neuron} /{phone}/" for phone, (b, example) in shown.items()))
    names = Axis("phone", evaluation.neurons[0].names)
    deciles, widths = (
        np.stack([getattr(example, kind) for _, example in shown.values()]) for kind in ("deciles", "widths")
    )
    tens, fives = (Axis("range", tuple(range(1, x.shape[1] + 1))) for x in (deciles, widths))
    return (
        Measurement("phones by decile", (neurons, tens, names), deciles, "positions"),
        Measurement("phones by range of equal width", (neurons, fives, names), widths, "positions"),
        Measurement("base rates", (names,), evaluation.neurons[0].deciles.base),
    )


def _summary(
    groups: dict[str, RangeSummary],
    trends: dict[str, np.ndarray],
    shares: dict[str, Estimate],
    near: dict[str, ConfusionTest],
) -> Table:
    rows = []
    for name, ranges in groups.items():
        known, test = trends[name][np.isfinite(trends[name])], near[name]
        distance, expected = (
            float(np.nanmean(x)) if np.isfinite(x).any() else np.nan for x in (test.distance, test.expected)
        )
        value = shares[name].row[0]
        median = float(np.median(known)) if len(known) else np.nan
        rows.append(
            (
                name,
                f"{len(known)} of {len(ranges.majority)}",
                f"{value:.2f}",
                f"{median:.2f}",
                f"{distance:.3f}",
                f"{expected:.3f}",
                f"{test.pooled_p:.3f}",
            )
        )
    columns = ("features", "with a trend", "share that falls", "median Spearman", "distance", "permuted", "p")
    return Table("Entropy by decile, and confusions", "this run", columns, tuple(rows))


def _blocks(trends: dict[str, np.ndarray], n_blocks: int) -> Table:
    """Return a table of the share that falls by block. All blocks have the same number of features."""
    rows = tuple(
        (name, *(_mean_text(fall(part)) for part in np.split(trend, n_blocks))) for name, trend in trends.items()
    )
    columns = ("features", *(f"block {b}" for b in range(n_blocks)))
    return Table("Share whose entropy falls, by block", "this run", columns, rows)


def _share_by_width(evaluation: PhoneEvaluation) -> str:
    trend = np.concatenate([site.widths.trend for site in evaluation.neurons])
    known = fall(trend)
    return f"{_mean_text(known)} ({len(known)} of {len(trend)} neurons)"


def _mean_text(true: np.ndarray) -> str:
    return f"{true.mean():.2f}" if len(true) else "none"


def _draw_ranges(finding: Finding, name: str) -> Figure:
    """Draw one panel per neuron: proportions by decile and the base rate, or counts by range as in the publication."""
    import matplotlib
    from matplotlib.figure import Figure

    table = finding.measurement(name)
    neurons, phones = table.axis("neuron").entries, table.axis("phone").entries
    proportions = name == "phones by decile"
    base = finding.measurement("base rates").values
    words = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.9, 2.4 * len(neurons)), layout="constrained")
        panels = np.ravel(figure.subplots(len(neurons), 1, sharex=True))
        for axes, neuron, counts in zip(panels, neurons, table.values, strict=True):
            axes.set_title(f"Neuron {neuron}", loc="left")
            axes.set_axisbelow(True)
            shown = np.argsort(-counts.sum(0), kind="stable")[:MOST_LABELS]
            if proportions:
                _stack(axes, counts, shown, phones, base)
            else:
                _counts(axes, counts, shown, phones)
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5)
            top = counts[-1].sum()
            words.append(f"{neuron}: {100 * counts[-1].max() / max(1, top):.0f} % one phone in the highest range")
        panels[-1].set_xlabel("decile of the active values (10: strongest)" if proportions else "range (highest last)")
    title = "Proportions of phones by decile" if proportions else "Counts of phones in ranges of equal width"
    figure.set_label(f"{title}. {', '.join(words)}")
    return figure


_COLORS = (BLUE, ORANGE, GREEN, PURPLE, "#c9b23c")


def _stack(axes: Axes, counts: np.ndarray, shown: np.ndarray, phones: Sequence[str], base: np.ndarray) -> None:
    """Draw stacked proportions, with the 95 % interval of the lowest part. The last bar is the base rate."""
    n = counts.sum(1)
    parts = np.concatenate([counts / np.maximum(n, 1)[:, None], base[None]])[:, shown]
    x = np.append(np.arange(1, len(counts) + 1), len(counts) + 2)
    bottom = np.zeros(len(x))
    for part, k, color in zip(parts.T, shown, _COLORS, strict=False):
        axes.bar(x, part, bottom=bottom, color=color, label=phones[k])
        bottom += part
    axes.bar(x, 1 - bottom, bottom=bottom, color=GRAY, alpha=0.35, label="other")
    low, high = wilson(counts[:, shown[0]], n)
    value = parts[:-1, 0]
    axes.errorbar(
        x[:-1],
        value,
        yerr=[np.maximum(value - low, 0), np.maximum(high - value, 0)],
        color=INK,
        linestyle="",
        capsize=2,
        linewidth=1,
    )
    axes.set_xticks(x, [*(str(k) for k in x[:-1]), "all"])
    axes.set_ylim(0, 1)
    axes.set_ylabel("share")


def _counts(axes: Axes, counts: np.ndarray, shown: np.ndarray, phones: Sequence[str]) -> None:
    """Draw bars side by side, as in the publication."""
    x, width = np.arange(1, len(counts) + 1), 0.8 / len(shown)
    for j, k in enumerate(shown):
        axes.bar(x + (j - (len(shown) - 1) / 2) * width, counts[:, k], width, color=_COLORS[j], label=phones[k])
    axes.set_xticks(x)
    axes.set_yscale("symlog")
    axes.set_ylabel("positions (log)")
