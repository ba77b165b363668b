"""F1: does encoder attention look around itself, and where do the positions behind the clip look?

Source: ``get_attn_maps.py`` of github.com/er537/whisper_interpretability, its ``docs/index.md``, and its blog post,
section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.analysis import Transcript, audio_relevance, encoder_relevance
from hooked_whisper.findings import published
from hooked_whisper.findings.context import Context
from hooked_whisper.findings.drawing import BLUE, GREY, ORANGE, _figure, _legend, draw_controls
from hooked_whisper.findings.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.records import Axis, Measurement, Table
from hooked_whisper.findings.relevance_measures import (
    BAND,
    DISTANCE,
    HALF_WIDTH,
    PROFILE,
    SINK,
    WITHIN,
    Clip,
    Row,
    clip_statistics,
    cut_clip,
    noisy_clip,
    shuffled_weights,
    sum_sensitivity,
    whole_clip,
)
from hooked_whisper.findings.statistics import bootstrap
from hooked_whisper.hooked import HookedWhisper

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ID, TITLE = "F1", "Locality of relevance in the encoder"
CLAIM = "Encoder attention is localised up to the end of the audio; later positions attend back to the end of speech."
PROTOCOL = (
    "Relevance by rules 5 and 6 of Chefer et al. 2021 over all encoder blocks (R = I; R += mean_heads(relu(gradient x "
    "pattern)) R). The gradient is that of the log-probability of the teacher-forced transcript, not of the sum of the "
    "encoder's outputs, as published: that sum hardly depends on the input. The identity is left out. Rows: positions "
    "from the first word's start to the last word's end, and every tenth position of the padding. Band: sources within "
    "25 positions (0.5 s). To tell the end of speech from the end of the signal, clips are cut within their speech "
    "and continued by faint noise. Intervals: 95 %, bootstrap over clips."
)
CLIPS, SHUFFLED_CLIPS, UNTRAINED_CLIPS, SUM_CLIPS, MOVED_CLIPS, WORD_CLIPS = 20, 4, 4, 2, 3, 3
NEAR = 0.1  # seconds from a word within which its most relevant audio may lie
PADDING_STEP = 10  # every tenth position behind the clip is a row
CUTS = (0.4, 0.7)  # of the time from the first word's start to the last word's end
MAP_BIN = 5  # positions per cell of the map that is kept


def measure(context: Context, model: HookedWhisper, clip: Clip, published_scalar: bool) -> tuple[Row, np.ndarray]:
    """Statistics of one clip, and its map over rows; one encoder pass, one backward pass."""
    n = model.cfg.encoder.n_ctx
    rows = np.concatenate([np.arange(clip.n_clip), np.arange(clip.n_clip, n, PADDING_STEP)])
    prompt = context.transcriber().prompt()
    tokens = model.to_tokens(f" {clip.text}", prompt=False)
    end = torch.tensor([[model.tokenizer.eot]], device=tokens.device)
    said = Transcript(model, torch.cat([prompt.to(tokens.device), tokens, end], dim=1), prompt.shape[1])
    found = encoder_relevance(
        model, model.to_mel(clip.audio), target="encoder_sum" if published_scalar else said, rows=rows.tolist()
    )
    values = found.values[0].double().cpu().numpy()
    return clip_statistics(values, rows, clip.speech, clip.n_clip), values


def run(context: Context) -> Finding:
    """About 40 encoder passes with a backward pass each, one clip at a time, and a backward pass for some words."""
    count = min(CLIPS, len(context.utterances))
    usable = [i for i in range(len(context.utterances)) if context.references[i]][:count]
    if not usable:
        return _finding(context, reason="no speech: pass --audio or --corpus")
    runs: dict[str, list[Row]] = {name: [] for name in ("model", "shuffled", "untrained", "sum")}
    shown: np.ndarray | None = None
    for i in context.track(usable, "F1 relevance"):
        row, values = measure(context, context.model, whole_clip(context, i), False)
        runs["model"].append(row)
        shown = values if shown is None else shown
    others = (
        ("shuffled", shuffled_weights(context.model, context.seed), usable[:SHUFFLED_CLIPS], False),
        ("untrained", context.untrained, usable[:UNTRAINED_CLIPS], False),
    )
    for name, model, some, scalar in others:
        for i in context.track(some, f"F1 {name}"):
            runs[name].append(measure(context, model, whole_clip(context, i), scalar)[0])
    sensitivity = _published_scalar(context, usable[:SUM_CLIPS], runs["sum"])
    moved = _moved(context, usable[:MOVED_CLIPS], runs["model"])
    words = words_found(context, usable[:WORD_CLIPS])
    assert shown is not None
    return _finding(context, runs, moved, sensitivity, (shown, usable[0]), words)


def words_found(context: Context, some: Sequence[int]) -> Float[np.ndarray, "word what"]:
    """Relevance carried on through cross-attention (rules 7 to 10), word by word.

    Is the most relevant audio within 100 ms of the word, and what chance would have (that stretch over the clip)?
    """
    model, found = context.model, []
    for i in context.track(some, "F1 words"):
        one, n_prompt = context.utterances[i], context.transcriber().prompt().shape[1]
        tokens = model.to_tokens(f" {context.references[i]}", prompt=False)
        tokens = torch.cat([context.transcriber().prompt().to(tokens.device), tokens], dim=1)
        result = audio_relevance(model, context.mels([i]), tokens, list(range(n_prompt, tokens.shape[1])))
        names, values = result.by_word()
        times = [w for w in one.alignment.words if w.duration > 0]
        if len(times) != len(names):
            continue
        for word, row in zip(times, values, strict=True):
            peak = context.model.time.seconds(int(row.argmax()))
            length = context.n_positions[i] * context.seconds_per_position
            near = word.start - NEAR <= peak <= word.end + NEAR
            found.append([float(near), min(1.0, (word.duration + 2 * NEAR) / length)])
    return np.array(found).reshape(-1, 2)


def _published_scalar(context: Context, some: Sequence[int], rows: list[Row]) -> list[float]:
    """The same maps for the published scalar, and how little it depends on the input; nothing is encoded for that."""
    model, kept = context.model, []
    last = f"encoder.blocks.{model.cfg.encoder.n_layers - 1}.hook_resid_post"

    def grab(x: Tensor) -> None:
        kept.append(x.detach().clone())

    for i in context.track(some, "F1 published scalar"):
        with model.hooks(fwd_hooks=[(last, grab)]):
            rows.append(measure(context, model, whole_clip(context, i), True)[0])
    return [sum_sensitivity(model, resid, context.seed) for resid in kept]


def _moved(
    context: Context, some: Sequence[int], whole: Sequence[Row]
) -> tuple[tuple[str, ...], Float[np.ndarray, "condition clip what"]]:
    """Where padding rows look when the end moves: seconds of their peak, of the end of speech, of the signal's."""
    time = context.model.time
    makers: dict[str, Callable[[int], Clip | None]] = {"as it is": lambda i: whole_clip(context, i)}
    makers |= {f"cut at {share:.0%} of speech": lambda i, s=share: cut_clip(context, i, s) for share in CUTS}  # type: ignore[misc]
    makers["noise behind"] = lambda i: noisy_clip(context, i)
    table = np.full((len(makers), len(some), 3), np.nan)
    for c, (name, make) in enumerate(makers.items()):
        for k, i in enumerate(context.track(some, f"F1 {name}")):
            clip = make(i)
            if clip is None or not clip.text:
                continue
            row = whole[k] if c == 0 else measure(context, context.model, clip, False)[0]
            ends = [row.peak, clip.speech.stop, clip.n_clip]
            table[c, k] = [x * time.seconds_per_position for x in ends]
    return tuple(makers), table


