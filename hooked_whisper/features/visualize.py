"""Input optimisation: a log-mel that makes a feature fire, found by gradient ascent within what real mels can be.

The published attempt (``optimize_input.py`` of github.com/er537/whisper_interpretability) ascended on the distance to
its target, so that it moved away from it, and began at ``mel = 0``, which is no silence. Here the activation itself is
ascended, starts are made from real mels, and values stay in the range that a real mel of that loudness can have.

Sources: Erhan et al. 2009; Mordvintsev et al. 2015 (jitter); Mahendran & Vedaldi 2015 (total variation).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.audio.griffin_lim import griffin_lim
from hooked_whisper.audio.mel import DYNAMIC_RANGE, Number
from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.hooks import HookPoint
from hooked_whisper.protocols import FeatureBasis

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

RANGE = DYNAMIC_RANGE / 4  # of a log-mel, which is (log10 + 4) / 4: the clamp leaves no value further below the maximum
Start = Literal["silence", "noise", "mean"]


@dataclass(frozen=True, eq=False)
class MaximizedFeatures:
    """What was found, one row per feature.

    Attributes:
        mel: the best mel of each feature, log-mel values as the encoder takes them.
        start: the mel it began with.
        trace: activation at every step, in the feature's own unit; entry 0 is the start.
        positions: where in the encoder's window the mel stands (the encoder ran on these positions alone).
        at: the encoder positions whose mean activation was ascended.
    """

    name: str
    labels: tuple[str, ...]
    mel: Float[Tensor, "unit mel frame"]
    start: Float[Tensor, "unit mel frame"]
    trace: Float[Tensor, "unit step"]
    positions: slice
    at: slice

    @property
    def start_activation(self) -> Float[Tensor, "unit"]:
        return self.trace[:, 0]

    @property
    def activation(self) -> Float[Tensor, "unit"]:
        """Of the mel that was kept: never below the start's."""
        return self.trace.amax(1)

    def audio(self, seed: int = 0) -> Float[Tensor, "unit sample"]:
        """The mels made audible, 16 kHz: see :func:`hooked_whisper.audio.griffin_lim.griffin_lim`."""
        return griffin_lim(self.mel, seed=seed)


def start_mel(
    kind: Start, real: Sequence[Float[Tensor, "mel _"]], n_frames: int, seed: int = 0
) -> Float[Tensor, "mel frame"]:
    """A log-mel to begin with, as loud as real clips are.

    Args:
        kind: ``"silence"``: the floor under a clip of median loudness; ``"noise"``: each value drawn from those that
            its mel band has in the clips; ``"mean"``: each band's mean.
        real: log-mels of real clips, without padding.

    Raises:
        PatchError: an unknown kind, or no clips.
    """
    check_option("kind", kind, get_args(Start), PatchError)
    if not real:
        raise PatchError("there are no clips to take the loudness from: give at least one log-mel")
    frames = torch.cat(list(real), dim=1)
    if kind == "silence":
        top = torch.stack([one.amax() for one in real]).median()
        return (top - RANGE).expand(frames.shape[0], n_frames).clone()
    if kind == "mean":
        return frames.mean(1, keepdim=True).repeat(1, n_frames)
    drawn = torch.randint(frames.shape[1], (frames.shape[0], n_frames), generator=torch.Generator().manual_seed(seed))
    return frames.gather(1, drawn.to(frames.device))


def maximize_features(
    model: HookedWhisper,
    name: str,
    basis: FeatureBasis,
    units: Sequence[int],
    start: Float[Tensor, "mel frame"] | Float[Tensor, "unit mel frame"],
    *,
    first_position: int = 0,
    at: int | slice | None = None,
    top: Number | Float[Tensor, "unit"] | None = None,
    steps: int = 100,
    step_size: Number = 0.05,
    smoothness: Number = 0.2,
    jitter: int = 1,
    seed: int = 0,
) -> MaximizedFeatures:
    """Ascend features of an encoder point, all of them in one batch; the pass ends at that point.

    Each step moves a row along its gradient, scaled to a root mean square of ``step_size``, then back into
    ``[top - 2, top]``: what the log-mel's clamp leaves of a clip whose loudest value is ``top``. The best mel met on
    the way is kept. Parameters keep whatever ``.grad`` they had, and hooks of one's own stay in force.

    Neurons are ascended at ``mlp.hook_pre``: GELU has its minimum at -0.75 and rises to both sides of it, so that a
    silent neuron ascended at ``mlp.hook_post`` would be silenced further. Where it fires, both have the same order.

    Args:
        basis, units: features of the activations at ``name`` (``axes(512)`` for neurons), and which of them to ascend.
        start: log-mel, of one window for all features or of one for each; two frames per position. A short one costs
            little: the encoder runs on it alone.
        first_position: where in the encoder's window it stands.
        at: position (or slice) of the encoder's window whose mean activation is ascended; default: the middle one.
        top: loudest value that a mel may have; default: that of each row's start, or 2 above its lowest value if the
            start is quieter than that (silence holds nothing but the floor).
        smoothness: weight of the total variation's gradient, scaled like the activation's, against it.
        jitter: the mel is moved by up to this many positions at random before each gradient, so that it does not
            depend on one alignment with the strided convolution; 0 for none.

    Raises:
        PatchError: a point without positions or outside the encoder, features that do not exist, a mel that does not
            fit, a position outside it.
    """
    point = _point(model, name)
    rows = start.expand(len(units), *start.shape[-2:]).detach().clone()
    n = _check(model, basis, units, rows, first_position)
    positions = slice(first_position, first_position + n)
    middle = first_position + n // 2
    at = middle if at is None else at
    wanted = at if isinstance(at, slice) else slice(int(at), int(at) + 1)
    low_at, high_at = (wanted.start or 0) - first_position, (wanted.stop or 0) - first_position
    if not 0 <= low_at < high_at <= n:
        raise PatchError(f"positions {wanted} are not among those of the mel, {positions}")
    highest = _top(rows, top)
    lowest = highest - RANGE
    generator = torch.Generator().manual_seed(seed)
    number = torch.tensor(list(units), device=rows.device)[:, None, None]

    def activation(mel: Tensor, moved: int = 0) -> Float[Tensor, "unit"]:
        found = basis.encode(_partial(model, point, mel, positions))  # [unit, position, feature]
        chosen = found.gather(2, number.expand(-1, found.shape[1], 1))[..., 0]
        return chosen.roll(-moved, 1)[:, low_at:high_at].mean(1)

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
        mel = (mel + step_size * (_unit_rms(up) - smoothness * _unit_rms(rough))).clamp(lowest, highest)
        with torch.no_grad():
            now = activation(mel)
        better = now > best
        best, best_mel = torch.where(better, now, best), torch.where(better[:, None, None], mel, best_mel)
        trace.append(now)
    labels = tuple(str(basis.labels[u]) for u in units)
    return MaximizedFeatures(point.name, labels, best_mel, rows, torch.stack(trace, 1), positions, wanted)


