"""Where features are read."""

from __future__ import annotations

from dataclasses import dataclass

from hooked_whisper.features.baselines import MelBands
from hooked_whisper.protocols import FeatureBasis


@dataclass(frozen=True, eq=False)
class HookBasis:
    """A hook point of the encoder and what to read its activations in.

    basis: ``None`` reads them as they are (neurons of ``mlp.hook_post``, dimensions of a residual; heads of ``hook_z``
        one after the other).
    name: how a scan's results call it; the hook point's name if empty.
    """

    hook: str
    basis: FeatureBasis | MelBands | None = None
    name: str = ""
