"""Feature visualization with priors: mels that activate a unit of the encoder and are as probable as real mels.

Plain gradient ascent (:func:`hooked_whisper.features.visualize.maximize_features`) finds mels that do not resemble
speech. Three priors keep the mel near speech. The mel is shifted circularly by a few frames before each gradient. The
gradient is blurred in time and frequency, less with each step. The ascent runs in the whitened space of real mels, at
most as far from the mean as a typical real mel.

Sources: Mordvintsev et al. 2015 (jitter); Yosinski et al. 2015 (blur); Olah et al. 2017 (decorrelated space).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.showing import Showing
from hooked_whisper.audio.mel import Number
from hooked_whisper.errors import PatchError
from hooked_whisper.features.mel_optimization import RANGE, activations_of_mel, check_mels, unit_rms, vector_point
from hooked_whisper.protocols import FeatureBasis

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

Objective = Callable[[Float[Tensor, "row mel frame"], int], Float[Tensor, "row"]]
"""Maps mels, and the number of frames by which they were shifted to the right, to one number a row."""

LEAST_VARIANCE = 1e-3  # relative to the largest eigenvalue; avoids amplifying directions without variance


@dataclass(frozen=True, eq=False, repr=False)
class MelPrior(Showing):
    """Gaussian model of real log-mels, whose covariance is the product of one over bands and one over frames.

    Attributes:
        mean: mean of each band.
        bands: symmetric square root of the covariance of the bands.
        frames: symmetric square root of the correlation of the frames of a window.
        low, high: smallest and largest value of each band.
        radius: largest root mean square of a mel in the whitened space; that of real mels is 1.
    """

    mean: Float[Tensor, "mel"]
    bands: Float[Tensor, "mel mel"]
    frames: Float[Tensor, "frame frame"]
    low: Float[Tensor, "mel"]
    high: Float[Tensor, "mel"]
    radius: float = 1.0

    @classmethod
    def of(cls, mels: Sequence[Float[Tensor, "mel _"]], n_frames: int) -> MelPrior:
        """Estimate the model from log-mels of real clips (without padding), for windows of ``n_frames``.

        Raises:
            PatchError: all clips are shorter than ``n_frames``.
        """
        mels = [mel.detach().double() for mel in mels]
        windows = [mel for mel in mels if mel.shape[1] >= n_frames]
        if not windows:
            raise PatchError(f"no clip has {n_frames} frames: give longer clips, or reduce n_frames")
        frames_of_clips = torch.cat(mels, dim=1)
        mean = frames_of_clips.mean(1)
        values, vectors = torch.linalg.eigh(torch.cov(frames_of_clips))
        values = values.clamp(min=LEAST_VARIANCE * float(values.max()))
        bands = vectors * values.sqrt() @ vectors.T
        whiten = vectors / values.sqrt() @ vectors.T
        white = [whiten @ (mel - mean[:, None]) for mel in windows]
        lags = torch.stack(
            [
                torch.cat([(x[:, : x.shape[1] - lag] * x[:, lag:]).flatten() for x in white]).mean()
                for lag in range(n_frames)
            ]
        )
        index = torch.arange(n_frames)
        values, vectors = torch.linalg.eigh((lags / lags[0])[(index[:, None] - index).abs()])
        frames = vectors * values.clamp(min=LEAST_VARIANCE * float(values.max())).sqrt() @ vectors.T
        low, high = frames_of_clips.amin(1), frames_of_clips.amax(1)
        return cls(mean.float(), bands.float(), frames.float(), low.float(), high.float())

    def without_statistics(self) -> MelPrior:
        """Return a prior with the same range and mean, but without covariance or radius (for ablations)."""
        scale = self.bands.square().sum(1).mean().sqrt()
        bands, frames = torch.eye(len(self.bands)) * scale, torch.eye(len(self.frames))
        return replace(self, bands=bands.to(self.bands), frames=frames.to(self.frames), radius=math.inf)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of bands and frames of a mel."""
        return len(self.mean), len(self.frames)

    def mel(self, white: Float[Tensor, "row mel frame"]) -> Float[Tensor, "row mel frame"]:
        """Mels of points in the whitened space, clamped to the range of real mels."""
        mel = self.mean[:, None] + self.bands @ white @ self.frames
        mel = mel.clamp(self.low[:, None], self.high[:, None])
        return torch.maximum(mel, mel.amax((1, 2), keepdim=True) - RANGE)

    def pull_back(self, gradient: Float[Tensor, "row mel frame"]) -> Float[Tensor, "row mel frame"]:
        """Convert a gradient with respect to the mel to one with respect to the whitened space."""
        return self.bands @ gradient @ self.frames


@dataclass(frozen=True, eq=False, repr=False)
class Visualization(Showing):
    """The result of :func:`visualize_features`: one mel per unit and seed.

    Attributes:
        mel: log-mel after the last step, as the encoder takes it.
        start: log-mel before the first step.
        trace: the objective at every step, shifts included.
    """

    mel: Float[Tensor, "unit seed mel frame"]
    start: Float[Tensor, "unit seed mel frame"]
    trace: Float[Tensor, "unit seed step"]


