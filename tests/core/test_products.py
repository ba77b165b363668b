"""Products by oneDNN: the same numbers as torch's own, and out of the way where more than numbers is wanted."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from hooked_whisper.model.kernels import WINDOW, linear, recurring_linear
from hooked_whisper.model.layers import MLP, LayerNorm

D_IN, D_OUT = 24, 40


def weights(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((D_OUT, D_IN), (D_OUT,)))  # type: ignore[return-value]


@pytest.mark.parametrize("shape", [(1, 1), (2, 4), (1, 9), (5,), (1, WINDOW), (2, WINDOW), (0, 3), (3, 2, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equals_torch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight, bias = weights(dtype)
    x = torch.randn(*shape, D_IN, dtype=dtype)
    tolerance = {"atol": 3e-2, "rtol": 3e-2} if dtype is torch.bfloat16 else {"atol": 1e-5, "rtol": 1e-5}
    for b in (bias, None):
        torch.testing.assert_close(linear(x, weight, b), F.linear(x, weight, b), **tolerance)


@pytest.mark.parametrize("n", [1, 8, 9, 31, 32, 33, 448, 1025])
def test_unembeddings_of_any_length(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    weight, x = (torch.randn(*shape, generator=generator) for shape in ((9000, D_IN), (1, n, D_IN)))
    for bias in (None, torch.randn(9000, generator=generator)):
        product = linear(x, weight, bias)
        assert product.shape == (1, n, 9000) and product.is_contiguous()
        torch.testing.assert_close(product, F.linear(x, weight, bias), atol=1e-4, rtol=1e-4)


def test_takes_any_memory_layout() -> None:
    weight, bias = weights()
    wide = torch.randn(D_OUT, 2 * D_IN)
    columns = torch.randn(D_IN, D_OUT).T
    for x in (
        torch.randn(3, 2, D_IN).transpose(0, 1),
        torch.randn(D_IN, 6).T,
        torch.randn(2, 6, 2 * D_IN)[:, ::2, ::2],
    ):
        for w in (weight, columns, wide[:, ::2], wide[:, :D_IN]):
            torch.testing.assert_close(recurring_linear(x, w, bias), F.linear(x, w, bias), atol=1e-5, rtol=1e-5)


def test_gradients_transforms_and_modes_see_the_product() -> None:
    weight, bias = weights()
    x = torch.randn(2, D_IN)
    linear(x, weight.requires_grad_(), bias).sum().backward()
    assert weight.grad is not None
    weight.requires_grad_(False)
    with torch.no_grad():
        _, slope = torch.func.jvp(lambda t: linear(t, weight, bias), (x,), (torch.ones_like(x),))
        rows = torch.func.vmap(lambda t: linear(t, weight, bias))(x[:, None])
    torch.testing.assert_close(slope, F.linear(torch.ones_like(x), weight))
    torch.testing.assert_close(rows[:, 0], F.linear(x, weight, bias))
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(linear(dual, weight, bias)).tangent
    torch.testing.assert_close(tangent, slope)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        linear(x, weight, bias)
    assert counter.get_total_flops() == 2 * len(x) * D_IN * D_OUT
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16


def test_held_tensors_are_not_overwritten() -> None:
    """Memory is reused only where neither a hook of ours nor one of torch's has seen the tensor."""
    mlp, norm = MLP(D_IN, D_OUT, "batch", "position"), LayerNorm(D_IN, "batch", "position")
    x = torch.randn(1, 5, D_IN)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(tensor: torch.Tensor) -> None:
        seen.append((tensor, tensor.clone()))

    def from_torch(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        keep(output)

    watchers = [
        lambda: mlp.up.register_forward_hook(from_torch),
        lambda: mlp.hook_pre.register_forward_hook(from_torch),
        lambda: mlp.hook_pre.add_reader(lambda t, point: keep(t)),
        lambda: norm.hook_normalized.register_forward_hook(from_torch),
        lambda: norm.hook_normalized.add_hook(lambda t: keep(t)),
        lambda: torch.nn.modules.module.register_module_forward_hook(from_torch),
    ]
    with torch.no_grad():
        plain = mlp(norm(x))
        for watch in watchers:
            handle = watch()
            assert torch.equal(mlp(norm(x)), plain)
            handle.remove()
    assert len(seen) > len(watchers)
    assert all(torch.equal(tensor, before) for tensor, before in seen)
