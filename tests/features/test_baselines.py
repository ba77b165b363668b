"""Controls: shifts keep label statistics, mel bands are averaged at positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper import HookedWhisper
from hooked_whisper.errors import AudioError
from hooked_whisper.features.baselines import MelBands, mel_bands, shifted_labels
from hooked_whisper.protocols import FeatureBasis


@given(st.lists(st.integers(-1, 4), max_size=60), st.integers(0, 999))
def test_a_shift_is_circular_over_labeled_positions(ids: list[int], seed: int) -> None:
    before = np.array(ids, dtype=np.int64)
    (after,) = shifted_labels([before], np.random.default_rng(seed))
    np.testing.assert_array_equal(before < 0, after < 0)
    a, b = before[before >= 0], after[after >= 0]
    if len(a) < 2:
        np.testing.assert_array_equal(a, b)
        return
    turns = [k for k in range(len(a)) if np.array_equal(np.roll(a, k), b)]
    assert any(0.1 * len(a) <= k <= 0.9 * len(a) for k in turns)
    assert before is not after and (before == np.array(ids)).all()


def test_all_shifts_occur_and_clips_shift_independently() -> None:
    rng = np.random.default_rng(0)
    features = {int(shifted[0]) for shifted in shifted_labels([np.arange(20)] * 500, rng)}
    assert features == set(range(2, 19))  # 20 - k for shifts k of 2 to 18


def test_mel_bands() -> None:
    mel = torch.randn(2, 5, 12)
    basis = MelBands(5)
    features = basis.encode(mel)
    assert isinstance(basis, FeatureBasis) and features.shape == (2, 6, 5) and basis.labels[4] == "mel 4"
    for i in range(1, 6):
        want = mel[..., 2 * i - 1] / 4 + mel[..., 2 * i] / 2 + mel[..., 2 * i + 1] / 4
        torch.testing.assert_close(features[:, i], want)
    torch.testing.assert_close(features[:, 0], mel[..., 0] * 0.75 + mel[..., 1] / 4)
    torch.testing.assert_close(basis.encode(torch.ones(5, 8)), torch.ones(4, 5))
    for wrong in (torch.ones(4, 8), torch.ones(5, 7)):
        with pytest.raises(AudioError, match="5 mel bands"):
            basis.encode(wrong)


def test_mel_bands_of_a_model(odd) -> None:
    assert mel_bands(HookedWhisper(odd.core.cfg)).n_features == 128
