"""A hook point with the basis that its activations are read in."""

from __future__ import annotations

from dataclasses import dataclass

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
