"""What all dictionaries share: sizes, weights, centring, the shape checks, the terms of a loss.

Names of weights are those of SAELens: ``W_enc [d_in, d_sae]``, ``b_enc [d_sae]``, ``W_dec [d_sae, d_in]``,
``b_dec [d_in]``; rows of ``W_dec`` are the features' directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hooked_whisper.errors import PatchError
from sae_lens_audio.architectures.decoder import normalise_rows_, remove_parallel_gradient_
from sae_lens_audio.architectures.linear import centred_linear
from sae_lens_audio.architectures.sparse import Ranks


@dataclass(frozen=True, eq=False)
class TrainStepOutput:
    """Terms of a training loss, coefficients included: scalars, means over the rows of a batch; and what it saw.

    reconstruction: squared error, summed over the width of an activation.
    sparsity: what keeps features rare; 0 where the activation function does (TopK).
    auxiliary: what revives dead features or trains a gate; 0 where there is none.
    error: the squared error of the whole reconstruction, whatever the architecture makes of it; no gradient.
    active: in how many of the rows each feature is not 0.
    """

    reconstruction: Float[Tensor, ""]
    sparsity: Float[Tensor, ""]
    auxiliary: Float[Tensor, ""]
    error: Float[Tensor, ""]
    active: Int[Tensor, "d_sae"]

    @property
    def total(self) -> Float[Tensor, ""]:
        return self.reconstruction + self.sparsity + self.auxiliary


@runtime_checkable
class DecodableBasis(Protocol):
    """What scans, pages, splicing and training ask of a dictionary; a :class:`~hooked_whisper.protocols.FeatureBasis`.

    ``loss`` takes rows of activations; a transcoder's takes the rows to be predicted too.
    """

    @property
    def d_in(self) -> int: ...

    @property
    def n_features(self) -> int: ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    def encode(self, activations: Tensor) -> Tensor: ...

    def decode(self, features: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class SAEConfig:
    """Sizes every architecture has.

    d_in: width of the activations; d_sae: number of features.
    apply_b_dec_to_input: the encoder sees ``x - b_dec`` (centring), as most papers have it.
    """

    d_in: int
    d_sae: int
    apply_b_dec_to_input: bool = True

    def __post_init__(self) -> None:
        for name in ("d_in", "d_sae"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise PatchError(f"{type(self).__name__}: {name} must be a positive integer, got {value!r}")


class SAE(nn.Module):
    """Base of the architectures: ``encode = activate((x - b_dec) @ W_enc + b_enc)``, ``decode = f @ W_dec + b_dec``.

    Fresh weights: rows of ``W_dec`` are random unit vectors, ``W_enc`` is its transpose, biases are zero.
    ``seed`` settles them.
    """

    architecture: ClassVar[str]
    config_class: ClassVar[type[SAEConfig]] = SAEConfig
    unit_norm_decoder: ClassVar[bool] = False
    """Whether the paper keeps the rows of ``W_dec`` at norm 1 during training."""

    W_enc: nn.Parameter
    b_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter

    def __init__(self, config: SAEConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        drawn = torch.randn(config.d_sae, config.d_in, generator=torch.Generator().manual_seed(seed))
        rows = drawn / drawn.norm(dim=1, keepdim=True)
        self.W_enc = nn.Parameter(rows.T.clone(memory_format=torch.contiguous_format))  # a copy even for d_in = 1
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(config.d_in))

    @property
    def d_in(self) -> int:
        return self.config.d_in

    @property
    def n_features(self) -> int:
        return self.config.d_sae

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.n_features)))

    @property
    def dtype(self) -> torch.dtype:
        return self.b_dec.dtype

    def pre_activations(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """What the activation function gets.

        Raises:
            PatchError: activations of another width than ``d_in``.
        """
        return self.centred(x) @ self.W_enc + self.b_enc

    def centred(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        x = self.checked(x)
        return x - self.b_dec if self.config.apply_b_dec_to_input else x

    def checked(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        if x.shape[-1] != self.d_in:
            raise PatchError(
                f"activations are {x.shape[-1]} wide, this {self.architecture} dictionary takes d_in = {self.d_in}: "
                "give those of the hook point it was trained on"
            )
        return x.to(self.dtype)

    @property
    def centre(self) -> Float[Tensor, "d_in"] | None:
        """What is subtracted from the input."""
        return self.b_dec if self.config.apply_b_dec_to_input else None

    def pre_of_batch(self, x: Float[Tensor, "row d_in"], bias: Float[Tensor, "d_sae"]) -> Float[Tensor, "row d_sae"]:
        """Pre-activations for a loss: the same numbers, but ``x`` gets no gradient, which spares a product."""
        return centred_linear(self.checked(x), self.W_enc, bias, self.centre)

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """The activation function alone; ReLU unless the architecture has its own."""
        return pre.relu()

    def encode(self, activations: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Features, one row per activation, never dependent on the other rows."""
        return self.activate(self.pre_activations(activations))

    def decode(self, features: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        return features @ self.W_dec + self.b_dec

    def decode_like(
        self, features: Float[Tensor, "*batch d_sae"], activations: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        """Features as the reconstruction of ``activations``: what ``forward`` makes of them, a skip path included."""
        return self.decode(features)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return self.decode_like(self.encode(x), x)

    def loss(
        self, x: Float[Tensor, "row d_in"], dead: Bool[Tensor, "d_sae"] | None = None, ranks: Ranks | None = None
    ) -> TrainStepOutput:
        """The paper's training loss. Gradients flow to the weights, not to ``x``.

        dead: features that an auxiliary term shall revive.
        ranks: processes that hold other rows of the same batch; only what is chosen among all rows asks them.
        """
        raise NotImplementedError

    @torch.no_grad()
    def restart_(
        self, numbers: Int[Tensor, "n"], directions: Float[Tensor, "n d_in"], scale: Float[Tensor, ""]
    ) -> None:
        """Some features begin anew: decoder rows of these unit directions, encoder columns ``scale`` times them."""
        self.W_dec[numbers] = directions
        self.W_enc[:, numbers] = scale * directions.T
        self._clear_biases_(numbers)

    def _clear_biases_(self, numbers: Int[Tensor, "n"]) -> None:
        self.b_enc[numbers] = 0

    def feature_axis(self, name: str) -> int | None:
        """Which axis of a parameter counts features; ``None``: none does."""
        if name == "W_enc":
            return -1
        return None if name in ("b_dec", "W_skip") else 0

    @torch.no_grad()
    def project_gradient_(self) -> None:
        """Before the optimiser's step: drop what would only change the norms of unit rows (Bricken et al. 2023)."""
        if self.unit_norm_decoder and self.W_dec.grad is not None:
            remove_parallel_gradient_(self.W_dec.grad, self.W_dec)

    @torch.no_grad()
    def project_weights_(self) -> None:
        """After the optimiser's step: back to the weights that the method allows."""
        if self.unit_norm_decoder:
            normalise_rows_(self.W_dec)


def rows_with(features: Float[Tensor, "row d_sae"]) -> Int[Tensor, "d_sae"]:
    """In how many rows each feature is above 0."""
    return (features.detach() > 0).sum(0)


def squared_error(predicted: Float[Tensor, "row *d"], target: Float[Tensor, "row *d"]) -> Float[Tensor, ""]:
    """Squared distance of each row, averaged over rows."""
    return F.mse_loss(predicted, target, reduction="sum") / len(target)
