"""F17: are activations of the first encoder MLP more similar within speech and within other sounds than between them?

Source: a deleted notebook of github.com/er537/whisper_interpretability, which found no difference in tiny.en's
``encoder.blocks.0.mlp.0``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int

from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting, Untestable
from hooked_whisper.findings.core.figures import BLUE, GRAY, ORANGE, add_legend, alt_text, new_figure
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Measurement, Table
from hooked_whisper.findings.speech.encoder_readings import POSITIONS
from hooked_whisper.findings.speech.non_speech import KINDS, VARIANTS
from hooked_whisper.findings.speech.sample import SampleFacts, SpeechSample, counted, require_speech_sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Thresholds, fixed before the first run. The published contrast is 0.0011 (0.1552 within, 0.1541 between); the
# threshold allows about ten times as much. There is no published number for the centered cosine. Raw cosines were near
# 0.15 and share a common part; without it, the same differences are spread over the range from -1 to 1, so the
# threshold is larger: a contrast under 0.05 is less than a twentieth of a perfect match.
MOST_RAW = 0.01
MOST_CENTERED = 0.05
# The contrast between two halves of the speech must meet the same two thresholds. If it does not, the measure responds
# to clips or voices and not to speech, and there is no verdict. This gate was added after the run on tiny.en.
LEAST_CLIPS = 10  # clips of speech, which make 45 pairs
DRAWS = 1000

RAW = "contrast of the raw cosine, within less between"
CENTERED = "contrast of the centred cosine, within less between"
HALVES_RAW, HALVES_CENTERED = (f"{name}, two halves of the speech" for name in (RAW, CENTERED))
GROUPS = ("within speech", "within other sounds", "between")
COSINES = {False: "raw", True: "centred"}


@dataclass(frozen=True, eq=False)
class ClipCosines:
    """Mean cosine between the positions of every two clips. The first ``n_speech`` clips are speech."""

    values: Float[np.ndarray, "clip clip"]
    n_speech: int

    def groups(self, speech: Int[np.ndarray, "s"], sounds: Int[np.ndarray, "n"]) -> Float[np.ndarray, "3"]:
        """Return the mean over pairs of different clips for each of :data:`GROUPS`."""
        means = []
        for a, b in ((speech, speech), (sounds, sounds), (speech, sounds)):
            different = a[:, None] != b[None, :]
            pairs = self.values[np.ix_(a, b)][different]
            means.append(pairs.mean() if len(pairs) else np.nan)  # a resample of few clips may have only one clip
        return np.array(means)

    def estimates(self, rng: np.random.Generator) -> tuple[Estimate, list[Estimate]]:
        """Return the contrast and the means of :data:`GROUPS`, with a bootstrap over clips and sounds."""
        n = len(self.values)
        speech, sounds = np.arange(self.n_speech), np.arange(self.n_speech, n)
        value = self.groups(speech, sounds)
        draws = np.array(
            [self.groups(rng.choice(speech, len(speech)), rng.choice(sounds, len(sounds))) for _ in range(DRAWS)]
        )
        contrast = Estimate.of(_contrast(value), _contrast(draws))
        return contrast, [Estimate.of(v, d) for v, d in zip(value, draws.T, strict=True)]


def _contrast(groups: Float[np.ndarray, "*draw 3"]) -> Any:
    return groups[..., :2].mean(-1) - groups[..., 2]


def cosines(rows: Float[np.ndarray, "clip position feature"], n_speech: int, centered: bool) -> ClipCosines:
    """Return the mean cosine over all pairs of positions of every two clips.

    centered: first subtract the mean of the two group means, so that both groups have the same weight.
    """
    rows = rows.astype(float)
    if centered:
        rows = rows - (rows[:n_speech].mean((0, 1)) + rows[n_speech:].mean((0, 1))) / 2
    unit = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
    mean = unit.mean(1)  # the mean of all cosines is the product of the means of the unit vectors
    return ClipCosines(mean @ mean.T, n_speech)


@dataclass(frozen=True, eq=False)
class SpeechCosines:
    """Cosines between clips.

    Attributes:
        cosines: cosines by features and by whether they are centered.
        halves: contrasts between two halves of the speech, raw and centered.
        by_kind: contrasts between speech and each kind of sound, raw and centered.
    """

    sample: SampleFacts
    cosines: Mapping[tuple[str, bool], ClipCosines]
    halves: tuple[float, float]
    by_kind: Float[np.ndarray, "kind 2"]


class SpeechSimilarity(Experiment[SpeechCosines]):
    """F17: compare activations within speech, within other sounds, and between the two."""

    id, title = "F17", "Speech is no more like speech than like other sounds"
    claim = (
        "In the first encoder MLP, two speech clips are no more similar than speech and another sound (published as a "
        "null result)."
    )
    protocol = (
        "The cosine of encoder.blocks.0.mlp.hook_pre is measured between single positions of different clips: two "
        "speech clips, two other sounds (silence, noise, tones and speech-shaped noise at the same level), or one of "
        "each. The contrast is the mean of both within-group cosines minus the cosine between the groups. It is "
        "measured raw, as published, and after subtracting the mean activation of both groups, which all positions "
        "share and which hides differences. Padding and pauses are left out. Two checks of the measure: the log-mel "
        "spectrogram, in which speech and these sounds differ, must show a difference; two halves of the speech, split "
        "by voice, must show none. Intervals: 95 %, bootstrap over clips and sounds."
    )
    published = (
        Table(
            "Mean cosine, tiny.en, 30 s of each",
            "deleted notebook of github.com/er537/whisper_interpretability",
            ("pairs", "cosine"),
            (("within speech", "0.1562"), ("within other sounds", "0.1542"), ("between", "0.1541")),
        ),
    )
    published_summary = "tiny.en: 0.1562 within speech, 0.1542 within other sounds, 0.1541 between: no difference"

    def parameters(self, context: Context) -> dict[str, Any]:
        return {"point": "encoder.blocks.0.mlp.hook_pre", "positions": POSITIONS}

    def measure(self, context: Context) -> SpeechCosines:
        """Read the activations that F12, F13, F14 and F17 share."""
        sample = require_speech_sample(context)
        n = len(sample.languages)
        if n < 2:
            reason = f"there is one clip of speech, expected {LEAST_CLIPS} or more: pass more by --audio or --corpus"
            raise Untestable(reason, sample.facts.inputs)
        early = sample.readings.early
        rows = {
            "encoder": early,
            "log-mel": sample.readings.mel,
            "untrained encoder": sample.untrained.early,
            "encoder, after GELU": torch.nn.functional.gelu(torch.from_numpy(early)).numpy(),
        }
        return SpeechCosines(
            sample.facts,
            {(name, centered): cosines(x, n, centered) for name, x in rows.items() for centered in COSINES},
            (within_speech(sample, centered=False), within_speech(sample, centered=True)),
            _by_kind(sample),
        )

    def judge(self, measured: SpeechCosines, setting: Setting) -> Finding:
        contrasts: dict[tuple[str, bool], Estimate] = {}
        rows = []
        for (name, centered), of_clips in measured.cosines.items():
            contrast, means = of_clips.estimates(setting.rng(f"F17 {name} {centered}"))
            contrasts[name, centered] = contrast
            rows.append([estimate.row for estimate in (*means, contrast)])
        names = tuple(dict.fromkeys(name for name, _ in measured.cosines))
        axes = (
            Axis("features", names),
            Axis("cosine", tuple(COSINES.values())),
            Axis("pairs", (*GROUPS, "contrast")),
            Axis("bound", ("value", "low", "high")),
        )
        table = Measurement("mean cosine", axes, np.reshape(rows, (len(names), 2, 4, 3)))
        n, (half_raw, half_centered) = len(measured.sample.languages), measured.halves
        return self.finding(
            setting,
            inputs=measured.sample.inputs,
            criteria=(
                Criterion(RAW, contrasts["encoder", False], MOST_RAW, "at most"),
                Criterion(CENTERED, contrasts["encoder", True], MOST_CENTERED, "at most"),
                Criterion(HALVES_RAW, Estimate(half_raw), MOST_RAW, "at most", role="gate"),
                Criterion(HALVES_CENTERED, Estimate(half_centered), MOST_CENTERED, "at most", role="gate"),
                Criterion("clips of speech", Estimate(n), LEAST_CLIPS, "at least", role="gate"),
            ),
            controls=(
                Control(
                    "log-mel",
                    "the spectrogram at the same positions, which must show a difference",
                    {RAW: contrasts["log-mel", False], CENTERED: contrasts["log-mel", True]},
                ),
            ),
            measurements=(
                table,
                Measurement(
                    "contrast of speech and each kind of sound",
                    (Axis("kind", KINDS), Axis("cosine", tuple(COSINES.values()))),
                    measured.by_kind,
                ),
            ),
            tables=(_table(table),),
            notes=(
                f"Speech: {counted(measured.sample.languages)}; other sounds: {VARIANTS} each of {', '.join(KINDS)}. "
                f"These are synthetic; the published sounds were recordings. {POSITIONS} positions of each clip are "
                "used.",
                "Before and after GELU the activations have the same size. Those before are judged; after, the raw "
                f"cosine is {_in_short(table)} (published for tiny.en: 0.156 within speech).",
                "F13 tests the same difference with linear probes.",
            ),
        )

    def draw(self, finding: Finding) -> list[Figure]:
        """Draw the three cosines, raw and centered."""
        table = finding.measurement("mean cosine")
        figures = []
        for kind in COSINES.values():
            title = f"{kind.capitalize()} cosine"
            figure, axes = new_figure(title, "", "mean cosine")
            x = np.arange(len(GROUPS))
            for k, (name, color) in enumerate((("encoder", BLUE), ("untrained encoder", GRAY), ("log-mel", ORANGE))):
                rows = table.at(features=name, cosine=kind)[: len(GROUPS)]
                errors = np.abs(rows[:, 1:] - rows[:, :1]).T
                axes.bar(x + 0.27 * (k - 1), rows[:, 0], width=0.25, color=color, label=name, yerr=errors, capsize=2)
            axes.set_xticks(x, GROUPS)
            add_legend(axes, below=True)
            encoder = table.at(features="encoder", cosine=kind, bound="value")[: len(GROUPS)]
            figure.set_label(alt_text(title, encoder, GROUPS, "", 1.0))
            figures.append(figure)
        return figures


def within_speech(sample: SpeechSample, centered: bool) -> float:
    """Return the contrast between two halves of the speech: every second voice, or every second clip if there is only
    one voice."""
    n = len(sample.languages)
    names = sorted(set(sample.voices))
    half = np.array([names.index(voice) % 2 for voice in sample.voices]) if len(names) > 1 else np.arange(n) % 2
    order = np.argsort(half, kind="stable")
    first = int((half == 0).sum())
    halves = cosines(sample.readings.early[:n][order], first, centered)
    return float(_contrast(halves.groups(np.arange(first), np.arange(first, n))))


def _by_kind(sample: SpeechSample) -> Float[np.ndarray, "kind 2"]:
    """Return the contrast between speech and the three sounds of each kind."""
    n = len(sample.languages)
    rows = sample.readings.early
    values = []
    for kind in range(len(KINDS)):
        sounds = rows[n + VARIANTS * kind : n + VARIANTS * (kind + 1)]
        clips = [cosines(np.concatenate([rows[:n], sounds]), n, centered) for centered in COSINES]
        values.append([_contrast(c.groups(np.arange(n), np.arange(n, n + VARIANTS))) for c in clips])
    return np.array(values)


def _in_short(table: Measurement) -> str:
    values = table.at(features="encoder, after GELU", cosine="raw", bound="value")
    return ", ".join(f"{value:.3f} {name}" for value, name in zip(values, GROUPS, strict=False))


def _table(table: Measurement) -> Table:
    rows = [
        (f"{name}, {kind}", *(f"{v:.3f}" for v in table.at(features=name, cosine=kind, bound="value")))
        for name in table.axis("features").entries
        for kind in table.axis("cosine").entries
    ]
    return Table("Mean cosine", "this run", ("activations", *table.axis("pairs").entries), tuple(rows))