@torch.no_grad()
def in_full_window(
    model: HookedWhisper,
    name: str,
    basis: FeatureBasis,
    units: Sequence[int],
    mel: Float[Tensor, "unit mel frame"],
    first_position: int,
    at: slice,
) -> Float[Tensor, "unit"]:
    """Mean activation of each unit for its own row at some positions, with the rest of the window silent: each row's
    mel is put into a window of its lowest possible value (``top - 2``). What clips of real speech are measured in."""
    point = _point(model, name)
    frames = model.cfg.encoder.n_frames
    left = 2 * first_position
    floor = mel.amax((1, 2), keepdim=True) - RANGE
    found = []
    for row, bottom, unit in zip(mel, floor, units, strict=True):  # a full window each: a batch would not be faster
        window = bottom.expand(mel.shape[1], frames).clone()
        window[:, left : left + mel.shape[2]] = row
        x = basis.encode(_partial(model, point, window[None], None)[:, at])
        found.append(x[0, :, unit].mean())
    return torch.stack(found)


class _Reached(Exception):
    """Ends a pass at the point that is wanted."""


def _partial(
    model: HookedWhisper, point: HookPoint, mel: Float[Tensor, "row mel frame"], positions: slice | None
) -> Float[Tensor, "row position d"]:
    """What a point holds; nothing behind it is computed."""
    kept: list[Tensor] = []

    def keep(x: Tensor, hook: HookPoint) -> None:
        kept.append(x)
        raise _Reached

    with model.hooks(fwd_hooks=[(point.name, keep)]), suppress(_Reached):
        model.encoder(mel, positions=positions)
    return kept[0]


def _point(model: HookedWhisper, name: str) -> HookPoint:
    names = model.hook_names(name)
    point = model.hook_dict[names[0]]
    if len(names) != 1 or point.stack != "encoder" or tuple(point.axes[:2]) != ("batch", "position"):
        raise PatchError(f"{name!r} is no encoder point with positions: give one such as encoder.blocks.2.mlp.hook_pre")
    if len(point.axes) != 3:
        raise PatchError(f"{point.name} {list(point.axes)} has no one vector per position to read features from")
    return point


def _check(model: HookedWhisper, basis: FeatureBasis, units: Sequence[int], rows: Tensor, first_position: int) -> int:
    cfg = model.cfg.encoder
    if not len(units) or min(units) < 0 or max(units) >= basis.n_features:
        raise PatchError(f"features are 0 to {basis.n_features - 1}, got {list(units)}")
    n, odd = divmod(rows.shape[2], 2)
    if rows.shape[1] != cfg.n_mels or odd or not n or first_position < 0 or first_position + n > cfg.n_ctx:
        raise PatchError(
            f"a start of {list(rows.shape[1:])} at position {first_position} does not fit: it needs {cfg.n_mels} bands "
            f"and two frames for each of at most {cfg.n_ctx} positions"
        )
    if not torch.isfinite(rows).all():
        raise PatchError("the start holds NaN or infinity: give a finite log-mel")
    return n


def _top(rows: Float[Tensor, "unit mel frame"], top: Number | Tensor | None) -> Float[Tensor, "unit 1 1"]:
    if top is None:
        return torch.maximum(rows.amax((1, 2)), rows.amin((1, 2)) + RANGE)[:, None, None]
    return torch.as_tensor(top).to(rows).expand(len(rows))[:, None, None]


def _unit_rms(x: Float[Tensor, "unit mel frame"]) -> Float[Tensor, "unit mel frame"]:
    size = x.square().mean((1, 2), keepdim=True).sqrt()
    return torch.where(size > 0, x / torch.where(size > 0, size, 1.0), x)


def _total_variation(mel: Float[Tensor, "unit mel frame"]) -> Float[Tensor, "unit"]:
    """Mean of smooth absolute differences of neighbours in time and in frequency."""
    along = (F.huber_loss(mel[:, :, 1:], mel[:, :, :-1], reduction="none", delta=0.05)).mean((1, 2))
    across = (F.huber_loss(mel[:, 1:], mel[:, :-1], reduction="none", delta=0.05)).mean((1, 2))
    return along + across
