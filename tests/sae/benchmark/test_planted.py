"""Planted activations: labels and features agree, and the quality of damaged copies falls with the damage."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper.errors import ArgumentError
from sae_lens_audio.benchmark.planted import (
    HOOK,
    IN_PARTS,
    MANNERS,
    PHONES,
    SPEAKERS_AND_NOISE,
    VOICELESS,
    PlantedConfig,
    PlantedSpeech,
    planted_speech,
)
from sae_lens_audio.benchmark.planted_quality import planted_quality
from sae_lens_audio.benchmark.planted_subjects import (
    PlantedTraining,
    graded_names,
    graded_subjects,
    trained_subjects,
)
from sae_lens_audio.benchmark.subjects import Subject

SMALL = PlantedConfig(d=48, words=14, traits=3, background=9, speakers=3, fitted_speakers=3, clips=2, words_per_clip=6)


@pytest.fixture(scope="module")
def speech() -> PlantedSpeech:
    return planted_speech(SMALL)


def exact(seed: int) -> PlantedSpeech:
    return planted_speech(
        PlantedConfig(d=48, words=12, traits=2, background=4, speakers=2, fitted_speakers=1, clips=1, slip=0), seed
    )


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_without_slips_labels_and_features_agree(seed: int) -> None:
    speech = exact(seed)
    data, features = speech.data, speech.features
    on = {name: speech.active[:, i].numpy() for i, name in enumerate(features.names)}
    for i, phone in enumerate(PHONES):
        said = data.phone == i
        manner = next(manner for manner, phones in MANNERS.items() if phone in phones)
        if manner in IN_PARTS:
            assert np.array_equal(on[f"closure:{phone}"] ^ on[f"release:{phone}"], said)
        else:
            assert np.array_equal(on[f"phone:{phone}"], said)
        assert on[f"manner:{manner}"][said].all()
        assert (on["voiced"][said] == (phone not in VOICELESS)).all()
    assert np.array_equal(on["silence"], data.silent)
    assert not (speech.active[:, features.of_kind("manner", "word", "trait")].any(1).numpy() & data.silent).any()
    for parent, child in features.children:
        assert not (speech.active[:, child] & ~speech.active[:, parent]).any()


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000))
def test_positions_form_intervals_of_clips_of_speakers(seed: int) -> None:
    data = exact(seed).data
    assert np.array_equal(data.silent, data.phone == -1) and data.rows[HOOK].shape[0] == data.n_rows
    intervals = np.flatnonzero(np.diff(data.clip * 1000 + data.token, prepend=-1))
    for start, stop in pairwise([*intervals, data.n_rows]):
        assert len(set(data.phone[start:stop])) == 1 and 3 <= stop - start <= 12
        assert len(set(data.speaker[start:stop])) == 1 and len(set(data.fold[start:stop])) == 1
    assert (np.diff(data.clip) >= 0).all() and set(data.fold) == set(range(data.n_folds))
    shifted = data.with_shifted_labels()
    assert (shifted.phone != data.phone).mean() > 0.3


def test_rows_are_sums_of_features_and_noise() -> None:
    quiet = planted_speech(PlantedConfig(d=48, background=3, speakers=2, fitted_speakers=1, clips=1, noise=0))
    rows = quiet.features.offset + quiet.truth @ quiet.features.directions
    assert torch.allclose(rows, quiet.rows, atol=1e-5)
    norms = quiet.features.directions.norm(dim=1)
    assert torch.allclose(norms, torch.ones_like(norms), atol=1e-5)


def test_a_seed_determines_everything(speech: PlantedSpeech) -> None:
    again, other = planted_speech(SMALL), planted_speech(SMALL, seed=1)
    assert torch.equal(speech.rows, again.rows) and torch.equal(speech.fitted, again.fitted)
    assert np.array_equal(speech.data.phone, again.data.phone)
    assert not torch.equal(speech.features.directions, other.features.directions)
    assert "features" in repr(speech) and "background" in speech._repr_html_()


@pytest.fixture(scope="module")
def noisy() -> PlantedSpeech:
    small = replace(SPEAKERS_AND_NOISE, words=14, background=6, speakers=3, fitted_speakers=4, words_per_clip=6)
    return planted_speech(small, seed=2)


def test_noise_features_are_active_in_noisy_speech_alone(noisy: PlantedSpeech) -> None:
    noise = noisy.features.of_kind("noise")
    others = np.setdiff1d(np.arange(len(noisy.features)), noise)
    assert not noisy.truth[:, noise].any() and torch.equal(noisy.truth[:, others], noisy.noisy_truth[:, others])
    assert (noisy.noisy_truth[:, noise] > 0).any(1).float().mean() > 0.85
    expected = noisy.features.offset + noisy.noisy_truth @ noisy.features.directions
    assert (noisy.noisy[HOOK] - expected).norm(dim=1).mean() == pytest.approx(noisy.config.noise, rel=0.1)
    in_half = (noisy.fitted_truth[:, noise] > 0).any(1).float().mean()
    assert 0.35 < in_half < 0.7 and len(noisy.all_rows) == 2 * noisy.data.n_rows == len(noisy.all_active)


def test_nested_traits_and_noise_occur_only_with_their_parents(noisy: PlantedSpeech) -> None:
    exactly = planted_speech(replace(noisy.config, slip=0), seed=2)
    kinds = [
        (exactly.features.kinds[parent], exactly.features.kinds[child]) for parent, child in exactly.features.children
    ]
    assert kinds.count(("trait", "trait")) == 8 and kinds.count(("noise", "noise")) == 6
    of_speaker = {
        trait: {int(s) for s in exactly.data.speaker[exactly.active[:, trait].numpy()]}
        for trait in exactly.features.of_kind("trait").tolist()
    }
    for (parent, child), (kind, _) in zip(exactly.features.children, kinds, strict=True):
        if kind == "trait":
            assert of_speaker[child] <= of_speaker[parent]
        if kind == "noise":
            assert not (exactly.noisy_truth[:, child].bool() & ~exactly.noisy_truth[:, parent].bool()).any()


def test_quality_of_traits_and_noise_falls_with_the_damage(noisy: PlantedSpeech, speech: PlantedSpeech) -> None:
    quality = {s.name: planted_quality(s, noisy) for s in graded_subjects(noisy)}
    for part in ("traits", "noises"):
        values = {name: getattr(q, part) for name, q in quality.items()}
        assert values["true"] > values["mixed 0.6"] > values["random"]
        assert values["absorbed 0.75"] < values["true"] and values["missing 0.75"] < values["true"]
    without = planted_quality(graded_subjects(speech)[0], speech)
    assert np.isnan(without.noises) and np.isfinite(without.traits)


def test_without_noise_features_there_is_no_noisy_speech(speech: PlantedSpeech) -> None:
    assert not speech.noisy and len(speech.all_rows) == speech.data.n_rows and len(speech.noisy_truth) == 0


def test_the_true_dictionary_is_nearly_perfect_and_damage_lowers_quality(speech: PlantedSpeech) -> None:
    subjects = graded_subjects(speech)
    assert [s.name for s in subjects] == graded_names()
    quality = {s.name: planted_quality(s, speech) for s in subjects}
    assert quality["true"].mcc > 0.97 and quality["true"].f1 > 0.8
    for damage in ("mixed", "missing", "split", "absorbed"):
        series = [quality["true"], *(q for name, q in quality.items() if name.startswith(damage))]
        assert [q.quality for q in series] == sorted((q.quality for q in series), reverse=True), damage
    assert quality["random"].quality < quality["mixed 0.6"].quality
    assert quality["missing 0.75"].mcc == pytest.approx(0.25, abs=0.05)
    assert quality["mixed 0.8"].mcc == pytest.approx(0.8, abs=0.03)


def test_split_latents_share_the_positions_of_a_feature_and_reconstruct_alike(speech: PlantedSpeech) -> None:
    by_name = {s.name: s for s in graded_subjects(speech)}
    whole, split = by_name["true"], by_name["split 0.5"]
    n = len(speech.features)
    latents, halves = whole.encode(speech.rows), split.encode(speech.rows)
    extra = halves[:, n:]
    assert extra.shape[1] == round(0.5 * n) and (extra > 0).any(0).float().mean() > 0.9
    assert torch.allclose(split.decode(halves, speech.rows), whole.decode(latents, speech.rows), atol=1e-4)
    assert ((halves > 0).sum(1) == (latents > 0).sum(1)).all()


def test_absorbed_parents_are_silent_where_their_children_are_active(speech: PlantedSpeech) -> None:
    by_name = {s.name: s for s in graded_subjects(speech)}
    before, after = (by_name[name].encode(speech.rows) > 0 for name in ("true", "absorbed 0.75"))
    parents = sorted({parent for parent, _ in speech.features.children})
    assert (after[:, parents].sum() < before[:, parents].sum()) and not (after & ~before).any()


def test_longer_training_recovers_more(speech: PlantedSpeech) -> None:
    training = PlantedTraining(widths=(1.0,), k=(8,), seeds=(0,), shares=(1 / 16, 1.0), steps=200, batch=128)
    subjects = trained_subjects(speech, training)
    assert [s.name for s in subjects] == list(training.plans(len(speech.features)))
    early, late = (planted_quality(s, speech).quality for s in subjects)
    assert subjects[0].kind == "checkpoint" and subjects[1].kind == "SAE" and early + 0.05 < late


def test_configurations_that_make_no_speech_are_refused() -> None:
    with pytest.raises(ArgumentError, match="speakers is 1"):
        PlantedConfig(speakers=1)
    with pytest.raises(ArgumentError, match="slip"):
        PlantedConfig(slip=0.7)


def test_quality_needs_directions(speech: PlantedSpeech) -> None:
    class Silent:
        n_features, labels = 2, ("0", "1")

        def encode(self, activations: torch.Tensor) -> torch.Tensor:
            return activations[..., :2]

    with pytest.raises(ArgumentError, match="no decoder rows"):
        planted_quality(Subject("silent", "control", Silent(), HOOK, {}), speech)
