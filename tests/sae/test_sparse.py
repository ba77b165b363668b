"""Sparse feature activations equal dense ones: values, decoding, gradients, counts; also over ranks."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae_lens_audio import BatchTopK, BatchTopKConfig, Matryoshka, MatryoshkaConfig, TopK, TopKConfig
from sae_lens_audio.architectures import SAE, AbsTopK, TopKTranscoder, TopKTranscoderConfig
from sae_lens_audio.architectures.sparse import (
    count_at_least,
    encode_batch_topk,
    encode_topk,
    largest_of_all,
    largest_of_rows,
)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@given(st.integers(1, 5), st.sampled_from([7, 64, 200, 512]), st.integers(1, 40), st.integers(0, 50), st.booleans())
def test_largest_of_rows_equals_topk(rows: int, n: int, k: int, seed: int, coarse: bool) -> None:
    x, k = drawn(rows, n, seed=seed, dtype=torch.float32), min(k, n)
    x = x.round() if coarse else x  # many ties
    values, places = largest_of_rows(x, k)
    torch.testing.assert_close(values.sort(1).values, x.topk(k).values.sort(1).values, rtol=0, atol=0)
    torch.testing.assert_close(x.gather(1, places), values, rtol=0, atol=0)
    assert all(len(set(row)) == k for row in places.tolist()), "no value is taken twice"


@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=60), st.integers(1, 70), st.integers(1, 4))
def test_threshold_over_ranks_equals_that_of_all_values(values: list[float], count: int, n: int) -> None:
    whole = torch.tensor(values)
    wanted = whole.sort(descending=True).values[count - 1].item() if count <= len(whole) else 0.0
    results = in_ranks(n, lambda ranks, i: count_at_least(whole[i::n], count, ranks))
    assert [f.item() for f in results] == pytest.approx([wanted] * n, abs=0)
    indices = in_ranks(n, lambda ranks, i: whole[i::n][largest_of_all(whole[i::n], count, ranks)])
    assert sum(map(len, indices)) >= min(count, len(whole))
    assert torch.cat(indices).min() >= wanted


class Meeting:
    """Threads in place of processes: a sum waits for all of them."""

    def __init__(self, n: int) -> None:
        self.n, self.barrier, self.parts = n, threading.Barrier(n, timeout=20), {}

    def rank(self, i: int) -> Ranked:
        return Ranked(self, i)


class Ranked:
    def __init__(self, meeting: Meeting, i: int) -> None:
        self.meeting, self.i, self.n = meeting, i, meeting.n

    def _all(self, x: Tensor) -> Tensor:
        self.meeting.parts[self.i] = x
        self.meeting.barrier.wait()
        results = torch.stack([self.meeting.parts[i] for i in range(self.n)])
        self.meeting.barrier.wait()
        return results

    def sum(self, x: Tensor) -> Tensor:
        return self._all(x).sum(0)

    def minimum(self, x: Tensor) -> Tensor:
        return self._all(x).amin(0)


def in_ranks(n, work) -> list:
    meeting, results = Meeting(n), [None] * n

    def run(i: int) -> None:
        results[i] = work(meeting.rank(i), i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("k", [1, 12, 90])
def test_topk_values_and_gradients_equal_dense_ones(k: int, centered: bool) -> None:
    """300 rows exceed a tile; 512 features with k = 12 are ranked by groups."""
    x, target = drawn(300, 6), drawn(300, 6, seed=1)
    weight, bias, center, directions = (drawn(*s, seed=9) for s in ((6, 512), (512,), (6,), (512, 6)))
    mine, theirs = ([t.clone().requires_grad_() for t in (weight, bias, center, directions)] for _ in range(2))

    codes = encode_topk(x, mine[0], mine[1], mine[2] if centered else None, k)
    (codes.decode(mine[3]) - target).square().sum().backward()

    pre = (x - theirs[2] if centered else x) @ theirs[0] + theirs[1]
    values, latents = pre.topk(k)
    dense = torch.zeros_like(pre).scatter(1, latents, values.relu())
    (dense @ theirs[3] - target).square().sum().backward()

    torch.testing.assert_close(codes.dense(300), dense)
    torch.testing.assert_close(codes.active, (dense > 0).sum(0))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@given(st.integers(1, 700), st.integers(0, 60), st.integers(0, 30), st.sampled_from([0.0, -3.0, 3.0]))
def test_batch_topk_keeps_the_largest_of_all(rows: int, k: int, seed: int, shift: float) -> None:
    """The rows of the first tile may differ from the others."""
    x, weight, bias = drawn(rows, 4, seed=seed), drawn(4, 40, seed=1), drawn(40, seed=2)
    x[256:] *= 3
    bias += shift
    count = k * rows // 2
    pre = (x @ weight + bias).relu()
    if count > pre.numel():
        return
    values, flat = pre.flatten().topk(count)
    dense = torch.zeros_like(pre.flatten()).scatter(0, flat, values).view_as(pre)
    codes = encode_batch_topk(x, weight, bias, None, count)
    torch.testing.assert_close(codes.dense(rows), dense)
    assert (codes.entries.bags.diff() >= 0).all()


def test_batch_topk_over_ranks_selects_as_one_process() -> None:
    x, weight, bias = (drawn(*s, seed=i, dtype=torch.float32) for i, s in enumerate(((600, 4), (4, 40), (40,))))
    x[:200] *= 4  # the first rank has most of what is chosen
    whole = encode_batch_topk(x, weight, bias, None, 1500).dense(600)
    parts = in_ranks(3, lambda ranks, i: encode_batch_topk(x.chunk(3)[i], weight, bias, None, 1500, ranks).dense(200))
    torch.testing.assert_close(torch.cat(parts), whole)
    assert (parts[0] > 0).sum() > 2 * (parts[1] > 0).sum()


WIDE = 256
FAMILY = [
    lambda: TopK(TopKConfig(6, WIDE, k=8, aux_k=4)),
    lambda: AbsTopK(TopKConfig(6, WIDE, k=8, aux_k=4)),
    lambda: BatchTopK(BatchTopKConfig(6, WIDE, k=7.5, aux_k=4)),
    lambda: Matryoshka(MatryoshkaConfig(6, WIDE, k=7.5, aux_k=4, widths=(16, 100, WIDE))),
    lambda: TopKTranscoder(TopKTranscoderConfig(6, WIDE, d_out=5, k=8, aux_k=4, skip=True)),
]


def dense_loss(sae: SAE, x: Tensor, target: Tensor, dead: Tensor) -> Tensor:
    """The papers' losses with dense features and plain autograd."""
    pre = sae.pre_activations(x)
    if isinstance(sae, BatchTopK):
        values, flat = pre.relu().flatten().topk(int(7.5 * len(x)))
        features = torch.zeros_like(pre).flatten().scatter(0, flat, values).view_as(pre)
    else:
        features = sae.activate(pre)
    widths = sae.config.widths if isinstance(sae, Matryoshka) else (WIDE,)
    predicted = [sae.decode_like(features * (torch.arange(WIDE) < w), x) for w in widths]
    values, latents = pre[:, dead].topk(4)
    indices = torch.zeros_like(pre[:, dead]).scatter(1, latents, values.relu())
    missed = indices @ sae.W_dec[dead] - (target - predicted[-1]).detach()
    errors = sum((p - target).square().sum(1).mean() for p in predicted)
    return errors + missed.square().sum(1).mean() / 32


