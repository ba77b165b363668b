"""What the benchmark scores: SAEs, and the controls beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import check_option
from hooked_whisper.protocols import FeatureBasis
from sae_lens_audio.architectures import SAE, DecodableBasis, NormalizedSAE
from sae_lens_audio.evals.baselines import KLargest, RandomFeatures, linear_bases

Kind = Literal["SAE", "checkpoint", "control"]
BLOCK_ROWS = 4096  # rows encoded together

AXES, NEURONS, PCA, RANDOM, UNTRAINED = "residual axes", "neurons", "pca", "random directions", "untrained"


@dataclass(frozen=True, eq=False)
class Subject:
    """One set of features of a hook point.

    Attributes:
        name: unique in a benchmark.
        kind: ``"SAE"``, a ``"checkpoint"`` of one before its training ended, or a ``"control"``.
        basis: anything with ``n_features`` and ``encode``; controls are centered linear bases or random directions.
        hook: the hook point whose activations it encodes.
        facts: architecture, k, seed, step, and the like, for the table.
        hook_out: the hook point that a transcoder predicts.
    """

    name: str
    kind: Kind
    basis: FeatureBasis
    hook: str
    facts: Mapping[str, Any]
    hook_out: str | None = None

    def __post_init__(self) -> None:
        check_option("kind", self.kind, get_args(Kind))

    @property
    def sparse(self) -> bool:
        """Whether it has few active latents by construction, as an SAE or a basis with its k largest coefficients."""
        return isinstance(self.basis, SAE | NormalizedSAE | KLargest)

    @property
    def decodes(self) -> bool:
        return hasattr(self.basis, "decode")

    @property
    def writes(self) -> str:
        """The hook point whose activations it reconstructs or predicts."""
        return self.hook_out or self.hook

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row n_features"]:
        """Return features in float32 on the CPU, computed in blocks of rows."""
        device = _device(self.basis)
        parts = [self.basis.encode(block.to(device)).float().cpu() for block in x.float().split(BLOCK_ROWS)]
        return torch.cat(parts) if parts else x.new_zeros(0, self.basis.n_features)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "row n_features"], x: Float[Tensor, "row d"]) -> Float[Tensor, "row out"]:
        """Return reconstructions in float32 on the CPU. ``x``: the activations that the latents are of."""
        basis, device = cast(DecodableBasis, self.basis), _device(self.basis)
        like = getattr(basis, "decode_like", None)
        parts = [
            (basis.decode(f.to(device)) if like is None else like(f.to(device), rows.to(device))).float().cpu()
            for f, rows in zip(latents.split(BLOCK_ROWS), x.float().split(BLOCK_ROWS), strict=True)
        ]
        return torch.cat(parts)

    @property
    def directions(self) -> Float[Tensor, "n_features d"] | None:
        """Return the decoder rows; ``None`` if there are none. Rows of a linear basis are its directions."""
        for name in ("W_dec", "directions"):
            rows = getattr(getattr(self.basis, "inner", self.basis), name, None)
            if isinstance(rows, Tensor) and rows.ndim == 2:
                return rows.detach().float().cpu()
        return None


def control_subjects(
    hook: str,
    fitted: Float[Tensor, "row d"],
    saes: Mapping[str, Any],
    *,
    neurons: tuple[str, int] | None = None,
    seed: int = 0,
    hook_out: str | None = None,
) -> list[Subject]:
    """Return the controls of a hook point.

    The residual's own axes, principal directions, as many random directions as the largest SAE has latents (through a
    ReLU), and the first SAE with its initial weights; where ``neurons`` names the MLP point of the block and its width,
    the neurons too.

    Args:
        fitted: activations of speech that is not scored, for means and principal directions.
        saes: by name; the largest sets the number of random directions.
        hook_out: the hook point that transcoders predict.
    """
    bases = linear_bases(fitted, seed)
    largest = max((sae.n_features for sae in saes.values()), default=fitted.shape[1])
    controls: dict[str, FeatureBasis] = {
        AXES: bases["neurons"],
        PCA: bases["pca"],
        RANDOM: RandomFeatures.like(largest, bases["neurons"].mean, seed),
    }
    subjects = [Subject(name, "control", basis, hook, {}) for name, basis in controls.items()]
    first = next((sae for sae in saes.values() if isinstance(sae, SAE)), None)
    if first is not None:
        subjects.append(Subject(UNTRAINED, "control", untrained_like(first, fitted, seed), hook, {}, hook_out))
    if neurons is not None:
        subjects.append(Subject(NEURONS, "control", _Identity(neurons[1]), neurons[0], {}))
    return subjects


def sparse_controls(hook: str, fitted: Float[Tensor, "row d"], k: int, seed: int = 0) -> list[Subject]:
    """Return the residual's axes and principal directions with the ``k`` largest coefficients of each position."""
    bases = linear_bases(fitted, seed)
    return [
        Subject(f"{name}, {k} largest", "control", KLargest(bases[key], min(k, bases[key].n_features)), hook, {})
        for name, key in ((AXES, "neurons"), (PCA, "pca"))
    ]


def untrained_like(sae: SAE, fitted: Float[Tensor, "row d"], seed: int = 0) -> SAE:
    """Return an SAE of the same configuration with its initial weights, centered on ``fitted``."""
    fresh = type(sae)(replace(sae.config), seed).eval()
    if isinstance(getattr(fresh, "b_dec", None), Tensor) and fresh.b_dec.shape == fitted.shape[1:]:
        with torch.no_grad():
            fresh.b_dec.copy_(fitted.double().mean(0).float())
    return fresh


@dataclass(frozen=True)
class _Identity:
    """Activations as they are: the neurons of an MLP."""

    n_features: int

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(f"neuron {i}" for i in range(self.n_features))

    def encode(self, activations: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return activations


def _device(basis: FeatureBasis) -> torch.device:
    for name in ("W_enc", "W_dec", "directions"):
        value = getattr(getattr(basis, "inner", basis), name, None)
        if isinstance(value, Tensor):
            return value.device
    return torch.device("cpu")
