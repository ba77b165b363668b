"""F17: are activations of the first MLP more alike within speech, or within other sounds, than between the two?

Source: a deleted notebook of github.com/er537/whisper_interpretability; 1536 numbers a position, the size of tiny.en's
``encoder.blocks.0.mlp.0``. It found no difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int

from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.figures import BLUE, GRAY, ORANGE, add_legend, alt_text, new_figure
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Measurement, Table
from hooked_whisper.findings.speech.encoder_readings import POSITIONS
from hooked_whisper.findings.speech.non_speech import KINDS, VARIANTS
from hooked_whisper.findings.speech.sample import LANGUAGES, SpeechSample, counted, facts_of, speech_sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ID, TITLE = "F17", "Speech is no more like speech than like other sounds"
CLAIM = (
    "After the first encoder MLP, two speech clips are no more alike than speech and another sound (published as "
    "a null result)."
)
PROTOCOL = (
    "Cosine of encoder.blocks.0.mlp.hook_pre between single positions of different clips: speech and speech, other "
    "sounds (silence, noise, tones, noise shaped like speech, all equally loud) among themselves, and one of each. "
    "Contrast: mean of both within-group cosines less the cosine between the groups. Raw, as published, and after "
    "subtracting the mean activation of both groups, which every position shares and which hides differences. Padding "
    "and pauses are left out. Two checks of the measure: the log-mel spectrogram, in which speech and these sounds do "
    "differ, must show a difference; two halves of the speech, split by voice, must show none. Intervals: 95 %, "
    "bootstrap over clips and sounds."
)

# Written before the first run. The published contrast is 0.0011 (0.1552 within, 0.1541 between): a null result holds up
# to about ten times as much. The centred cosine has no published number; it spreads the same differences over a range
# from -1 to 1 without the common part (raw cosines were near 0.15), so the bar is wider: a contrast under 0.05 is
# less than one part in twenty of a perfect match.
MOST_RAW = 0.01
MOST_CENTRED = 0.05
# Between two halves of the speech there is nothing to find. A measure that finds more than the threshold there finds
# clips or voices, not speech, and gives no verdict: a gate with the same two thresholds, added after the run on
# tiny.en.
LEAST_CLIPS = 10  # of speech, each against each: 45 pairs
DRAWS = 1000

RAW = "contrast of the raw cosine, within less between"
CENTRED = "contrast of the centred cosine, within less between"
HALVES_RAW, HALVES_CENTRED = (f"{name}, two halves of the speech" for name in (RAW, CENTRED))
GROUPS = ("within speech", "within other sounds", "between")

PUBLISHED = Table(
    "Mean cosine, tiny.en, 30 s of each",
    "deleted notebook of github.com/er537/whisper_interpretability",
    ("pairs", "cosine"),
    (("within speech", "0.1562"), ("within other sounds", "0.1542"), ("between", "0.1541")),
)


@dataclass(frozen=True, eq=False)
class Cosines:
    """Mean cosine of the positions of two clips; the first ``n_speech`` clips are speech."""

    values: Float[np.ndarray, "clip clip"]
    n_speech: int

    def groups(self, speech: Int[np.ndarray, "s"], sounds: Int[np.ndarray, "n"]) -> Float[np.ndarray, "3"]:
        """Means over pairs of different clips, in the order of :data:`GROUPS`."""
        means = []
        for a, b in ((speech, speech), (sounds, sounds), (speech, sounds)):
            different = a[:, None] != b[None, :]
            pairs = self.values[np.ix_(a, b)][different]
            means.append(pairs.mean() if len(pairs) else np.nan)  # a resample of few clips may be one clip
        return np.array(means)

    def estimates(self, rng: np.random.Generator) -> tuple[Estimate, list[Estimate]]:
        """The contrast, and the three means."""
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


def cosines(rows: Float[np.ndarray, "clip position feature"], n_speech: int, centred: bool) -> Cosines:
    """Mean cosine over all pairs of positions of each two clips.

    centred: without the mean of the group means, so that the larger group does not decide what is common.
    """
    rows = rows.astype(float)
    if centred:
        rows = rows - (rows[:n_speech].mean((0, 1)) + rows[n_speech:].mean((0, 1))) / 2
    unit = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
    mean = unit.mean(1)  # the mean of all cosines is the product of the means of the unit vectors
    return Cosines(mean @ mean.T, n_speech)


def run(context: Context) -> Finding:
    """The encoder passes are those of F12, F13 and F14."""
    if not context.utterances and context.language_speech is None:
        return Finding(**_facts(context), reason_untestable=f"no speech: {LANGUAGES}")
    return judge(context, speech_sample(context))


def judge(context: Context, sample: SpeechSample) -> Finding:
    n = len(sample.languages)
    if n < 2:
        reason = f"one clip of speech: needs {LEAST_CLIPS}, pass --audio or --corpus with more"
        return Finding(**_facts(context, sample), reason_untestable=reason)
    sources = {
        "encoder": sample.readings.early,
        "log-mel": sample.readings.mel,
        "untrained encoder": sample.untrained.early,
        "encoder, after GELU": torch.nn.functional.gelu(torch.from_numpy(sample.readings.early)).numpy(),
    }
    contrasts: dict[str, dict[str, Estimate]] = {}
    table = []
    for source, rows in sources.items():
        contrasts[source] = {}
        for name, centred in ((RAW, False), (CENTRED, True)):
            contrast, means = cosines(rows, n, centred).estimates(context.rng(f"F17 {source} {centred}"))
            contrasts[source][name] = contrast
            table.append([one.row for one in (*means, contrast)])
    axes = (
        Axis("features", tuple(sources)),
        Axis("cosine", ("raw", "centred")),
        Axis("pairs", (*GROUPS, "contrast")),
        Axis("bound", ("value", "low", "high")),
    )
    measured = Measurement("mean cosine", axes, np.reshape(table, (len(sources), 2, 4, 3)))
    ours = contrasts["encoder"]
    within = [within_speech(sample, centred) for centred in (False, True)]
    return Finding(
        **_facts(context, sample),
        criteria=(
            Criterion(RAW, ours[RAW], MOST_RAW, "at most"),
            Criterion(CENTRED, ours[CENTRED], MOST_CENTRED, "at most"),
            Criterion(HALVES_RAW, Estimate(within[0]), MOST_RAW, "at most", role="gate"),
            Criterion(HALVES_CENTRED, Estimate(within[1]), MOST_CENTRED, "at most", role="gate"),
            Criterion("clips of speech", Estimate(n), LEAST_CLIPS, "at least", role="gate"),
        ),
        controls=(
            Control("log-mel", "the spectrogram at the same positions: must show a difference", contrasts["log-mel"]),
        ),
        measurements=(measured, _by_kind(sample)),
        tables=(_table(measured),),
        published=(PUBLISHED,),
        notes=(
            f"Speech: {counted(sample.languages)}; other sounds: {VARIANTS} each of {', '.join(KINDS)}. They are "
            f"synthetic; the published ones were recordings. {POSITIONS} positions of each clip.",
            "Before and after GELU the activations have the same size. Those before are judged; after, the raw cosine "
            f"is {_in_short(measured)} (published for tiny.en: 0.156 within speech).",
            "F13 looks for the same difference with linear probes.",
        ),
    )


def within_speech(sample: SpeechSample, centred: bool) -> float:
    """The contrast between two halves of the speech: every second voice, or every second clip if there is one voice."""
    n = len(sample.languages)
    names = sorted(set(sample.voices))
    half = np.array([names.index(voice) % 2 for voice in sample.voices]) if len(names) > 1 else np.arange(n) % 2
    order = np.argsort(half, kind="stable")
    first = int((half == 0).sum())
    both = cosines(sample.readings.early[:n][order], first, centred)
    return float(_contrast(both.groups(np.arange(first), np.arange(first, n))))


def _by_kind(sample: SpeechSample) -> Measurement:
    """The contrast of speech with the three sounds of each kind alone."""
    n = len(sample.languages)
    rows = sample.readings.early
    values = []
    for kind in range(len(KINDS)):
        sounds = rows[n + VARIANTS * kind : n + VARIANTS * (kind + 1)]
        both = [cosines(np.concatenate([rows[:n], sounds]), n, centred) for centred in (False, True)]
        values.append([_contrast(one.groups(np.arange(n), np.arange(n, n + VARIANTS))) for one in both])
    axes = (Axis("kind", KINDS), Axis("cosine", ("raw", "centred")))
    return Measurement("contrast of speech and each kind of sound", axes, np.array(values))


def _in_short(measured: Measurement) -> str:
    values = measured.at(features="encoder, after GELU", cosine="raw", bound="value")
    return ", ".join(f"{value:.3f} {name}" for value, name in zip(values, GROUPS, strict=False))


def _table(measured: Measurement) -> Table:
    rows = [
        (f"{source}, {kind}", *(f"{v:.3f}" for v in measured.at(features=source, cosine=kind, bound="value")))
        for source in measured.axis("features").entries
        for kind in measured.axis("cosine").entries
    ]
    return Table("Mean cosine", "this run", ("activations", *measured.axis("pairs").entries), tuple(rows))


def _facts(context: Context, sample: SpeechSample | None = None) -> dict[str, Any]:
    return facts_of(
        context,
        sample,
        (ID, TITLE, CLAIM, PROTOCOL),
        "tiny.en: 0.1562 within speech, 0.1542 within other sounds, 0.1541 between: no difference",
        point="encoder.blocks.0.mlp.hook_pre",
        positions=POSITIONS,
    )


def draw(finding: Finding) -> list[Figure]:
    """The three cosines, raw and centred."""
    if not finding.measurements:
        return []
    table = finding.measurement("mean cosine")
    figures = []
    for kind in ("raw", "centred"):
        figure, axes = new_figure(f"{kind.capitalize()} cosine", "", "mean cosine")
        at = np.arange(len(GROUPS))
        for k, (source, colour) in enumerate((("encoder", BLUE), ("untrained encoder", GRAY), ("log-mel", ORANGE))):
            rows = table.at(features=source, cosine=kind)[: len(GROUPS)]
            errors = np.abs(rows[:, 1:] - rows[:, :1]).T
            axes.bar(at + 0.27 * (k - 1), rows[:, 0], width=0.25, color=colour, label=source, yerr=errors, capsize=2)
        axes.set_xticks(at, GROUPS)
        add_legend(axes, below=True)
        own = table.at(features="encoder", cosine=kind, bound="value")[: len(GROUPS)]
        figure.set_label(alt_text(f"{kind.capitalize()} cosine", own, GROUPS, "", 1.0))
        figures.append(figure)
    return figures
