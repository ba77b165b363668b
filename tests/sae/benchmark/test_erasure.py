"""Erasure of a phone, of silence and of noise, on activations whose features are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hooked_whisper.errors import ShapeError
from sae_lens_audio.benchmark import Subject
from sae_lens_audio.benchmark.erasure import OTHERS, TARGET, TargetedErasure
from sae_lens_audio.benchmark.unlearning import Unlearning
from tests.sae.benchmark.small_speech import (
    FREE,
    HOOK,
    dense_dictionary,
    dictionary,
    directions,
    random_dictionary,
    small_speech,
    true_dictionary,
)


def test_the_latent_of_a_phone_takes_the_phone_and_nothing_else():
    score = TargetedErasure(ns=(1,)).measure(true_dictionary(), small_speech())["erasure_k1"]
    assert score.parts[TARGET] > 0.9
    assert abs(score.parts[OTHERS]) < 0.1
    assert score.estimate.value == pytest.approx(score.parts[TARGET] - score.parts[OTHERS])


def test_a_latent_shared_by_two_phones_is_collateral_damage():
    rows = torch.cat([directions()[0:1] + directions()[1:2], directions()[2:6]])
    shared = TargetedErasure(ns=(1,)).measure(dictionary(rows), small_speech())["erasure_k1"]
    true = TargetedErasure(ns=(1,)).measure(true_dictionary(), small_speech())["erasure_k1"]
    assert shared.parts[OTHERS] > true.parts[OTHERS]
    assert shared.estimate.value < true.estimate.value


def test_latents_that_no_probe_reads_erase_nothing():
    subject = dictionary(directions()[FREE : FREE + 4])
    for score in TargetedErasure(ns=(1, 4)).measure(subject, small_speech()).values():
        assert score.estimate.value == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("subject", [random_dictionary(), dense_dictionary()], ids=lambda s: s.name)
def test_controls_are_scored_below_the_true_dictionary(subject):
    data, family = small_speech(noise=0.3), TargetedErasure(ns=(1,))
    true = family.measure(true_dictionary(), data)["erasure_k1"].estimate.value
    assert family.measure(subject, data)["erasure_k1"].estimate.value < true - 0.2


def test_shifted_labels_and_latents_without_directions_have_no_score():
    assert TargetedErasure().measure(true_dictionary(), small_speech().with_shifted_labels()) == {}
    identity = Subject("neurons", "control", _Identity(), HOOK, {})
    assert TargetedErasure().measure(identity, small_speech()) == {}
    assert Unlearning().measure(identity, small_speech()) == {}


class _Identity:
    n_features = 24
    labels = ()

    def encode(self, activations):
        return activations


def test_silence_is_unlearned_and_phones_are_kept():
    score = Unlearning(n=1).measure(true_dictionary(), small_speech())["unlearning_silence"]
    assert score.parts["erased"] > 0.9
    assert abs(score.parts["phones"]) < 0.05
    without = Unlearning(n=1).measure(dictionary(directions()[:5]), small_speech())["unlearning_silence"]
    assert without.estimate.value < 0.3


def test_noise_is_unlearned_by_the_latent_that_carries_it():
    data = small_speech()
    noisy = data.rows[HOOK].clone()
    noisy[:, FREE] += 2
    family = Unlearning(n=1, noisy={HOOK: noisy})
    assert [metric.name for metric in family.metrics] == ["unlearning_silence", "unlearning_noise"]
    carrier = torch.cat([directions()[:6], directions()[FREE : FREE + 1]])
    assert family.measure(dictionary(carrier), data)["unlearning_noise"].estimate.value > 0.9
    blind = family.measure(dictionary(directions()[:6]), data)["unlearning_noise"]
    assert blind.parts["erased"] == pytest.approx(0, abs=0.05)


def test_noisy_rows_of_other_clips_are_refused():
    data = small_speech()
    family = replace(Unlearning(), noisy={HOOK: data.rows[HOOK][:-3]})
    with pytest.raises(ShapeError, match=f"{data.n_rows - 3} rows of noisy speech"):
        family.measure(true_dictionary(), data)
