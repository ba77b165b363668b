"""The latents of a crosscoder as features: they are read at the hook point that an attached crosscoder adds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks.hook_names import SAE_PART
from hooked_whisper.protocols import FeatureBasis


@dataclass(frozen=True, eq=False)
class CrosscoderLatents:
    """The basis of a crosscoder's latents, for activations that are these latents already.

    crosscoder: has ``W_dec [feature, hook point, d]``. hooks: its hook points, in this order.
    """

    crosscoder: Any
    hooks: tuple[str, ...]

    @property
    def n_features(self) -> int:
        return int(self.crosscoder.n_features)

    @property
    def labels(self) -> Sequence[str]:
        labels: Sequence[str] = self.crosscoder.labels
        return labels

    @property
    def W_dec(self) -> Float[Tensor, "feature d"]:
        """Decoder rows of all hook points, concatenated."""
        rows: Tensor = self.crosscoder.W_dec.detach()
        return rows.flatten(1)

    def encode(self, activations: Shaped[Tensor, "*lead feature"]) -> Shaped[Tensor, "*lead feature"]:
        return activations

    def decoder_norms(self) -> Float[np.ndarray, "feature hook"]:
        """Return the norm of each feature's decoder row at each hook point."""
        norms: np.ndarray = self.crosscoder.W_dec.detach().float().norm(dim=-1).cpu().numpy()
        return norms

    def relative_norms(self) -> Float[np.ndarray, "feature hook"]:
        """Return the decoder norms divided by their mean at each hook point.

        Activations grow from block to block, and the decoder rows with them: undivided norms of two points say more
        about the points than about a feature.
        """
        norms = self.decoder_norms()
        return norms / np.maximum(norms.mean(0), np.finfo(norms.dtype).tiny)

    def depths(self) -> Float[np.ndarray, "feature"]:
        """Return where each feature writes: 0 only at the first hook point, 1 only at the last.

        It is the mean of the hook points, at equal distances from 0 to 1, weighted by the relative norms. For two
        points it is ``r_2 / (r_1 + r_2)``, as in Lindsey et al. 2024, whose activations have the same scale.
        """
        norms = self.relative_norms()
        places = np.linspace(0, 1, norms.shape[1], dtype=norms.dtype)
        return (norms @ places) / np.maximum(norms.sum(1), np.finfo(norms.dtype).tiny)


@contextmanager
def crosscoder_latents(
    model: HookedWhisper, hooks: Sequence[str], crosscoder: FeatureBasis | None
) -> Iterator[tuple[str, CrosscoderLatents]]:
    """Attach a crosscoder so that only its latents are of interest; yield their hook point and their basis.

    Raises:
        HookedWhisperError: ``crosscoder`` does not read several hook points.
        PatchError: it does not fit ``hooks``.
    """
    if getattr(getattr(crosscoder, "config", crosscoder), "n_blocks", None) is None:
        raise HookedWhisperError(
            f"{len(hooks)} hook points are given with {type(crosscoder).__name__}: only a crosscoder reads several; "
            "name one hook point"
        )
    names = tuple(model.hook_names(hook)[0] for hook in hooks)
    with model.attach_sae(crosscoder, hooks, hook_out=hooks[-1]):  # type: ignore[arg-type]  # the last: one pass
        yield f"{names[0]}{SAE_PART}acts_post", CrosscoderLatents(crosscoder, names)
