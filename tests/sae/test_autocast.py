"""SAEs under autocast: products in half precision, everything else in the dtype of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hooked_whisper.interventions import compare_transcripts
from sae_lens_audio.architectures import SAE, BatchTopK, Crosscoder, Gated, NormalizedSAE, TopK, TopKConfig, Transcoder
from sae_lens_audio.latents import ablate_latents
from tests.sae.attach.attached import HOOK, SAES, filled_sae, mels, model, tokens
from tests.sae.saes import ALL, D, all_of_them, filled, inputs, loss_of

HALVES = pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
ROUNDING = {torch.float16: 2**-10, torch.bfloat16: 2**-7}


def of(name: str) -> SAE:
    return filled(next(sae for sae in all_of_them() if sae.architecture == name)).to_dtype(torch.float32)


def bound(sae: SAE, x: Tensor, half: torch.dtype) -> Tensor:
    """The largest rounding error of a pre-activation: each factor is rounded, and so is the sum."""
    weight = sae.W_enc.flatten(0, -2)
    rows = x.flatten(1) if isinstance(sae, Crosscoder) else sae.centered(x)
    return 3 * ROUNDING[half] * (rows.abs() @ weight.abs()) + 1e-6


@torch.no_grad()
@HALVES
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [1.0, 1e6], ids=["ordinary", "beyond float16"])
def test_only_products_are_rounded(name: str, half: torch.dtype, size: float) -> None:
    sae = of(name)
    x = size * inputs(sae, rows=40).float()
    pre, features = sae.pre_activations(x), sae.encode(x)
    with torch.autocast("cpu", half):
        half_pre, half_features, reconstruction = sae.pre_activations(x), sae.encode(x), sae(x)
        decoded = sae.decode_like(features, x)
    for tensor in (half_pre, half_features, reconstruction, decoded):
        assert tensor.dtype == torch.float32 and tensor.isfinite().all()
    assert ((half_pre - pre).abs() <= bound(sae, x, half)).all()
    # thresholds and selections see the same numbers, unrounded
    assert torch.equal(half_features, sae.activate(half_pre))
    scale = features.norm(dim=1) * sae.W_dec.flatten(1).norm() + (
        x.flatten(1).norm(dim=1) if "transcoder" in name else 0
    )
    error = (decoded - sae.decode_like(features, x)).flatten(1).norm(dim=1)
    assert (error <= 4 * ROUNDING[half] * scale + 1e-6).all()


@torch.no_grad()
@pytest.mark.parametrize("name", ALL)
def test_without_autocast_nothing_changes(name: str) -> None:
    sae = of(name)
    x = inputs(sae).float()
    bias = sae.b_gate if isinstance(sae, Gated) else sae.b_enc
    rows = x.flatten(1) if isinstance(sae, Crosscoder) else sae.centered(x)
    assert torch.equal(sae.pre_activations(x), rows @ sae.W_enc.flatten(0, -2) + bias)


@torch.no_grad()
def test_topk_keeps_k_and_thresholds_hold() -> None:
    topk = filled_sae(TopK, TopKConfig(32, 48, k=5))
    x = torch.randn(200, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.float16):
        features, batch = topk.encode(x), of("batchtopk").encode(inputs(of("batchtopk")).float())
    exact = topk.encode(x)
    assert ((features > 0).sum(1) == (exact > 0).sum(1)).all()  # never more for ties after rounding
    assert ((features > 0) == (exact > 0)).float().mean() > 0.99
    threshold = float(of("batchtopk").topk_threshold)  # type: ignore[arg-type]
    assert ((batch == 0) | (batch > threshold)).all()


@torch.no_grad()
@pytest.mark.parametrize("normalization", ["layer_norm", "constant_norm_rescale"])
def test_normalized_saes(normalization: str) -> None:
    sae = NormalizedSAE(filled_sae(TopK, TopKConfig(32, 48, k=48)), normalization)  # type: ignore[arg-type]
    x = 1e5 * torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.float16):
        reconstruction = sae(x)
    assert reconstruction.dtype == torch.float32
    torch.testing.assert_close(reconstruction, sae(x), rtol=0.02, atol=0.02 * float(x.abs().max()))


@HALVES
@pytest.mark.parametrize("name", ALL)
def test_gradients_are_finite_and_close(name: str, half: torch.dtype) -> None:
    gradients = []
    for enabled in (False, True):
        sae = of(name)
        x = inputs(sae, rows=60).float()
        with torch.autocast("cpu", half, enabled=enabled):
            loss = loss_of(sae, x)[0].total
        loss.backward()
        gradients.append({n: p.grad.clone() for n, p in sae.named_parameters() if p.grad is not None})
        assert loss.dtype == torch.float32 and loss.isfinite()
    exact, rounded = gradients
    assert exact.keys() == rounded.keys()
    for parameter, gradient in exact.items():
        assert rounded[parameter].dtype == torch.float32 and rounded[parameter].isfinite().all()
        if name in ("standard", "tied", "transcoder", "crosscoder"):  # no selection, which rounding can change
            torch.testing.assert_close(
                rounded[parameter], gradient, rtol=0.05, atol=20 * ROUNDING[half] * float(gradient.abs().max())
            )


@torch.no_grad()
@HALVES
def test_an_attached_sae_in_a_model_under_autocast(half: torch.dtype) -> None:
    clean = model()(mels(), tokens())
    with torch.autocast("cpu", half):
        plain = model()(mels(), tokens())
    assert plain.dtype == torch.float32 and plain.isfinite().all()
    torch.testing.assert_close(plain, clean, rtol=0.1, atol=60 * ROUNDING[half])
    for name, sae in SAES.items():
        with model().attach_sae(sae, HOOK):
            exact = model()(mels(), tokens())
        with torch.autocast("cpu", half):
            with model().attach_sae(sae, HOOK, use_error_term=True):
                assert torch.equal(model()(mels(), tokens()), plain), name
            with model().attach_sae(sae, HOOK):
                logits, cache = model().run_with_cache(mels(), tokens(), names_filter=f"{HOOK}.*")
        assert logits.isfinite().all() and all(tensor.isfinite().all() for tensor in cache.values()), name
        if "topk" not in name and name not in ("jumprelu", "gated", "layer norm", "matryoshka"):
            assert (logits - exact).norm() < 40 * ROUNDING[half] * exact.norm(), name


def test_latents_are_edited_while_decoding_under_autocast() -> None:
    with torch.autocast("cpu", torch.float16), model().attach_sae(SAES["topk"], HOOK, use_error_term=True):
        changes = compare_transcripts(model(), mels(), fwd_hooks=ablate_latents(HOOK, range(48)), max_new_tokens=4)
    assert len(changes) == 2


@torch.no_grad()
@pytest.mark.parametrize("sae", [of("transcoder"), of("topk_transcoder")], ids=lambda sae: sae.architecture)
def test_the_skip_path_does_not_overflow(sae: Transcoder) -> None:
    with torch.autocast("cpu", torch.float16):
        assert sae(torch.full((3, D), 3e7)).isfinite().all()


def test_batch_topk_is_calibrated_under_autocast() -> None:
    sae = of("batchtopk")
    assert isinstance(sae, BatchTopK)
    x = inputs(sae, rows=64).float()
    sae.calibrate_([x])
    exact = float(sae.topk_threshold)
    with torch.autocast("cpu", torch.float16):
        sae.calibrate_([x])
    assert sae.topk_threshold.dtype == torch.float64
    assert float(sae.topk_threshold) == pytest.approx(exact, rel=0.02)
