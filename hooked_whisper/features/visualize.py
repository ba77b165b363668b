"""Feature visualization without priors: find a log-mel that maximizes a feature by gradient ascent.

The published attempt (``optimize_input.py`` of github.com/er537/whisper_interpretability) increased the distance to its
target instead of reducing it, and started at ``mel = 0``, which is not silence. Here the activation is maximized,
starting points are made from real mels, and values stay in the range of a real mel of the same loudness.

Sources: Erhan et al. 2009; Mordvintsev et al. 2015 (jitter); Mahendran & Vedaldi 2015 (total variation).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.heatmap import heat_map
from hooked_whisper._support.mel_axis import frequency_ticks
from hooked_whisper._support.plotly_figures import Backend
from hooked_whisper._support.renamed import RenamedWarning, renamed_arguments
from hooked_whisper._support.showing import Summary, Tabular, counted
from hooked_whisper.audio import TimeMap
from hooked_whisper.audio.griffin_lim import griffin_lim
from hooked_whisper.audio.mel import Number
from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.features.mel_optimization import RANGE, activations_of_mel, check_mels, unit_rms, vector_point
from hooked_whisper.protocols import FeatureBasis

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

Start = Literal["silence", "noise", "mean"]


@dataclass(frozen=True, eq=False, repr=False)
class MaximizedFeatures(Tabular):
    """The result of :func:`maximize_features`, one row per feature.

    Attributes:
        name: hook point.
        labels: of the features.
        mel: best log-mel of each feature, as the encoder takes it.
        start: log-mel it started with.
        trace: activation at every step; entry 0 is the start.
        positions: positions of the encoder's window that the mel fills; the encoder ran only on these.
        target: encoder positions whose mean activation was maximized.
    """

    name: str
    labels: tuple[str, ...]
    mel: Float[Tensor, "unit mel frame"]
    start: Float[Tensor, "unit mel frame"]
    trace: Float[Tensor, "unit step"]
    positions: slice
    target: slice

    @property
    def at(self) -> slice:
        """The name of ``target`` in version 0.1."""
        warnings.warn("MaximizedFeatures.at is now called target", RenamedWarning, stacklevel=2)
        return self.target

    @property
    def start_activation(self) -> Float[Tensor, "unit"]:
        return self.trace[:, 0]

    @property
    def activation(self) -> Float[Tensor, "unit"]:
        """Activation of the best mel; never below the start's."""
        return self.trace.amax(1)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per feature: label, start_activation, activation."""
        values = zip(self.labels, self.start_activation.tolist(), self.activation.tolist(), strict=True)
        return [{"label": label, "start_activation": start, "activation": best} for label, start, best in values]

    def summary(self) -> Summary:
        seconds = self.mel.shape[-1] * TimeMap().seconds_per_position / 2
        n_steps = self.trace.shape[1] - 1
        title = f"MaximizedFeatures: {counted(len(self.labels), 'feature')} of {self.name}, {seconds:.4g} s of log-mel"
        rows = tuple(tuple(row.values()) for row in self.to_rows())
        return Summary(title, (f"{n_steps} steps",), ("feature", "start", "best"), rows)

    def plot(self, unit: int = 0, title: str = "", *, backend: Backend = "matplotlib") -> Any:
        """Draw the best log-mel of one feature (a row number): seconds across, kHz upward on the mel scale.
        ``backend="plotly"`` returns a plotly figure."""
        n_mels, n_frames = self.mel.shape[1:]
        return heat_map(
            self.mel[unit].flip(0).double().cpu().numpy(),
            title=title or f"Log-mel that maximizes feature {self.labels[unit]} of {self.name}",
            x="time (s)",
            y="kHz",
            unit="log-mel",
            y_ticks=[(tick.percent * n_mels / 100, tick.text) for tick in frequency_ticks(n_mels)],
            extent=(0.0, n_frames * TimeMap().seconds_per_position / 2, 0, n_mels),
            facecolor="white",
            backend=backend,
        )

    def audio(self, seed: int = 0) -> Float[Tensor, "unit sample"]:
        """Sound of the mels, 16 kHz, by :func:`hooked_whisper.audio.griffin_lim.griffin_lim`."""
        return griffin_lim(self.mel, seed=seed)


def start_mel(
    kind: Start, real: Sequence[Float[Tensor, "mel _"]], n_frames: int, seed: int = 0
) -> Float[Tensor, "mel frame"]:
    """Return a starting log-mel that is as loud as real clips.

    Args:
        kind: ``"silence"``: the floor of a clip of median loudness. ``"noise"``: each value is drawn from the clips'
            values in its mel band. ``"mean"``: each band's mean.
        real: log-mels of real clips, without padding.

    Raises:
        PatchError: an unknown ``kind``, or no clips.
    """
    check_option("kind", kind, get_args(Start), PatchError)
    if not real:
        raise PatchError("`real` is empty, expected at least one log-mel, which sets the loudness")
    frames = torch.cat(list(real), dim=1)
    if kind == "silence":
        top = torch.stack([mel.amax() for mel in real]).median()
        return (top - RANGE).expand(frames.shape[0], n_frames).clone()
    if kind == "mean":
        return frames.mean(1, keepdim=True).repeat(1, n_frames)
    drawn = torch.randint(frames.shape[1], (frames.shape[0], n_frames), generator=torch.Generator().manual_seed(seed))
    return frames.gather(1, drawn.to(frames.device))


@renamed_arguments(at="target")
def maximize_features(
    model: HookedWhisper,
    name: str,
    basis: FeatureBasis,
    units: Sequence[int],
    start: Float[Tensor, "mel frame"] | Float[Tensor, "unit mel frame"],
    *,
    first_position: int = 0,
    target: int | slice | None = None,
    top: Number | Float[Tensor, "unit"] | None = None,
    steps: int = 100,
    step_size: Number = 0.05,
    smoothness: Number = 0.2,
    jitter: int = 1,
    seed: int = 0,
) -> MaximizedFeatures:
    """Maximize features of an encoder point by gradient ascent on the mel, all features in one batch.

    Each step moves a row along its gradient, scaled to a root mean square of ``step_size``, and clamps it to
    ``[top - 2, top]``, the range of the log-mel of a clip whose loudest value is ``top``. The best mel of all steps is
    returned. The pass stops at the point. Parameters keep their ``.grad``; the model's hooks stay active.

    Maximize neurons at ``mlp.hook_pre``: GELU has its minimum at -0.75 and rises on both sides, so that ascent at
    ``mlp.hook_post`` would silence a silent neuron further. Where the neuron fires, both have the same order.

    Args:
        basis, units: features of the activations at ``name`` (``axes(512)`` for neurons), and which to maximize.
        start: log-mel with two frames per position, one for all features or one for each. The encoder runs only on it:
            short ones take less time.
        first_position: position of the encoder's window where the mel starts.
        target: position or slice of the encoder's window whose mean activation is maximized; default: the middle one.
        top: loudest value of the mel; default: that of each row's start, or 2 above its lowest value if that is louder.
        smoothness: weight of the gradient of the total variation, which is scaled like the activation's.
        jitter: largest random shift of the mel in positions before each gradient, which avoids a dependence on the
            alignment with the strided convolution; 0: none.

    Raises:
        PatchError: the point has no vector per encoder position, a feature does not exist, the mel does not fit, or
            ``target`` is outside the mel.
    """
    point = vector_point(model, name)
    rows = start.expand(len(units), *start.shape[-2:]).detach().clone()
    n = check_mels(model, basis, units, rows, first_position)
    positions = slice(first_position, first_position + n)
    middle = first_position + n // 2
    target = middle if target is None else target
    span = target if isinstance(target, slice) else slice(int(target), int(target) + 1)
    first, stop = (span.start or 0) - first_position, (span.stop or 0) - first_position
    if not 0 <= first < stop <= n:
        raise PatchError(f"positions {span} are outside the mel, which has {positions}")
    highest = _top(rows, top)
    lowest = highest - RANGE
    generator = torch.Generator().manual_seed(seed)
    number = torch.tensor(list(units), device=rows.device)[:, None, None]

    def activation(mel: Tensor, moved: int = 0) -> Float[Tensor, "unit"]:
        features = basis.encode(activations_of_mel(model, point, mel, positions))  # [unit, position, feature]
        of_unit = features.gather(2, number.expand(-1, features.shape[1], 1))[..., 0]
        return of_unit.roll(-moved, 1)[:, first:stop].mean(1)

    mel = rows = rows.clamp(lowest, highest)
    with torch.no_grad():
        now = activation(mel)
    best, best_mel, trace = now, mel, [now]
    for _ in range(steps):
        moved = int(torch.randint(-jitter, jitter + 1, (), generator=generator)) if jitter else 0
        with torch.enable_grad():
            leaf = mel.detach().requires_grad_()
            value = activation(leaf.roll(2 * moved, 2), moved)
            (up,) = torch.autograd.grad(value.sum(), leaf)
            (rough,) = torch.autograd.grad(_total_variation(leaf).sum(), leaf)
        mel = (mel + step_size * (unit_rms(up) - smoothness * unit_rms(rough))).clamp(lowest, highest)
        with torch.no_grad():
            now = activation(mel)
        better = now > best
        best, best_mel = torch.where(better, now, best), torch.where(better[:, None, None], mel, best_mel)
        trace.append(now)
    labels = tuple(str(basis.labels[u]) for u in units)
    return MaximizedFeatures(point.name, labels, best_mel, rows, torch.stack(trace, 1), positions, span)


@renamed_arguments(at="positions")
@torch.no_grad()
def in_full_window(
    model: HookedWhisper,
    name: str,
    basis: FeatureBasis,
    units: Sequence[int],
    mel: Float[Tensor, "unit mel frame"],
    first_position: int,
    positions: slice,
) -> Float[Tensor, "unit"]:
    """Mean activation of each unit at ``positions`` when its mel is placed in an otherwise silent full window.

    Silence is the lowest possible value of a mel (``top - 2``). Real clips are measured in the same kind of window.
    """
    point = vector_point(model, name)
    frames = model.cfg.encoder.n_frames
    left = 2 * first_position
    floor = mel.amax((1, 2), keepdim=True) - RANGE
    means = []
    for row, bottom, unit in zip(mel, floor, units, strict=True):  # a batch of full windows would not be faster
        window = bottom.expand(mel.shape[1], frames).clone()
        window[:, left : left + mel.shape[2]] = row
        x = basis.encode(activations_of_mel(model, point, window[None], None)[:, positions])
        means.append(x[0, :, unit].mean())
    return torch.stack(means)


def _top(rows: Float[Tensor, "unit mel frame"], top: Number | Tensor | None) -> Float[Tensor, "unit 1 1"]:
    if top is None:
        return torch.maximum(rows.amax((1, 2)), rows.amin((1, 2)) + RANGE)[:, None, None]
    return torch.as_tensor(top).to(rows).expand(len(rows))[:, None, None]


def _total_variation(mel: Float[Tensor, "unit mel frame"]) -> Float[Tensor, "unit"]:
    """Mean smooth absolute difference of neighbors in time and in frequency."""
    along = (F.huber_loss(mel[:, :, 1:], mel[:, :, :-1], reduction="none", delta=0.05)).mean((1, 2))
    across = (F.huber_loss(mel[:, 1:], mel[:, :-1], reduction="none", delta=0.05)).mean((1, 2))
    return along + across
