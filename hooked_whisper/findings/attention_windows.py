"""F2: how far must encoder attention reach? Every head attends to only ``k`` positions on either side.

Source: github.com/er537/whisper_interpretability, ``docs/index.md``, and its blog post, section 2.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hooked_whisper.corpora import Clip
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting, Untestable
from hooked_whisper.findings.core.figures import BLUE, GRAY, GREEN, ORANGE, add_legend, alt_text, new_figure
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.packing import n_packed, packed, windows_holding
from hooked_whisper.findings.core.published import WINDOW_TEXTS, WINDOWS_IN_SHORT
from hooked_whisper.findings.core.records import BOUNDS, Axis, Example, Measurement
from hooked_whisper.findings.core.row_decoding import DecodingQueue
from hooked_whisper.findings.core.statistics import spearman
from hooked_whisper.findings.windows.curve import Curve, locality
from hooked_whisper.findings.windows.masks import band, scrambled_band
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.model.masks import Mask, local_window

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLAIM = (
    "Whisper still transcribes well if each encoder position attends to only 1.5 s on either side, and fails at 0.2 s."
)
PROTOCOL = (
    "In every block and head of the encoder, position i may attend to position j only if |i - j| <= k. "
    "Clips of one speaker are joined to windows of up to 29.5 s, because an attention window wider than a clip hides "
    "only padding. "
    "All rows are masked, or only the rows of the clip and not those of the padding after it. "
    "Greedy decoding without timestamps and without temperature fallback; corpus WER with a bootstrap over clips or "
    "joined windows (95 %). "
    "The scrambled window has the same number of keys in every row, including the position itself, but at random "
    "positions (within the clip and within the padding separately)."
)
WINDOWS = (10, 20, 50, 75, 100, 200, 400)
NARROWER = (1, 5)  # reported without a criterion, in case k = 10 does no harm
# The variants use fewer utterances and fewer widths, because each needs a pass of its encoder.
CLIP_ROWS_UTTERANCES = SCRAMBLED_UTTERANCES = 50
VARIANT_WINDOWS = (10, 20, 50, 75, 400)
UNTRAINED_UTTERANCES, UNTRAINED_WINDOWS = 16, (10, 75, 400)
# Gates. The smallest threshold is 5 points of WER. With 200 words, the interval of a WER of up to 15 % reaches at most
# 5 points to either side. A percentile bootstrap over fewer than 10 clips or packed windows is too narrow.
ENOUGH_WORDS, ENOUGH_CLIPS = 200, 10
PUBLISHED_UTTERANCES = 100  # of the protocol for released models; a note, not a gate
# The rank correlation weights all pairs of windows equally, including pairs whose WERs differ only by noise: reversing
# the three widest windows lowers it by 0.1, reversing the four widest by 0.24. So there is a second criterion: a wider
# window may never have a WER more than 5 points higher, the same margin by which the full window may be better.
MOST_RISE = 0.05
N_EXAMPLES = 4

SPEARMAN = "rank correlation of window and accuracy"
NARROWEST = "WER at k = 10"
WIDE = "largest WER above the full window's at k >= 400"
RISE = "largest rise of WER from a window to a wider one"
LOCALITY = "extra WER of a scrambled window, mean of k = 20, 50, 75"


@dataclass(frozen=True, eq=False)
class WindowTranscripts:
    """Transcripts under each mask, by half-width. The widest mask hides nothing.

    by_mask: transcripts with the mask on ``"all"`` rows, on rows of the ``"clip"``, and with the ``"scrambled"``
        window. The last two may have only the first clips.
    n_positions: encoder positions that each clip fills. inputs: facts about the packed clips, for the record.
    """

    by_mask: dict[str, dict[int, list[str]]]
    untrained: dict[int, list[str]]
    references: list[str]
    utterances: tuple[Clip, ...]
    n_positions: list[int]
    inputs: dict[str, Any]


class AttentionWindows(Experiment[WindowTranscripts]):
    """F2: transcribe with encoder attention limited to a window around each position."""

    id, title, claim, protocol = "F2", "Narrowed attention windows", CLAIM, PROTOCOL
    published = (WINDOW_TEXTS,)
    published_summary = WINDOWS_IN_SHORT

    def parameters(self, context: Context) -> dict[str, Any]:
        prompt = context.transcriber().prompt()
        return {
            "windows": list(WINDOWS),
            "narrower_windows": list(NARROWER),
            "prompt": context.model.to_str_tokens(prompt),
            "prompt_ids": prompt[0].tolist(),
            "clip_rows_utterances": CLIP_ROWS_UTTERANCES,
            "scrambled_utterances": SCRAMBLED_UTTERANCES,
            "untrained_utterances": UNTRAINED_UTTERANCES,
        }

    def measure(self, context: Context) -> WindowTranscripts:
        """Run the encoder once for each clip, window and kind of mask."""
        if not context.utterances:
            raise Untestable("no speech: pass --audio or --corpus")
        context = packed(context)
        n, device = context.model.cfg.encoder.n_ctx, context.model.device
        windows = [k for k in WINDOWS if k < n - 1]
        variants = [k for k in windows if k in VARIANT_WINDOWS]
        rng = context.rng("scrambled windows")
        full = context.transcripts
        by_mask = {
            "all": _transcribe(context, (*NARROWER, *windows), lambda k, _: local_window(k), "F2 window, all rows"),
            "clip": _transcribe(
                context,
                variants,
                lambda k, rows: band(n, k, rows, device),
                "F2 window, clip rows",
                range(windows_holding(context.utterances, CLIP_ROWS_UTTERANCES)),
            ),
            "scrambled": _transcribe(
                context,
                variants,
                lambda k, rows: scrambled_band(n, k, rows, rng, device),
                "F2 scrambled window",
                range(windows_holding(context.utterances, SCRAMBLED_UTTERANCES)),
            ),
        }
        for texts in by_mask.values():
            texts[n - 1] = full  # |i - j| <= n - 1 hides nothing
        return WindowTranscripts(
            by_mask,
            _untrained(context, windows, n),
            context.references,
            context.utterances,
            context.n_positions,
            context.inputs(),
        )

    def judge(self, measured: WindowTranscripts, setting: Setting) -> Finding:
        references = measured.references
        curves = {name: Curve(references, texts, setting.seed) for name, texts in measured.by_mask.items()}
        n_words = sum(len(text.split()) for text in references)
        all_rows, untrained = curves["all"], Curve(references, measured.untrained, setting.seed)
        criteria = (
            Criterion(SPEARMAN, all_rows.rank_correlation(), 0.9, "at least"),
            Criterion(NARROWEST, all_rows.narrowest(), 0.9, "at least"),
            Criterion(WIDE, all_rows.excess(400), 0.05, "at most"),
            Criterion(RISE, all_rows.rise(), MOST_RISE, "at most"),
            Criterion(LOCALITY, locality(all_rows, curves["scrambled"]), 0.05, "at least"),
            Criterion("spoken words", Estimate(n_words), ENOUGH_WORDS, "at least", role="gate"),
            Criterion("clips or packed windows", Estimate(len(references)), ENOUGH_CLIPS, "at least", role="gate"),
            Criterion("WER without a mask", all_rows.at(all_rows.windows[-1]), 0.2, "at most", role="gate"),
        )
        controls = (
            Control("untrained model", "the same architecture with random weights", _statistics(untrained)),
            Control(
                "scrambled window",
                f"as many keys per row, at random positions ({len(curves['scrambled'].errors[0])} utterances)",
                {**_statistics(curves["scrambled"]), LOCALITY: Estimate(0.0)},
            ),
        )
        return self.finding(
            setting,
            inputs=measured.inputs,
            criteria=criteria,
            controls=controls,
            measurements=_measurements(curves, untrained),
            examples=_examples(measured),
            notes=_notes(measured, setting, all_rows),
        )

    def draw(self, finding: Finding) -> list[Figure]:
        """Draw WER by window."""
        wer = finding.measurement("WER")
        k = np.array(wer.axis("window").entries, dtype=float)
        figure, axes = new_figure(
            "Word errors by attention window", "window k to either side (positions of 20 ms)", "WER (%)"
        )
        looks = {
            "all rows": (BLUE, "o", "-"),
            "rows of the clip": (GREEN, "s", "-"),
            "scrambled window": (ORANGE, "^", "--"),
        }
        for name, (color, marker, line) in looks.items():
            values = 100 * wer.at(mask=name)
            known = np.isfinite(values[:, 0])
            axes.plot(k[known], values[known, 0], color=color, marker=marker, linestyle=line, label=name)
            axes.fill_between(k[known], values[known, 1], values[known, 2], color=color, alpha=0.2, linewidth=0)
        untrained = finding.measurement("WER of the untrained model")
        top = max(105.0, min(160.0, 105 * float(np.nanmax(wer.values))))
        values = 100 * untrained.values
        label = "untrained model" if values.max() <= top else f"untrained model ({values.mean():.0f} %, off the scale)"
        axes.plot(
            untrained.axes[0].entries,
            np.minimum(values, top),
            color=GRAY,
            marker="x",
            linestyle=":",
            label=label,
            clip_on=False,
        )
        _log_windows(axes, wer)
        axes.set_ylim(0, top)
        figure.set_label(alt_text(finding.title, wer.at(mask="all rows", bound="value"), [f"k = {int(x)}" for x in k]))
        add_legend(axes)
        return [figure]


def _log_windows(axes: Axes, wer: Measurement) -> None:
    entries = wer.axis("window").entries
    axes.set_xscale("log")
    names = [f"{entry}" for entry in entries]
    names[-1] = "full"
    names = ["" if name in ("75", "200") else name for name in names]  # these labels would overlap
    axes.set_xticks(entries, names)
    axes.minorticks_off()


def _transcribe(
    context: Context,
    windows: Sequence[int],
    mask: Callable[[int, list[int]], Mask],
    label: str,
    indices: Sequence[int] | None = None,
    model: HookedWhisper | None = None,
) -> dict[int, list[str]]:
    """Return transcripts by window. ``mask`` returns a batch's mask for a half-width and the number of rows of each
    clip."""
    model = context.model if model is None else model
    indices = range(len(context.utterances)) if indices is None else indices
    queue = DecodingQueue(context.transcriber(model), windows)
    for batch in context.track(context.batches(indices), label):
        mel = context.mels(batch)
        rows = [context.n_positions[i] for i in batch]
        for k in windows:
            with torch.no_grad(), model.hooks(attn_masks={"encoder": mask(k, rows)}):
                queue.add(k, model.embed_audio(mel))
    queue.flush()
    return {k: queue.texts[k] for k in windows}


def _untrained(context: Context, windows: Sequence[int], n: int) -> dict[int, list[str]]:
    clips = range(windows_holding(context.utterances, UNTRAINED_UTTERANCES))
    few = [k for k in UNTRAINED_WINDOWS if k in windows]
    texts = _transcribe(context, few, lambda k, _: local_window(k), "F2 untrained", clips, context.untrained)
    with torch.no_grad():
        texts[n - 1] = context.transcriber(context.untrained)(context.untrained.embed_audio(context.mels(clips)))
    return texts


def _statistics(curve: Curve) -> dict[str, Estimate]:
    return {
        SPEARMAN: curve.rank_correlation(),
        NARROWEST: curve.narrowest(),
        WIDE: curve.excess(400),
        RISE: curve.rise(),
    }


def _measurements(curves: dict[str, Curve], untrained: Curve) -> tuple[Measurement, ...]:
    windows = curves["all"].windows
    labels = {"all": "all rows", "clip": "rows of the clip", "scrambled": "scrambled window"}
    return (
        Measurement(
            "WER",
            (Axis("mask", tuple(labels.values())), Axis("window", tuple(windows), "positions of 20 ms"), BOUNDS),
            np.array([[curves[name].at(k).row for k in windows] for name in labels]),
        ),
        Measurement(
            "WER of the untrained model",
            (Axis("window", tuple(untrained.windows), "positions of 20 ms"),),
            untrained.wer,
        ),
    )


def _examples(measured: WindowTranscripts) -> tuple[Example, ...]:
    """Return the clips with the most words, with their transcripts at every window."""
    references, texts = measured.references, measured.by_mask["all"]
    order = sorted(range(len(references)), key=lambda i: (-len(references[i].split()), i))
    full = max(texts)
    examples = []
    for i in order[:N_EXAMPLES]:
        rows = [("full" if k == full else f"k = {k}", texts[k][i]) for k in sorted(texts, reverse=True)]
        clip = measured.utterances[i]
        examples.append(Example(clip.id, clip.alignment.speaker, references[i], tuple(rows)))
    return tuple(examples)


def _tied(curve: Curve) -> str:
    """Return a note on the windows whose WER differs from the full window's only by noise, and on the rank correlation
    if these windows shared a rank."""
    full = curve.windows[-1]
    low, high = np.percentile(curve.samples - curve.samples[:, -1:], [2.5, 97.5], axis=0)
    judged = np.array([k >= WINDOWS[0] for k in curve.windows])
    tied = judged & (low <= 0) & (high >= 0)
    level = np.where(tied, curve.wer[tied].mean(), curve.wer)
    windows = np.array(curve.windows, dtype=float)
    shared = spearman(windows[judged], -level[judged])
    names = ", ".join(str(k) for k in windows[tied].astype(int) if k != full) or "none"
    return (
        f"Windows whose WER cannot be distinguished from that of k = {full}: {names}. If these shared one rank, the "
        f"rank correlation would be {shared:.3g}."
    )


def _notes(measured: WindowTranscripts, setting: Setting, curve: Curve) -> tuple[str, ...]:
    full = curve.wer[-1]
    enough = [k for k, wer in zip(curve.windows, curve.wer, strict=True) if wer - full <= 0.05]
    length = int(np.median(measured.n_positions))
    n_utterances = n_packed(measured.utterances)
    notes = [
        f"The narrowest window whose WER is within 5 points of the full window's is k = {min(enough)}.",
        f"{n_utterances} utterances in {len(measured.utterances)} clips, half of which fill {length} "
        "positions or fewer. A window wider than that hides only the padding.",
        f"The rank correlation also counts the order of windows whose WERs differ only by noise. {_tied(curve)}",
    ]
    if n_utterances < PUBLISHED_UTTERANCES:
        notes.append(f"The protocol for released models has {PUBLISHED_UTTERANCES} utterances or more.")
    if setting.reference == "model":
        notes.append(
            "These clips have no texts, so the WER is measured against the model's own transcript without a mask."
        )
    return tuple(notes)
