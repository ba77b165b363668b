"""Laws of every architecture: they are bases, decode is affine, gradients are those of the loss."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hooked_whisper.errors import ConfigError, ShapeError
from hooked_whisper.protocols import FeatureBasis
from sae_lens_audio.architectures import (
    ARCHITECTURES,
    SAE,
    AbsTopK,
    BatchTopK,
    BatchTopKConfig,
    Crosscoder,
    CrosscoderConfig,
    DecodableBasis,
    JumpReLUConfig,
    NormalizedSAE,
    Standard,
    StandardConfig,
    TiedConfig,
    TopK,
    TopKConfig,
    Transcoder,
    TranscoderConfig,
)
from tests.sae.saes import ALL, D, F, N, all_of_them, filled, inputs, loss_of


@pytest.fixture(params=sorted(ALL))
def sae(request: pytest.FixtureRequest) -> SAE:
    fresh = {type(s).architecture: s for s in all_of_them()}
    return filled(fresh[request.param])


def test_every_architecture_is_covered() -> None:
    assert set(ALL) == set(ARCHITECTURES)


def test_fits_a_feature_basis(sae: SAE) -> None:
    assert isinstance(sae, FeatureBasis) and isinstance(sae, DecodableBasis)
    assert sae.labels == tuple(str(i) for i in range(F)) and sae.n_features == F and sae.d_in == D
    x = inputs(sae)
    features = sae.encode(x)
    assert features.shape == (N, F)
    if not isinstance(sae, AbsTopK):
        assert (features >= 0).all()
    # features of a row depend neither on other rows nor on how rows are stacked
    torch.testing.assert_close(torch.stack([sae.encode(row) for row in x]), features)
    torch.testing.assert_close(sae.encode(x[None, None])[0, 0], features)


def test_decode_is_affine(sae: SAE) -> None:
    a, b = torch.randn(2, 3, F, dtype=torch.float64)
    torch.testing.assert_close(sae.decode(a) + sae.decode(b), sae.decode(a + b) + sae.decode(torch.zeros_like(a)))


def test_width_is_checked(sae: SAE) -> None:
    with pytest.raises(ShapeError, match=r"takes"):
        sae.encode(inputs(sae)[..., :-1])


def test_fresh_weights_are_determined_by_the_seed() -> None:
    for first, second in zip(all_of_them(), all_of_them(), strict=True):
        torch.testing.assert_close(first.state_dict(), second.state_dict(), equal_nan=True)
    a, b = Standard(StandardConfig(D, F), seed=1), Standard(StandardConfig(D, F), seed=2)
    assert not torch.equal(a.W_dec, b.W_dec)
    torch.testing.assert_close(a.W_dec.norm(dim=1), torch.ones(F))


@pytest.mark.parametrize("name", sorted(set(ALL) - {"jumprelu", "jumprelu_transcoder"}))
def test_gradients_are_those_of_the_loss(name: str) -> None:
    """By finite differences; the straight-through ones of JumpReLU are not, and tested above."""
    sae = filled({type(s).architecture: s for s in all_of_them()}[name]).eval()
    x = inputs(sae, 4)
    names = [n for n, _ in sae.named_parameters()]

    def total(*values: Tensor) -> Tensor:
        def inner(*arguments: Tensor) -> Tensor:
            return sae.loss(*arguments).total if name != "gated" else sae.loss(*arguments).reconstruction

        before = {n: p.data for n, p in sae.named_parameters()}
        for n, v in zip(names, values, strict=True):
            set_parameter(sae, n, v)
        try:
            arguments = (x, loss_of(sae, x)[1]) if isinstance(sae, Transcoder) else (x,)
            return inner(*arguments)
        finally:
            for n in names:
                delattr(sae, n)
                sae.register_parameter(n, torch.nn.Parameter(before[n]))

    start = tuple(p.detach().clone().requires_grad_() for p in sae.parameters())
    assert torch.autograd.gradcheck(total, start, eps=1e-7, atol=1e-5)


def set_parameter(sae: SAE, name: str, value: Tensor) -> None:
    """A tensor with a graph where a parameter was."""
    del sae._parameters[name]
    object.__setattr__(sae, name, value)


@given(st.integers(1, F), st.integers(0, 50))
def test_topk_has_at_most_k(k: int, seed: int) -> None:
    sae = filled(TopK(TopKConfig(D, F, k=k)), seed)
    assert ((sae.encode(inputs(sae, seed=seed)) > 0).sum(-1) <= k).all()


@given(st.integers(1, F * 4), st.integers(1, 30), st.integers(0, 50))
def test_batch_topk_has_k_on_average(quarters: int, rows: int, seed: int) -> None:
    k = quarters / 4
    sae = filled(BatchTopK(BatchTopKConfig(D, F, k=k)), seed)
    pre = sae.pre_activations(inputs(sae, rows, seed))
    codes = sae.encode_sparse(inputs(sae, rows, seed))
    n_active = int((codes.values > 0).sum())
    assert n_active == int(codes.active.sum()) == min(int(k * rows), int((pre > 0).sum()))


@given(st.integers(0, 50))
def test_projection_keeps_unit_rows_and_the_gradient_is_tangent(seed: int) -> None:
    sae = filled(TopK(TopKConfig(D, F, k=3)), seed)
    sae.project_weights_()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(F, dtype=torch.float64))
    sae.loss(inputs(sae, seed=seed)).total.backward()
    assert sae.W_dec.grad is not None
    whole = sae.W_dec.grad.clone()
    sae.project_gradient_()
    torch.testing.assert_close((sae.W_dec.grad * sae.W_dec).sum(1), torch.zeros(F, dtype=torch.float64))
    removed = whole - sae.W_dec.grad
    torch.testing.assert_close(removed, (whole * sae.W_dec).sum(1, keepdim=True) * sae.W_dec)


def test_architectures_without_a_constraint_are_not_projected() -> None:
    sae = filled(Standard(StandardConfig(D, F)))
    before = sae.W_dec.clone()
    sae.project_weights_()
    assert torch.equal(sae.W_dec, before)


@given(st.floats(0.1, 100), st.integers(0, 20))
def test_normalized_input(scale: float, seed: int) -> None:
    inner = filled(Standard(StandardConfig(D, F)), seed)
    x = inputs(inner, seed=seed)
    rescaled = NormalizedSAE(inner, "constant_norm_rescale")
    unit = x / x.norm(dim=-1, keepdim=True) * math.sqrt(D)
    torch.testing.assert_close(rescaled.encode(x), inner.encode(unit))
    torch.testing.assert_close(rescaled.encode(scale * x), rescaled.encode(x))
    torch.testing.assert_close(rescaled(scale * x), scale * rescaled(x))
    normed = NormalizedSAE(inner, "layer_norm")
    torch.testing.assert_close(normed.encode(scale * x + 3), normed.encode(x), atol=1e-3, rtol=1e-3)
    assert isinstance(normed, FeatureBasis)
    with pytest.raises(ConfigError, match="decode_like"):
        normed.decode(normed.encode(x))


def test_configurations_are_checked() -> None:
    for make, message in [
        (lambda: StandardConfig(0, F), "d_in"),
        (lambda: TopKConfig(D, F, k=F + 1), "at most d_sae = 9"),
        (lambda: BatchTopKConfig(D, F, k=0), "k must be"),
        (lambda: TiedConfig(D, F, apply_b_dec_to_input=True), "no b_dec"),
        (lambda: TranscoderConfig(D, F), "d_out"),
        (lambda: CrosscoderConfig(D, F), "n_blocks"),
        (lambda: JumpReLUConfig(D, F, bandwidth=0), "bandwidth"),
        (lambda: NormalizedSAE(Crosscoder(CrosscoderConfig(D, F, n_blocks=2)), "layer_norm"), "crosscoder"),
    ]:
        with pytest.raises(ConfigError, match=message):
            make()
