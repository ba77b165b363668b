"""Statistics of a clip's relevance map, and a model with shuffled weights (F1)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.hooked import HookedWhisper

HALF_WIDTH = 25  # half-width of the band in positions
PROFILE = 75  # positions on either side that the figure shows

BAND = "relevance within the band, over a uniform window's"
WITHIN = "relevance of the clip's positions within the band, 0: as if spread over the clip, 1: all of it"
DISTANCE = "median distance to the most relevant position"


@dataclass(frozen=True, eq=False)
class ClipRelevance:
    """Statistics of a clip's relevance map. ``profile`` is the mean share of relevance at each signed distance."""

    band: float
    within: float
    distance: float
    profile: Float[np.ndarray, "offset"]

    @property
    def values(self) -> dict[str, float]:
        return {BAND: self.band, WITHIN: self.within, DISTANCE: self.distance}


def clip_statistics(
    relevance: Float[np.ndarray, "row position"], rows: Int[np.ndarray, "row"], speech: slice, n_clip: int
) -> ClipRelevance:
    """Return the statistics of a relevance map without the identity.

    rows: the destinations. speech: the positions that are judged. n_clip: number of positions that the clip fills.
    """
    n = relevance.shape[1]
    positions = np.arange(n)
    spoken = (rows >= speech.start) & (rows < speech.stop)
    total = relevance.sum(1)
    judged = spoken & (total > 0)
    near = np.abs(rows[:, None] - positions[None, :]) <= HALF_WIDTH
    inside = positions < n_clip
    r, close = relevance[judged], near[judged]
    whole = r.sum(1)
    clip = r[:, inside].sum(1)
    share = _ratio((r * close)[:, inside].sum(1), clip)
    expected = close[:, inside].mean(1)
    return ClipRelevance(
        band=_mean((r * close).sum(1) / whole) / ((2 * HALF_WIDTH + 1) / n),
        within=_mean(_ratio(share - expected, 1 - expected)),
        distance=float(np.median(np.abs(rows[judged] - r.argmax(1)))) if judged.any() else np.nan,
        profile=_profile(r / np.maximum(whole, 1e-300)[:, None], rows[judged]),
    )


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return ``a / b``, or NaN where ``b`` is 0."""
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _profile(shares: Float[np.ndarray, "row position"], rows: Int[np.ndarray, "row"]) -> Float[np.ndarray, "offset"]:
    """Return the mean share of a row's relevance at each distance ``source - destination``, or NaN if no row has that
    distance."""
    offsets = np.arange(-PROFILE, PROFILE + 1)
    sources = rows[:, None] + offsets[None, :]
    exists = (sources >= 0) & (sources < shares.shape[1])
    if not len(rows):
        return np.full(len(offsets), np.nan)
    picked = np.take_along_axis(shares, np.clip(sources, 0, shares.shape[1] - 1), axis=1)
    return _ratio(np.where(exists, picked, 0).sum(0), exists.sum(0).astype(float))


def shuffled_weights(model: HookedWhisper, seed: int) -> HookedWhisper:
    """Return a copy of the model with the entries of each encoder parameter shuffled within its tensor."""
    copied = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in copied.encoder.parameters():
            order = torch.randperm(p.numel(), generator=generator).to(p.device)
            p.copy_(p.flatten()[order].view_as(p))
    return copied


def sum_sensitivity(model: HookedWhisper, resid: Float[Tensor, "clip position d_model"], seed: int = 0) -> float:
    """Return the sensitivity of the sum of the encoder's outputs to the input of the final norm.

    This is the norm of the sum's gradient divided by the gradient norm of a random combination of the outputs with
    weights of the same size. It is 0 for any input if all gains of the norm are equal.
    """

    def slope(weights: Tensor) -> float:
        leaf = resid.detach().requires_grad_()
        with torch.enable_grad():
            (grad,) = torch.autograd.grad((model.encoder.ln_post.unhooked(leaf) * weights).sum(), leaf)
        return float(grad.norm())

    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(resid.shape, generator=generator).to(resid)
    ones = torch.ones_like(resid)
    return slope(ones) / slope(random * ones.norm() / random.norm())