@pytest.mark.parametrize("make", FAMILY, ids=lambda make: make().architecture)
def test_losses_and_gradients_are_those_of_dense_autograd(make) -> None:
    sparse, dense = make().double(), make().double()
    with torch.no_grad():
        for i, (a, b) in enumerate(zip(sparse.parameters(), dense.parameters(), strict=True)):
            a.copy_(drawn(*a.shape, seed=i))
            b.copy_(a)
    x = drawn(400, 6, seed=50)
    target = drawn(400, 5, seed=51) if isinstance(sparse, TopKTranscoder) else x
    dead = torch.zeros(WIDE, dtype=torch.bool)
    dead[::9] = True
    losses = sparse.loss(x, target, dead) if isinstance(sparse, TopKTranscoder) else sparse.loss(x, dead)
    expected = dense_loss(dense, x, target, dead)
    torch.testing.assert_close(losses.total, expected)
    losses.total.backward()
    expected.backward()
    for (name, a), b in zip(sparse.named_parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda m, name=name: f"{name}: {m}")


def test_empty_inputs_work() -> None:
    weight, bias, directions = drawn(4, 40).requires_grad_(), drawn(40).sub(100).requires_grad_(), drawn(40, 4)
    codes = encode_batch_topk(drawn(10, 4), weight, bias, None, 20)
    assert not len(codes.values) and not codes.active.any()
    decoded = codes.decode(directions.requires_grad_())
    assert torch.equal(decoded, torch.zeros(10, 4, dtype=torch.float64))
    decoded.sum().backward()
    assert weight.grad is not None and not weight.grad.any()


def test_autocast_computes_the_product_in_its_dtype() -> None:
    sae = TopK(TopKConfig(16, 64, k=4))
    x = drawn(64, 16, dtype=torch.float32)
    plain = sae.loss(x).total
    with torch.autocast("cpu", torch.bfloat16):
        rounded = sae.loss(x).total
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - plain).abs() < 0.02 * plain
    rounded.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in sae.parameters())