def _estimates(rows: Sequence[Row], rng: np.random.Generator) -> dict[str, Estimate]:
    """Mean over clips (of the distance: median), bootstrap over clips."""
    out: dict[str, Estimate] = {}
    for name in (BAND, WITHIN, DISTANCE, SINK):
        values = np.array([row.values[name] for row in rows])
        values = values[np.isfinite(values)]
        if not len(values):
            out[name] = Estimate(None)
            continue
        middle = np.median if name == DISTANCE else np.mean
        out[name] = Estimate.of(
            float(middle(values)),
            bootstrap(len(values), lambda i, v=values, m=middle: float(m(v[i])), rng),  # type: ignore[misc]
        )
    return out


def _finding(
    context: Context,
    runs: dict[str, list[Row]] | None = None,
    moved: tuple[tuple[str, ...], np.ndarray] | None = None,
    sensitivity: Sequence[float] = (),
    shown: tuple[np.ndarray, int] | None = None,
    words: Float[np.ndarray, "word what"] | None = None,
    reason: str = "",
) -> Finding:
    common: dict[str, Any] = {
        **context.common(ID, TITLE, CLAIM, PROTOCOL),
        "published": (PUBLISHED,),
        "published_summary": "tiny, one clip of 10 s: a thin diagonal, a dark column at its end; no numbers",
        "parameters": {
            "half_width_positions": HALF_WIDTH,
            "clips": CLIPS,
            "shuffled_clips": SHUFFLED_CLIPS,
            "untrained_clips": UNTRAINED_CLIPS,
            "target": "log-probability of the transcript",
            "prompt_ids": context.transcriber().prompt()[0].tolist(),
        },
    }
    if runs is None or moved is None or shown is None or words is None:
        return Finding(**common, reason_untestable=reason)
    rng = context.rng("bootstrap of clips")
    found = {name: _estimates(rows, rng) for name, rows in runs.items()}
    ours = found["model"]
    criteria = [
        Criterion(BAND, ours[BAND], 5.0, "at least"),
        Criterion(WITHIN, ours[WITHIN], 0.5, "at least"),
        Criterion(DISTANCE, ours[DISTANCE], HALF_WIDTH, "at most", unit="positions"),
        Criterion("clips", Estimate(len(runs["model"])), CLIPS, "at least", role="gate"),
    ]
    judged = [BAND, WITHIN, DISTANCE]
    if not context.is_organism:  # a claim about real Whisper; of the organism it is only reported
        criteria.insert(3, Criterion(SINK, ours[SINK], 0.8, "at least"))
        judged.append(SINK)
    spread = {BAND: _spread(context, runs["model"]), WITHIN: Estimate(0.0)}
    controls = (
        Control(
            "shuffled weights",
            f"every tensor of the encoder with its entries in random order ({len(runs['shuffled'])} clips)",
            {name: found["shuffled"][name] for name in judged},
        ),
        Control(
            "untrained model",
            f"random weights ({len(runs['untrained'])} clips)",
            {name: found["untrained"][name] for name in judged},
        ),
        Control("spread over the clip", "all relevance evenly on the positions of the clip", spread),
    )
    return Finding(
        **common,
        criteria=tuple(criteria),
        controls=controls,
        measurements=(
            *_measurements(context, runs, found, moved, sensitivity, shown),
            Measurement(
                "words whose most relevant audio is their own",
                (Axis("word", tuple(range(len(words)))), Axis("what", ("found", "chance"))),
                words,
            ),
        ),
        notes=(*_notes(context, runs, found, moved, sensitivity), *_word_notes(words)),
    )


