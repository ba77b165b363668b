"""A hook point with the basis that its activations are read in."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hooked_whisper.features.baselines import MelBands
from hooked_whisper.protocols import FeatureBasis


@dataclass(frozen=True, eq=False)
class HookBasis:
    """A hook point of the encoder and the basis that its activations are read in.

    Attributes:
        basis: ``None`` for the activations themselves: neurons of ``mlp.hook_post``, dimensions of a residual, the
            heads of ``hook_z`` side by side.
        name: key in the results of a scan (default: the hook point).
    """

    hook: str
    basis: FeatureBasis | MelBands | None = None
    name: str = ""


@dataclass(frozen=True, eq=False)
class SelectedFeatures:
    """Some features of a basis, or of the activations themselves (``basis=None``)."""

    basis: FeatureBasis | None
    indices: tuple[int, ...]

    @property
    def n_features(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> tuple[str, ...]:
        names = None if self.basis is None else self.basis.labels
        return tuple(str(i) if names is None else names[i] for i in self.indices)

    def encode(self, activations: Tensor) -> Tensor:
        whole = activations if self.basis is None else self.basis.encode(activations)
        return whole[..., list(self.indices)]