def ascend(
    objective: Objective,
    prior: MelPrior,
    n_units: int,
    *,
    n_seeds: int = 3,
    steps: int = 32,
    step_size: Number = 0.1,
    jitter: int = 3,
    blur: Number = 2.0,
    start_size: Number = 0.5,
    seed: int = 0,
) -> Visualization:
    """Maximize an objective in the whitened space of a prior, all rows (units times seeds) in one batch.

    Each step moves a row by a root mean square of ``step_size`` along its gradient. A row farther from the mean than
    the prior's radius is scaled back to it.

    Args:
        n_seeds: random starting points of each unit, the same for all units.
        jitter: largest circular shift in frames.
        blur: standard deviation of the Gaussian blur of the gradient, in frames and in bands, at the first step; it
            falls to zero linearly.
        start_size: root mean square of the starting points in the whitened space.
    """
    generator = torch.Generator().manual_seed(seed)
    n_mels, n_frames = prior.shape
    starts = start_size * torch.randn(n_seeds, n_mels, n_frames, generator=generator)
    white = starts.to(prior.mean).repeat(n_units, 1, 1)
    start = prior.mel(white)
    trace = []
    for step in range(steps):
        shift = int(torch.randint(-jitter, jitter + 1, (), generator=generator)) if jitter else 0
        leaf = prior.mel(white).requires_grad_()
        with torch.enable_grad():
            value = objective(leaf.roll(shift, 2), shift)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        width = blur * (1 - step / steps)
        gradient = blur_matrix(n_mels, width).to(gradient) @ gradient @ blur_matrix(n_frames, width).to(gradient).T
        white = white + step_size * unit_rms(prior.pull_back(gradient))
        size = white.square().mean((1, 2), keepdim=True).sqrt()
        white = white / (size / prior.radius).clamp(min=1)
        trace.append(value.detach())
    rows = torch.stack(trace, 1) if trace else start.new_zeros(len(start), 0)
    shape = (n_units, n_seeds)
    return Visualization(*(x.detach().unflatten(0, shape) for x in (prior.mel(white), start, rows)))


def blur_matrix(n: int, width: Number) -> Float[Tensor, "n n"]:
    """Gaussian blur of ``n`` values with a standard deviation of ``width``; rows sum to 1. Zero: the identity."""
    if width < 0.1:
        return torch.eye(n)
    distance = torch.arange(n)[:, None] - torch.arange(n)
    weight = torch.exp(-distance.double().square() / (2 * width**2))
    return (weight / weight.sum(1, keepdim=True)).float()


def visualize_features(
    model: HookedWhisper,
    name: str,
    basis: FeatureBasis,
    units: Sequence[int],
    prior: MelPrior,
    *,
    first_position: int = 0,
    **options: Number,
) -> Visualization:
    """Find mels that activate features of an encoder point in the middle of a short window.

    The encoder runs only on the window and stops at the point.

    Args:
        basis, units: features of the activations at ``name`` (``axes(512)`` for neurons), and which to maximize.
        prior: of windows with two frames per position.
        first_position: position of the encoder's window where the mel starts.
        options: keyword arguments of :func:`ascend`.

    Raises:
        PatchError: ``name`` is not an encoder point with positions, a feature does not exist, or the window does not
            fit.
    """
    point = vector_point(model, name)
    n_mels, n_frames = prior.shape
    n = check_mels(model, basis, units, prior.mean[None, :, None].expand(1, n_mels, n_frames), first_position)
    positions = slice(first_position, first_position + n)
    n_seeds = int(options.get("n_seeds", 3))
    number = torch.tensor(list(units)).repeat_interleave(n_seeds)[:, None]

    def objective(mel: Tensor, shift: int) -> Float[Tensor, "row"]:
        middle = min(max(n // 2 + round(shift / 2), 0), n - 1)
        encoded = basis.encode(activations_of_mel(model, point, mel, positions)[:, middle])
        return encoded.gather(1, number.to(encoded.device))[:, 0]

    return ascend(objective, prior, len(units), **options)  # type: ignore[arg-type]


@torch.no_grad()
def read_points(
    model: HookedWhisper, names: Sequence[str], mel: Float[Tensor, "row mel frame"]
) -> Mapping[str, Float[Tensor, "row position d"]]:
    """Activations at encoder points on a window as short as ``mel``. The pass stops at the last point."""
    positions = slice(0, mel.shape[2] // 2)
    return model.run_with_cache(mel, names_filter=list(names), stop_early=True, mel_positions=positions)[1]


@torch.no_grad()
def activation_in_window(
    model: HookedWhisper,
    name: str,
    basis: FeatureBasis,
    units: Sequence[int],
    mel: Float[Tensor, "row mel frame"],
    first_position: int,
    padding: int,
) -> Float[Tensor, "row"]:
    """Activation of each row's unit at the middle of its mel.

    The mel is preceded by ``first_position`` positions of silence and followed by ``padding`` positions of silence. The
    encoder runs only on these positions.
    """
    point = vector_point(model, name)
    left, n = 2 * first_position, mel.shape[2]
    window = (mel.amax((1, 2), keepdim=True) - RANGE).expand(len(mel), mel.shape[1], left + n + 2 * padding).clone()
    window[:, :, left : left + n] = mel
    middle = activations_of_mel(model, point, window, slice(0, window.shape[2] // 2))[:, first_position + n // 4]
    return basis.encode(middle)[torch.arange(len(mel)), torch.tensor(list(units))]
