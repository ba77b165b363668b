"""FactoredMatrix does what the dense product does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hooked_whisper.model import FactoredMatrix

SIZE = st.integers(1, 7)
LEADS = [(), (3,), (2, 3), (1, 3)]


def matrix(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@st.composite
def factored(draw: st.DrawFn, square: bool = False) -> FactoredMatrix:
    """Factors of any sizes; leading axes may broadcast."""
    left, mid, right = draw(SIZE), draw(SIZE), draw(SIZE)
    lead = draw(st.sampled_from(LEADS))
    lead_b = draw(st.sampled_from([lead, lead[1:], tuple(1 for _ in lead)]))
    return FactoredMatrix(matrix(*lead, left, mid), matrix(*lead_b, mid, left if square else right, seed=1))


@given(m=factored())
def test_shape_product_and_transpose(m: FactoredMatrix) -> None:
    assert m.AB.shape == m.shape and m.T.AB.shape == m.AB.mT.shape
    assert torch.equal(m.T.T.AB, m.AB) and torch.allclose(m.T.AB, m.AB.mT)
    assert m.rank_bound == m.A.shape[-1]
    assert repr(m) == f"FactoredMatrix(shape={m.shape}, inner={m.rank_bound})"


@given(m=factored(), n=SIZE)
def test_products(m: FactoredMatrix, n: int) -> None:
    right, left = matrix(m.shape[-1], n, seed=2), matrix(n, m.shape[-2], seed=3)
    assert torch.allclose((m @ right).AB, m.AB @ right)
    assert torch.allclose((left @ m).AB, left @ m.AB)
    assert torch.allclose(m @ right[:, 0], m.AB @ right[:, 0])
    assert torch.allclose(left[0] @ m, left[0] @ m.AB)
    other = FactoredMatrix(right, matrix(n, 4, seed=4))
    assert torch.allclose((m @ other).AB, m.AB @ other.AB)
    # the inner dimension does not grow
    assert (m @ right).rank_bound <= max(m.rank_bound, n) and (m @ other).rank_bound <= max(m.rank_bound, n)
    for scaled in (m * 2, 2 * m, m * 2.0, m * torch.tensor(2.0)):
        assert torch.allclose(scaled.AB, 2 * m.AB)


@given(m=factored())
def test_singular_values(m: FactoredMatrix) -> None:
    u, s, vh = m.svd()
    k = min(*m.shape[-2:], m.rank_bound)
    assert u.shape[-1] == s.shape[-1] == vh.shape[-2] == k
    assert torch.allclose(u * s[..., None, :] @ vh, m.AB)
    assert torch.allclose(s, torch.linalg.svdvals(m.AB)[..., :k])
    for basis in (u.mT @ u, vh @ vh.mT):
        assert torch.allclose(basis, torch.eye(k, dtype=torch.float64).expand_as(basis))
    assert torch.allclose(m.norm(), torch.linalg.matrix_norm(m.AB))
    assert m.U is u and m.S is s and m.Vh is vh


@given(m=factored(square=True))
def test_eigenvalues_of_a_square_product(m: FactoredMatrix) -> None:
    """Compared by their power sums: eigenvalues have no order."""
    assert torch.allclose(m.BA, m.B @ m.A)
    eigenvalues = m.eigenvalues
    assert eigenvalues.shape[-1] == min(m.shape[-1], m.rank_bound)
    for power in (1, 2, 3):
        trace = torch.linalg.matrix_power(m.AB, power).diagonal(dim1=-2, dim2=-1).sum(-1)
        assert torch.allclose(eigenvalues.pow(power).sum(-1).real, trace, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "index",
    [
        0,
        -1,
        slice(1, None),
        (1, 2),
        (slice(None), 0),
        (..., 1),
        (0, ...),
        (1, ..., 2),
        (None, 0),
        [1, 0],
        torch.tensor([1, 1]),
    ],
    ids=str,
)
def test_indexing_acts_on_layers_and_heads(index: object) -> None:
    m = FactoredMatrix(matrix(2, 3, 5, 2), matrix(2, 3, 2, 4, seed=1))
    keys = index if isinstance(index, tuple) else (index,)
    dense = m.AB[(*keys, slice(None), slice(None))] if any(k is ... for k in keys) else m.AB[keys]
    torch.testing.assert_close(m[index].AB, dense, rtol=1e-12, atol=1e-12)  # one product or many: other kernels


def test_mismatched_shapes_are_refused(unchecked: None) -> None:
    m = FactoredMatrix(matrix(2, 5, 3), matrix(3, 4))
    with pytest.raises(ValueError, match="needs A"):
        FactoredMatrix(matrix(5, 3), matrix(4, 3))
    with pytest.raises(ValueError, match="needs A"):
        FactoredMatrix(matrix(3), matrix(3, 4))
    with pytest.raises(ValueError, match="needs left = right, got 5 and 4"):
        _ = m.BA
    for wrong in (lambda: m @ matrix(5, 2), lambda: matrix(2, 4) @ m, lambda: m @ matrix(5), lambda: m @ m):
        with pytest.raises(ValueError, match="cannot multiply"):
            wrong()
    with pytest.raises(ValueError, match="a tensor"):
        m * torch.ones(3)
    for too_deep in ((0, 0), (..., 0, 0), (0, 0, 0)):
        with pytest.raises(IndexError, match="only the 1 leading axes"):
            m[too_deep]
