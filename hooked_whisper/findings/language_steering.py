"""F14: does adding the difference between two languages' means to the encoder change the language that is detected?

Source: the steering code of github.com/er537/whisper_interpretability (no results published), with means over positions
in place of its means per position, which also hold the clips' lengths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_whisper.findings.core.context import ENCODER_BATCH, Context
from hooked_whisper.findings.core.figures import BLUE, GRAY, add_legend, alt_text, draw_controls, new_figure
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Measurement
from hooked_whisper.findings.core.transcripts import Transcriber, errors_of
from hooked_whisper.findings.speech.sample import (
    LANGUAGES,
    SpeechSample,
    counted,
    detect,
    english_only,
    facts_of,
    speech_sample,
)
from hooked_whisper.interventions.steer import random_control

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ID, TITLE = "F14", "Language steering"
CLAIM = (
    "Adding the mean difference between two languages to the encoder makes the model detect the other language "
    "while it still transcribes."
)
PROTOCOL = (
    "Direction: mean over the positions of the clips, not of their padding, of one language less that of the other, at "
    "the output of the middle encoder block, from one half of the clips. It is added with several coefficients at "
    "every position to the clips of the other half, and the other way round; the language is the likeliest language "
    "token. Flips: clips of one language detected as the other. Counted at the coefficient with most flips among those "
    "whose WER is at most twice that without steering (or 10 %, if that is more), chosen for the direction and for its "
    "control alike; words are read, where a clip was flipped, with the token of the language spoken. Control: a random "
    "direction of the same norm. The same at the encoder's output is measured, not judged: it tells whether another "
    "place would have done. Intervals: 95 %, bootstrap over clips."
)
COEFFICIENTS = (1.0, 2.0, 4.0)
# Written before the first run on real Whisper's packaged clips; the criteria are older and stay. Every clip is steered
# by a direction from the other half, so 6 of each language are 12 steered clips: 10 flips are clearly above a half.
# More are not steered, to save time (written before any result was seen); all of them are in the directions.
LEAST_CLIPS = 6  # of each language
SPARE_WER = 0.1
EXCESS = "share of clips flipped, less five times that of a random direction"
FLIPPED = "share of clips flipped before the words are lost"


@dataclass(frozen=True, eq=False)
class Steered:
    """What steering did to the clips that the direction was not made from."""

    flipped: Bool[np.ndarray, "coefficient clip"]
    wrong: Float[np.ndarray, "coefficient clip"]

    def usable(self, words: Float[np.ndarray, "clip"], plain: Float[np.ndarray, "clip"]) -> list[int]:
        """Coefficients at which the words are still understood."""
        most = max(2 * plain.sum() / words.sum(), SPARE_WER)
        return [k for k, row in enumerate(self.wrong) if row.sum() / words.sum() <= most]

    def flips(self, usable: Sequence[int]) -> Float[np.ndarray, "clip"]:
        """Per clip, at the usable coefficient with most flips; zeros if there is none."""
        if not usable:
            return np.zeros(self.flipped.shape[1])
        return self.flipped[max(usable, key=lambda k: self.flipped[k].sum())].astype(float)


def run(context: Context) -> Finding:
    """Clips are encoded once, with F12, F13 and F17; the blocks after the middle one run once per coefficient, for the
    direction and for its control."""
    if reason := english_only(context):
        return _finding(context, reason=reason)
    if not context.utterances and context.language_speech is None:
        return _finding(context, reason=f"no speech: {LANGUAGES}")
    sample = speech_sample(context)
    common = [code for code, n in Counter(sorted(sample.languages)).most_common() if n >= LEAST_CLIPS]
    if len(common) < 2:
        reason = (
            f"{counted(sample.languages)} were given; needs {LEAST_CLIPS} or more of each of two languages, since a "
            f"direction from one half of the clips is tested on the other half: {LANGUAGES}"
        )
        return _finding(context, reason=reason)
    pair = (common[0], common[1])
    clips = [i for i, code in enumerate(sample.languages) if code in pair]
    tested = sorted(i for code in pair for i in [k for k in clips if sample.languages[k] == code][:LEAST_CLIPS])
    steered = []
    for at_output in (False, True):
        directions = [language_direction(sample, pair, clips, half, at_output) for half in (0, 1)]
        controls = [random_control(direction, context.seed + half) for half, direction in enumerate(directions)]
        steered += [_steer(sample, pair, tested, vectors, at_output) for vectors in (directions, controls)]
    return _finding(context, sample, pair, tested, steered)


def _halves(sample: SpeechSample, pair: tuple[str, str], clips: Sequence[int]) -> list[int]:
    """0 or 1 for each clip: the clips of each language in turn."""
    ranks = {i: k for code in pair for k, i in enumerate(i for i in clips if sample.languages[i] == code)}
    return [ranks[i] % 2 for i in clips]


def language_direction(
    sample: SpeechSample, pair: tuple[str, str], clips: Sequence[int], half: int, at_output: bool = False
) -> Float[Tensor, "d_model"]:
    """Mean activation of the first language less that of the second, from the clips that are *not* in ``half``.

    at_output: of the encoder's output, not of the middle block's.
    """
    values = sample.encoded if at_output else sample.readings.middle
    n_positions = sample.context.n_positions
    means = []
    for code in pair:
        mine = [
            i
            for i, h in zip(clips, _halves(sample, pair, clips), strict=True)
            if h != half and sample.languages[i] == code
        ]
        means.append(torch.cat([values[i, : n_positions[i]] for i in mine]).mean(0))
    return means[0] - means[1]


@torch.no_grad()
def _steer(
    sample: SpeechSample,
    pair: tuple[str, str],
    clips: Sequence[int],
    vectors: Sequence[Float[Tensor, "d_model"]],
    at_output: bool = False,
) -> Steered:
    """Each clip gets the vector of its half, towards the other language. Errors are NaN where no clip was flipped,
    which cannot be the coefficient that counts."""
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
    return Steered(np.array(flipped), np.array(wrong, dtype=float))


def _transcribe(
    sample: SpeechSample, encoded: Float[Tensor, "clip position d_model"], clips: Sequence[int]
) -> list[str]:
    """What the model writes with the token of the language that each clip is spoken in."""
    plain, texts = sample.context.transcriber(), [""] * len(clips)
    for code in sorted({sample.languages[i] for i in clips}):
        mine = [k for k, i in enumerate(clips) if sample.languages[i] == code]
        for k, text in zip(mine, Transcriber(plain.model, code, plain.max_new_tokens)(encoded[mine]), strict=True):
            texts[k] = text
    return texts


def _finding(
    context: Context,
    sample: SpeechSample | None = None,
    codes: tuple[str, str] = ("", ""),
    clips: Sequence[int] = (),
    done: Sequence[Steered] = (),
    reason: str = "",
) -> Finding:
    common = facts_of(
        context,
        sample,
        (ID, TITLE, CLAIM, PROTOCOL),
        "code without results; a screenshot of steered outputs elsewhere",
        coefficients=list(COEFFICIENTS),
        languages=list(codes),
    )
    if sample is None:
        return Finding(**common, reason_untestable=reason)
    name = f"encoder.blocks.{sample.readings.middle_block}.hook_resid_post"
    common["parameters"]["point"] = name
    rng = context.rng("bootstrap of steered clips")
    references = [sample.context.references[i] for i in clips]
    plain = errors_of(references, _transcribe(sample, sample.encoded[list(clips)], clips))
    words = np.array([max(e.n_reference, 1) for e in plain], dtype=float)
    before = np.array([e.errors for e in plain], dtype=float)
    ours, random, *output = (one.flips(one.usable(words, before)) for one in done)
    drawn = rng.integers(len(clips), size=(1000, len(clips)))

    def mean(values: Float[np.ndarray, "clip"]) -> Estimate:
        return Estimate.of(values.mean(), values[drawn].mean(1))

    criteria = (
        Criterion(FLIPPED, mean(ours), 0.5, "at least"),
        Criterion(EXCESS, mean(ours - 5 * random), 0.1, "at least"),
        Criterion("clips steered", Estimate(len(clips)), 2 * LEAST_CLIPS, "at least", role="gate"),
        Criterion("WER without steering", Estimate(before.sum() / words.sum()), 0.3, "at most", role="gate"),
    )
    axes = (Axis("direction", ("language", "random")), Axis("coefficient", COEFFICIENTS))

    def tables(what: str, values: list[np.ndarray]) -> list[Measurement]:
        parts = ((what, values[:2]), (f"{what}, added at the encoder's output", values[2:]))
        return [Measurement(name, axes, np.array(rows)) for name, rows in parts]

    return Finding(
        **common,
        criteria=criteria,
        controls=(Control("random direction", "of the same norm", {FLIPPED: mean(random)}),),
        measurements=(
            *tables("clips flipped", [one.flipped.mean(1) for one in done]),
            *tables("WER", [one.wrong.sum(1) / words.sum() for one in done]),
        ),
        notes=(
            f"{codes[0]} and {codes[1]}, {len(clips)} clips steered; each direction is from one half of the clips and "
            f"added at {name} of the other half. {_shared_voices(sample, codes, clips)}",
            f"Added at the encoder's output instead, counted in the same way: {output[0].mean():.2f} of the clips are "
            f"flipped, {output[1].mean():.2f} by a random direction.",
        ),
    )


def _shared_voices(sample: SpeechSample, codes: tuple[str, str], clips: Sequence[int]) -> str:
    """Whether a direction may be one of voices."""
    if not sample.named_voices:
        return "The corpus does not name speakers, so a direction may hold voices as well as languages."
    if sample.voices_of(codes[0]) == sample.voices_of(codes[1]):
        return "The same voices speak both languages."
    sides = _halves(sample, codes, clips)
    heard = [{sample.voices[i] for i, h in zip(clips, sides, strict=True) if h == half} for half in (0, 1)]
    shared = sorted(heard[0] & heard[1])
    if not shared:
        return "No voice is in both halves."
    return f"Voices in both halves, which the direction may hold as well: {', '.join(shared)}."


def draw(finding: Finding) -> list[Figure]:
    """Flips beside the control; flips and WER by coefficient."""
    figures = [draw_controls(finding, 0, "share of clips")]
    for name in ("clips flipped", "WER"):
        table = finding.measurement(name)
        at = np.array(table.axis("coefficient").entries, dtype=float)
        figure, axes = new_figure(name, "coefficient", "%")
        for direction, colour in (("language", BLUE), ("random", GRAY)):
            axes.plot(at, 100 * table.at(direction=direction), color=colour, marker="o", label=direction)
        figure.set_label(alt_text(name, table.at(direction="language"), [f"{c:g}" for c in at]))
        add_legend(axes)
        figures.append(figure)
    return figures
