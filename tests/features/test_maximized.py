"""Maximization increases features, stays in range, is reproducible, and leaves the model unchanged."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper import HookedWhisper
from hooked_whisper.errors import PatchError
from hooked_whisper.features import axes, random_orthonormal
from hooked_whisper.features.visualize import RANGE, in_full_window, maximize_features, start_mel
from tests.core.twins import listeners
from tests.findings.worlds import small_model

PRE, POST = "encoder.blocks.1.mlp.hook_pre", "encoder.blocks.1.mlp.hook_post"


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return small_model(0)


@pytest.fixture(scope="module")
def real() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.5 - 2 * torch.rand(80, n, generator=generator) for n in (40, 60, 50)]


@settings(max_examples=12)
@given(
    st.sampled_from(["silence", "noise", "mean"]),
    st.lists(st.integers(0, 63), min_size=1, max_size=4),
    st.integers(0, 3),
    st.integers(0, 50),
)
def test_the_result_is_never_below_the_start(kind: str, units: list[int], jitter: int, seed: int) -> None:
    model = small_model(0)
    generator = torch.Generator().manual_seed(seed)
    clips = [0.5 - 2 * torch.rand(80, 30, generator=generator)]
    start = start_mel(kind, clips, 24, seed)
    maximized = maximize_features(
        model, PRE, axes(64), units, start, first_position=5, steps=6, jitter=jitter, seed=seed
    )
    assert maximized.mel.shape == (len(units), 80, 24) and maximized.trace.shape == (len(units), 7)
    assert (maximized.activation >= maximized.start_activation).all()
    assert (maximized.activation > maximized.start_activation).float().mean() > 0.5
    top = start.amax() if start.amax() - start.amin() >= RANGE else start.amin() + RANGE
    assert maximized.mel.amax() <= top + 1e-5 and maximized.mel.amin() >= top - RANGE - 1e-5
    # the returned mel has the reported activation
    read = []
    with torch.no_grad(), model.hooks(fwd_hooks=[(PRE, lambda x, hook: read.append(x))]):
        model.encoder(maximized.mel, positions=maximized.positions)
    here = read[0][torch.arange(len(units)), maximized.target.start - 5, units]
    torch.testing.assert_close(here, maximized.activation, atol=1e-4, rtol=1e-4)


def test_rows_are_independent(model: HookedWhisper, real: list[torch.Tensor]) -> None:
    start = start_mel("mean", real, 24)
    both = maximize_features(model, PRE, axes(64), [3, 9], start, steps=5, seed=1)
    alone = maximize_features(model, PRE, axes(64), [9], start, steps=5, seed=1)
    torch.testing.assert_close(both.trace[1], alone.trace[0], atol=1e-3, rtol=1e-3)
    again = maximize_features(model, PRE, axes(64), [3, 9], start, steps=5, seed=1)
    assert torch.equal(both.mel, again.mel) and torch.equal(both.trace, again.trace)


def test_a_direction_and_a_span_of_positions(model: HookedWhisper, real: list[torch.Tensor]) -> None:
    basis = random_orthonormal(32, 4)
    name = "encoder.blocks.0.hook_resid_post"
    starts = torch.stack([start_mel("noise", real, 24, seed) for seed in (0, 1)])
    maximized = maximize_features(model, name, basis, [0, 2], starts, first_position=10, target=slice(14, 18), steps=8)
    assert (maximized.activation > maximized.start_activation).all() and maximized.labels == ("random 0", "random 2")
    assert torch.equal(maximized.start, starts.clamp(starts.amax((1, 2), True) - RANGE))


def test_the_model_is_unchanged(model: HookedWhisper, real: list[torch.Tensor]) -> None:
    weight = model.encoder.conv1.conv.weight
    weight.grad = torch.ones_like(weight)
    with torch.no_grad():
        maximize_features(model, PRE, axes(64), [0], start_mel("silence", real, 16), steps=2)
    assert torch.equal(weight.grad, torch.ones_like(weight))
    weight.grad = None
    assert all(p.grad is None for p in model.parameters()) and not listeners(model)
    with pytest.raises(RuntimeError, match="on purpose"), model.hooks(fwd_hooks=[("encoder.hook_embed", _fail)]):
        maximize_features(model, PRE, axes(64), [0], start_mel("silence", real, 16), steps=2)
    assert not listeners(model)


def _fail(x: torch.Tensor, hook: object) -> None:
    raise RuntimeError("on purpose")


def test_the_pass_stops_at_the_point(model: HookedWhisper, real: list[torch.Tensor]) -> None:
    with model.hooks(fwd_hooks=[(POST, _fail)]):
        maximize_features(model, PRE, axes(64), [0], start_mel("silence", real, 16), steps=1)


def test_in_full_window_equals_the_model(model: HookedWhisper, real: list[torch.Tensor]) -> None:
    mel = torch.stack([start_mel("noise", real, 24, seed) for seed in (0, 1)])
    maximized = in_full_window(model, PRE, axes(64), [4, 5], mel, 10, slice(15, 17))
    window = (mel.amax((1, 2), True) - RANGE).expand(2, 80, 120).clone()
    window[:, :, 20:44] = mel
    _, cache = model.run_with_cache(window, names_filter=PRE, stop_early=True)
    torch.testing.assert_close(maximized, torch.stack([cache[PRE][k, 15:17, 4 + k].mean() for k in (0, 1)]))


def test_starts(real: list[torch.Tensor]) -> None:
    silence, noise, mean = (start_mel(kind, real, 9) for kind in ("silence", "noise", "mean"))
    frames = torch.cat(real, 1)
    assert silence.unique().numel() == 1
    assert silence[0, 0] == torch.stack([m.amax() for m in real]).median() - RANGE
    assert all(value in frames[3] for value in noise[3])
    torch.testing.assert_close(mean[:, 4], frames.mean(1))


def test_audio(model: HookedWhisper, real: list[torch.Tensor]) -> None:
    maximized = maximize_features(model, PRE, axes(64), [0, 1], start_mel("silence", real, 16), steps=2)
    assert maximized.audio().shape == (2, 16 * 160)


def test_errors(model: HookedWhisper, real: list[torch.Tensor], unchecked: None) -> None:
    start = start_mel("mean", real, 24)
    with pytest.raises(PatchError, match=r"\[64\], expected 0 to 63"):
        maximize_features(model, PRE, axes(64), [64], start)
    with pytest.raises(PatchError, match="does not fit"):
        maximize_features(model, PRE, axes(64), [0], start, first_position=55)
    with pytest.raises(PatchError, match="outside the mel"):
        maximize_features(model, PRE, axes(64), [0], start, target=40)
    with pytest.raises(PatchError, match=r"decoder\.blocks\.0\.mlp\.hook_pre"):
        maximize_features(model, "decoder.blocks.0.mlp.hook_pre", axes(64), [0], start)
    with pytest.raises(PatchError, match="NaN"):
        maximize_features(model, PRE, axes(64), [0], torch.full((80, 24), torch.nan))
    with pytest.raises(PatchError, match="did you mean 'silence'"):
        start_mel("silent", real, 9)
    with pytest.raises(PatchError, match="at least one log-mel"):
        start_mel("mean", [], 9)
