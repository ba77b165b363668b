"""Losses of elementwise activation functions, sparse or in dense tiles, equal dense autograd: values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae_lens_audio.activations import TensorActivations
from sae_lens_audio.architectures import (
    SAE,
    Gated,
    GatedConfig,
    JumpReLU,
    JumpReLUConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    Standard,
    StandardConfig,
    Transcoder,
    TranscoderConfig,
    elementwise,
)
from sae_lens_audio.architectures.jumprelu import jumprelu, step
from sae_lens_audio.training import Trainer, TrainingConfig

D, F = 5, 24
SPARSE, DENSE = 1.0, -1.0  # values of MOST_SPARSE that force a path
DEFAULT = elementwise.MOST_SPARSE


def jumprelu_terms(sae: JumpReLU, x: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    bandwidth = sae.config.bandwidth
    pre = sae.pre_activations(x).relu()
    features = jumprelu(pre, sae.threshold, bandwidth)
    active, goal = step(pre, sae.threshold, bandwidth).sum(-1), sae.config.target_l0
    penalty = active.mean() if goal is None else (2 * goal * (active / goal - 1) ** 2).mean()
    return squared(sae.decode_like(features, x), target), sae.config.l0_coefficient * penalty, x.new_zeros(()), features


def squared(predicted: Tensor, target: Tensor) -> Tensor:
    return (predicted - target).square().sum(1).mean()


def relu_terms(sae: SAE, x: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    features = sae.pre_activations(x).relu()
    norms = sae.W_dec.norm(dim=1) if isinstance(sae, Standard) else torch.ones_like(sae.b_enc)
    penalty = sae.config.l1_coefficient * (features @ norms).mean()
    return squared(sae.decode_like(features, x), target), penalty, x.new_zeros(()), features


def gated_terms(sae: Gated, x: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Equation 8 of Rajamanoharan et al. 2024."""
    pre = sae.pre_activations(x)
    gate, features = pre.relu(), sae.activate(pre)
    by_gate = squared(gate @ sae.W_dec.detach() + sae.b_dec.detach(), x)
    return squared(sae.decode(features), x), sae.config.l1_coefficient * gate.sum(-1).mean(), by_gate, features


def jumprelu_sae(center: bool, bandwidth: float, target_l0: int | None = None) -> JumpReLU:
    return JumpReLU(
        JumpReLUConfig(D, F, apply_b_dec_to_input=center, l0_coefficient=0.3, bandwidth=bandwidth, target_l0=target_l0)
    )


def jumprelu_transcoder(skip: bool) -> JumpReLUTranscoder:
    return JumpReLUTranscoder(JumpReLUTranscoderConfig(D, F, d_out=4, skip=skip, l0_coefficient=0.3, bandwidth=0.3))


FAMILY: dict[str, tuple[Callable[[bool], SAE], Callable[..., tuple[Tensor, ...]]]] = {
    "jumprelu-0.001": (partial(jumprelu_sae, bandwidth=1e-3), jumprelu_terms),
    "jumprelu-0.3": (partial(jumprelu_sae, bandwidth=0.3), jumprelu_terms),
    "jumprelu-target": (partial(jumprelu_sae, bandwidth=0.3, target_l0=3), jumprelu_terms),
    "jumprelu-2": (partial(jumprelu_sae, bandwidth=2.0), jumprelu_terms),
    "standard": (lambda c: Standard(StandardConfig(D, F, apply_b_dec_to_input=c, l1_coefficient=0.3)), relu_terms),
    "gated": (lambda c: Gated(GatedConfig(D, F, apply_b_dec_to_input=c, l1_coefficient=0.3)), gated_terms),
    "transcoder": (lambda skip: Transcoder(TranscoderConfig(D, F, d_out=4, skip=skip)), relu_terms),
    "jumprelu_transcoder": (jumprelu_transcoder, jumprelu_terms),
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
@pytest.mark.parametrize("most", [SPARSE, DENSE, DEFAULT])
@given(st.integers(1, 600), st.integers(0, 10_000), st.booleans(), st.sampled_from([0.0, -2.0, -9.0]))
def test_both_paths_equal_dense_autograd(name: str, most: float, n: int, seed: int, center: bool, shift: float) -> None:
    make, terms_of = FAMILY[name]
    sae = filled(make(center), seed, shift)
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    target = torch.randn(n, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    target = target if isinstance(sae, Transcoder) else x
    *terms, features = terms_of(sae, x, target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elementwise, "MOST_SPARSE", most)
        output = sae.loss(x, target) if isinstance(sae, Transcoder) else sae.loss(x)
        actual = (output.reconstruction, output.sparsity, output.auxiliary)
        torch.testing.assert_close(actual, tuple(terms), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(output.active, (features > 0).sum(0))
        for a, b in zip(gradients(actual, sae), gradients(tuple(terms), sae), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["jumprelu-0.3", "standard", "gated"])
def test_either_path_trains_the_same_sae(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(2000, D, generator=torch.Generator().manual_seed(0))
    config = TrainingConfig(steps=30, batch=512, lr=1e-3)
    trained = []
    for most in (SPARSE, DENSE, DEFAULT):
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
