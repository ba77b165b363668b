"""What F1 measures on one clip's relevance map, the clips it is measured on, and a model with shuffled weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.findings.context import Context, Utterance
from hooked_whisper.hooked import HookedWhisper

HALF_WIDTH = 25  # positions of the band
NOISE_SECONDS, NOISE_RMS = 2.0, 0.003
PROFILE = 75  # positions either side that the figure shows

BAND = "relevance within the band, over a uniform window's"
WITHIN = "relevance of the clip's positions within the band, 0: as if spread over the clip, 1: all of it"
DISTANCE = "median distance to the most relevant position"
SINK = "padding rows whose most relevant position is the end of the audio"


@dataclass(frozen=True, eq=False)
class Row:
    """Statistics of one clip. ``peak`` is where the padding rows look most (median, position); NaN without padding."""

    band: float
    within: float
    distance: float
    sink: float
    peak: float
    profile: Float[np.ndarray, "offset"]

    @property
    def values(self) -> dict[str, float]:
        return {BAND: self.band, WITHIN: self.within, DISTANCE: self.distance, SINK: self.sink}


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
    padding = (rows >= n_clip) & (total > 0)
    peaks = relevance[padding].argmax(1)
    return Row(
        band=_mean((r * close).sum(1) / whole) / ((2 * HALF_WIDTH + 1) / n),
        within=_mean(_ratio(share - expected, 1 - expected)),
        distance=float(np.median(np.abs(rows[judged] - r.argmax(1)))) if judged.any() else np.nan,
        sink=_mean((np.abs(peaks - n_clip) <= HALF_WIDTH).astype(float)),
        peak=float(np.median(peaks)) if len(peaks) else np.nan,
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


@dataclass(frozen=True, eq=False)
class Clip:
    """Something to run: audio, the text to be explained, where speech is (positions), how long the signal is."""

    audio: Float[np.ndarray, "sample"]
    text: str
    speech: slice
    n_clip: int


def whole_clip(context: Context, i: int) -> Clip:
    one, n = context.utterances[i], context.n_positions[i]
    return Clip(one.audio, context.references[i], spoken_span(context, one, n), n)


def cut_clip(context: Context, i: int, share: float) -> Clip | None:
    """The clip ends within its speech; the text is the words that are over by then. ``None`` if none is."""
    one, time = context.utterances[i], context.model.time
    words = [w for w in one.alignment.words if w.duration > 0]
    if not words:
        return None
    at = words[0].start + share * (words[-1].end - words[0].start)
    over = [w for w in words if w.end <= at + 0.02]
    if not over or at > time.duration:
        return None
    n = time.n_positions(at)
    text = " ".join(w.label for w in over)
    return Clip(one.audio[: time.sample(at)], text, slice(min(time.position(words[0].start), n), n), n)


def noisy_clip(context: Context, i: int) -> Clip | None:
    """Faint noise from the last word's end on, for a while: the signal ends later than speech does."""
    one, time = context.utterances[i], context.model.time
    words = [w for w in one.alignment.words if w.duration > 0]
    if not words or words[-1].end + NOISE_SECONDS > time.duration:
        return None
    end, rate = time.sample(words[-1].end), time.sample_rate
    noise = context.rng(f"noise {i}").standard_normal(round(NOISE_SECONDS * rate)) * NOISE_RMS
    audio = np.concatenate([one.audio[:end], noise.astype(np.float32)])
    n = time.n_positions(len(audio) / rate)
    return Clip(audio, context.references[i], spoken_span(context, one, n), n)


def spoken_span(context: Context, utterance: Utterance, n_clip: int) -> slice:
    """Positions from the first word to the last, within the clip; the whole clip if no word has a time."""
    words = [w for w in utterance.alignment.words if w.duration > 0]
    if not words:
        return slice(0, n_clip)
    span = context.model.time.span(words[0].start, min(words[-1].end, context.model.time.duration))
    return slice(min(span.start, n_clip), min(span.stop, n_clip))


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
