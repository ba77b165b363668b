"""Patches of word-swap pairs (W1): spans, windows, components and heads, exactly and by attribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.findings.core.statistics import spearman
from hooked_whisper.findings.swaps.pairs import SwapPair
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

WINDOW = 5  # positions: 100 ms
PROFILE = tuple(range(-8, 9))  # windows relative to the window of the word's middle
GROUPS = ("before", "word", "after", "padding")
COMPONENTS = ("resid_pre", "attn_out", "cross_attn_out", "mlp_out", "resid_post")


@dataclass(frozen=True, eq=False)
class SwapEffects:
    """Effects of patches as shares of the gap, one row per pair. NaN: not measured.

    Attributes:
        word, wrong, third: effect of the word's span, of an equally long span at the clip's far end, and of a third
            word in the word's span.
        noised: effect of the word's span of the run with B, patched into the run with A.
        local: share of the effect of all windows that is within 100 ms of the word.
        local_if_even: the same share if all windows had the same effect.
        profile: effect of windows by their distance from the word's middle.
        parts, heads: effect of the decoder's components and cross-attention heads at the predicting token.
    """

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
    """Return the grids of the encoder output's windows, and of the decoder's components and cross-attention heads at
    the last token."""
    last = [read_positions(pair.metric.index, label="predicting")]
    windows = make_grid(model, "encoder.hook_out", "encoder", spans=window_spans(pair.n_positions, WINDOW))
    parts = [make_grid(model, c, "decoder", spans=last) for c in COMPONENTS]
    flat = tuple(p for grid in parts for p in grid.patches)
    n = model.cfg.decoder.n_layers
    axes = (GridAxis("component", COMPONENTS), GridAxis("block", tuple(map(str, range(n)))))
    return windows, PatchGrid(flat, axes), make_grid(model, "cross_z", "decoder", spans=last, per_head=True)


@torch.no_grad()
def patch_pair(
    model: HookedWhisper, pair: SwapPair, third: Float[Tensor, "1 position d_model"] | None, detailed: bool = True
) -> tuple[dict[str, Any], Float[np.ndarray, "patch"]]:
    """Patch the decoder's side of a pair: the word's span, the wrong span and, if ``detailed``, windows, components and
    heads.

    Returns:
        A row of :class:`SwapEffects`, and the shares of all windows, components and heads, which attribution estimates.
    """
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
    """Return the metric of the clean run with B's span, and of the corrupt run with the third word's span (NaN if there
    is none)."""
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
    positions = patch.indices["position"]
    assert isinstance(positions, slice)
    return positions.start, positions.stop


def attribution_agreement(
    model: HookedWhisper, pair: SwapPair, exact: Float[np.ndarray, "patch"]
) -> tuple[float, float]:
    """Return the rank correlation of attribution and exact patching (:func:`patch_pair`) over windows, and over the
    decoder's components and heads."""
    windows, parts, heads = _grids(model, pair)
    grid = PatchGrid((*windows.patches, *parts.patches, *heads.patches), windows.axes)
    clean, corrupt = pair.decoder_side()
    guess = attribute_patches(model, grid, corrupt, clean, pair.metric).values.numpy()
    n = len(windows.patches)
    return spearman(exact[:n], guess[:n]), spearman(exact[n:], guess[n:])


def patch_by_block(model: HookedWhisper, pair: SwapPair) -> Float[np.ndarray, "block group"]:
    """Return the effect of the residual stream before each encoder block, and of the encoder's output, by span of the
    clip (:data:`GROUPS`)."""
    word, end = pair.word_span(model), pair.n_positions
    edges = (0, word.start, word.stop, max(end, word.stop), model.cfg.encoder.n_ctx)
    groups = zip(GROUPS, edges, edges[1:], strict=False)
    spans = [read_positions((a, b), label=name) if b > a else None for name, a, b in groups]
    columns = [k for k, span in enumerate(spans) if span is not None]
    nonempty = [span for span in spans if span is not None]
    inside = make_grid(model, "resid_pre", "encoder", spans=nonempty)
    out = make_grid(model, "encoder.hook_out", "encoder", spans=nonempty)
    done = run_patches(model, [*inside.patches, *out.patches], pair.corrupt, pair.clean, pair.metric)
    share = ((done.values - done.base) / (done.source - done.base)).numpy().reshape(-1, len(nonempty))
    table = np.full((len(share), len(GROUPS)), np.nan)
    table[:, columns] = share
    return table
