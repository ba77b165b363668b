"""F8: do phones appear only in later encoder blocks, in single neurons and in each layer as a whole?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting, Untestable
from hooked_whisper.findings.core.figures import (
    BLUE,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    add_legend,
    alt_text,
    new_figure,
)
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding, format_estimate
from hooked_whisper.findings.core.records import BOUNDS, Axis, Measurement, Table
from hooked_whisper.findings.phones.evaluation import (
    DRAWS,
    FITTED,
    SAMPLE,
    PhoneEvaluation,
    phone_evaluation,
    resampled_means,
    short,
)
from hooked_whisper.findings.phones.layer_probes import TEXT as PROBE_TEXT
from hooked_whisper.findings.phones.layer_probes import LayerProbe, LayerProbes, drawn_speakers, estimates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ByBlock = Sequence[Float[np.ndarray, "_"]]  # one array per block; dead features may be left out

LEGEND = {
    "layer as a whole": "whole layer",
    "layer, shifted labels": "shifted labels",
    "layer, untrained model": "untrained layer",
    "log-mel, no layer": "log-mel",
    "best neuron of each phone": "best neuron",
    "best random direction of each phone": "best random",
}
LEAST_ERRORS = 1.96  # standard errors above 0: the 95 % interval excludes 0

WHOLE = "mean F1 over phones by block"
CLAIM = "Neurons for phones appear in the later encoder blocks, not in the first ones."
PROTOCOL = (
    f"{SAMPLE} Each neuron has the F1 of its best phone: phone, sign and threshold are chosen on the other speakers, "
    "and F1 is pooled over all speakers. The rise is the mean over the later half of the blocks minus the mean over "
    "the earlier half (the middle one of an odd number is in neither). It must exceed the rise of random orthonormal "
    f"directions of the same activations by {LEAST_ERRORS} standard errors; the controls are held to the same "
    "threshold. Spectral selectivity is the largest absolute correlation of a neuron with a mel band, over positions "
    f"within phones of {FITTED} clips; it must fall. Intervals and standard errors of neurons: bootstrap over the "
    f"neurons of each block. {PROBE_TEXT} The macro-F1 of these probes must rise too. If it is high in a block whose "
    "neurons are not selective, the block encodes phones in combinations of many neurons."
)
RISE = "rise of best-phone F1, later minus earlier blocks"
BEYOND = "rise beyond that of random directions, in standard errors"
FALL = "fall of spectral selectivity, earlier minus later blocks"
LAYER = "rise of the layer as a whole, later minus earlier blocks"

PUBLISHED_IN_SHORT = "tiny: no audible features in blocks 0 and 1; no numbers"
PUBLISHED = Table(
    "Features by listening, tiny",
    "comments under the LessWrong version of the blog post, 2023; block 2: the post",
    ("encoder block", "what was found"),
    (("0 and 1", "no listenable features"), ("2", "37 of 50 neurons phonetic")),
)


class EarlyBlocks(Experiment[PhoneEvaluation]):
    """F8: phones by encoder block, in single neurons and in each layer as a whole."""

    id, title, claim, protocol = "F8", "Phones appear in later blocks", CLAIM, PROTOCOL
    published, published_summary = (PUBLISHED,), PUBLISHED_IN_SHORT

    def parameters(self, context: Context) -> dict[str, Any]:
        return {"draws": DRAWS, "clips_for_bands": FITTED}

    def measure(self, context: Context) -> PhoneEvaluation:
        """Return the evaluation that F5, F7 and F8 share."""
        evaluation = phone_evaluation(context)
        if evaluation.n_blocks < 2:
            raise Untestable("one encoder block has no earlier and later ones")
        return evaluation

    def judge(self, measured: PhoneEvaluation, setting: Setting) -> Finding:
        f1 = {
            "neurons": [site.phones.f1 for site in measured.neurons],
            "random directions": [site.phones.f1 for site in measured.random],
            "shifted labels": [site.shifted.f1 for site in measured.neurons],
            "untrained model": [site.phones.f1 for site in measured.untrained],
        }
        bands = {
            "neurons": measured.bands["neurons"],
            "random directions": measured.bands["random"],
            "untrained model": measured.bands["untrained"],
        }
        rises = {name: _contrast(values, setting.rng(f"F8 {name}")) for name, values in f1.items()}
        falls = {name: _contrast(values, setting.rng(f"F8 bands {name}")) for name, values in bands.items()}
        rise, other = rises["neurons"], rises["random directions"]
        beyond = {
            name: Estimate(0 if name == "random directions" else _in_errors(value - other[0], drawn - other[1]))
            for name, (value, drawn) in rises.items()
        }
        excess = Estimate.of(rise[0] - other[0], rise[1] - other[1])
        layers = _layer_rises(setting, measured.probes)
        whole = _by_phone(setting, measured)
        return self.finding(
            setting,
            inputs=setting.inputs | measured.inputs(),
            criteria=(
                Criterion(RISE, Estimate.of(*rise), 0, "at least"),
                Criterion(BEYOND, beyond["neurons"], LEAST_ERRORS, "at least"),
                Criterion(FALL, _negative(falls["neurons"]), 0, "at least"),
                # If phones appear in later blocks, the score of the layer as a whole must rise.
                Criterion(LAYER, layers["layer as a whole"], 0, "at least"),
                *measured.gates(),
            ),
            controls=(
                Control(
                    "random directions",
                    "orthonormal directions of the same activations; their rise beyond random directions is 0 by "
                    "definition",
                    {
                        RISE: Estimate.of(*other),
                        BEYOND: beyond["random directions"],
                        FALL: _negative(falls["random directions"]),
                    },
                ),
                Control(
                    "shifted labels",
                    "the neurons, with the labels of each utterance shifted in a circle",
                    {
                        RISE: Estimate.of(*rises["shifted labels"]),
                        BEYOND: beyond["shifted labels"],
                        LAYER: layers["layer, shifted labels"],
                    },
                ),
                Control(
                    "untrained model",
                    "random weights, on half of the utterances",
                    {
                        RISE: Estimate.of(*rises["untrained model"]),
                        BEYOND: beyond["untrained model"],
                        FALL: _negative(falls["untrained model"]),
                        LAYER: layers["layer, untrained model"],
                    },
                ),
            ),
            measurements=(
                _by_block("best-phone F1 by block", f1, setting),
                _by_block("largest correlation with a mel band by block", bands, setting),
                *((_whole_measurement(whole),) if whole else ()),
            ),
            tables=(
                *((_whole_table(whole),) if whole else ()),
                _table("Mean best-phone F1 by block", f1, rises),
                _table("Mean of the largest |correlation| with a mel band, by block", bands, falls),
            ),
            notes=(
                "Mel bands, the input of the encoder, have a mean best-phone F1 of "
                f"{_mean(measured.mel.phones.f1):.3f}.",
                f"The neurons' rise is {format_estimate(excess)} larger than that of random directions.",
                f"Random directions rise by {other[0]:.3f}, as any direction of these activations does; only a larger "
                "rise is a property of the neurons.",
                *_whole_notes(whole),
                "The threshold in standard errors was set after the first run. With a threshold of 0, a rise of 0.0004 "
                "in a control (shifted labels) would count as a rise and fail the finding.",
            ),
        )

    def draw(self, finding: Finding) -> list[Figure]:
        """Draw the layer as a whole and single features, best-phone F1, and spectral selectivity, by block."""
        whole = any(measurement.name == WHOLE for measurement in finding.measurements)
        return [
            *(
                (_lines(finding, WHOLE, "Phones in each layer", "mean F1 over phones", "layer as a whole"),)
                if whole
                else ()
            ),
            _lines(finding, "best-phone F1 by block", "Best-phone F1 by block", "mean F1"),
            _lines(
                finding,
                "largest correlation with a mel band by block",
                "Spectral selectivity by block",
                "mean largest |r|",
            ),
        ]


def halves(n_blocks: int) -> tuple[list[int], list[int]]:
    """Return the earlier and the later half of the blocks. The middle block of an odd number is in neither."""
    half = n_blocks // 2
    return list(range(half)), list(range(n_blocks - half, n_blocks))


def _contrast(by_block: ByBlock, rng: np.random.Generator) -> tuple[float, Float[np.ndarray, "draw"]]:
    """Return the mean of the later blocks minus that of the earlier blocks, and the same for bootstrap samples."""
    known = [values[np.isfinite(values)] for values in by_block]
    drawn = np.stack([resampled_means(values, rng, DRAWS) for values in known])
    means = np.array([_mean(values) for values in known])
    early, late = halves(len(known))
    return float(means[late].mean() - means[early].mean()), drawn[late].mean(axis=0) - drawn[early].mean(axis=0)


def _in_errors(value: float, drawn: Float[np.ndarray, "draw"]) -> float:
    """Return a rise divided by its bootstrap standard error. Without a true rise, this exceeds 1.96 in 2.5 % of
    cases."""
    error = float(drawn.std())
    return value / error if error > 0 else float("nan")


def _negative(contrast: tuple[float, Float[np.ndarray, "draw"]]) -> Estimate:
    return Estimate.of(-contrast[0], -contrast[1])


def _mean(values: Float[np.ndarray, "feature"]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _layer_rises(setting: Setting, probes: LayerProbes | None) -> dict[str, Estimate]:
    """Return the rises of macro-F1, with the same bootstrap samples of speakers in all blocks."""
    names = ("layer as a whole", "layer, shifted labels", "layer, untrained model")
    if probes is None:
        return dict.fromkeys(names, Estimate(None))
    drawn = drawn_speakers(probes, setting.rng("F8 layers"))
    early, late = halves(len(probes.layers))

    def rise(by_block: Sequence[LayerProbe]) -> Estimate:
        values = np.array([probe.macro_f1 for probe in by_block])
        samples = np.stack([probe.macro_f1s(drawn) for probe in by_block])
        return Estimate.of(
            float(values[late].mean() - values[early].mean()), samples[late].mean(axis=0) - samples[early].mean(axis=0)
        )

    return dict(zip(names, map(rise, (probes.layers, probes.shifted, probes.untrained)), strict=True))


def _by_phone(setting: Setting, evaluation: PhoneEvaluation) -> dict[str, list[Estimate]]:
    """Return the mean F1 over phones by block, for each layer as a whole and for the best single feature of each
    phone."""
    if evaluation.probes is None:
        return {}
    rng = setting.rng("F8 layers")
    single = {
        "best neuron of each phone": [site.best_of_phones for site in evaluation.neurons],
        "best random direction of each phone": [site.best_of_phones for site in evaluation.random],
    }
    return estimates(evaluation.probes, rng) | {
        name: [Estimate.of(_mean(values), resampled_means(values, rng)) for values in by_block]
        for name, by_block in single.items()
    }


def _whole_measurement(whole: dict[str, list[Estimate]]) -> Measurement:
    rows = [[f1.row for f1 in by_block] for by_block in whole.values()]
    return Measurement(
        WHOLE,
        (
            Axis("features", tuple(whole)),
            Axis("block", tuple(range(len(rows[0])))),
            BOUNDS,
        ),
        np.array(rows),
    )


def _whole_table(whole: dict[str, list[Estimate]]) -> Table:
    rows = tuple((name, *(format_estimate(f1) for f1 in by_block)) for name, by_block in whole.items())
    columns = ("features", *(f"block {b}" for b in range(len(rows[0]) - 1)))
    return Table(
        "Mean F1 over phones by block, for the layer as a whole and single features", "this run", columns, rows
    )


def _whole_notes(whole: dict[str, list[Estimate]]) -> tuple[str, ...]:
    """Return a note on the phones in the first blocks."""
    if not whole:
        return ()
    layer, single = whole["layer as a whole"], whole["best neuron of each phone"]
    early, _ = halves(len(layer))
    parts = [f"block {b}: {format_estimate(layer[b])} and {format_estimate(single[b])}" for b in early]
    return (
        "Mean F1 over phones in the earlier blocks, of the layer as a whole and of the best single neuron of each "
        f"phone: {'; '.join(parts)}. The log-mel has {format_estimate(whole['log-mel, no layer'][0])}. The best neuron "
        "of a phone is selected on the data on which it is scored, which favors it; the best random direction too.",
    )


def _by_block(name: str, groups: dict[str, Any], setting: Setting) -> Measurement:
    rng = setting.rng(f"F8 {name}")
    rows = [[_row(values[np.isfinite(values)], rng) for values in by_block] for by_block in groups.values()]
    return Measurement(
        name,
        (
            Axis("features", tuple(groups)),
            Axis("block", tuple(range(len(rows[0])))),
            BOUNDS,
        ),
        np.array(rows),
    )


def _row(values: Float[np.ndarray, "feature"], rng: np.random.Generator) -> list[float]:
    return Estimate.of(_mean(values), resampled_means(values, rng, 400)).row


def _table(title: str, groups: dict[str, Any], contrasts: dict[str, Any]) -> Table:
    rows = tuple(
        (name, *(f"{_mean(values):.3f}" for values in by_block), f"{contrasts[name][0]:+.3f}")
        for name, by_block in groups.items()
    )
    n = len(rows[0]) - 2
    return Table(title, "this run", ("features", *(f"block {b}" for b in range(n)), "later minus earlier"), rows)


def _lines(finding: Finding, name: str, title: str, label: str, main: str = "neurons") -> Figure:
    table = finding.measurement(name)
    blocks = np.array(table.axis("block").entries)
    figure, axes = new_figure(title, "encoder block", label)
    looks = {
        "neurons": (BLUE, "o", "-"),
        "random directions": (ORANGE, "^", "-"),
        "shifted labels": (GRAY, "x", ":"),
        "untrained model": (PURPLE, "s", "--"),
        "layer as a whole": (GREEN, "D", "-"),
        "layer, shifted labels": (GRAY, "x", ":"),
        "layer, untrained model": (PURPLE, "s", "--"),
        "log-mel, no layer": (INK, "", "-."),
        "best neuron of each phone": (BLUE, "o", "-"),
        "best random direction of each phone": (ORANGE, "^", "-"),
    }
    for kind in table.axis("features").entries:
        color, marker, line = looks[kind]
        values = table.at(features=kind)
        axes.plot(blocks, values[:, 0], color=color, marker=marker, linestyle=line, label=LEGEND.get(kind, short(kind)))
        axes.fill_between(blocks, values[:, 1], values[:, 2], color=color, alpha=0.2, linewidth=0)
    axes.set_xticks(blocks)
    axes.set_ylim(bottom=0)
    add_legend(axes, below=True)
    main_row = table.at(features=main, bound="value")
    figure.set_label(alt_text(f"{title}, {main}", main_row, [f"block {b}" for b in blocks], "", 1.0))
    return figure
