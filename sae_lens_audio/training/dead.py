"""Tracking and resampling of dead features."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_audio.architectures import SAE

_EVERY = 10  # steps between updates of the mask; each update synchronizes the device


class DeadFeatures:
    """Counts, for every feature, the rows since it was last active, and the rows in which it fired.

    Attributes:
        since: rows since each feature was last active.
        mask: features that were dead at the last update.
        fired: number of rows in which each feature fired. counted: number of rows.
    """

    def __init__(self, d_sae: int, after: int, device: torch.device) -> None:
        self.after = after
        self.since = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.mask = torch.zeros(d_sae, dtype=torch.bool, device=device)
        self.fired = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.counted = torch.zeros((), dtype=torch.int64)
        self._any = False

    def update(self, active: Int[Tensor, "d_sae"], rows: int, step: int) -> None:
        """``active``: the number of these rows in which each feature fired."""
        self.since.add_(rows).masked_fill_(active > 0, 0)
        self.fired += active
        self.counted += rows
        if step % _EVERY == 0:
            self.mask = self.since >= self.after
            self._any = bool(self.mask.any())

    @property
    def dead(self) -> Bool[Tensor, "d_sae"] | None:
        """The mask of dead features; ``None`` if no feature is dead, so that losses need not check."""
        return self.mask if self._any else None

    def reset_rates(self) -> None:
        """Restart the count of firing rates."""
        self.fired.zero_()
        self.counted.zero_()

    @property
    def rates(self) -> Float[Tensor, "d_sae"]:
        return self.fired.double() / self.counted.clamp_min(1)

    @property
    def log_rates(self) -> Float[Tensor, "d_sae"]:
        """``log10(rate + 1e-10)``, float64: the sparsity in SAELens' folders."""
        return (self.rates + 1e-10).log10().cpu()

    def state(self) -> dict[str, Tensor]:
        return {"since": self.since, "mask": self.mask, "fired": self.fired, "counted": self.counted}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        self._any = bool(self.mask.any())


@torch.no_grad()
def resample_(
    sae: SAE,
    optimizer: torch.optim.Optimizer,
    dead: Bool[Tensor, "d_sae"],
    x: Float[Tensor, "row d_in"],
    seed: int,
) -> int:
    """Reset dead features to activations with a large reconstruction error; return their number.

    Rows are drawn with probability proportional to the square of their squared error. The decoder row becomes the
    direction of the drawn activation, the encoder column a fifth of the mean norm of the live features' columns; the
    optimizer's moments of the feature are reset.

    Source: Bricken et al. 2023, "Towards Monosemanticity", appendix "Neuron resampling".
    """
    latents = dead.nonzero().flatten()
    if not len(latents):
        return 0
    errors = (sae(x) - x).square().sum(1).double()
    weight = errors.square().cpu()
    if not weight.sum() > 0:
        return 0
    generator = torch.Generator().manual_seed(seed)
    rows = torch.multinomial(weight, len(latents), replacement=True, generator=generator).to(x.device)
    directions = sae.centered(x[rows])
    directions = directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12)
    live_norms = sae.W_enc[:, ~dead].norm(dim=0)
    sae.resample_(latents, directions, 0.2 * live_norms.mean() if len(live_norms) else directions.new_ones(()))
    for name, parameter in sae.named_parameters():
        axis = sae.feature_axis(name)
        if axis is not None:
            for value in optimizer.state[parameter].values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value.index_fill_(axis, latents, 0)
    return len(latents)
