"""Architectures: each against its paper's equations written out in loops, gradients, laws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hooked_whisper.errors import PatchError
from hooked_whisper.protocols import FeatureBasis
from sae_lens_audio.architectures import (
    ARCHITECTURES,
    AbsTopK,
    BatchTopK,
    BatchTopKConfig,
    Crosscoder,
    CrosscoderConfig,
    Dictionary,
    Gated,
    GatedConfig,
    JumpReLU,
    JumpReLUConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    Matryoshka,
    MatryoshkaConfig,
    Normalised,
    SparseDictionary,
    Standard,
    StandardConfig,
    Tied,
    TiedConfig,
    TopK,
    TopKConfig,
    TopKTranscoder,
    TopKTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)

D, F, N = 5, 9, 7


def all_of_them() -> list[Dictionary]:
    return [
        Standard(StandardConfig(D, F, l1_coefficient=0.3)),
        Tied(TiedConfig(D, F, reconstruction_alpha=10.0)),
        TopK(TopKConfig(D, F, k=3)),
        AbsTopK(TopKConfig(D, F, k=3)),
        BatchTopK(BatchTopKConfig(D, F, k=2.5)),
        Matryoshka(MatryoshkaConfig(D, F, k=3, widths=(2, 5, F))),
        JumpReLU(JumpReLUConfig(D, F, l0_coefficient=0.2, bandwidth=0.5, initial_threshold=0.4)),
        Gated(GatedConfig(D, F, l1_coefficient=0.3)),
        Transcoder(TranscoderConfig(D, F, d_out=4, skip=True, l1_coefficient=0.3)),
        TopKTranscoder(TopKTranscoderConfig(D, F, d_out=4, k=3)),
        JumpReLUTranscoder(JumpReLUTranscoderConfig(D, F, d_out=4, bandwidth=0.5, initial_threshold=0.4)),
        Crosscoder(CrosscoderConfig(D, F, n_blocks=2, l1_coefficient=0.3)),
    ]


ALL = {type(sae).architecture: sae for sae in all_of_them()}


def filled(sae: Dictionary, seed: int = 0) -> Dictionary:
    """Every weight random, in float64: nothing is zero by accident. Thresholds positive."""
    generator = torch.Generator().manual_seed(seed)
    sae = sae.double()
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            if name == "threshold":
                parameter.abs_()
        if isinstance(sae, BatchTopK):
            sae.topk_threshold.fill_(0.5)
    return sae


def inputs(sae: Dictionary, rows: int = N, seed: int = 5) -> Tensor:
    shape = (rows, 2, D) if isinstance(sae, Crosscoder) else (rows, D)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss_of(sae: Dictionary, x: Tensor, dead: Tensor | None = None):
    if isinstance(sae, Transcoder):
        target = torch.randn(len(x), 4, generator=torch.Generator().manual_seed(8), dtype=x.dtype)
        return sae.loss(x, target, dead), target
    return sae.loss(x, dead), x


@pytest.fixture(params=sorted(ALL))
def sae(request: pytest.FixtureRequest) -> Dictionary:
    fresh = {type(s).architecture: s for s in all_of_them()}
    return filled(fresh[request.param])


def test_every_architecture_is_here() -> None:
    assert set(ALL) == set(ARCHITECTURES)


def test_fits_a_feature_basis(sae: Dictionary) -> None:
    assert isinstance(sae, FeatureBasis) and isinstance(sae, SparseDictionary)
    assert sae.labels == tuple(str(i) for i in range(F)) and sae.n_features == F and sae.d_in == D
    x = inputs(sae)
    features = sae.encode(x)
    assert features.shape == (N, F)
    if not isinstance(sae, AbsTopK):
        assert (features >= 0).all()
    # a row's features do not depend on its neighbours, nor on how rows are stacked
    torch.testing.assert_close(torch.stack([sae.encode(row) for row in x]), features)
    torch.testing.assert_close(sae.encode(x[None, None])[0, 0], features)


def test_decode_is_affine(sae: Dictionary) -> None:
    a, b = torch.randn(2, 3, F, dtype=torch.float64)
    torch.testing.assert_close(sae.decode(a) + sae.decode(b), sae.decode(a + b) + sae.decode(torch.zeros_like(a)))


def test_width_is_checked(sae: Dictionary) -> None:
    with pytest.raises(PatchError, match=r"takes"):
        sae.encode(inputs(sae)[..., :-1])


def test_fresh_weights_are_settled_by_the_seed() -> None:
    for first, second in zip(all_of_them(), all_of_them(), strict=True):
        torch.testing.assert_close(first.state_dict(), second.state_dict(), equal_nan=True)
    a, b = Standard(StandardConfig(D, F), seed=1), Standard(StandardConfig(D, F), seed=2)
    assert not torch.equal(a.W_dec, b.W_dec)
    torch.testing.assert_close(a.W_dec.norm(dim=1), torch.ones(F))


# ---- the papers' equations, one row and one feature at a time ----


def rows_of(x: Tensor) -> list[list[float]]:
    return x.tolist()


def pre_of(sae: Dictionary, row: list[float], bias: Tensor) -> list[float]:
    centre = sae.b_dec.tolist() if sae.config.apply_b_dec_to_input else [0.0] * D
    return [sum((row[d] - centre[d]) * sae.W_enc[d, i].item() for d in range(D)) + bias[i].item() for i in range(F)]


def decoded(sae: Dictionary, features: list[float], skip: list[float] | None = None) -> list[float]:
    width = sae.W_dec.shape[1]
    out = [sum(features[i] * sae.W_dec[i, d].item() for i in range(F)) + sae.b_dec[d].item() for d in range(width)]
    if skip is not None and sae.config.skip:
        out = [o + sum(sae.W_skip[d, e].item() * skip[e] for e in range(D)) for d, o in enumerate(out)]
    return out


def distance(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def top(values: list[float], k: int) -> list[float]:
    chosen = sorted(range(len(values)), key=lambda i: -values[i])[:k]
    return [max(v, 0.0) if i in chosen else 0.0 for i, v in enumerate(values)]


def check(losses, reconstruction: float, sparsity: float, auxiliary: float = 0.0) -> None:
    got = [losses.reconstruction.item(), losses.sparsity.item(), losses.auxiliary.item()]
    assert got == pytest.approx([reconstruction, sparsity, auxiliary])
    assert losses.total.item() == pytest.approx(sum(got))


def test_standard() -> None:
    sae = filled(Standard(StandardConfig(D, F, l1_coefficient=0.3)))
    x = inputs(sae)
    error = penalty = 0.0
    for row, found in zip(rows_of(x), sae.encode(x), strict=True):
        features = [max(0.0, p) for p in pre_of(sae, row, sae.b_enc)]
        assert found.tolist() == pytest.approx(features)
        error += distance(decoded(sae, features), row) / N
        penalty += 0.3 * sum(f * math.dist(sae.W_dec[i].tolist(), [0] * D) for i, f in enumerate(features)) / N
    check(sae.loss(x), error, penalty)


def test_tied() -> None:
    sae = Tied(TiedConfig(D, 3, reconstruction_alpha=10.0)).double()
    torch.testing.assert_close(sae.W_enc.T @ sae.W_enc, torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0)
    x = inputs(sae)
    error = penalty = 0.0
    for row in x:
        features = [max(0.0, (row @ sae.W_enc[:, i] + sae.b_enc[i]).item()) for i in range(3)]
        back = [sum(features[i] * sae.W_enc[d, i].item() for i in range(3)) for d in range(D)]
        error += 10.0 * distance(back, row.tolist()) / (N * D)
        penalty += sum(features) / N
    check(sae.loss(x), error, penalty)
    assert [name for name, _ in sae.named_parameters()] == ["b_enc", "W_enc"]
    wide = Tied(TiedConfig(D, F))
    torch.testing.assert_close(wide.W_enc.norm(dim=0), torch.ones(F))
    with torch.no_grad():
        wide.W_enc.mul_(3)
    wide.project_weights_()
    torch.testing.assert_close(wide.W_enc.norm(dim=0), torch.ones(F))


def aux(sae: Dictionary, pre: list[float], error: list[float], dead: list[int], k: int) -> float:
    kept = top([pre[i] for i in dead], min(k, len(dead)))
    back = [sum(v * sae.W_dec[i, d].item() for v, i in zip(kept, dead, strict=True)) for d in range(len(error))]
    return distance(back, error)


@pytest.mark.parametrize("dead", [[], [4], [0, 3, 7, 8]])
def test_topk(dead: list[int]) -> None:
    sae = filled(TopK(TopKConfig(D, F, k=3, aux_k=2)))
    x = inputs(sae)
    error = revived = 0.0
    for row, found in zip(rows_of(x), sae.encode(x), strict=True):
        pre = pre_of(sae, row, sae.b_enc)
        features = top(pre, 3)
        assert found.tolist() == pytest.approx(features)
        back = decoded(sae, features)
        error += distance(back, row) / N
        if dead:
            revived += aux(sae, pre, [a - b for a, b in zip(row, back, strict=True)], dead, 2) / N
    mask = torch.zeros(F, dtype=torch.bool)
    mask[dead] = True
    check(sae.loss(x, mask), error, 0.0, revived / 32)
    check(sae.loss(x), error, 0.0)


def test_the_auxiliary_loss_reaches_dead_features_only() -> None:
    for sae in (filled(TopK(TopKConfig(D, F, k=2))), filled(BatchTopK(BatchTopKConfig(D, F, k=2)))):
        dead = torch.zeros(F, dtype=torch.bool)
        dead[[1, 6]] = True
        sae.loss(inputs(sae, 40), dead).auxiliary.backward()
        assert sae.W_enc.grad is not None and sae.W_dec.grad is not None
        assert (sae.W_enc.grad[:, dead] != 0).any(0).all() and (sae.W_enc.grad[:, ~dead] == 0).all()
        assert (sae.W_dec.grad[dead] != 0).any(1).all() and (sae.W_dec.grad[~dead] == 0).all()


def test_abs_topk_keeps_signs() -> None:
    sae = filled(AbsTopK(TopKConfig(D, F, k=3)))
    x = inputs(sae)
    for row, found in zip(rows_of(x), sae.encode(x), strict=True):
        pre = pre_of(sae, row, sae.b_enc)
        chosen = sorted(range(F), key=lambda i: -abs(pre[i]))[:3]
        assert found.tolist() == pytest.approx([p if i in chosen else 0.0 for i, p in enumerate(pre)])
    assert (sae.encode(x) < 0).any()


def batch_features(sae: Dictionary, x: Tensor, k: float) -> list[list[float]]:
    pre = [pre_of(sae, row, sae.b_enc) for row in rows_of(x)]
    ranked = sorted(((max(0.0, v), n, i) for n, row in enumerate(pre) for i, v in enumerate(row)), reverse=True)
    kept = {(n, i) for _, n, i in ranked[: int(k * len(pre))]}
    return [[max(0.0, v) if (n, i) in kept else 0.0 for i, v in enumerate(row)] for n, row in enumerate(pre)]


def test_batch_topk() -> None:
    sae = filled(BatchTopK(BatchTopKConfig(D, F, k=1.5, threshold_rate=0.25)))
    x = inputs(sae)
    features = batch_features(sae, x, 1.5)
    assert sum(f > 0 for row in features for f in row) == int(1.5 * N)
    check(sae.loss(x), sum(distance(decoded(sae, f), r) for f, r in zip(features, rows_of(x), strict=True)) / N, 0.0)
    smallest = min(f for row in features for f in row if f > 0)
    assert sae.topk_threshold.item() == pytest.approx(0.75 * 0.5 + 0.25 * smallest)
    sae.eval().loss(inputs(sae, seed=9))
    assert sae.topk_threshold.item() == pytest.approx(0.75 * 0.5 + 0.25 * smallest)
    t = sae.topk_threshold.item()
    for row, found in zip(rows_of(x), sae.encode(x), strict=True):
        assert found.tolist() == pytest.approx([p if p > t else 0.0 for p in pre_of(sae, row, sae.b_enc)])


def test_batch_topk_without_a_threshold_says_so() -> None:
    sae = BatchTopK(BatchTopKConfig(D, F, k=2))
    with pytest.raises(PatchError, match="calibrate_"):
        sae.encode(torch.randn(3, D))
    batches = torch.randn(4, 50, D)
    sae.calibrate_(batches)
    smallest = []
    for rows in batches:
        kept = sae.activate_batch(sae.pre_activations(rows))
        smallest.append(kept[kept > 0].min().item())
    assert sae.topk_threshold.item() == pytest.approx(sum(smallest) / 4)
    assert 1.0 < (sae.encode(batches) > 0).sum(-1).float().mean() < 3.0
    with pytest.raises(PatchError, match="no activation has a positive feature"):
        with torch.no_grad():
            sae.b_enc.fill_(-1e6)
        sae.calibrate_(batches)


def test_matryoshka() -> None:
    widths = (2, 5, F)
    sae = filled(Matryoshka(MatryoshkaConfig(D, F, k=3, widths=widths)))
    x = inputs(sae)
    features = batch_features(sae, x, 3)
    error = 0.0
    for row, found in zip(rows_of(x), features, strict=True):
        for width in widths:
            error += distance(decoded(sae, [f if i < width else 0.0 for i, f in enumerate(found)]), row) / N
    check(sae.loss(x), error, 0.0)
    encoded = sae.encode(x)
    prefixes = sae.decode_levels(encoded)
    torch.testing.assert_close(prefixes[-1], sae.decode(encoded))
    torch.testing.assert_close(prefixes[1], sae.decode(encoded * (torch.arange(F) < 5)))
    for wrong in ((), (2, 5), (5, 2, F), (0, F)):
        with pytest.raises(PatchError, match="widths must rise"):
            MatryoshkaConfig(D, F, k=3, widths=wrong)


def test_jumprelu_and_its_pseudo_derivatives() -> None:
    sae = filled(JumpReLU(JumpReLUConfig(D, F, l0_coefficient=0.2, bandwidth=0.5)))
    x = inputs(sae, 30)
    theta, width = sae.threshold.tolist(), 0.5
    error = active = 0.0
    to_theta = [0.0] * F
    for row, found in zip(rows_of(x), sae.encode(x), strict=True):
        pre = pre_of(sae, row, sae.b_enc)
        features = [p if p > t else 0.0 for p, t in zip(pre, theta, strict=True)]
        assert found.tolist() == pytest.approx(features)
        back = decoded(sae, features)
        error += distance(back, row) / 30
        active += sum(f > 0 for f in features) / 30
        for i, (p, t) in enumerate(zip(pre, theta, strict=True)):
            if abs(max(p, 0.0) - t) / width < 0.5:
                along = sum(
                    2 * (b - r) * sae.W_dec[i, d].item() for d, (b, r) in enumerate(zip(back, row, strict=True))
                )
                to_theta[i] += (-(t / width) * along - 0.2 / width) / 30  # equations 11 and 12
    losses = sae.loss(x)
    check(losses, error, 0.2 * active)
    losses.total.backward()
    assert sae.threshold.grad is not None and sae.threshold.grad.tolist() == pytest.approx(to_theta)
    assert any(to_theta)
    with torch.no_grad():
        sae.threshold.sub_(10)
    sae.project_weights_()
    assert (sae.threshold == 0).all()


def test_the_l0_penalty_moves_nothing_but_thresholds() -> None:
    sae = filled(JumpReLU(JumpReLUConfig(D, F, bandwidth=0.5)))
    sae.loss(inputs(sae)).sparsity.backward()
    assert sae.threshold.grad is not None and sae.threshold.grad.abs().sum() > 0
    assert sae.W_enc.grad is None or (sae.W_enc.grad == 0).all()


def test_gated() -> None:
    sae = filled(Gated(GatedConfig(D, F, l1_coefficient=0.3)))
    x = inputs(sae)
    error = penalty = gate_error = 0.0
    for row, found in zip(rows_of(x), sae.encode(x), strict=True):
        gate = pre_of(sae, row, sae.b_gate)
        product = pre_of(sae, row, torch.zeros(F))
        magnitude = [
            math.exp(r) * p + b for r, p, b in zip(sae.r_mag.tolist(), product, sae.b_mag.tolist(), strict=True)
        ]
        features = [max(0.0, float(m)) if g > 0 else 0.0 for g, m in zip(gate, magnitude, strict=True)]
        assert found.tolist() == pytest.approx(features)
        error += distance(decoded(sae, features), row) / N
        open_gate = [max(0.0, g) for g in gate]
        penalty += 0.3 * sum(open_gate) / N
        gate_error += distance(decoded(sae, open_gate), row) / N
    losses = sae.loss(x)
    check(losses, error, penalty, gate_error)
    (losses.auxiliary + losses.sparsity).backward()
    assert sae.W_dec.grad is None and sae.r_mag.grad is None, "the frozen copy gives the decoder no gradient"
    assert sae.b_gate.grad is not None and "b_enc" not in sae.state_dict()


@pytest.mark.parametrize("skip", [False, True])
def test_transcoders(skip: bool) -> None:
    relu = filled(Transcoder(TranscoderConfig(D, F, d_out=4, skip=skip, l1_coefficient=0.3)))
    topk = filled(TopKTranscoder(TopKTranscoderConfig(D, F, d_out=4, skip=skip, k=2)))
    jump = filled(JumpReLUTranscoder(JumpReLUTranscoderConfig(D, F, d_out=4, skip=skip, l0_coefficient=0.2)))
    theta = jump.threshold.tolist()
    activations = {
        relu: lambda pre: [max(0.0, p) for p in pre],
        topk: lambda pre: top(pre, 2),
        jump: lambda pre: [p if p > t else 0.0 for p, t in zip(pre, theta, strict=True)],
    }
    penalties = {
        relu: lambda f: 0.3 * sum(f),
        topk: lambda f: 0.0,
        jump: lambda f: 0.2 * sum(v > 0 for v in f),
    }
    for sae, activate in activations.items():
        x = inputs(sae)
        losses, target = loss_of(sae, x)
        error = penalty = 0.0
        for row, wanted, out in zip(rows_of(x), rows_of(target), sae(x), strict=True):
            features = activate(pre_of(sae, row, sae.b_enc))
            back = decoded(sae, features, row)
            assert out.tolist() == pytest.approx(back)
            error += distance(back, wanted) / N
            penalty += penalties[sae](features) / N
        check(losses, error, penalty)
        assert ("W_skip" in sae.state_dict()) is skip


def test_crosscoder() -> None:
    sae = filled(Crosscoder(CrosscoderConfig(D, F, n_blocks=2, l1_coefficient=0.3)))
    x = inputs(sae)
    error = penalty = 0.0
    for row, found in zip(x, sae.encode(x), strict=True):
        pre = [(sum(row[b] @ sae.W_enc[b, :, i] for b in range(2)) + sae.b_enc[i]).item() for i in range(F)]
        features = torch.tensor([max(0.0, p) for p in pre], dtype=torch.float64)
        torch.testing.assert_close(found, features)
        for b in range(2):
            error += (row[b] - features @ sae.W_dec[:, b] - sae.b_dec[b]).square().sum().item() / N
            penalty += 0.3 * sum(features[i] * sae.W_dec[i, b].norm() for i in range(F)).item() / N
    check(sae.loss(x), error, penalty)
    assert sae(x).shape == x.shape


# ---- gradients and laws ----


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


def set_parameter(sae: Dictionary, name: str, value: Tensor) -> None:
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
    kept = int((sae.activate_batch(pre) > 0).sum())
    assert kept == min(int(k * rows), int((pre > 0).sum()))


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


def test_methods_without_a_constraint_are_left_alone() -> None:
    sae = filled(Standard(StandardConfig(D, F)))
    before = sae.W_dec.clone()
    sae.project_weights_()
    assert torch.equal(sae.W_dec, before)


@given(st.floats(0.1, 100), st.integers(0, 20))
def test_normalised_input(scale: float, seed: int) -> None:
    inner = filled(Standard(StandardConfig(D, F)), seed)
    x = inputs(inner, seed=seed)
    rescaled = Normalised(inner, "constant_norm_rescale")
    unit = x / x.norm(dim=-1, keepdim=True) * math.sqrt(D)
    torch.testing.assert_close(rescaled.encode(x), inner.encode(unit))
    torch.testing.assert_close(rescaled.encode(scale * x), rescaled.encode(x))
    torch.testing.assert_close(rescaled(scale * x), scale * rescaled(x))
    normed = Normalised(inner, "layer_norm")
    torch.testing.assert_close(normed.encode(scale * x + 3), normed.encode(x), atol=1e-3, rtol=1e-3)
    assert isinstance(normed, FeatureBasis)
    with pytest.raises(PatchError, match="decode_like"):
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
        (lambda: Normalised(Crosscoder(CrosscoderConfig(D, F, n_blocks=2)), "layer_norm"), "normalise before"),
    ]:
        with pytest.raises(PatchError, match=message):
            make()
