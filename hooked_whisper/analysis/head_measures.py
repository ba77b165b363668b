"""Measures of attention patterns, one number per head: distance, entropy, attention to padding, words and order."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from torch import Tensor

from hooked_whisper._support.renamed import renamed_arguments

Measures = dict[str, Float[np.ndarray, "head"]]


@renamed_arguments(own="own_word")
def encoder_measures(
    pattern: Float[Tensor, "head query key"], n_speech: int, own_word: Bool[Tensor, "row key"]
) -> Measures:
    """Return the measures of one encoder block, over the first ``n_speech`` queries. ``own_word``: positions of each
    query's word."""
    rows = pattern[:, :n_speech]
    keys = rows.shape[-1]
    by_distance = distance_histogram(rows)
    padding = rows[..., n_speech:].sum(-1).mean(-1) if n_speech < keys else torch.full_like(rows[:, 0, 0], torch.nan)
    visible = torch.full((n_speech,), keys, device=rows.device)
    return {
        **_distances(by_distance),
        **_entropies(rows, visible),
        "padding": _numpy(padding),
        "own word": _own_mass(rows, own_word),
    }


def decoder_measures(pattern: Float[Tensor, "head query key"]) -> Measures:
    """Return the measures of one block's causal self-attention. The first row, which sees only itself, is left out."""
    rows = pattern[:, 1:]
    visible = torch.arange(2, 2 + rows.shape[1], device=rows.device)
    return {
        **_distances(distance_histogram(rows, first_query=1)),
        **_entropies(rows, visible),
        "first token": _numpy(rows[..., 0].mean(-1)),
    }


@renamed_arguments(own="own_word")
def cross_measures(
    pattern: Float[Tensor, "head row key"], n_speech: int, own_word: Bool[Tensor, "row key"]
) -> Measures:
    """Return the measures of one block's cross-attention, over the rows that write text. ``own_word``: positions of the
    word that each row writes."""
    keys = pattern.shape[-1]
    nan = torch.full_like(pattern[:, 0, 0], torch.nan)
    positions = torch.arange(keys, device=pattern.device, dtype=pattern.dtype)
    known = own_word.any(-1)
    distance = nan
    if known.any():
        first = own_word[known].int().argmax(-1, keepdim=True)
        last = first + own_word[known].sum(-1, keepdim=True) - 1
        outside = (first - positions).clamp_min(0) + (positions - last).clamp_min(0)
        distance = (pattern[:, known] * outside).sum(-1).mean(-1)
    mean_position = (pattern * positions).sum(-1)  # [head, row]
    visible = torch.full((pattern.shape[1],), keys, device=pattern.device)
    return {
        "distance": _numpy(distance),
        **_entropies(pattern, visible),
        "padding": _numpy(pattern[..., n_speech:].sum(-1).mean(-1) if n_speech < keys else nan),
        "own word": _own_mass(pattern, own_word),
        "monotonicity": monotonicity(_numpy(mean_position)),
        "forward steps": _numpy((mean_position.diff(dim=-1) > 0).float().mean(-1)),
    }


def distance_histogram(rows: Float[Tensor, "head query key"], first_query: int = 0) -> Float[Tensor, "head distance"]:
    """Return the attention at each distance between query and key, as a share of all attention."""
    heads, queries, keys = rows.shape
    query = torch.arange(first_query, first_query + queries, device=rows.device)
    apart = (query[:, None] - torch.arange(keys, device=rows.device)).abs()
    total = torch.zeros(heads, int(apart.max()) + 1 if apart.numel() else 1, dtype=torch.float64, device=rows.device)
    for head, row in enumerate(rows):  # per head: an index for all heads would be as large as the pattern
        total[head] = torch.bincount(apart.flatten(), weights=row.flatten().double(), minlength=total.shape[1])
    return (total / total.sum(-1, keepdim=True)).float()


@renamed_arguments(centres="positions")
def monotonicity(positions: Float[np.ndarray, "head row"]) -> Float[np.ndarray, "head"]:
    """Return the Spearman correlation of each head's positions with the row number.

    NaN for fewer than three rows or constant positions.
    """
    heads, rows = positions.shape
    if rows < 3:
        return np.full(heads, np.nan)
    ranks = rankdata(positions, axis=1) - (rows + 1) / 2
    line = np.arange(rows) - (rows - 1) / 2
    scale = np.sqrt((ranks**2).sum(1) * (line**2).sum())
    return np.divide(ranks @ line, scale, out=np.full(heads, np.nan), where=scale > 0)


def _distances(by_distance: Float[Tensor, "head distance"]) -> Measures:
    distances = torch.arange(by_distance.shape[1], device=by_distance.device)
    half = (by_distance.cumsum(-1) >= 0.5 - 1e-6).int().argmax(-1)
    return {"distance": _numpy((by_distance * distances).sum(-1)), "median distance": _numpy(half)}


def _entropies(rows: Float[Tensor, "head query key"], visible: Int[Tensor, "query"]) -> Measures:
    entropy = torch.special.entr(rows).sum(-1)
    return {
        "entropy": _numpy(entropy.mean(-1)),
        "relative entropy": _numpy((entropy / visible.log().clamp_min(1e-9)).mean(-1)),
    }


def _own_mass(rows: Float[Tensor, "head row key"], own_word: Bool[Tensor, "row key"]) -> Float[np.ndarray, "head"]:
    known = own_word.any(-1)
    if not known.any():
        return np.full(len(rows), np.nan)
    return _numpy((rows[:, known] * own_word[known]).sum(-1).mean(-1))


def _numpy(x: Tensor) -> np.ndarray:
    return x.double().cpu().numpy()
