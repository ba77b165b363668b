"""Attention windows in blocks agree with the same windows as masks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper.model import kernels, local_window
from hooked_whisper.model.kernels import windowed_attention
from hooked_whisper.model.masks import LocalWindow, MaskEntry, windows_of_heads
from tests.core.twins import Twins


def masked(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, windows: dict[LocalWindow | None, tuple[int, ...]]
) -> torch.Tensor:
    n = q.shape[2]
    mask = torch.ones(q.shape[1], n, n, dtype=torch.bool)
    for window, heads in windows.items():
        if window is not None:
            mask[list(heads)] = window(torch.arange(n), torch.arange(n))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None])


@given(
    n=st.integers(1, 140),
    batch=st.integers(1, 3),
    of_heads=st.lists(
        st.none() | st.tuples(st.integers(0, 150), st.none() | st.integers(0, 150)), min_size=1, max_size=3
    ),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_equals_masks(n: int, batch: int, of_heads: list[tuple[int, int | None] | None], seed: int) -> None:
    entries = [MaskEntry(local_window(*window), (head,)) for head, window in enumerate(of_heads) if window is not None]
    windows = windows_of_heads(entries, len(of_heads))
    assert windows is not None
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, n, len(of_heads), 4)
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64).transpose(1, 2) for _ in range(3))
    torch.testing.assert_close(windowed_attention(q, k, v, windows), masked(q, k, v, windows))


def test_gradients_are_those_of_masks() -> None:
    inputs = [torch.randn(2, 3, 100, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    windows = {local_window(7): (0, 2), local_window(20, 60): (1,)}
    ours, theirs = (
        torch.autograd.grad(attend(*inputs, windows).square().sum(), inputs) for attend in (windowed_attention, masked)
    )
    torch.testing.assert_close(ours, theirs)


def test_windows_of_one_head_are_joined() -> None:
    entries = [MaskEntry(local_window(9)), MaskEntry(local_window(4), (1,)), MaskEntry(local_window(30), (0,))]
    assert windows_of_heads(entries, 3) == {local_window(9): (0, 2), local_window(4): (1,)}
    assert windows_of_heads([MaskEntry(local_window(9), (2,))], 3) == {None: (0, 1), local_window(9): (2,)}
    assert windows_of_heads([MaskEntry(local_window(9)), MaskEntry(local_window(4, 20))], 2) is None
    assert windows_of_heads([MaskEntry(torch.ones(5, 5, dtype=torch.bool))], 2) is None


def test_the_encoder_takes_the_blocks_and_gives_what_scores_give(odd: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    """The explicit path, taken when the pattern is read, has all keys."""
    model, mel = odd.core, odd.mel(2)
    calls = []
    inner = kernels._banded
    monkeypatch.setattr(kernels, "_CPU_BLOCK", 4)
    monkeypatch.setattr(kernels, "_banded", lambda *a: calls.append(a[3:]) or inner(*a))
    masks = {"encoder": local_window(2)}
    with torch.no_grad():
        with model.hooks(attn_masks=masks):
            fast = model.encoder(mel)
        assert calls == [(2, 4)] * model.cfg.encoder.n_layers
        slow, cache = model.run_with_cache(mel, names_filter="encoder.*.hook_pattern", attn_masks=masks)
        assert len(calls) == model.cfg.encoder.n_layers
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    pattern = cache["encoder.blocks.0.attn.hook_pattern"]
    far = (torch.arange(pattern.shape[-1])[:, None] - torch.arange(pattern.shape[-1])).abs() > 2
    assert pattern[..., far].abs().max() == 0
