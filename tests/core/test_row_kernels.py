"""Loops for one row agree with torch, and pass NaN and infinity on."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper.model import kernels, row_kernels
from hooked_whisper.model.row_kernels import row_attention, row_product


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(n_out=st.integers(1, 70), n_in=st.integers(1, 70), with_bias=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_product_equals_float64(n_out: int, n_in: int, with_bias: bool, seed: int) -> None:
    x, weight = random(1, 1, n_in, seed=seed), random(n_out, n_in, seed=seed + 1)
    bias = random(n_out, seed=seed + 2) if with_bias else None
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    torch.testing.assert_close(row_product(x, weight, bias).double(), exact, atol=1e-5, rtol=1e-5)


@given(n_keys=st.integers(1, 90), heads=st.integers(1, 4), d_head=st.sampled_from([1, 8, 64]), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_attention_equals_float64(n_keys: int, heads: int, d_head: int, seed: int) -> None:
    q = random(1, heads, 1, d_head, seed=seed)
    k, v = (random(1, heads, n_keys, d_head, seed=seed + i) for i in (1, 2))
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    torch.testing.assert_close(row_attention(q, k, v).double(), exact, atol=1e-5, rtol=1e-5)


def test_views_are_read_by_their_strides() -> None:
    x, weight, bias = random(1, 16)[:, ::2], random(8, 5).T, random(10)[::2]
    torch.testing.assert_close(row_product(x, weight, bias), F.linear(x, weight, bias))
    k = random(1, 30, 2, 8).transpose(1, 2)
    q = random(1, 1, 2, 8, seed=1).transpose(1, 2)
    torch.testing.assert_close(row_attention(q, k, k), F.scaled_dot_product_attention(q, k, k))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_passed_on(value: float) -> None:
    x, weight = random(1, 40), random(9, 40)
    x[0, 7] = value
    torch.testing.assert_close(row_product(x, weight), F.linear(x, weight), equal_nan=True)


def test_sizes_that_do_not_fit_are_refused() -> None:
    for x, bias in ((random(1, 5), None), (random(2, 4), None), (random(1, 4), random(2))):
        with pytest.raises(ValueError, match=r"weight \(3, 4\)"):
            inspect.unwrap(row_product)(x, random(3, 4), bias)  # without the checks of shapes that tests add


def test_linear_and_attention_use_them_for_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    calls: list[str] = []
    for name in ("row_product", "row_attention"):
        kernel = getattr(row_kernels, name)
        monkeypatch.setattr(kernels, name, lambda *a, name=name, kernel=kernel: calls.append(name) or kernel(*a))
    x, weight = random(1, 24), random(8, 24)
    q, k = random(1, 2, 1, 8), random(1, 2, 600, 8)
    with torch.no_grad():
        kernels.linear(x, weight)
        kernels.linear(random(2, 24), weight)
        kernels.linear(x.double(), weight.double())
        kernels.fused_attention(q, k, k)
        kernels.fused_attention(q, k[:, :, :100], k[:, :, :100])
        kernels.fused_attention(q, k, k, torch.ones(1, 600, dtype=torch.bool))
    assert calls == ["row_product", "row_attention"]
    kernels.linear(x.requires_grad_(), weight).sum().backward()
    assert x.grad is not None and calls == ["row_product", "row_attention"]


def test_a_folder_that_cannot_be_written_does_not_stop_decoding(tmp_path: Path) -> None:
    code = (
        "import numba, torch\n"
        "cfunc = numba.cfunc\n"
        "def refusing(*a, cache=False, **k):\n"
        "    if cache: raise RuntimeError('cannot cache function')\n"
        "    return cfunc(*a, **k)\n"
        "numba.cfunc = refusing\n"
        "from hooked_whisper.model.row_kernels import row_product\n"
        "print(row_product(torch.ones(1, 4), torch.ones(3, 4)).tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=120)
    assert done.stdout.strip() == "[[4.0, 4.0, 4.0]]", done.stderr[-1000:]


@torch.no_grad()
def test_float16_on_a_cpu_is_computed_in_float32() -> None:
    x, weight, bias = (random(*shape).half() for shape in ((1, 20, 24), (8, 24), (8,)))
    exact = F.linear(x.float(), weight.float(), bias.float()).half()
    assert torch.equal(kernels.linear(x, weight, bias), exact)
    q = random(1, 2, 30, 8).half()
    exact = F.scaled_dot_product_attention(q.float(), q.float(), q.float(), is_causal=True).half()
    assert torch.equal(kernels.fused_attention(q, q, q, causal=True), exact)
    mel, kernel = random(1, 6, 40).half(), random(4, 6, 3).half()
    exact = F.conv1d(mel.float(), kernel.float(), None, (2,), (1,)).half()
    assert torch.equal(kernels.conv1d(mel, kernel, None, (2,), (1,)), exact)
