"""Phones that single latents detect, where the right answer is known."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper.findings.core.finding import Estimate
from sae_lens_audio.benchmark.binned import average_precision, bin_edges, bins_of, latent_blocks, threshold_f1
from sae_lens_audio.benchmark.metric import estimate_by_speaker
from sae_lens_audio.benchmark.recovery import PhoneRecovery
from tests.sae.benchmark.worlds import PHONES, D, axes_with_signs, perfect, planted_rows, subject

DATA = planted_rows()


def value(estimate: Estimate) -> float:
    assert estimate.value is not None
    return float(estimate.value)


def test_one_latent_per_phone_recovers_all_phones() -> None:
    scores = PhoneRecovery().measure(subject(perfect()), DATA)
    assert value(scores["phone_f1"].estimate) > 0.98 and value(scores["phone_ap"].estimate) > 0.98
    assert value(scores["phone_coverage"].estimate) == 1
    assert set(scores["phone_f1"].parts) == set(PHONES)


def test_latents_that_never_fire_do_not_count_as_live() -> None:
    scores = PhoneRecovery().measure(subject(perfect()), DATA)
    assert value(scores["phone_detectors"].estimate) == 1  # 3 of 3 live, 5 are never active


def test_signs_of_directions_do_not_matter() -> None:
    """Half of the axes point away from their phone."""
    signs = torch.tensor([1, -1] * (D // 2))
    scores = PhoneRecovery().measure(subject(axes_with_signs(signs)), DATA)
    assert value(scores["phone_f1"].estimate) > 0.98 and value(scores["phone_ap"].estimate) > 0.98


def test_shifted_labels_give_chance() -> None:
    scores = PhoneRecovery().measure(subject(perfect()), DATA.with_shifted_labels())
    assert value(scores["phone_f1"].estimate) < 0.6  # always answering a phone gives 0.4
    assert value(scores["phone_ap"].estimate) < 0.5


def test_latents_of_noise_give_chance() -> None:
    noise = np.random.default_rng(1).random((D, D))
    sae = perfect()
    with torch.no_grad():
        sae.W_enc.copy_(torch.from_numpy(noise - 0.5))
    scores = PhoneRecovery().measure(subject(sae), planted_rows(noise=30.0))
    assert value(scores["phone_ap"].estimate) < 0.4


@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_binned_f1_and_average_precision_are_those_of_the_ranking(seed: int, n_rows: int, n_values: int) -> None:
    """With at most as many distinct values as bins nothing is lost."""
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(rng.integers(0, n_values + 1, (n_rows, 1))).float()
    right = rng.random(n_rows) < 0.4
    edges = bin_edges(values)
    bins = np.where(values[:, 0] > 0, bins_of(values[:, 0].numpy(), np.zeros(n_rows, int), edges), edges.shape[1])
    counts = [np.bincount(bins[mask], minlength=edges.shape[1] + 1) for mask in (right, np.ones(n_rows, bool))]
    f1 = threshold_f1(np.stack([counts[0], counts[1] - counts[0]], 1)[None])[0, :, 0]
    best = max(
        (
            2 * (right & (v >= t)).sum() / (right.sum() + (v >= t).sum())
            for v in [values[:, 0].numpy()]
            for t in {*v} - {0}
        ),
        default=0.0,
    )
    assert np.isclose(f1.max(), best)
    ap = average_precision(*counts)
    assert np.isnan(ap) if not right.any() else 0 < ap <= 1


def test_blocks_of_latents_give_what_one_block_gives() -> None:
    latents = torch.from_numpy(np.random.default_rng(2).standard_normal((DATA.n_rows, 7))).float()
    whole, parts = list(latent_blocks(latents, DATA)), list(latent_blocks(latents, DATA, size=3))
    assert len(whole) == 1 and len(parts) == 3
    positive = np.concatenate([p.n[:, : len(p.signed) // 2] for p in parts], axis=1)
    assert (positive == whole[0].n[:, :7]).all()
    assert (whole[0].n.sum((0, 2, 3)) == DATA.n_rows).all()


def test_intervals_are_of_speakers() -> None:
    """Speakers that agree leave no doubt, however few rows they have; one speaker has no interval."""
    agreeing = estimate_by_speaker(np.tile([[1.0, 2.0]], (5, 1)), lambda s: s[:, 0] / s[:, 1])
    differing = estimate_by_speaker(np.array([[0.0, 1.0], [1.0, 1.0]] * 3), lambda s: s[:, 0] / s[:, 1])
    single = estimate_by_speaker(np.array([[1.0, 2.0]]), lambda s: s[:, 0] / s[:, 1])
    assert agreeing == Estimate(0.5, 0.5, 0.5) and single == Estimate(0.5)
    assert differing.low is not None and differing.low < 0.3 and value(differing) == 0.5
