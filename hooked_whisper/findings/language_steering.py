"""F14: does adding the difference between two languages' means to the encoder change the detected language?

Source: the steering code of github.com/er537/whisper_interpretability (no results published). That code uses one mean
per position, which also encodes the lengths of the clips; here the mean is taken over positions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_whisper.findings.core.context import ENCODER_BATCH, Context
from hooked_whisper.findings.core.experiment import Experiment, Setting, Untestable
from hooked_whisper.findings.core.figures import BLUE, GRAY, add_legend, alt_text, draw_controls, new_figure
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Measurement
from hooked_whisper.findings.core.transcripts import Transcriber, errors_of
from hooked_whisper.findings.speech.sample import (
    LANGUAGES,
    SampleFacts,
    SpeechSample,
    counted,
    detect,
    require_multilingual,
    require_speech_sample,
)
from hooked_whisper.interventions.steer import random_control

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COEFFICIENTS = (1.0, 2.0, 4.0)
# Fixed before the first run of a released model on the packaged clips; the thresholds are unchanged. Every clip is
# steered by a direction from the other half, so 6 clips per language are 12 steered clips, of which 10 flips are
# clearly more than half. To save time no more clips are steered, but the directions are means over all clips.
LEAST_CLIPS = 6  # clips of each language
SPARE_WER = 0.1
EXCESS = "share of clips flipped, less five times that of a random direction"
FLIPPED = "share of clips flipped before the words are lost"


@dataclass(frozen=True, eq=False)
class SteeringResult:
    """Effect of steering on clips that are not among those of the direction.

    Attributes:
        flipped: whether the clip is detected as the other language.
        wrong: word errors of the clip.
    """

    flipped: Bool[np.ndarray, "coefficient clip"]
    wrong: Float[np.ndarray, "coefficient clip"]

    def usable(self, words: Float[np.ndarray, "clip"], plain: Float[np.ndarray, "clip"]) -> list[int]:
        """Return the indices of coefficients whose WER is acceptable.

        Args:
            words: number of words of each clip.
            plain: word errors of each clip without steering.
        """
        most = max(2 * plain.sum() / words.sum(), SPARE_WER)
        return [k for k, row in enumerate(self.wrong) if row.sum() / words.sum() <= most]

    def flips(self, usable: Sequence[int]) -> Float[np.ndarray, "clip"]:
        """Return 1 for each clip that is flipped at the usable coefficient with the most flips, else 0. All are 0 if no
        coefficient is usable."""
        if not usable:
            return np.zeros(self.flipped.shape[1])
        return self.flipped[max(usable, key=lambda k: self.flipped[k].sum())].astype(float)


@dataclass(frozen=True, eq=False)
class SteeringMeasurement:
    """Results of steering with the language direction and with a random direction.

    Attributes:
        languages: the two languages.
        clips: indices of the steered clips in the sample.
        halves: the half (0 or 1) to which each steered clip belongs.
        point: hook point at which the directions are added.
        middle: results at the middle block, with the language direction and with the random direction.
        output: the same at the encoder's output.
        words, errors: number of words and of word errors of each clip without steering.
    """

    sample: SampleFacts
    languages: tuple[str, str]
    clips: tuple[int, ...]
    halves: tuple[int, ...]
    point: str
    middle: tuple[SteeringResult, SteeringResult]
    output: tuple[SteeringResult, SteeringResult]
    words: Float[np.ndarray, "clip"]
    errors: Float[np.ndarray, "clip"]


class LanguageSteering(Experiment[SteeringMeasurement]):
    """F14: steer the encoder towards another language."""

    id, title = "F14", "Language steering"
    claim = (
        "Adding the mean difference between two languages to the encoder makes the model detect the other language "
        "while it still transcribes."
    )
    protocol = (
        "The direction is the mean activation of one language minus that of the other at the output of the middle "
        "encoder block, over the positions of the clips without their padding. Directions from one half of the clips "
        "are added, with several coefficients and at every position, to the clips of the other half, and vice versa. "
        "The detected language is the most likely language token. A flip is a clip of one language that is detected as "
        "the other. Flips are counted at the coefficient with the most flips among those whose WER is at most twice "
        "that without steering (or 10 %, if that is more); it is chosen in the same way for the direction and for its "
        "control. If a coefficient flips any clip, all clips are transcribed with the token of the spoken language. "
        "Control: a random direction of the same norm. Steering at the encoder's output is also measured, without a "
        "criterion, to show whether the choice of the block matters. Intervals: 95 %, bootstrap over clips."
    )
    published_summary = "code without results; a screenshot of steered outputs elsewhere"

    def parameters(self, context: Context) -> dict[str, Any]:
        return {"coefficients": list(COEFFICIENTS), "languages": ["", ""]}

    def measure(self, context: Context) -> SteeringMeasurement:
        """Read the encoder outputs that F12, F13, F14 and F17 share, and run the blocks after the middle one once per
        coefficient for the direction and for its control."""
        require_multilingual(context.model)
        sample = require_speech_sample(context)
        common = [code for code, n in Counter(sorted(sample.languages)).most_common() if n >= LEAST_CLIPS]
        if len(common) < 2:
            raise Untestable(
                f"the clips are {counted(sample.languages)}, expected {LEAST_CLIPS} or more of each of two languages, "
                f"because a direction from one half of the clips is tested on the other half: {LANGUAGES}"
            )
        pair = (common[0], common[1])
        clips = [i for i, code in enumerate(sample.languages) if code in pair]
        tested = sorted(i for code in pair for i in [k for k in clips if sample.languages[k] == code][:LEAST_CLIPS])
        results = []
        for at_output in (False, True):
            directions = [language_direction(sample, pair, clips, half, at_output) for half in (0, 1)]
            controls = [random_control(direction, context.seed + half) for half, direction in enumerate(directions)]
            language, random = (_steer(sample, pair, tested, vectors, at_output) for vectors in (directions, controls))
            results.append((language, random))
        references = [sample.context.references[i] for i in tested]
        plain = errors_of(references, _transcribe(sample, sample.encoded[tested], tested))
        return SteeringMeasurement(
            sample.facts,
            pair,
            tuple(tested),
            tuple(_halves(sample, pair, tested)),
            f"encoder.blocks.{sample.readings.middle_block}.hook_resid_post",
            results[0],
            results[1],
            np.array([max(e.n_reference, 1) for e in plain], dtype=float),
            np.array([e.errors for e in plain], dtype=float),
        )

    def judge(self, measured: SteeringMeasurement, setting: Setting) -> Finding:
        words, errors, n = measured.words, measured.errors, len(measured.clips)
        results = (*measured.middle, *measured.output)
        language, random, language_output, random_output = (
            result.flips(result.usable(words, errors)) for result in results
        )
        drawn = setting.rng("bootstrap of steered clips").integers(n, size=(1000, n))

        def mean(values: Float[np.ndarray, "clip"]) -> Estimate:
            return Estimate.of(values.mean(), values[drawn].mean(1))

        axes = (Axis("direction", ("language", "random")), Axis("coefficient", COEFFICIENTS))

        def tables(name: str, values: list[np.ndarray]) -> list[Measurement]:
            parts = ((name, values[:2]), (f"{name}, added at the encoder's output", values[2:]))
            return [Measurement(title, axes, np.array(rows)) for title, rows in parts]

        first, second = measured.languages
        return self.finding(
            setting,
            inputs=measured.sample.inputs,
            parameters=setting.parameters | {"languages": [first, second], "point": measured.point},
            criteria=(
                Criterion(FLIPPED, mean(language), 0.5, "at least"),
                Criterion(EXCESS, mean(language - 5 * random), 0.1, "at least"),
                Criterion("clips steered", Estimate(n), 2 * LEAST_CLIPS, "at least", role="gate"),
                Criterion("WER without steering", Estimate(errors.sum() / words.sum()), 0.3, "at most", role="gate"),
            ),
            controls=(Control("random direction", "a random direction of the same norm", {FLIPPED: mean(random)}),),
            measurements=(
                *tables("clips flipped", [result.flipped.mean(1) for result in results]),
                *tables("WER", [result.wrong.sum(1) / words.sum() for result in results]),
            ),
            notes=(
                f"{n} clips in {first} and {second} are steered. Each direction is from one half of the clips and is "
                f"added at {measured.point} to the other half. {_shared_voices(measured)}",
                f"If the direction is added at the encoder's output instead, {language_output.mean():.2f} of the "
                f"clips are flipped, and {random_output.mean():.2f} by a random direction.",
            ),
        )

    def draw(self, finding: Finding) -> list[Figure]:
        """Draw the flips and the control, and flips and WER by coefficient."""
        figures = [draw_controls(finding, 0, "share of clips")]
        for name in ("clips flipped", "WER"):
            table = finding.measurement(name)
            x = np.array(table.axis("coefficient").entries, dtype=float)
            figure, axes = new_figure(name, "coefficient", "%")
            for direction, color in (("language", BLUE), ("random", GRAY)):
                axes.plot(x, 100 * table.at(direction=direction), color=color, marker="o", label=direction)
            figure.set_label(alt_text(name, table.at(direction="language"), [f"{c:g}" for c in x]))
            add_legend(axes)
            figures.append(figure)
        return figures


def _halves(sample: SpeechSample, pair: tuple[str, str], clips: Sequence[int]) -> list[int]:
    """Return 0 or 1 for each clip, alternating within each language."""
    ranks = {i: k for code in pair for k, i in enumerate(i for i in clips if sample.languages[i] == code)}
    return [ranks[i] % 2 for i in clips]


def language_direction(
    sample: SpeechSample, pair: tuple[str, str], clips: Sequence[int], half: int, at_output: bool = False
) -> Float[Tensor, "d_model"]:
    """Return the mean activation of the first language minus that of the second, over clips that are not in ``half``.

    at_output: use the encoder's output instead of the output of the middle block.
    """
    values = sample.encoded if at_output else sample.readings.middle
    n_positions = sample.context.n_positions
    means = []
    for code in pair:
        of_language = [
            i
            for i, h in zip(clips, _halves(sample, pair, clips), strict=True)
            if h != half and sample.languages[i] == code
        ]
        means.append(torch.cat([values[i, : n_positions[i]] for i in of_language]).mean(0))
    return means[0] - means[1]


@torch.no_grad()
def _steer(
    sample: SpeechSample,
    pair: tuple[str, str],
    clips: Sequence[int],
    vectors: Sequence[Float[Tensor, "d_model"]],
    at_output: bool = False,
) -> SteeringResult:
    """Add the vector of its half to each clip, in the direction of the other language.

    Word errors are NaN for coefficients that flip no clip; these never have the most flips, so nothing is transcribed.
    """
    context, readings = sample.context, sample.readings
    model, halves = context.model, _halves(sample, pair, clips)
    targets = [pair[1] if sample.languages[i] == pair[0] else pair[0] for i in clips]
    steps = torch.stack([vectors[h] * (1 if t == pair[0] else -1) for h, t in zip(halves, targets, strict=True)])
    flipped: list[list[bool]] = []
    wrong: list[list[float]] = []
    for coefficient in context.track(COEFFICIENTS, "F14"):
        batches = []
        for start in range(0, len(clips), ENCODER_BATCH):
            batch = list(clips[start : start + ENCODER_BATCH])
            step = coefficient * steps[start : start + ENCODER_BATCH, None]
            if at_output:
                batches.append(sample.encoded[batch] + step)
            else:
                batches.append(model.encoder.from_resid(readings.middle[batch] + step, readings.middle_block + 1))
        encoded = torch.cat(batches)
        flipped.append([code == target for code, target in zip(detect(model, encoded), targets, strict=True)])
        if any(flipped[-1]):
            texts = _transcribe(sample, encoded, clips)
            wrong.append([e.errors for e in errors_of([context.references[i] for i in clips], texts)])
        else:
            wrong.append([np.nan] * len(clips))
    return SteeringResult(np.array(flipped), np.array(wrong, dtype=float))


def _transcribe(
    sample: SpeechSample, encoded: Float[Tensor, "clip position d_model"], clips: Sequence[int]
) -> list[str]:
    """Transcribe each clip with the token of its spoken language."""
    plain, texts = sample.context.transcriber(), [""] * len(clips)
    for code in sorted({sample.languages[i] for i in clips}):
        rows = [k for k, i in enumerate(clips) if sample.languages[i] == code]
        for k, text in zip(rows, Transcriber(plain.model, code, plain.max_new_tokens)(encoded[rows]), strict=True):
            texts[k] = text
    return texts


def _shared_voices(measured: SteeringMeasurement) -> str:
    """Return a sentence that says whether a direction may contain a difference between voices."""
    sample, (first, second) = measured.sample, measured.languages
    if not sample.named_voices:
        return "The corpus does not name speakers, so a direction may also contain a difference between voices."
    if sample.voices_of(first) == sample.voices_of(second):
        return "The same voices speak both languages."
    halves = [
        {sample.voices[i] for i, h in zip(measured.clips, measured.halves, strict=True) if h == half} for half in (0, 1)
    ]
    shared = sorted(halves[0] & halves[1])
    if not shared:
        return "No voice is in both halves."
    return (
        "These voices are in both halves, so a direction may also contain a difference between voices: "
        f"{', '.join(shared)}."
    )
