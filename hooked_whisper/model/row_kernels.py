"""Products and attention of one row, at the speed of memory: loops compiled by numba on first use, cached on disk.

Decoding multiplies one row with every weight and reads every key and value of the audio, so that all of them pass from
memory once per token. On one core these loops read 1.5 to 2 times as many bytes per second as oneDNN and as torch's
fused attention, and twice to three times as many as torch's BLAS.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import CFUNCTYPE, c_ssize_t, c_void_p
from functools import cache
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

_MATH = {"reassoc", "contract"}  # sums in any order, fused multiply-adds; NaN and infinity stay what they are


def row_product(
    x: Float[Tensor, "*ones d_in"], weight: Float[Tensor, "d_out d_in"], bias: Float[Tensor, "d_out"] | None = None
) -> Float[Tensor, "*ones d_out"]:
    """``x Wᵀ + b`` for one row, with float32 tensors on a CPU. Not differentiable.

    Raises:
        ValueError: the sizes do not fit.
    """
    n_out, n_in = weight.shape
    if x.numel() != n_in or (bias is not None and len(bias) != n_out):
        raise ValueError(
            f"x {tuple(x.shape)}, weight {tuple(weight.shape)} and bias do not fit: x is one row of {n_in}"
        )
    x, weight, bias = x.contiguous(), weight.contiguous(), None if bias is None else bias.contiguous()
    out = x.new_empty((*x.shape[:-1], n_out))
    added = 0 if bias is None else bias.data_ptr()
    _compiled(_product)(weight.data_ptr(), x.data_ptr(), added, out.data_ptr(), n_out, n_in, bias is not None)
    return out


def row_attention(
    q: Float[Tensor, "1 head 1 d_head"], k: Float[Tensor, "1 head key d_head"], v: Float[Tensor, "1 head key d_head"]
) -> Float[Tensor, "1 head 1 d_head"]:
    """``softmax(q kᵀ / sqrt(d_head)) v`` for one query, with float32 tensors on a CPU. Not differentiable."""
    _, heads, n_keys, d_head = k.shape
    q, k, v = (q * d_head**-0.5).contiguous(), k.contiguous(), v.contiguous()
    scores, out = q.new_empty(1, heads, 1, n_keys), torch.empty_like(q)
    _compiled(_scores)(k.data_ptr(), q.data_ptr(), 0, scores.data_ptr(), n_keys, d_head, heads)
    pattern = scores.softmax(-1)
    _compiled(_mean)(v.data_ptr(), pattern.data_ptr(), 0, out.data_ptr(), n_keys, d_head, heads)
    return out


@cache
def _compiled(loop: Callable[..., None]) -> Callable[[int, int, int, int, int, int, int], None]:
    """Return the loop as a C function of addresses: wrapping tensors as arrays would take as long as a product."""
    import numba  # openai-whisper requires it; imported late, because the kernels are used without it too

    floats = numba.types.CPointer(numba.float32)
    signature = numba.void(floats, floats, floats, floats, numba.intp, numba.intp, numba.intp)
    try:
        compiled = numba.cfunc(signature, cache=True, fastmath=_MATH)(loop)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        compiled = numba.cfunc(signature, fastmath=_MATH)(loop)
    assert compiled.address is not None
    function = CFUNCTYPE(None, *[c_void_p] * 4, *[c_ssize_t] * 3)(compiled.address)
    function.compiled = compiled  # type: ignore[attr-defined]  # the code lives as long as this object
    return function


@no_type_check
def _product(weight: Any, x: Any, bias: Any, out: Any, n_out: int, n_in: int, biased: int) -> None:
    for row in range(n_out):
        total = weight[row * n_in] * x[0]
        for column in range(1, n_in):
            total += weight[row * n_in + column] * x[column]
        out[row] = total + bias[row] if biased else total


@no_type_check
def _scores(keys: Any, query: Any, _: Any, out: Any, n_keys: int, d_head: int, heads: int) -> None:
    for head in range(heads):
        for key in range(n_keys):
            start = (head * n_keys + key) * d_head
            total = keys[start] * query[head * d_head]
            for i in range(1, d_head):
                total += keys[start + i] * query[head * d_head + i]
            out[head * n_keys + key] = total


@no_type_check
def _mean(values: Any, pattern: Any, _: Any, out: Any, n_keys: int, d_head: int, heads: int) -> None:
    for head in range(heads):
        for i in range(d_head):
            out[head * d_head + i] = 0
        for key in range(n_keys):
            start, weight = (head * n_keys + key) * d_head, pattern[head * n_keys + key]
            for i in range(d_head):
                out[head * d_head + i] += weight * values[start + i]
