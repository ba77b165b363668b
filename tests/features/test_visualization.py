"""Feature visualization: the prior has the statistics of its mels, and the ascent stays within it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hooked_whisper import HookedWhisper
from hooked_whisper.errors import PatchError
from hooked_whisper.features import axes
from hooked_whisper.features.visualize import RANGE
from hooked_whisper.features.visualize_with_priors import (
    MelPrior,
    activation_in_window,
    ascend,
    blur_matrix,
    read_points,
    visualize_features,
)
from tests.core.twins import listeners
from tests.findings.worlds import small_model

PRE = "encoder.blocks.1.mlp.hook_pre"


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return small_model(0)


def mels(seed: int, n_mels: int = 80, smooth: float = 0.6) -> list[Tensor]:
    """An autoregressive process in time, with bands of different mean and correlated neighbors."""
    rng = np.random.default_rng(seed)
    mix = np.eye(n_mels) + 0.7 * np.eye(n_mels, k=1)
    clips = []
    for n in (800, 1600):
        x = rng.standard_normal((n_mels, n))
        for t in range(1, n):
            x[:, t] = smooth * x[:, t - 1] + np.sqrt(1 - smooth**2) * x[:, t]
        clips.append(torch.from_numpy(0.2 * mix @ x + np.linspace(-1, 0, n_mels)[:, None]).float())
    return clips


def test_samples_of_a_prior_have_the_statistics_of_its_mels() -> None:
    prior = MelPrior.of(mels(0), 16)
    white = torch.randn(4000, 80, 16, generator=torch.Generator().manual_seed(0))
    drawn = prior.mean[:, None] + prior.bands @ white @ prior.frames
    every = torch.cat(mels(0), 1)
    frame = drawn[:, :, 8].T
    torch.testing.assert_close(frame.mean(1), every.mean(1), atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(frame), torch.cov(every), atol=0.02, rtol=0)
    centered = drawn - prior.mean[:, None]
    for lag in (1, 2):
        along = (centered[:, :, 8] * centered[:, :, 8 + lag]).mean() / centered[:, :, 8].square().mean()
        assert float(along) == pytest.approx(0.6**lag, abs=0.06)


def test_without_statistics_values_are_independent() -> None:
    plain = MelPrior.of(mels(0), 16).without_statistics()
    off = plain.bands - torch.diag(plain.bands.diagonal())
    assert off.abs().max() == 0 and plain.frames.equal(torch.eye(16)) and plain.radius == float("inf")


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(0, 4), st.floats(0, 4))
def test_the_ascent_increases_and_stays_in_range(seed: int, jitter: int, blur: float) -> None:
    prior = MelPrior.of(mels(1), 16)
    result = ascend(
        lambda mel, shift: mel[:, 10:20, 8 + shift].mean(1), prior, 2, n_seeds=2, steps=8, jitter=jitter, blur=blur,
        seed=seed,
    )  # fmt: skip
    assert result.mel.shape == (2, 2, 80, 16) and result.trace.shape == (2, 2, 8)
    assert (result.mel[..., 10:20, 8].mean(2) > result.start[..., 10:20, 8].mean(2)).all()
    assert (result.mel <= prior.high[:, None] + 1e-5).all()
    assert (result.mel.amax((2, 3)) - result.mel.amin((2, 3)) <= RANGE + 1e-5).all()
    assert torch.equal(result.mel[0], result.mel[1])  # the same starts and the same objective


def test_the_distance_from_the_mean_is_limited() -> None:
    prior = MelPrior.of(mels(2), 16)
    result = ascend(lambda mel, shift: mel.sum((1, 2)), prior, 1, n_seeds=1, steps=40)
    white = torch.linalg.solve(prior.bands, result.mel[0, 0] - prior.mean[:, None])
    white = torch.linalg.solve(prior.frames, white.T).T
    assert float(white.square().mean().sqrt()) <= 1.001  # clipping to the range of the mels reduces it


def test_blur_keeps_the_mean_and_zero_is_the_identity() -> None:
    assert blur_matrix(9, 0).equal(torch.eye(9))
    matrix = blur_matrix(9, 2.0)
    torch.testing.assert_close(matrix.sum(1), torch.ones(9))
    assert (matrix[4] <= matrix[4, 4]).all() and matrix[4, 3] == matrix[4, 5]


def test_units_increase_and_the_model_is_unchanged(model: HookedWhisper) -> None:
    prior = MelPrior.of(mels(3), 24)
    result = visualize_features(model, PRE, axes(64), [3, 9], prior, first_position=5, n_seeds=2, steps=10)
    first, last = (
        activation_in_window(model, PRE, axes(64), [3, 3, 9, 9], mel.flatten(0, 1), 5, 20)
        for mel in (result.start, result.mel)
    )
    assert (last > first).all() and not listeners(model)
    assert all(p.grad is None for p in model.parameters())


def test_read_points_equals_the_model(model: HookedWhisper) -> None:
    mel = torch.stack([clip[:, :120] for clip in mels(4)])
    names = ["encoder.blocks.0.mlp.hook_pre", PRE]
    cache = read_points(model, names, mel)
    _, expected = model.run_with_cache(mel, names_filter=names, stop_early=True)
    for name in names:
        torch.testing.assert_close(cache[name], expected[name])
    assert not listeners(model)


def test_errors(model: HookedWhisper) -> None:
    prior = MelPrior.of(mels(3), 24)
    with pytest.raises(PatchError, match="2000 frames"):
        MelPrior.of(mels(3), 2000)
    with pytest.raises(PatchError, match="does not fit"):
        visualize_features(model, PRE, axes(64), [0], prior, first_position=55)
    with pytest.raises(PatchError, match="not an encoder point"):
        visualize_features(model, "decoder.blocks.0.mlp.hook_pre", axes(64), [0], prior)
