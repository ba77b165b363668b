"""Feature splitting and absorption on activations whose features are known."""

from __future__ import annotations

import pytest
import torch

from sae_lens_audio.benchmark.splitting import Splitting
from tests.sae.benchmark.small_speech import (
    FREE,
    HOOK,
    VARIANT,
    dense_dictionary,
    dictionary,
    directions,
    small_speech,
    true_dictionary,
)

PHONE_ROWS = directions()[:VARIANT]  # of the phones and of silence


def test_one_latent_per_phone_is_not_split_and_not_absorbed():
    scores = Splitting().measure(true_dictionary(), small_speech())
    assert scores["phone_splitting"].estimate.value == 1
    assert set(scores["phone_splitting"].parts.values()) == {1}
    assert scores["phone_absorption"].estimate.value == 0


def test_a_phone_with_a_latent_for_each_half_counts_two():
    first, variant = directions()[0], directions()[VARIANT]
    encoder = torch.cat([PHONE_ROWS, 0.4 * variant[None]])
    encoder[0] -= 2 * variant
    subject = dictionary(torch.cat([PHONE_ROWS, first[None]]), encoder)
    scores = Splitting().measure(subject, small_speech())
    parts = scores["phone_splitting"].parts
    assert parts["AA"] == 2
    assert all(parts[phone] == 1 for phone in ("B", "D", "IY", "S"))
    assert scores["phone_absorption"].estimate.value == 0


def test_latents_that_take_the_place_of_the_phones_latent_absorb_it():
    """Five contexts, each at 4 % of the positions of AA, have a latent that writes the context and AA; the latent of AA
    is silent there. Each adds too little to count as a further latent of AA."""
    data, contexts = small_speech(), directions()[FREE : FREE + 5]
    rows = torch.from_numpy(data.phone == 0).nonzero()[:, 0]
    for i in range(5):
        data.rows[HOOK][rows[i::25], FREE + i] += 2
    encoder = torch.cat([PHONE_ROWS, contexts])
    encoder[0] -= 2 * contexts.sum(0)
    subject = dictionary(torch.cat([PHONE_ROWS, (contexts + directions()[0]) / 2**0.5]), encoder)
    scores = Splitting().measure(subject, data)
    absorbed = scores["phone_absorption"].parts
    assert scores["phone_splitting"].parts["AA"] == 1
    assert absorbed["AA"] == pytest.approx(0.2, abs=0.02)
    assert all(absorbed[phone] == 0 for phone in ("B", "D", "IY", "S"))


def test_absorption_is_not_defined_for_dense_features():
    scores = Splitting().measure(dense_dictionary(), small_speech())
    assert "phone_absorption" not in scores


def test_shifted_labels_leave_no_phone_with_a_latent():
    assert Splitting().measure(true_dictionary(), small_speech().with_shifted_labels()) == {}


def test_counts_have_intervals():
    estimate = Splitting().measure(true_dictionary(), small_speech(noise=0.4))["phone_splitting"].estimate
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.value == pytest.approx(1, abs=1)
