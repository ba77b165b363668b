"""Architectures against the equations of their papers, in loops over rows and features."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from hooked_whisper.errors import ConfigError, ShapeError
from sae_lens_audio.architectures import (
    SAE,
    AbsTopK,
    BatchTopK,
    BatchTopKConfig,
    Crosscoder,
    CrosscoderConfig,
    Gated,
    GatedConfig,
    JumpReLU,
    JumpReLUConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    Matryoshka,
    MatryoshkaConfig,
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
from sae_lens_audio.architectures.outputs import level_errors, squared_error
from tests.sae.saes import D, F, N, filled, inputs, loss_of


def rows_of(x: Tensor) -> list[list[float]]:
    return x.tolist()


def pre_of(sae: SAE, row: list[float], bias: Tensor) -> list[float]:
    center = sae.b_dec.tolist() if sae.config.apply_b_dec_to_input else [0.0] * D
    return [sum((row[d] - center[d]) * sae.W_enc[d, i].item() for d in range(D)) + bias[i].item() for i in range(F)]


def decoded(sae: SAE, features: list[float], skip: list[float] | None = None) -> list[float]:
    width = sae.W_dec.shape[1]
    out = [sum(features[i] * sae.W_dec[i, d].item() for i in range(F)) + sae.b_dec[d].item() for d in range(width)]
    if skip is not None and sae.config.skip:
        out = [o + sum(sae.W_skip[d, e].item() * skip[e] for e in range(D)) for d, o in enumerate(out)]
    return out


def distance(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def top(values: list[float], k: int) -> list[float]:
    largest = sorted(range(len(values)), key=lambda i: -values[i])[:k]
    return [max(v, 0.0) if i in largest else 0.0 for i, v in enumerate(values)]


def check(losses, reconstruction: float, sparsity: float, auxiliary: float = 0.0) -> None:
    got = [losses.reconstruction.item(), losses.sparsity.item(), losses.auxiliary.item()]
    assert got == pytest.approx([reconstruction, sparsity, auxiliary])
    assert losses.total.item() == pytest.approx(sum(got))


def test_standard() -> None:
    sae = filled(Standard(StandardConfig(D, F, l1_coefficient=0.3)))
    x = inputs(sae)
    error = penalty = 0.0
    for row, encoded in zip(rows_of(x), sae.encode(x), strict=True):
        features = [max(0.0, p) for p in pre_of(sae, row, sae.b_enc)]
        assert encoded.tolist() == pytest.approx(features)
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


def aux(sae: SAE, pre: list[float], error: list[float], dead: list[int], k: int) -> float:
    selected = top([pre[i] for i in dead], min(k, len(dead)))
    back = [sum(v * sae.W_dec[i, d].item() for v, i in zip(selected, dead, strict=True)) for d in range(len(error))]
    return distance(back, error)


@pytest.mark.parametrize("dead", [[], [4], [0, 3, 7, 8]])
def test_topk(dead: list[int]) -> None:
    sae = filled(TopK(TopKConfig(D, F, k=3, aux_k=2)))
    x = inputs(sae)
    error = revived = 0.0
    for row, encoded in zip(rows_of(x), sae.encode(x), strict=True):
        pre = pre_of(sae, row, sae.b_enc)
        features = top(pre, 3)
        assert encoded.tolist() == pytest.approx(features)
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
    for row, encoded in zip(rows_of(x), sae.encode(x), strict=True):
        pre = pre_of(sae, row, sae.b_enc)
        largest = sorted(range(F), key=lambda i: -abs(pre[i]))[:3]
        assert encoded.tolist() == pytest.approx([p if i in largest else 0.0 for i, p in enumerate(pre)])
    assert (sae.encode(x) < 0).any()


def batch_features(sae: SAE, x: Tensor, k: float) -> list[list[float]]:
    pre = [pre_of(sae, row, sae.b_enc) for row in rows_of(x)]
    ranked = sorted(((max(0.0, v), n, i) for n, row in enumerate(pre) for i, v in enumerate(row)), reverse=True)
    selected = {(n, i) for _, n, i in ranked[: int(k * len(pre))]}
    return [[max(0.0, v) if (n, i) in selected else 0.0 for i, v in enumerate(row)] for n, row in enumerate(pre)]


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
    for row, encoded in zip(rows_of(x), sae.encode(x), strict=True):
        assert encoded.tolist() == pytest.approx([p if p > t else 0.0 for p in pre_of(sae, row, sae.b_enc)])


def test_batch_topk_without_a_threshold_says_so() -> None:
    sae = BatchTopK(BatchTopKConfig(D, F, k=2))
    with pytest.raises(ConfigError, match="calibrate_"):
        sae.encode(torch.randn(3, D))
    batches = torch.randn(4, 50, D)
    sae.calibrate_(batches)
    smallest = []
    for rows in batches:
        smallest.append(min(f for row in batch_features(sae, rows, 2) for f in row if f > 0))
    assert sae.topk_threshold.item() == pytest.approx(sum(smallest) / 4)
    assert 1.0 < (sae.encode(batches) > 0).sum(-1).float().mean() < 3.0
    with pytest.raises(ShapeError, match="no activation has a positive feature"):
        with torch.no_grad():
            sae.b_enc.fill_(-1e6)
        sae.calibrate_(batches)


def test_matryoshka() -> None:
    widths = (2, 5, F)
    sae = filled(Matryoshka(MatryoshkaConfig(D, F, k=3, widths=widths)))
    x = inputs(sae)
    features = batch_features(sae, x, 3)
    error = 0.0
    for row, encoded in zip(rows_of(x), features, strict=True):
        for width in widths:
            error += distance(decoded(sae, [f if i < width else 0.0 for i, f in enumerate(encoded)]), row) / N
    check(sae.loss(x), error, 0.0)
    codes = sae.encode_sparse(x)
    prefixes = sae.decode_levels(codes, N).cumsum(0) + sae.b_dec
    torch.testing.assert_close(prefixes[-1], sae.decode(codes.dense(N)))
    torch.testing.assert_close(prefixes[1], sae.decode(codes.dense(N) * (torch.arange(F) < 5)))
    for wrong in ((), (2, 5), (5, 2, F), (0, F)):
        with pytest.raises(ConfigError, match="widths must rise"):
            MatryoshkaConfig(D, F, k=3, widths=wrong)


def test_jumprelu_and_its_pseudo_derivatives() -> None:
    sae = filled(JumpReLU(JumpReLUConfig(D, F, l0_coefficient=0.2, bandwidth=0.5)))
    x = inputs(sae, 30)
    theta, width = sae.threshold.tolist(), 0.5
    error = active = 0.0
    to_theta = [0.0] * F
    for row, encoded in zip(rows_of(x), sae.encode(x), strict=True):
        pre = pre_of(sae, row, sae.b_enc)
        features = [p if p > t else 0.0 for p, t in zip(pre, theta, strict=True)]
        assert encoded.tolist() == pytest.approx(features)
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


def test_the_l0_penalty_changes_only_thresholds() -> None:
    sae = filled(JumpReLU(JumpReLUConfig(D, F, bandwidth=0.5)))
    sae.loss(inputs(sae)).sparsity.backward()
    assert sae.threshold.grad is not None and sae.threshold.grad.abs().sum() > 0
    assert sae.W_enc.grad is None or (sae.W_enc.grad == 0).all()


def test_a_transcoder_starts_centered_and_topk_from_the_mean_output() -> None:
    x, y = torch.randn(500, D) + 2, torch.randn(500, 4) - 3
    for sae in (Transcoder(TranscoderConfig(D, F, d_out=4)), TopKTranscoder(TopKTranscoderConfig(D, F, d_out=4, k=3))):
        sae.center_decoder_([x.mean(0), y.mean(0)])
        torch.testing.assert_close(sae.pre_activations(x.mean(0)), torch.zeros(F), rtol=0, atol=1e-5)
        torch.testing.assert_close(sae.b_dec.detach(), y.mean(0))
    torch.testing.assert_close(sae(x), y.mean(0).expand(500, 4))
    sae.loss(x, y).total.backward()
    assert sae.W_dec.grad is not None and (sae.W_dec.grad != 0).any()


@pytest.mark.parametrize("config", [JumpReLUConfig, partial(JumpReLUTranscoderConfig, d_out=4)])
@pytest.mark.parametrize("target", [0, -1.0, F + 1, True])
def test_an_impossible_target_l0_is_refused(config, target: float) -> None:
    with pytest.raises(ConfigError, match=f"target_l0 .* {F}, or None, got {target}"):
        config(d_in=D, d_sae=F, target_l0=target)


@pytest.mark.parametrize("levels", [1, 3])
def test_level_errors_equal_autograd(levels: int) -> None:
    parts = torch.randn(levels, N, D, dtype=torch.float64, requires_grad=True)
    bias, target = torch.randn(D, dtype=torch.float64, requires_grad=True), torch.randn(N, D, dtype=torch.float64)
    weights = torch.arange(1.0, levels + 1, dtype=torch.float64)  # of another loss than the sum
    reconstructions = parts.cumsum(0) + bias
    expected = torch.stack([squared_error(level, target) for level in reconstructions])
    errors, predicted = level_errors(parts, bias, target)
    torch.testing.assert_close(errors, expected)
    torch.testing.assert_close(predicted, reconstructions[-1].detach())
    for actual, plain in zip(
        torch.autograd.grad(errors @ weights, (parts, bias)),
        torch.autograd.grad(expected @ weights, (parts, bias)),
        strict=True,
    ):
        torch.testing.assert_close(actual, plain)


def test_gated() -> None:
    sae = filled(Gated(GatedConfig(D, F, l1_coefficient=0.3)))
    x = inputs(sae)
    error = penalty = gate_error = 0.0
    for row, encoded in zip(rows_of(x), sae.encode(x), strict=True):
        gate = pre_of(sae, row, sae.b_gate)
        product = pre_of(sae, row, torch.zeros(F))
        magnitude = [
            math.exp(r) * p + b for r, p, b in zip(sae.r_mag.tolist(), product, sae.b_mag.tolist(), strict=True)
        ]
        features = [max(0.0, float(m)) if g > 0 else 0.0 for g, m in zip(gate, magnitude, strict=True)]
        assert encoded.tolist() == pytest.approx(features)
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
    for row, encoded in zip(x, sae.encode(x), strict=True):
        pre = [(sum(row[b] @ sae.W_enc[b, :, i] for b in range(2)) + sae.b_enc[i]).item() for i in range(F)]
        features = torch.tensor([max(0.0, p) for p in pre], dtype=torch.float64)
        torch.testing.assert_close(encoded, features)
        for b in range(2):
            error += (row[b] - features @ sae.W_dec[:, b] - sae.b_dec[b]).square().sum().item() / N
            penalty += 0.3 * sum(features[i] * sae.W_dec[i, b].norm() for i in range(F)).item() / N
    check(sae.loss(x), error, penalty)
    assert sae(x).shape == x.shape
