"""``FactoredMatrix``: a product of two thin matrices, stored as its factors."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class FactoredMatrix:
    """``AB`` for ``A [*lead, left, mid]`` and ``B [*lead, mid, right]``, as in TransformerLens.

    Norms, singular values and eigenvalues are computed from the factors. Only :attr:`AB` makes the full
    ``[left, right]`` matrix.
    """

    def __init__(self, A: Float[Tensor, "*leadA left mid"], B: Float[Tensor, "*leadB mid right"]) -> None:
        if A.dim() < 2 or B.dim() < 2 or A.shape[-1] != B.shape[-2]:
            raise ValueError(
                f"FactoredMatrix needs A [.., left, mid], B [.., mid, right], got {tuple(A.shape)}, {tuple(B.shape)}"
            )
        lead = torch.broadcast_shapes(A.shape[:-2], B.shape[:-2])
        self.A = A.expand(*lead, *A.shape[-2:])
        self.B = B.expand(*lead, *B.shape[-2:])

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.A.shape[:-1], self.B.shape[-1])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def ldim(self) -> int:
        """Rows of ``A``."""
        return self.A.shape[-2]

    @property
    def mdim(self) -> int:
        """The inner dimension, also called :attr:`rank_bound`."""
        return self.A.shape[-1]

    @property
    def rdim(self) -> int:
        """Columns of ``B``."""
        return self.B.shape[-1]

    @property
    def rank_bound(self) -> int:
        """The inner dimension, an upper bound of the rank."""
        return self.A.shape[-1]

    @property
    def AB(self) -> Float[Tensor, "*lead left right"]:
        return self.A @ self.B

    @property
    def BA(self) -> Float[Tensor, "*lead mid mid"]:
        """``B A``; needs a square product (left = right)."""
        if self.A.shape[-2] != self.B.shape[-1]:
            raise ValueError(f"BA needs left = right, got {self.shape[-2]} and {self.shape[-1]}")
        return self.B @ self.A

    @property
    def T(self) -> FactoredMatrix:
        return FactoredMatrix(self.B.mT, self.A.mT)

    def __matmul__(self, other: Tensor | FactoredMatrix) -> Any:
        """Multiply by a matrix, which gives a ``FactoredMatrix``, or by a vector, which gives a vector."""
        if isinstance(other, FactoredMatrix):
            return self @ other.A @ other.B
        if other.shape[-min(other.dim(), 2)] != self.shape[-1]:
            raise ValueError(f"cannot multiply {self.shape} by {tuple(other.shape)}")
        if other.dim() == 1:
            return (self @ other[:, None]).AB[..., 0]
        # keep the smaller inner dimension
        if self.shape[-1] < self.rank_bound > other.shape[-1]:
            return FactoredMatrix(self.AB, other)
        return FactoredMatrix(self.A, self.B @ other)

    def __rmatmul__(self, other: Tensor) -> Any:
        if other.shape[-1] != self.shape[-2]:
            raise ValueError(f"cannot multiply {tuple(other.shape)} by {self.shape}")
        if other.dim() == 1:
            return (other[None] @ self).AB[..., 0, :]
        return FactoredMatrix(other @ self.A, self.B)

    def __mul__(self, scalar: int | float | Tensor) -> FactoredMatrix:
        if isinstance(scalar, Tensor) and scalar.numel() != 1:
            raise ValueError(f"FactoredMatrix can be multiplied by a number, not by a tensor {tuple(scalar.shape)}")
        return FactoredMatrix(self.A * scalar, self.B)

    __rmul__ = __mul__

    def __getitem__(self, index: object) -> FactoredMatrix:
        """Index the leading axes (layers, heads)."""
        keys = index if isinstance(index, tuple) else (index,)
        n_lead = self.A.dim() - 2
        unused = n_lead - sum(k is not None and k is not Ellipsis for k in keys)
        if unused < 0:
            raise IndexError(f"FactoredMatrix {self.shape}: only the {n_lead} leading axes can be indexed")
        for i, key in enumerate(keys):
            if key is Ellipsis:
                keys = (*keys[:i], *[slice(None)] * unused, *keys[i + 1 :])
                break
        return FactoredMatrix(self.A[keys], self.B[keys])

    @cached_property
    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        # AB = Qa Ra (Qb Rb)^T: only the small Ra Rb^T is decomposed
        qa, ra = torch.linalg.qr(self.A)
        qb, rb = torch.linalg.qr(self.B.mT)
        u, s, vh = torch.linalg.svd(ra @ rb.mT, full_matrices=False)
        return qa @ u, s, vh @ qb.mT

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``U [.., left, k], S [.., k], Vh [.., k, right]``, where k is the least of left, mid and right."""
        return self._svd

    @property
    def U(self) -> Tensor:
        return self._svd[0]

    @property
    def S(self) -> Tensor:
        return self._svd[1]

    @property
    def Vh(self) -> Tensor:
        return self._svd[2]

    @property
    def eigenvalues(self) -> Tensor:
        """Nonzero eigenvalues of a square product (``AB`` and ``BA`` share them)."""
        return torch.linalg.eigvals(self.AB if self.shape[-1] < self.rank_bound else self.BA)

    def norm(self) -> Tensor:
        """Return the Frobenius norm, from the singular values."""
        return self.S.pow(2).sum(-1).sqrt()

    def __repr__(self) -> str:
        return f"FactoredMatrix(shape={self.shape}, inner={self.rank_bound})"
