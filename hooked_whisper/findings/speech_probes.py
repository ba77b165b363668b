"""F13: can linear probes on encoder blocks detect the language, and tell speech from other sounds?

Source: ``probes/`` of github.com/er537/whisper_interpretability and a comment under the LessWrong version of its post,
which name encoder blocks 2 and 3 of tiny and give no numbers. The probes there are trained by gradient descent, with a
softmax before the cross-entropy. Here ridge regression is used, which needs no schedule and has a unique solution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting
from hooked_whisper.findings.core.figures import BLUE, GRAY, ORANGE, PURPLE, add_legend, alt_text, new_figure
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Measurement, Table
from hooked_whisper.findings.early_blocks import halves
from hooked_whisper.findings.speech.encoder_readings import EncoderReadings
from hooked_whisper.findings.speech.non_speech import KINDS, VARIANTS
from hooked_whisper.findings.speech.probes import Fold, fold_hits, voice_folds
from hooked_whisper.findings.speech.sample import SampleFacts, SpeechSample, counted, require_speech_sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Thresholds, fixed before the first run. The source has no numbers, so they are shares of the possible improvement:
# half of the way from the most common answer to no error, and a quarter of the log-mel's errors avoided, because
# whatever a probe also reads from the spectrogram is not due to the encoder. A threshold of half of the errors would
# require nearly all clips to be right where the spectrogram has few errors; with some 40 clips, the interval of a
# smaller share includes zero. Since the run on tiny.en, with the same thresholds, intervals are over voices: clips of
# one voice are similar, and with two voices for most languages, an interval over clips is too narrow.
LEAST_SCORE = 0.5
LEAST_AVOIDED = 0.25
LEAST_VOICES = 2  # voices of each of two languages: one for training, one for the test
SHUFFLES = 10
DRAWS = 1000

LANGUAGE = "language: score of the later blocks on unheard voices"
LANGUAGE_GAIN = "language: share of log-mel's errors avoided"
SPEECH = "is it speech: score of the later blocks on unheard voices and kinds of sound"
SPEECH_GAIN = "is it speech: share of log-mel's errors avoided"
FEATURES = ("encoder", "untrained encoder", "shuffled labels", "log-mel")
UNITS = ("clip", "position")


@dataclass(frozen=True, eq=False)
class ProbeHits:
    """Results of probes for one question.

    Attributes:
        classes: true class of each clip. Scores are balanced over classes.
        groups: voice or kind of sound of each clip. The bootstrap resamples groups, with all of their clips.
        hits: share of right answers for each clip, by features; NaN if the clip is not tested. For the log-mel, all
            blocks are equal.
    """

    classes: Int[np.ndarray, "clip"]
    groups: Int[np.ndarray, "clip"]
    hits: dict[str, Float[np.ndarray, "block clip"]]

    @property
    def n_classes(self) -> int:
        return len(np.unique(self.classes[self.tested]))

    @property
    def tested(self) -> np.ndarray:
        return np.isfinite(self.hits["encoder"][0])

    def drawn(self, rng: np.random.Generator) -> Float[np.ndarray, "draw clip"]:
        """Return how often each clip is in each bootstrap sample. Groups are resampled within their class."""
        counts = np.zeros((DRAWS, len(self.classes)))
        for k in np.unique(self.classes[self.tested]):
            names = np.unique(self.groups[self.tested & (self.classes == k)])
            drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
            for name, times in zip(names, drawn.T, strict=True):
                counts[:, self.tested & (self.classes == k) & (self.groups == name)] = times[:, None]
        return counts

    def accuracy(self, feature: str, counts: Float[np.ndarray, "*draw clip"]) -> Float[np.ndarray, "block *draw"]:
        """Return the mean over classes of the share of right answers. ``counts`` are weights of the clips."""
        values = np.where(self.tested, self.hits[feature], 0)
        means = []
        for k in np.unique(self.classes[self.tested]):
            weights = counts * (self.classes == k)
            means.append(values @ weights.T / weights.sum(-1))
        return np.mean(means, axis=0)

    def every(self) -> Float[np.ndarray, "clip"]:
        """Return a weight of 1 for each tested clip."""
        return self.tested.astype(float)


def probe_all(context: Context, sample: SpeechSample) -> dict[tuple[str, str], ProbeHits]:
    """Train and test all probes, by question and unit. The question of language is left out if fewer than two languages
    have two voices."""
    rng = context.rng("shuffled labels, F13")
    codes = sorted(set(sample.languages))
    n_speech = len(sample.languages)
    probed: dict[tuple[str, str], ProbeHits] = {}
    language_of = np.array([codes.index(code) for code in sample.languages])
    folds = voice_folds(sample.languages, sample.voices)
    for unit in UNITS if folds else ():
        probed["language", unit] = _probe(sample, language_of, folds, unit, n_speech, rng)
    is_speech = np.array([1] * n_speech + [0] * len(sample.sounds))
    for question, by_kind in (("is it speech", True), ("is it speech, known kinds", False)):
        for unit in UNITS:
            probed[question, unit] = _probe(sample, is_speech, speech_folds(sample, by_kind), unit, len(is_speech), rng)
    return probed


def speech_folds(sample: SpeechSample, by_kind: bool) -> list[Fold]:
    """Return folds over two halves of the voices, combined with the kinds of sound (``by_kind``) or with the variants
    of each kind."""
    voices = sorted(set(sample.voices))
    half = np.array([voices.index(voice) % 2 for voice in sample.voices])
    n_sounds = len(sample.sounds)
    group = np.arange(n_sounds) // VARIANTS if by_kind else np.arange(n_sounds) % VARIANTS
    folds = []
    for h in (0, 1) if len(voices) > 1 else ():
        for k in range(group.max() + 1):
            train, test = np.concatenate([half != h, group != k]), np.concatenate([half == h, group == k])
            folds.append(Fold(train, test))
    return folds


def _probe(
    sample: SpeechSample,
    labels: Int[np.ndarray, "clip"],
    folds: list[Fold],
    unit: str,
    n_clips: int,
    rng: np.random.Generator,
) -> ProbeHits:
    names = [*sample.voices, *(sound.kind for sound in sample.sounds)][:n_clips]
    known = np.flatnonzero(np.any([fold.train | fold.test for fold in folds], axis=0)) if folds else np.arange(0)
    shuffled = np.stack([labels] * (1 + SHUFFLES))
    for row in shuffled[1:]:
        row[known] = rng.permutation(labels[known])
    hits: dict[str, list[np.ndarray]] = {feature: [] for feature in FEATURES}
    mel = fold_hits(_mel(sample.readings, unit)[:n_clips], labels[None], folds)[0]
    for block, untrained in zip(_rows(sample.readings, unit), _rows(sample.untrained, unit), strict=True):
        by_labeling = fold_hits(block[:n_clips], shuffled, folds)
        hits["encoder"].append(by_labeling[0])
        hits["shuffled labels"].append(by_labeling[1:].mean(0))
        hits["untrained encoder"].append(fold_hits(untrained[:n_clips], labels[None], folds)[0])
        hits["log-mel"].append(mel)
    return ProbeHits(
        labels, np.unique(names, return_inverse=True)[1], {feature: np.array(rows) for feature, rows in hits.items()}
    )


def _rows(readings: EncoderReadings, unit: str) -> Float[np.ndarray, "block clip row feature"]:
    return readings.pooled[:, :, None] if unit == "clip" else readings.positions


def _mel(readings: EncoderReadings, unit: str) -> Float[np.ndarray, "clip row feature"]:
    return readings.pooled_mel[:, None] if unit == "clip" else readings.mel


def later_score(probed: ProbeHits, feature: str, counts: np.ndarray) -> Float[np.ndarray, "*draw"]:
    """Return the score from 0 (chance) to 1 (no error), averaged over the later half of the blocks."""
    later = halves(len(probed.hits[feature]))[1]
    chance = 1 / probed.n_classes
    return np.asarray((probed.accuracy(feature, counts)[later].mean(0) - chance) / (1 - chance))


def avoided(probed: ProbeHits, feature: str, counts: np.ndarray) -> Float[np.ndarray, "*draw"]:
    """Return the share of the log-mel's errors that another probe avoids, or NaN if the log-mel makes no error."""
    errors = 1 - later_score(probed, "log-mel", counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(errors > 1e-9, 1 - (1 - later_score(probed, feature, counts)) / errors, np.nan)


def _estimates(
    probed: ProbeHits, feature: str, names: tuple[str, str], rng: np.random.Generator
) -> dict[str, Estimate]:
    draws, every = probed.drawn(rng), probed.every()
    return {
        name: Estimate.of(float(statistic(probed, feature, every)), statistic(probed, feature, draws))
        for name, statistic in zip(names, (later_score, avoided), strict=True)
    }


@dataclass(frozen=True, eq=False)
class SpeechProbeHits:
    """Results of all probes, by question and unit. ``n_blocks`` is the number of encoder blocks."""

    sample: SampleFacts
    probed: Mapping[tuple[str, str], ProbeHits]
    n_blocks: int


class SpeechProbes(Experiment[SpeechProbeHits]):
    """F13: train linear probes for language and for speech on every encoder block."""

    id, title = "F13", "Linear probes for language and for speech"
    claim = "Linear probes on the later encoder blocks detect the language, and tell speech from other sounds."
    protocol = (
        "One probe per block (ridge regression in closed form with a fixed penalty) reads the residual stream after "
        "the block. The probe for language reads the mean over a clip's positions and is tested on voices that are "
        "not in its training set. The probe for speech reads single positions and separates speech from silence, "
        "noise, tones and speech-shaped noise at the same level; it is tested on voices and kinds of sound that are "
        "not in its training set. Padding and pauses are left out. Scores range from 0 (always the most common "
        "answer) to 1 (no error), are balanced over classes, and are averaged over the later half of the blocks (2 "
        "and 3 of tiny, as published). Controls: the same probes on the log-mel spectrogram, on the blocks of an "
        "untrained model, and with shuffled labels. Intervals: 95 %, bootstrap over voices and kinds of sound, with "
        "all of their clips."
    )
    published_summary = "tiny, blocks 2 and 3: probes for language and is-speech were said to work; no numbers"

    def parameters(self, context: Context) -> dict[str, Any]:
        return {"later_blocks": halves(context.model.cfg.encoder.n_layers)[1], "shuffles": SHUFFLES}

    def measure(self, context: Context) -> SpeechProbeHits:
        """Read the activations that F12, F13, F14 and F17 share, and train the probes in closed form."""
        sample = require_speech_sample(context)
        return SpeechProbeHits(sample.facts, probe_all(context, sample), context.model.cfg.encoder.n_layers)

    def judge(self, measured: SpeechProbeHits, setting: Setting) -> Finding:
        probed, sample = measured.probed, measured.sample
        statistics: dict[str, dict[str, Estimate]] = {features: {} for features in FEATURES}
        judged = (
            (("language", "clip"), (LANGUAGE, LANGUAGE_GAIN)),
            (("is it speech", "position"), (SPEECH, SPEECH_GAIN)),
        )
        for key, names in judged:
            if key in probed and probed[key].tested.any():
                for features in FEATURES:
                    statistics[features] |= _estimates(probed[key], features, names, setting.rng(f"F13 {key}"))
        encoder = statistics["encoder"]
        enough, name = _voices_gate(sample)
        descriptions = {
            "log-mel": "the same probes on the encoder's input, the spectrogram (for language, its mean and deviation)",
            "untrained encoder": "the same probes on random weights",
            "shuffled labels": (
                f"probes that are trained on shuffled labels ({SHUFFLES} times) and tested on the true labels"
            ),
        }
        chance = {name: Estimate(0) for name in (LANGUAGE, SPEECH) if name in encoder}
        thresholds = {
            LANGUAGE: LEAST_SCORE,
            SPEECH: LEAST_SCORE,
            LANGUAGE_GAIN: LEAST_AVOIDED,
            SPEECH_GAIN: LEAST_AVOIDED,
        }
        return self.finding(
            setting,
            inputs=sample.inputs,
            criteria=(
                *(Criterion(n, encoder[n], least, "at least") for n, least in thresholds.items() if n in encoder),
                Criterion(name, Estimate(enough), 2, "at least", role="gate"),
            ),
            controls=(
                *(Control(name, text, statistics[name]) for name, text in descriptions.items()),
                Control("commonest answer", "chance, because the classes are balanced", chance),
            ),
            measurements=_measurements(measured, setting),
            tables=_tables(probed),
            notes=_notes(sample, probed),
        )

    def draw(self, finding: Finding) -> list[Figure]:
        """Draw the accuracy by block for language and for speech, with the controls."""
        looks = dict(
            zip(FEATURES, ((BLUE, "o", "-"), (PURPLE, "s", "--"), (GRAY, "x", ":"), (ORANGE, "^", "-")), strict=True)
        )
        names = [measurement.name for measurement in finding.measurements]
        figures = []
        for question, unit, title in (
            ("language", "clip", "Language"),
            ("is it speech", "position", "Is it speech?"),
        ):
            if f"accuracy, {question}" not in names:
                continue
            table = finding.measurement(f"accuracy, {question}")
            blocks = np.array(table.axis("block").entries)
            title_of_unit = f"{title} by block, one answer per {unit}"
            figure, axes = new_figure(title_of_unit, "encoder block", "balanced accuracy (%)")
            for features, (color, marker, line) in looks.items():
                values = 100 * table.at(unit=unit, features=features)
                axes.plot(blocks, values[:, 0], color=color, marker=marker, linestyle=line, label=features)
                axes.fill_between(blocks, values[:, 1], values[:, 2], color=color, alpha=0.2, linewidth=0)
            axes.set_xticks(blocks)
            axes.set_ylim(0, 102)
            add_legend(axes, below=True)
            accuracy = table.at(unit=unit, features="encoder", bound="value")
            figure.set_label(alt_text(f"{title} by block", accuracy, [f"block {b}" for b in blocks]))
            figures.append(figure)
        return figures


def _voices_gate(sample: SampleFacts) -> tuple[int, str]:
    """Return the number of languages with enough voices and the name of the gate, which includes the remedy if the gate
    is not met."""
    codes = sorted(set(sample.languages))
    enough = sum(len(sample.voices_of(code)) >= LEAST_VOICES for code in codes)
    voices = ", ".join(f"{len(sample.voices_of(code))} of {code}" for code in codes)
    missing = (
        f" ({counted(sample.languages)} by {voices} voices: leave out --corpus and --audio, or pass --corpus with "
        f"{LEAST_VOICES} voices or more of each of two languages)"
        if enough < 2
        else ""
    )
    return enough, f"languages with {LEAST_VOICES} voices or more{missing}"


def _measurements(measured: SpeechProbeHits, setting: Setting) -> tuple[Measurement, ...]:
    probed = measured.probed
    blocks = Axis("block", tuple(range(measured.n_blocks)))
    bound, features, units = Axis("bound", ("value", "low", "high")), Axis("features", FEATURES), Axis("unit", UNITS)
    tables = []
    for question in dict.fromkeys(question for question, _ in probed):
        rows = []
        for unit in UNITS:
            hits = probed[question, unit]
            if not hits.tested.any():
                continue
            draws, every = hits.drawn(setting.rng(f"F13 {question} {unit}")), hits.every()
            for feature in FEATURES:
                values, samples = hits.accuracy(feature, every), hits.accuracy(feature, draws)
                rows.append([Estimate.of(v, s).row for v, s in zip(values, samples, strict=True)])
        if rows:
            shape = (len(UNITS), len(FEATURES), len(blocks.entries), 3)
            tables.append(
                Measurement(f"accuracy, {question}", (units, features, blocks, bound), np.reshape(rows, shape))
            )
    speech = probed["is it speech", "position"]
    if speech.tested.any():
        n = len(measured.sample.languages)
        kinds = [
            [speech.hits[f][:, n + VARIANTS * k : n + VARIANTS * (k + 1)].mean(1) for k in range(len(KINDS))]
            for f in FEATURES
        ]
        axes = (features, Axis("unheard kind", KINDS), blocks)
        tables.append(Measurement("positions of an unheard kind of sound told from speech", axes, np.array(kinds)))
    return tuple(tables)


def _tables(probed: Mapping[tuple[str, str], ProbeHits]) -> tuple[Table, ...]:
    tables = []
    for (question, unit), hits in probed.items():
        if not hits.tested.any():
            continue
        values = {feature: hits.accuracy(feature, hits.every()) for feature in FEATURES}
        rows = tuple((feature, *(f"{100 * v:.0f} %" for v in row)) for feature, row in values.items())
        columns = ("features", *(f"block {b}" for b in range(len(rows[0]) - 1)))
        title = f"Accuracy, {question}, one answer per {unit} (chance {100 / hits.n_classes:.0f} %)"
        tables.append(Table(title, "this run", columns, rows))
    return tuple(tables)


def _notes(sample: SampleFacts, probed: Mapping[tuple[str, str], ProbeHits]) -> tuple[str, ...]:
    voices = {code: len(sample.voices_of(code)) for code in sorted(set(sample.languages))}
    notes = [f"Clips: {counted(sample.languages)}; voices: {', '.join(f'{n} of {c}' for c, n in voices.items())}."]
    if ("language", "clip") in probed:
        single = [code for code, n in voices.items() if n < LEAST_VOICES]
        if single:
            notes.append(
                f"These languages are left out, because they have no second voice for the test: {', '.join(single)}."
            )
        if not sample.named_voices:
            notes.append("The corpus does not name speakers, so a voice may be in the training and in the test set.")
        if sample.repeated_texts:
            notes.append(
                "Some sentences are spoken by several voices, so a sentence may be in the training and in the test set."
            )
    notes.append(
        "Each voice speaks one language. Other properties that the voices of a language share (the synthesizer, the "
        "recording) cannot be separated from the language. Use --corpus to test other speech."
    )
    notes.append("The sounds are synthetic; music, animals and crowds are not among them.")
    return tuple(notes)
