"""Losses of elementwise activation functions, sparse or in dense tiles, equal dense autograd: values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae_lens_audio import JumpReLU, JumpReLUConfig
from sae_lens_audio.activations import TensorActivations
from sae_lens_audio.architectures import SAE, elementwise
from sae_lens_audio.architectures.jumprelu import jumprelu, step
from sae_lens_audio.training import Trainer, TrainingConfig

D, F = 5, 24
SPARSE, DENSE = 1.0, -1.0  # values of MOST_SPARSE that force a path


def jumprelu_terms(sae: JumpReLU, x: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    bandwidth = sae.config.bandwidth
    pre = sae.pre_activations(x).relu()
    features = jumprelu(pre, sae.threshold, bandwidth)
    active = step(pre, sae.threshold, bandwidth).sum(-1).mean()
    return squared(sae.decode_like(features, x), target), sae.config.l0_coefficient * active, x.new_zeros(()), features


def squared(predicted: Tensor, target: Tensor) -> Tensor:
    return (predicted - target).square().sum(1).mean()


FAMILY: dict[str, tuple[Callable[[bool], SAE], Callable[..., tuple[Tensor, ...]]]] = {
    f"jumprelu-{bandwidth}": (
        lambda center, bandwidth=bandwidth: JumpReLU(
            JumpReLUConfig(D, F, apply_b_dec_to_input=center, l0_coefficient=0.3, bandwidth=bandwidth)
        ),
        jumprelu_terms,
    )
    for bandwidth in (1e-3, 0.3, 2.0)
}


def filled(sae: SAE, seed: int, shift: float) -> SAE:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sae.double().named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            if name == "threshold":
                parameter.abs_()
                parameter[:2] = torch.tensor([0.0, -0.2])  # in reach of inactive features, and as in some files
            if name in ("b_enc", "b_gate"):
                parameter += shift
    return sae


def gradients(terms: tuple[Tensor, ...], sae: SAE) -> list[Tensor]:
    """Of each term by each parameter: the trainer weighs the terms itself."""
    parameters = list(sae.parameters())
    return [
        gradient
        for term in terms
        if term.requires_grad
        for gradient in torch.autograd.grad(
            term, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    ]


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("most", [SPARSE, DENSE, 0.12])
@given(st.integers(1, 600), st.integers(0, 10_000), st.booleans(), st.sampled_from([0.0, -2.0, -9.0]))
def test_both_paths_equal_dense_autograd(name: str, most: float, n: int, seed: int, center: bool, shift: float) -> None:
    make, terms_of = FAMILY[name]
    sae = filled(make(center), seed, shift)
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    *terms, features = terms_of(sae, x, x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elementwise, "MOST_SPARSE", most)
        output = sae.loss(x)
        actual = (output.reconstruction, output.sparsity, output.auxiliary)
        torch.testing.assert_close(actual, tuple(terms), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(output.active, (features > 0).sum(0))
        for a, b in zip(gradients(actual, sae), gradients(tuple(terms), sae), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", FAMILY)
def test_either_path_trains_the_same_sae(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(2000, D, generator=torch.Generator().manual_seed(0))
    config = TrainingConfig(steps=30, batch=512, lr=1e-3)
    trained = []
    for most in (SPARSE, DENSE, 0.12):
        monkeypatch.setattr(elementwise, "MOST_SPARSE", most)
        trained.append(Trainer(FAMILY[name][0](True), TensorActivations(rows), config).fit(progress=False))
    for sae in trained[1:]:
        torch.testing.assert_close(sae.state_dict(), trained[0].state_dict(), rtol=1e-3, atol=1e-4)


def test_autocast_computes_products_in_its_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    sae = JumpReLU(JumpReLUConfig(16, 64, bandwidth=0.5, initial_threshold=0.3))
    x = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    plain = sae.loss(x).total
    for most in (SPARSE, DENSE):
        monkeypatch.setattr(elementwise, "MOST_SPARSE", most)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = sae.loss(x).total
        assert rounded.dtype == torch.float32
        assert 0 < (rounded - plain).abs() < 0.02 * plain
        sae.zero_grad()
        rounded.backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in sae.parameters())
