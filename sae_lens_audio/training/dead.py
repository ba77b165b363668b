"""Which features have not been active for long, and giving those another start."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_audio.architectures import SAE

_EVERY = 10  # steps between looks: each waits for the device


class DeadFeatures:
    """Counts, for every feature, the rows since it was last active, and in how many of the last rows it was."""

    def __init__(self, d_sae: int, after: int, device: torch.device) -> None:
        self.after = after
        self.since = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.mask = torch.zeros(d_sae, dtype=torch.bool, device=device)
        self.fired = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.counted = torch.zeros((), dtype=torch.int64)
        self._any = False

    def update(self, active: Int[Tensor, "d_sae"], rows: int, step: int) -> None:
        """``active``: in how many of these rows each feature was."""
        self.since.add_(rows).masked_fill_(active > 0, 0)
        self.fired += active
        self.counted += rows
        if step % _EVERY == 0:
            self.mask = self.since >= self.after
            self._any = bool(self.mask.any())

    @property
    def dead(self) -> Bool[Tensor, "d_sae"] | None:
        """``None`` where none is, so that losses need not ask."""
        return self.mask if self._any else None

    def forget_rates(self) -> None:
        """Firing rates are counted from here on."""
        self.fired.zero_()
        self.counted.zero_()

    @property
    def rates(self) -> Float[Tensor, "d_sae"]:
        return self.fired.double() / self.counted.clamp_min(1)

    @property
    def log_rates(self) -> Float[Tensor, "d_sae"]:
        """``log10(rate + 1e-10)``, float64: what SAELens' folders hold as sparsity."""
        return (self.rates + 1e-10).log10().cpu()

    def state(self) -> dict[str, Tensor]:
        return {"since": self.since, "mask": self.mask, "fired": self.fired, "counted": self.counted}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, own in self.state().items():
            own.copy_(state[name])
        self._any = bool(self.mask.any())


@torch.no_grad()
def resample_(
    sae: SAE,
    optimiser: torch.optim.Optimizer,
    dead: Bool[Tensor, "d_sae"],
    x: Float[Tensor, "row d_in"],
    seed: int,
) -> int:
    """Dead features start again at activations that are reconstructed badly; returns how many.

    Rows are drawn with probability proportional to their squared error squared. The feature's directions become the
    drawn activation's, the encoder's a fifth as long as the living ones' are on average; their moments are forgotten.

    Source: Bricken et al. 2023, "Towards Monosemanticity", appendix "Neuron resampling".
    """
    numbers = dead.nonzero().flatten()
    if not len(numbers):
        return 0
    errors = (sae(x) - x).square().sum(1).double()
    weight = errors.square().cpu()
    if not weight.sum() > 0:
        return 0
    drawn = torch.multinomial(weight, len(numbers), replacement=True, generator=torch.Generator().manual_seed(seed)).to(
        x.device
    )
    directions = sae.centred(x[drawn])
    directions = directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12)
    living = sae.W_enc[:, ~dead].norm(dim=0)
    sae.restart_(numbers, directions, 0.2 * living.mean() if len(living) else directions.new_ones(()))
    for name, parameter in sae.named_parameters():
        axis = sae.feature_axis(name)
        if axis is not None:
            for value in optimiser.state[parameter].values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value.index_fill_(axis, numbers, 0)
    return len(numbers)
