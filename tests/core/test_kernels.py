"""Every kernel agrees with its fallback in ordinary torch, and private torch symbols stay in ``kernels.py``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hooked_whisper
from hooked_whisper.model import kernels, local_window

D_IN, D_OUT = 24, 40
PRIVATE = re.compile(r"torch\._|torch\.ops\.|forward_ad\._|\._(global_)?forward_(pre_)?hooks|nn\.modules\.module")
# the backward pass of a sparse decoder, in the file of its kernel
ELSEWHERE = {"sae_lens_audio/architectures/sparse/feature_acts.py"}


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def heads(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    q, k, v = random(3, 2, 3, n, 8).unbind()
    return q, k, v


WINDOWS = {None: (1,), local_window(5, 90): (0,), local_window(2): (2,)}
CASES: dict[str, list[tuple[Any, ...]]] = {
    "linear": [
        (random(rows, D_IN), random(D_OUT, D_IN), bias)
        for rows in (1, kernels.FEW_ROWS, 9, kernels.WINDOW)
        for bias in (None, random(D_OUT))
    ]
    + [(random(2, 15, D_IN), random(8192, D_IN), None)],
    "recurring_linear": [(random(3, 5, D_IN), random(D_OUT, D_IN), random(D_OUT))],
    "layer_norm": [(random(2, 5, D_IN), 1e-5), (random(1, D_IN) * 1e-3, 1e-5)],
    "scale_and_shift": [(random(2, 5, D_IN), random(D_IN), random(D_IN), overwrite) for overwrite in (False, True)],
    "gelu": [(random(2, 5, D_IN), overwrite) for overwrite in (False, True)],
    "fused_attention": [
        (*heads(30), mask, causal)
        for mask, causal in (
            (None, False),
            (None, True),
            (random(30, 30) > -1, False),
            (random(3, 30, 30) > -1, False),
            (random(2, 3, 30, 30), False),
            (torch.zeros(30, 30, dtype=torch.bool), False),
        )
    ],
    "attention_part": [heads(30), (random(2, 3, 30, 8), *heads(7)[1:])],
    "windowed_attention": [(*heads(120), WINDOWS), (*heads(20), WINDOWS), (*heads(120), {local_window(7): (0, 1, 2)})],
}
FALLBACKS = {"recurring_linear": "plain_linear", "fused_attention": "plain_attention"}


def copies(arguments: tuple[Any, ...]) -> list[Any]:
    """Arguments that a kernel may overwrite."""
    return [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [pytest.param(name, case, id=f"{name}-{i}") for name in CASES for i, case in enumerate(CASES[name])],
)
@torch.no_grad()
def test_a_kernel_agrees_with_its_fallback(name: str, arguments: tuple[Any, ...]) -> None:
    kernel: Callable[..., Any] = getattr(kernels, name)
    fallback: Callable[..., Any] = getattr(kernels, FALLBACKS.get(name, f"plain_{name}"))
    torch.testing.assert_close(kernel(*copies(arguments)), fallback(*copies(arguments)), atol=1e-4, rtol=1e-4)


def test_every_fallback_is_compared() -> None:
    fallbacks = {name for name, _ in inspect.getmembers(kernels, inspect.isfunction) if name.startswith("plain_")}
    assert fallbacks == {FALLBACKS.get(name, f"plain_{name}") for name in CASES}


def test_overwriting_needs_a_pass_without_gradients() -> None:
    x = random(2, D_IN)
    before = x.clone()
    kernels.gelu(x, overwrite=True)
    kernels.scale_and_shift(x, random(D_IN), random(D_IN), overwrite=True)
    assert torch.equal(x, before)
    with torch.no_grad():
        assert kernels.gelu(x, overwrite=True).data_ptr() == x.data_ptr()


def test_private_torch_symbols_are_used_only_by_the_kernels() -> None:
    root = Path(hooked_whisper.__file__).parent.parent
    users = {
        str(path.relative_to(root))
        for package in ("hooked_whisper", "sae_lens_audio")
        for path in (root / package).rglob("*.py")
        if PRIVATE.search(path.read_text())
    }
    assert users - ELSEWHERE == {"hooked_whisper/model/kernels.py"}