def _spread(context: Context, rows: Sequence[Row]) -> Estimate:
    """Band mass over the window's if a row's relevance lay evenly on its clip: what short clips give for nothing."""
    n, values = context.model.cfg.encoder.n_ctx, []
    usable = [i for i in range(len(context.utterances)) if context.references[i]][: len(rows)]
    for i in usable:
        clip = whole_clip(context, i)
        at = np.arange(clip.n_clip)
        near = np.abs(np.arange(clip.speech.start, clip.speech.stop)[:, None] - at) <= HALF_WIDTH
        values.append(near.mean() / ((2 * HALF_WIDTH + 1) / n))
    return Estimate(float(np.mean(values)))


def _measurements(
    context: Context,
    runs: dict[str, list[Row]],
    found: dict[str, dict[str, Estimate]],
    moved: tuple[tuple[str, ...], np.ndarray],
    sensitivity: Sequence[float],
    shown: tuple[np.ndarray, int],
) -> tuple[Measurement, ...]:
    names = (BAND, WITHIN, DISTANCE, SINK)
    seconds = context.seconds_per_position
    conditions, table = moved
    whose = ("this model", "shuffled weights", "untrained model", "this model, published scalar")
    offsets = tuple(round(float(d * seconds), 4) for d in range(-PROFILE, PROFILE + 1))
    with np.errstate(invalid="ignore"):
        profiles = np.array([np.mean([row.profile for row in rows], axis=0) for rows in runs.values()])
    values, index = shown
    n_clip = min(context.n_positions[index], values.shape[1])
    width = min(n_clip + 50, values.shape[1]) // MAP_BIN * MAP_BIN
    square = values[: n_clip // MAP_BIN * MAP_BIN, :width]
    cells = square.reshape(-1, MAP_BIN, width // MAP_BIN, MAP_BIN).mean((1, 3))
    bins = [tuple(round(k * MAP_BIN * seconds, 3) for k in range(size)) for size in cells.shape]
    bounds = Axis("bound", ("value", "low", "high"))
    return (
        Measurement(
            "statistics",
            (Axis("whose", whose), Axis("statistic", names), bounds),
            np.array([[found[key][name].row for name in names] for key in runs]),
        ),
        Measurement(
            "relevance by distance", (Axis("whose", whose), Axis("source - destination", offsets, "s")), profiles
        ),
        Measurement(
            "where padding looks",
            (
                Axis("condition", conditions),
                Axis("clip", tuple(range(table.shape[1]))),
                Axis("what", ("peak", "end of speech", "end of signal")),
            ),
            table,
            "s",
        ),
        Measurement(
            "slope of the published scalar", (Axis("clip", tuple(range(len(sensitivity)))),), np.array(sensitivity)
        ),
        Measurement("relevance of one clip", (Axis("destination", bins[0], "s"), Axis("source", bins[1], "s")), cells),
    )


def _notes(
    context: Context,
    runs: dict[str, list[Row]],
    found: dict[str, dict[str, Estimate]],
    moved: tuple[tuple[str, ...], np.ndarray],
    sensitivity: Sequence[float],
) -> tuple[str, ...]:
    conditions, table = moved
    far = np.abs(table[..., :1] - table[..., 1:])
    told = []
    for name, rows in zip(conditions, far, strict=True):
        known = rows[np.isfinite(rows).all(1)]
        if len(known):
            speech, signal = np.median(known, axis=0)
            told.append(f"{name}: {speech:.2f} s and {signal:.2f} s")
    sink = found["model"][SINK].value
    spread = _spread(context, runs["model"]).value
    notes = [
        f"Relevance spread evenly over each clip would already have {spread:.3g} times a uniform window's in the band, "
        "since the clips are short: the second criterion takes the clip's length out.",
        f"The end of the audio is the most relevant position of {0 if sink is None else sink:.0%} of the padding rows "
        "(within 0.5 s).",
        "Median distance of the padding rows' peak from the end of speech and from the end of the signal: "
        + ("; ".join(told) if told else "not measured, no word has a time")
        + ".",
    ]
    if len(sensitivity):
        notes.append(
            f"The published scalar's gradient before the final norm is {np.mean(sensitivity):.2g} of that of a random "
            "combination of outputs (it would be 0 if all gains of the norm were equal)."
        )
    return tuple(notes)


def _word_notes(words: Float[np.ndarray, "word what"]) -> tuple[str, ...]:
    if not len(words):
        return ()
    found, chance = words.mean(0)
    return (
        f"Carried on through cross-attention, relevance finds the words: the most relevant audio of {found:.0%} of "
        f"{len(words)} words lies within 100 ms of them (chance: {chance:.0%}).",
    )


def draw(finding: Finding) -> list[Figure]:
    """Relevance by distance; one clip's map; where padding looks; the model beside its controls."""
    profile = finding.measurement("relevance by distance")
    x = np.array(profile.axes[1].entries, dtype=float)
    first, axes = _figure("Relevance by distance", "source - destination (s)", "share of a row's relevance (%)")
    looks = {"this model": (BLUE, "-"), "shuffled weights": (GREY, "--"), "untrained model": (GREY, ":")}
    for name, (colour, line) in looks.items():
        axes.plot(x, 100 * profile.at(whose=name), color=colour, linestyle=line, label=name)
    axes.axvspan(x[0] / 3, x[-1] / 3, color=ORANGE, alpha=0.12, linewidth=0, label="band of 0.5 s")
    _legend(axes)
    first.set_label("Mean share of relevance by distance, for this model and two controls")
    one = finding.measurement("relevance of one clip")
    second, axes = _figure("Relevance of one clip", "source (s)", "destination (s)")
    top = float(np.percentile(one.values, 98)) or 1.0
    extent = (0.0, float(one.axes[1].entries[-1]), float(one.axes[0].entries[-1]), 0.0)
    image = axes.imshow(one.values, aspect="auto", cmap="viridis", vmin=0, vmax=top, extent=extent)
    axes.grid(False)
    second.colorbar(image, ax=axes, label="relevance, clipped at percentile 98")
    second.set_label("Map of relevance, destination by source, of one clip")
    return [draw_controls(finding, 1, "share of the way to all in the band"), first, second]


PUBLISHED = Table(
    "Relevance of one clip of 10 s, tiny",
    f"{published.DOCS}; {published.BLOG}",
    ("what", "seen in the figure"),
    (
        ("destinations 0 to 500", "a thin diagonal; some rows (0-30, ~190, 290-330) also look at the end"),
        ("destinations above 500", "a dark column at sources 486 to 515"),
        ("caveat", "the clip was cut at position 500, which is the end of the signal, not surely of speech"),
    ),
)
