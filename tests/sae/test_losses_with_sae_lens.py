"""Training losses and their gradients beside those of the real sae-lens, on the same weights. ``make test-peers``.

Where sae-lens differs from a paper, ours follows the paper, and a test states the difference.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sae_lens import TrainingSAE
from sae_lens.saes.sae import TrainStepInput
from torch import Tensor

from sae_lens_audio.architectures import (
    SAE,
    BatchTopK,
    BatchTopKConfig,
    Gated,
    GatedConfig,
    JumpReLU,
    JumpReLUConfig,
    Matryoshka,
    MatryoshkaConfig,
    Standard,
    StandardConfig,
    TopK,
    TopKConfig,
)
from tests.sae.saes import filled

D, F, N, K = 16, 40, 64, 5
WIDTHS = (8, 20, F)


def pair(sae: SAE, unit_rows: bool = True, **keys: Any) -> tuple[SAE, TrainingSAE]:
    """Ours with random weights, in float64, and theirs with the same."""
    sae = filled(sae, 3)
    if unit_rows:
        with torch.no_grad():
            sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
    if isinstance(sae, JumpReLU):
        sae.threshold.data = sae.threshold.data.float().double()  # theirs is float32 whatever the others are
    common = {"architecture": sae.architecture, "d_in": D, "d_sae": F, "device": "cpu", "dtype": "float64"}
    theirs = TrainingSAE.from_dict(common | keys)
    state = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    theirs.load_state_dict(state)
    return sae.train(), theirs.train()


def rows() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def their_losses(theirs: TrainingSAE, x: Tensor, dead: Tensor | None = None) -> dict[str, Tensor]:
    coefficients = {
        name: value if isinstance(value, float) else value.value for name, value in theirs.get_coefficients().items()
    }
    out = theirs.training_forward_pass(TrainStepInput(x, coefficients, dead, 0, False))
    return out.losses | {"total": out.loss}


def gradients(loss: Tensor, sae: torch.nn.Module) -> dict[str, Tensor]:
    names, parameters = zip(*sae.named_parameters(), strict=True)
    gradients_of_all = torch.autograd.grad(
        loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return dict(zip(names, gradients_of_all, strict=True))


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor], *names: str) -> None:
    for name in names or sorted(ours):
        torch.testing.assert_close(ours[name], theirs[name].to(ours[name].dtype), msg=lambda m, n=name: f"{n}: {m}")


def flagged(*latents: int) -> Tensor:
    dead = torch.zeros(F, dtype=torch.bool)
    dead[list(latents)] = True
    return dead


@pytest.mark.parametrize("centered", [True, False])
def test_standard(centered: bool) -> None:
    """Decoder rows of any norm: the penalty is weighted by the norms. sae-lens also has ``lp_norm``; at its default
    of 1 the losses are equal.
    """
    config = StandardConfig(D, F, apply_b_dec_to_input=centered, l1_coefficient=0.3)
    ours, theirs = pair(Standard(config), False, l1_coefficient=0.3, apply_b_dec_to_input=centered)
    x = rows()
    a, b = ours.loss(x), their_losses(theirs, x)
    torch.testing.assert_close([a.reconstruction, a.sparsity], [b["mse_loss"], b["l1_loss"]])
    same(gradients(a.total, ours), gradients(b["total"], theirs))


def test_other_norms_exist_only_in_sae_lens() -> None:
    ours, theirs = pair(Standard(StandardConfig(D, F, l1_coefficient=0.3)), l1_coefficient=0.3, lp_norm=2.0)
    x = rows()
    assert their_losses(theirs, x)["l1_loss"] < 0.9 * ours.loss(x).sparsity


@pytest.mark.parametrize("rescaled", [False, True])
def test_topk(rescaled: bool) -> None:
    """With decoder rows of norm 1, which ours keep, ranking by decoder norm changes neither values nor gradients:
    what it adds along a row cancels with the division in decoding.
    """
    ours, theirs = pair(TopK(TopKConfig(D, F, k=K)), k=K, rescale_acts_by_decoder_norm=rescaled)
    x = rows()
    a, b = ours.loss(x), their_losses(theirs, x)
    torch.testing.assert_close(a.total, b["total"])
    same(gradients(a.total, ours), gradients(b["total"], theirs))


@pytest.mark.parametrize("n_dead", [1, 5, 8, 20])
def test_topk_auxiliary_loss(n_dead: int) -> None:
    """Theirs is ours, times ``n_dead / (d_in / 2)`` while fewer features than that are dead (the paper has no such
    factor), where the dead features have positive pre-activations. Their coefficient is 1 unless given, the paper's
    and ours is 1/32.
    """
    ours, theirs = pair(
        TopK(TopKConfig(D, F, k=K, aux_coefficient=0.5)),
        k=K,
        aux_loss_coefficient=0.5,
        rescale_acts_by_decoder_norm=False,
    )
    dead = flagged(*range(10, 10 + n_dead))
    with torch.no_grad():
        for sae in (ours, theirs):
            sae.b_enc[dead] += 100.0
    x = rows()
    a, b = ours.loss(x, dead), their_losses(theirs, x, dead)
    scale = min(n_dead / (D // 2), 1.0)
    assert b["auxiliary_reconstruction_loss"] > 0
    torch.testing.assert_close(scale * a.auxiliary, b["auxiliary_reconstruction_loss"])
    ours_of_aux = {name: scale * g for name, g in gradients(a.auxiliary, ours).items()}
    same(ours_of_aux, gradients(b["auxiliary_reconstruction_loss"], theirs))
    torch.testing.assert_close(a.reconstruction, b["mse_loss"])


def test_topk_auxiliary_loss_of_negative_features() -> None:
    """In sae-lens, negative pre-activations of dead features reconstruct too. The paper's code and ours apply a
    ReLU, because a feature that is never positive in use should not learn from its negative side.
    """
    ours, theirs = pair(TopK(TopKConfig(D, F, k=K, aux_coefficient=1.0)), k=K, rescale_acts_by_decoder_norm=False)
    dead = flagged(*range(10, 20))
    with torch.no_grad():
        for sae in (ours, theirs):
            sae.b_enc[dead] -= 100.0
    x = rows()
    a, b = ours.loss(x, dead), their_losses(theirs, x, dead)
    torch.testing.assert_close(a.auxiliary, a.error)  # nothing is positive: the whole error is left
    assert not gradients(a.auxiliary, ours)["W_enc"].any()
    assert gradients(b["auxiliary_reconstruction_loss"], theirs)["W_enc"][:, dead].abs().sum() > 0


@pytest.mark.parametrize("k", [K, 2.5])
def test_batch_topk(k: float) -> None:
    """The losses are equal. The running mean of the threshold starts with the first batch here, and at 0 in
    sae-lens."""
    ours, theirs = pair(BatchTopK(BatchTopKConfig(D, F, k=k)), k=k, rescale_acts_by_decoder_norm=False)
    assert isinstance(ours, BatchTopK)
    x = rows()
    a, b = ours.loss(x), their_losses(theirs, x)
    torch.testing.assert_close(a.total, b["total"])
    same(gradients(a.total, ours), gradients(b["total"], theirs))
    torch.testing.assert_close(ours.topk_threshold, theirs.topk_threshold)
    fresh = BatchTopK(BatchTopKConfig(D, F, k=k)).double().train()
    fresh.loss(x)
    assert fresh.topk_threshold == fresh.encode_sparse(x).values.min()


def test_matryoshka() -> None:
    """sae-lens adds the inner levels to the loss of the full SAE, which is the same sum."""
    ours, theirs = pair(
        Matryoshka(MatryoshkaConfig(D, F, k=K, widths=WIDTHS)),
        k=K,
        matryoshka_widths=list(WIDTHS),
        rescale_acts_by_decoder_norm=False,
    )
    x = rows()
    a, b = ours.loss(x), their_losses(theirs, x)
    inner = [b[f"inner_mse_loss_{width}"] for width in WIDTHS[:-1]]
    torch.testing.assert_close(a.reconstruction, b["mse_loss"] + sum(inner))
    torch.testing.assert_close(a.error, b["mse_loss"].detach())
    same(gradients(a.total, ours), gradients(b["total"], theirs))


@pytest.mark.parametrize("target_l0", [None, 4.0])
def test_jumprelu(target_l0: float | None) -> None:
    """The modes ``step`` and ``quadratic`` of sae-lens, with straight-through gradients, for thresholds above half the
    bandwidth.
    """
    config = JumpReLUConfig(D, F, l0_coefficient=0.2, bandwidth=0.5, target_l0=target_l0)
    mode = "step" if target_l0 is None else "quadratic"
    keys = {"jumprelu_sparsity_loss_mode": mode, "target_l0": target_l0}
    ours, theirs = pair(JumpReLU(config), False, l0_coefficient=0.2, jumprelu_bandwidth=0.5, **keys)
    with torch.no_grad():
        theirs.threshold.add_(0.25)
        ours.threshold.copy_(theirs.threshold)
    x = rows()
    a, b = ours.loss(x), their_losses(theirs, x)
    torch.testing.assert_close([a.reconstruction, a.sparsity], [b["mse_loss"], b["l0_loss"]])
    ours_gradients, their_gradients = gradients(a.total, ours), gradients(b["total"], theirs)
    same(ours_gradients, their_gradients, "W_enc", "b_enc", "W_dec", "b_dec")
    torch.testing.assert_close(ours_gradients["threshold"], their_gradients["threshold"].double(), atol=1e-5, rtol=1e-5)
    assert (ours_gradients["threshold"] != 0).any()


def test_jumprelu_with_thresholds_in_reach_of_zero() -> None:
    """The paper's code puts a ReLU before the threshold, ours too, so that all inactive features, at 0, lie in the
    window of a threshold below half the bandwidth and push it up. Theirs has no ReLU: negative ones lie outside. The
    values are the same, only thresholds get other gradients.
    """
    config = JumpReLUConfig(D, F, l0_coefficient=0.2, bandwidth=0.5)
    ours, theirs = pair(JumpReLU(config), l0_coefficient=0.2, jumprelu_bandwidth=0.5)
    with torch.no_grad():
        for sae in (ours, theirs):
            sae.threshold.fill_(0.125)
    x = rows()
    a, b = ours.loss(x), their_losses(theirs, x)
    torch.testing.assert_close(a.total, b["total"])
    ours_gradients, their_gradients = gradients(a.total, ours), gradients(b["total"], theirs)
    same(ours_gradients, their_gradients, "W_enc", "b_enc", "W_dec", "b_dec")
    assert (gradients(a.sparsity, ours)["threshold"] < gradients(b["l0_loss"], theirs)["threshold"].double()).all()


def test_gated() -> None:
    """The same values with decoder rows of norm 1. The decoder's gradient differs: the paper's auxiliary terms go
    through a frozen copy of it (equation 8), theirs train it too, and their L1 weighs the gate by its norms.
    """
    ours, theirs = pair(Gated(GatedConfig(D, F, l1_coefficient=0.3)), l1_coefficient=0.3)
    x = rows()
    a, b = ours.loss(x), their_losses(theirs, x)
    torch.testing.assert_close(
        [a.reconstruction, a.sparsity, a.auxiliary],
        [b["mse_loss"], b["l1_loss"], b["auxiliary_reconstruction_loss"]],
    )
    ours_gradients, their_gradients = gradients(a.total, ours), gradients(b["total"], theirs)
    same(ours_gradients, their_gradients, "W_enc", "b_gate", "b_mag", "r_mag")
    same(ours_gradients, gradients(b["mse_loss"], theirs), "W_dec")
    for name in ("W_dec", "b_dec"):
        assert not torch.allclose(ours_gradients[name], their_gradients[name]), name
