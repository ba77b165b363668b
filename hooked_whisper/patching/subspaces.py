"""Parts of an activation that are not entries of an axis: directions, and features of a basis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper._support.showing import Showing
from hooked_whisper.errors import PatchError
from hooked_whisper.protocols import FeatureBasis


@runtime_checkable
class Subspaces(Protocol):
    """Parts of an activation's last axis, each the target of one patch."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    def replaced(
        self, base: Float[Tensor, "1 *pos d"], source: Float[Tensor, "1 *pos d"], entries: Int[Tensor, "row"]
    ) -> Float[Tensor, "row *pos d"]:
        """Return ``base`` with part ``entries[r]`` taken from ``source`` in row ``r``."""
        ...

    def products(
        self, base: Float[Tensor, "1 *pos d"], source: Float[Tensor, "1 *pos d"], grad: Float[Tensor, "1 *pos d"]
    ) -> Float[Tensor, "part *pos"]:
        """Return the first-order change of a scalar with this gradient if one part is replaced, per position."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Directions(Showing):
    """Spans of vectors. Part ``n`` is the orthogonal projection on ``bases[n]``, whose rows are orthonormal."""

    bases: Float[Tensor, "part k d"]
    labels: tuple[str, ...]

    def replaced(
        self, base: Float[Tensor, "1 *pos d"], source: Float[Tensor, "1 *pos d"], entries: Int[Tensor, "row"]
    ) -> Float[Tensor, "row *pos d"]:
        bases = self._fitting(base)[entries.to(base.device)]
        coefficients = torch.einsum("...d,rkd->r...k", (source - base)[0], bases)
        return base + torch.einsum("r...k,rkd->r...d", coefficients, bases)

    def products(
        self, base: Float[Tensor, "1 *pos d"], source: Float[Tensor, "1 *pos d"], grad: Float[Tensor, "1 *pos d"]
    ) -> Float[Tensor, "part *pos"]:
        bases = self._fitting(base)
        moved = torch.einsum("...d,rkd->r...k", (source - base)[0], bases)
        return (moved * torch.einsum("...d,rkd->r...k", grad[0], bases)).sum(-1)

    def _fitting(self, activation: Tensor) -> Tensor:
        if self.bases.shape[-1] != activation.shape[-1]:
            raise PatchError(f"directions have {self.bases.shape[-1]} entries, activations have {activation.shape[-1]}")
        return self.bases.to(activation)


@dataclass(frozen=True, eq=False, repr=False)
class Features(Showing):
    """Features of a basis with ``decode: [..., n_features] -> [..., d]``, such as a sparse autoencoder.

    The reconstruction error is left unchanged: ``base + decode(changed) - decode(encode(base))``.
    """

    basis: FeatureBasis
    numbers: tuple[int, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(str(self.basis.labels[n]) for n in self.numbers)

    def replaced(
        self, base: Float[Tensor, "1 *pos d"], source: Float[Tensor, "1 *pos d"], entries: Int[Tensor, "row"]
    ) -> Float[Tensor, "row *pos d"]:
        old, new = self.basis.encode(base), self.basis.encode(source)
        features = torch.tensor(self.numbers)[entries].to(base.device)
        one_hot = torch.zeros(len(entries), old.shape[-1], dtype=torch.bool, device=base.device)
        one_hot[torch.arange(len(entries)), features] = True
        one_hot = one_hot.view(len(entries), *[1] * (base.dim() - 2), -1)
        decode = self.basis.decode  # type: ignore[attr-defined]
        return base + decode(torch.where(one_hot, new, old)) - decode(old)

    def products(
        self, base: Float[Tensor, "1 *pos d"], source: Float[Tensor, "1 *pos d"], grad: Float[Tensor, "1 *pos d"]
    ) -> Float[Tensor, "part *pos"]:
        decode = self.basis.decode  # type: ignore[attr-defined]
        with torch.enable_grad():
            old = self.basis.encode(base).detach().requires_grad_()
            (slope,) = torch.autograd.grad(decode(old), old, grad.to(old.dtype))
        with torch.no_grad():
            change = (self.basis.encode(source) - old) * slope  # [1, *pos, n_features]
        return change[0][..., list(self.numbers)].movedim(-1, 0)


@renamed_arguments(what="parts")
def subspaces_of(
    parts: Float[Tensor, "part d"] | Float[Tensor, "part k d"] | FeatureBasis,
    numbers: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    d: int | None = None,
) -> Subspaces:
    """Return the parts of an activation to patch one by one.

    Args:
        parts: directions ``[part, d]``, spans of several directions ``[part, k, d]``, or a basis whose
            features are the parts.
        numbers: which directions or features; default: all.
        labels: of directions; default: their numbers.
        d: width of the activation. Needed for a basis without ``decode``, which must be affine: the directions that
            its features read are patched.

    Raises:
        PatchError: a direction has length zero, a feature does not exist, or the basis is neither affine nor has
            ``decode``.
    """
    if isinstance(parts, Tensor):
        vectors = parts if parts.dim() == 3 else parts[:, None]
        if numbers is not None:
            vectors = vectors[list(numbers)]
        names = tuple(labels) if labels is not None else tuple(map(str, numbers or range(len(vectors))))
        return Directions(_orthonormal(vectors), names)
    basis = parts
    features = tuple(range(basis.n_features) if numbers is None else numbers)
    if not features or min(features) < 0 or max(features) >= basis.n_features:
        raise PatchError(f"features are 0 to {basis.n_features - 1}, got {list(features)}")
    if hasattr(basis, "decode"):
        return Features(basis, features)
    if d is None:
        raise PatchError("a basis without decode() needs d=, the width of the activation")
    read = _read_out(basis, d)[list(features)]
    return Directions(_orthonormal(read[:, None]), tuple(str(basis.labels[n]) for n in features))


def _read_out(basis: FeatureBasis, d: int) -> Float[Tensor, "n_features d"]:
    """Return the directions that an affine encoder reads: its values at the unit vectors minus its value at zero."""
    zero = basis.encode(torch.zeros(1, d))
    slope = (basis.encode(torch.eye(d)) - zero).T
    probe = torch.linspace(-2, 3, d)[None]
    if not torch.allclose(basis.encode(probe), zero + probe @ slope.T, atol=1e-4, rtol=1e-4):
        raise PatchError("this basis is not affine and has no decode(): its features cannot be patched")
    return slope


def _orthonormal(vectors: Float[Tensor, "part k d"]) -> Float[Tensor, "part k d"]:
    if not len(vectors) or bool((vectors.norm(dim=-1) == 0).any()):
        raise PatchError("give at least one direction, and none of length zero")
    wide = vectors.double()
    _, values, vh = torch.linalg.svd(wide, full_matrices=False)
    independent = values > 1e-9 * values[..., :1]  # linearly dependent vectors add no dimension
    return (vh * independent[..., None]).to(vectors.dtype)
