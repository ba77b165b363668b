"""Parts of an activation that are no axis entries: directions, and features of a basis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import PatchError
from hooked_whisper.protocols import FeatureBasis


@runtime_checkable
class Subspaces(Protocol):
    """Parts of the last axis, one patch each."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    def replaced(
        self, base: Float[Tensor, "1 *place d"], source: Float[Tensor, "1 *place d"], entries: Int[Tensor, "row"]
    ) -> Float[Tensor, "row *place d"]:
        """``base`` with part ``entries[r]`` taken from ``source`` in row ``r``."""
        ...

    def products(
        self, base: Float[Tensor, "1 *place d"], source: Float[Tensor, "1 *place d"], grad: Float[Tensor, "1 *place d"]
    ) -> Float[Tensor, "part *place"]:
        """To first order, what each part adds to a scalar with this gradient, place by place."""
        ...


@dataclass(frozen=True, eq=False)
class Directions:
    """Spans of vectors: part ``n`` is the orthogonal projection on the span of ``bases[n]`` (orthonormal rows)."""

    bases: Float[Tensor, "part k d"]
    labels: tuple[str, ...]

    def replaced(
        self, base: Float[Tensor, "1 *place d"], source: Float[Tensor, "1 *place d"], entries: Int[Tensor, "row"]
    ) -> Float[Tensor, "row *place d"]:
        bases = self._fitting(base)[entries.to(base.device)]
        coefficients = torch.einsum("...d,rkd->r...k", (source - base)[0], bases)
        return base + torch.einsum("r...k,rkd->r...d", coefficients, bases)

    def products(
        self, base: Float[Tensor, "1 *place d"], source: Float[Tensor, "1 *place d"], grad: Float[Tensor, "1 *place d"]
    ) -> Float[Tensor, "part *place"]:
        bases = self._fitting(base)
        moved = torch.einsum("...d,rkd->r...k", (source - base)[0], bases)
        return (moved * torch.einsum("...d,rkd->r...k", grad[0], bases)).sum(-1)

    def _fitting(self, activation: Tensor) -> Tensor:
        if self.bases.shape[-1] != activation.shape[-1]:
            raise PatchError(
                f"directions of {self.bases.shape[-1]} numbers do not fit activations of {activation.shape[-1]}"
            )
        return self.bases.to(activation)


@dataclass(frozen=True, eq=False)
class Features:
    """Features of a basis that can also decode (``decode: [..., n_features] -> [..., d]``): a sparse autoencoder.

    What the basis does not reconstruct is left as it is: ``base + decode(changed) - decode(encode(base))``.
    """

    basis: FeatureBasis
    numbers: tuple[int, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(str(self.basis.labels[n]) for n in self.numbers)

    def replaced(
        self, base: Float[Tensor, "1 *place d"], source: Float[Tensor, "1 *place d"], entries: Int[Tensor, "row"]
    ) -> Float[Tensor, "row *place d"]:
        old, new = self.basis.encode(base), self.basis.encode(source)
        chosen = torch.tensor(self.numbers)[entries].to(base.device)
        one_hot = torch.zeros(len(entries), old.shape[-1], dtype=torch.bool, device=base.device)
        one_hot[torch.arange(len(entries)), chosen] = True
        one_hot = one_hot.view(len(entries), *[1] * (base.dim() - 2), -1)
        decode = self.basis.decode  # type: ignore[attr-defined]
        return base + decode(torch.where(one_hot, new, old)) - decode(old)

    def products(
        self, base: Float[Tensor, "1 *place d"], source: Float[Tensor, "1 *place d"], grad: Float[Tensor, "1 *place d"]
    ) -> Float[Tensor, "part *place"]:
        everyone = torch.arange(len(self.numbers))
        return ((self.replaced(base, source, everyone) - base) * grad).sum(-1)


def subspaces_of(
    what: Float[Tensor, "part d"] | Float[Tensor, "part k d"] | FeatureBasis,
    numbers: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    d: int | None = None,
) -> Subspaces:
    """Directions ``[part, d]``, spans of several directions ``[part, k, d]``, or features of a basis; one patch each.

    numbers: which features (default: all). labels: of directions (default: their numbers).
    d: width of the activation; needed for a basis without ``decode``, which must then be affine: its features are
        read with ``encode``, and their read-out directions are patched.

    Raises:
        PatchError: a direction of length zero, unknown features, a basis neither affine nor able to decode.
    """
    if isinstance(what, Tensor):
        vectors = what if what.dim() == 3 else what[:, None]
        if numbers is not None:
            vectors = vectors[list(numbers)]
        names = tuple(labels) if labels is not None else tuple(map(str, numbers or range(len(vectors))))
        return Directions(_orthonormal(vectors), names)
    chosen = tuple(range(what.n_features) if numbers is None else numbers)
    if not chosen or min(chosen) < 0 or max(chosen) >= what.n_features:
        raise PatchError(f"features are 0 to {what.n_features - 1}, got {list(chosen)}")
    if hasattr(what, "decode"):
        return Features(what, chosen)
    if d is None:
        raise PatchError("a basis without decode() needs d, the width of the activation")
    return Directions(
        _orthonormal(_read_out(what, d)[list(chosen)][:, None]), tuple(str(what.labels[n]) for n in chosen)
    )


def _read_out(basis: FeatureBasis, d: int) -> Float[Tensor, "n_features d"]:
    """Directions of an affine encoder: its values at the unit vectors, less that at zero."""
    zero = basis.encode(torch.zeros(1, d))
    slope = (basis.encode(torch.eye(d)) - zero).T
    probe = torch.linspace(-2, 3, d)[None]
    if not torch.allclose(basis.encode(probe), zero + probe @ slope.T, atol=1e-4, rtol=1e-4):
        raise PatchError("this basis is not affine and has no decode(): there is no way back from its features")
    return slope


def _orthonormal(vectors: Float[Tensor, "part k d"]) -> Float[Tensor, "part k d"]:
    if not len(vectors) or bool((vectors.norm(dim=-1) == 0).any()):
        raise PatchError("directions must be at least one, none of length zero")
    wide = vectors.double()
    _, values, vh = torch.linalg.svd(wide, full_matrices=False)
    kept = values > 1e-9 * values[..., :1]  # vectors that are sums of others span nothing new
    return (vh * kept[..., None]).to(vectors.dtype)
