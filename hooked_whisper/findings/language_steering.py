"""F14: does adding the difference between two languages' means to the encoder change the language that is detected?

Source: the steering code of github.com/er537/whisper_interpretability (no results published), with means over positions
in place of its means per position, which also hold the clips' lengths.
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

from hooked_whisper.findings.context import ENCODER_BATCH, Context
from hooked_whisper.findings.drawing import BLUE, GREY, _figure, _in_words, _legend, draw_controls
from hooked_whisper.findings.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.language_entry import detect, languages_of
from hooked_whisper.findings.records import Axis, Measurement
from hooked_whisper.findings.transcripts import errors_of
from hooked_whisper.interventions.steer import mean_difference, random_control, steer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ID, TITLE = "F14", "Language steering"
CLAIM = (
    "Adding the difference between two languages' mean activations to the encoder's residual stream makes the model "
    "detect the other language, before it stops understanding the words."
)
PROTOCOL = (
    "Direction: mean over the positions of the clips, not of their padding, of one language less that of the other, at "
    "the output of the middle encoder block, from one half of the clips. It is added with several coefficients at "
    "every position to the clips of the other half; the language is the likeliest language token. Flips: clips of one "
    "language detected as the other. Counted at the coefficient with most flips among those whose WER is at most twice "
    "that without steering (or 10 %, if that is more), chosen for the direction and for its control alike. "
    "Control: a random direction of the same norm. Intervals: 95 %, bootstrap over clips."
)
COEFFICIENTS = (0.5, 1.0, 2.0, 4.0)
LEAST_CLIPS = 10  # of each language
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
    """Each clip of the second half is encoded once per coefficient, for the direction and for its control."""
    model = context.model
    if not context.utterances:
        return _finding(context, reason="no speech: pass --audio or --corpus")
    if not model.is_multilingual:
        return _finding(context, reason="an English-only model has no language tokens")
    languages = languages_of(context)
    common = [code for code, n in Counter(languages).most_common() if n >= 2 * LEAST_CLIPS]
    if len(common) < 2:
        counted = ", ".join(f"{n} of {code}" for code, n in Counter(languages).most_common())
        return _finding(
            context, reason=f"needs {2 * LEAST_CLIPS} clips or more of each of two languages, got {counted}"
        )
    a, b = sorted(common[:2])
    of_a, of_b = ([i for i, code in enumerate(languages) if code == wanted] for wanted in (a, b))
    name = f"encoder.blocks.{model.cfg.encoder.n_layers // 2}.hook_resid_post"
    made, tried = [*of_a[::2], *of_b[::2]], [*of_a[1::2], *of_b[1::2]]
    n_valid = [[context.n_positions[i] for i in some] for some in (of_a[::2], of_b[::2])]
    direction = mean_difference(
        model, context.mels(of_a[::2]), context.mels(of_b[::2]), name, n_valid_a=n_valid[0], n_valid_b=n_valid[1]
    )
    targets = [b if languages[i] == a else a for i in tried]
    signs = torch.tensor([1.0 if target == a else -1.0 for target in targets])
    control = random_control(direction, context.seed)
    done = [
        _steer(context, name, v, tried, signs, targets, what) for v, what in ((direction, ""), (control, " control"))
    ]
    return _finding(context, (a, b), name, tried, done, len(made))


@torch.no_grad()
def _steer(
    context: Context,
    name: str,
    vector: Float[Tensor, "d"],
    clips: Sequence[int],
    signs: Float[Tensor, "clip"],
    targets: Sequence[str],
    what: str,
) -> Steered:
    flipped, wrong = [], []
    for coefficient in context.track(COEFFICIENTS, f"F14{what}"):
        texts: list[str] = []
        found: list[str] = []
        for at in range(0, len(clips), ENCODER_BATCH):
            some = list(clips[at : at + ENCODER_BATCH])
            parts = []
            for sign in (1.0, -1.0):  # one batch each way: the hook adds one vector
                mine = [i for i, s in zip(some, signs[at : at + ENCODER_BATCH].tolist(), strict=True) if s == sign]
                if mine:
                    with context.model.hooks(fwd_hooks=steer(context.model, name, vector, sign * coefficient)):
                        parts.append((mine, context.model.embed_audio(context.mels(mine))))
            order = [i for mine, _ in parts for i in mine]
            encoded = torch.cat([out for _, out in parts])[[order.index(i) for i in some]]
            texts += context.transcriber()(encoded)
            found += detect(context.model, encoded)
        references = [context.references[i] for i in clips]
        wrong.append([e.errors for e in errors_of(references, texts)])
        flipped.append([code == target for code, target in zip(found, targets, strict=True)])
    return Steered(np.array(flipped), np.array(wrong, dtype=float))


def _finding(
    context: Context,
    codes: tuple[str, str] = ("", ""),
    name: str = "",
    clips: Sequence[int] = (),
    done: Sequence[Steered] = (),
    n_made: int = 0,
    reason: str = "",
) -> Finding:
    common: dict[str, Any] = {
        **context.common(ID, TITLE, CLAIM, PROTOCOL),
        "published_summary": "code without results; a screenshot of steered outputs elsewhere",
        "parameters": {"coefficients": list(COEFFICIENTS), "point": name, "languages": list(codes)},
    }
    if not done:
        return Finding(**common, reason_untestable=reason)
    rng = context.rng("bootstrap of steered clips")
    references = [context.references[i] for i in clips]
    plain = errors_of(references, [context.transcripts[i] for i in clips])
    words = np.array([max(e.n_reference, 1) for e in plain], dtype=float)
    before = np.array([e.errors for e in plain], dtype=float)
    ours, random = (one.flips(one.usable(words, before)) for one in done)
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
    return Finding(
        **common,
        criteria=criteria,
        controls=(Control("random direction", "of the same norm", {FLIPPED: mean(random)}),),
        measurements=(
            Measurement("clips flipped", axes, np.array([one.flipped.mean(1) for one in done])),
            Measurement("WER", axes, np.array([one.wrong.sum(1) / words.sum() for one in done])),
        ),
        notes=(f"{codes[0]} and {codes[1]}; the direction is from {n_made} other clips, added at {name}.",),
    )


def draw(finding: Finding) -> list[Figure]:
    """Flips beside the control; flips and WER by coefficient."""
    figures = [draw_controls(finding, 0, "share of clips")]
    for name in ("clips flipped", "WER"):
        table = finding.measurement(name)
        at = np.array(table.axis("coefficient").entries, dtype=float)
        figure, axes = _figure(name, "coefficient", "%")
        for direction, colour in (("language", BLUE), ("random", GREY)):
            axes.plot(at, 100 * table.at(direction=direction), color=colour, marker="o", label=direction)
        figure.set_label(_in_words(name, table.at(direction="language"), [f"{c:g}" for c in at]))
        _legend(axes)
        figures.append(figure)
    return figures
