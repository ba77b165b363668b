"""What F1 measures on one clip's relevance map, and a model with shuffled weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.hooked import HookedWhisper

HALF_WIDTH = 25  # positions of the band
PROFILE = 75  # positions either side that the figure shows

BAND = "relevance within the band, over a uniform window's"
WITHIN = "relevance of the clip's positions within the band, 0: as if spread over the clip, 1: all of it"
DISTANCE = "median distance to the most relevant position"


@dataclass(frozen=True, eq=False)
class Row:
    """Statistics of one clip."""

    band: float
    within: float
    distance: float
    profile: Float[np.ndarray, "offset"]

    @property
    def values(self) -> dict[str, float]:
        return {BAND: self.band, WITHIN: self.within, DISTANCE: self.distance}


def clip_statistics(
    relevance: Float[np.ndarray, "row position"], rows: Int[np.ndarray, "row"], speech: slice, n_clip: int
) -> Row:
    """Of a relevance map without the identity.

    ``rows`` are the destinations, ``speech`` the positions judged, ``n_clip`` the positions that the clip fills.
    """
    n = relevance.shape[1]
    at = np.arange(n)
    spoken = (rows >= speech.start) & (rows < speech.stop)
    total = relevance.sum(1)
    judged = spoken & (total > 0)
    near = np.abs(rows[:, None] - at[None, :]) <= HALF_WIDTH
    inside = at < n_clip
    r, close = relevance[judged], near[judged]
    whole = r.sum(1)
    clip = r[:, inside].sum(1)
    share = _ratio((r * close)[:, inside].sum(1), clip)
    expected = close[:, inside].mean(1)
    return Row(
        band=_mean((r * close).sum(1) / whole) / ((2 * HALF_WIDTH + 1) / n),
        within=_mean(_ratio(share - expected, 1 - expected)),
        distance=float(np.median(np.abs(rows[judged] - r.argmax(1)))) if judged.any() else np.nan,
        profile=_profile(r / np.maximum(whole, 1e-300)[:, None], rows[judged]),
    )


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``a / b``, NaN where ``b`` is 0."""
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _profile(shares: Float[np.ndarray, "row position"], rows: Int[np.ndarray, "row"]) -> Float[np.ndarray, "offset"]:
    """Mean share of a row's relevance at each signed distance ``source - destination``; NaN where no row has it."""
    offsets = np.arange(-PROFILE, PROFILE + 1)
    sources = rows[:, None] + offsets[None, :]
    there = (sources >= 0) & (sources < shares.shape[1])
    found = np.take_along_axis(shares, np.clip(sources, 0, shares.shape[1] - 1), axis=1) if len(rows) else there * 1.0
    return _ratio(np.where(there, found, 0).sum(0), there.sum(0).astype(float))


def shuffled_weights(model: HookedWhisper, seed: int) -> HookedWhisper:
    """A copy whose encoder parameters have their entries in random order, each tensor on its own."""
    copied = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in copied.encoder.parameters():
            order = torch.randperm(p.numel(), generator=generator).to(p.device)
            p.copy_(p.flatten()[order].view_as(p))
    return copied


def sum_sensitivity(model: HookedWhisper, resid: Float[Tensor, "clip position d_model"], seed: int = 0) -> float:
    """How much the sum of the encoder's outputs depends on what enters the final norm.

    The norm of its gradient, over that of a random combination of the outputs with weights of the same size; 0 for
    equal gains, whatever the input.
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
