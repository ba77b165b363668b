"""F13: probes compared with least squares, folds that share nothing, planted language and speech, and refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper.findings import REGISTRY, speech_probes
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.speech.non_speech import KINDS, VARIANTS
from hooked_whisper.findings.speech.probes import fold_hits, ridge_scores, voice_folds
from hooked_whisper.findings.speech.sample import balanced_indices, speech_sample
from hooked_whisper.findings.speech_probes import (
    FEATURES,
    LANGUAGE,
    SPEECH,
    ProbeHits,
    SpeechProbes,
    probe_all,
    speech_folds,
)
from tests.core.twins import listeners
from tests.findings.worlds import small_context, small_model, utterance


def spoken(codes: str, voices: str) -> Context:
    clips = []
    for k, (code, voice) in enumerate(zip(codes.split(), voices.split(), strict=True)):
        clip = utterance(f"u{k}", "the cat sat", seed=k)
        clips.append(clip.with_alignment(replace(clip.alignment, speaker=voice, extra={"language": code})))
    return Context(small_model(0), small_model(1), tuple(clips))


TWO = ("de en de en de en", "a b c d a b")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([(30, 5), (8, 20)]))
def test_ridge_minimizes_its_loss(seed: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    x, y, w = rng.normal(size=shape), rng.normal(size=(shape[0], 2)), rng.uniform(0.5, 2, shape[0])
    w /= w.sum()
    mean = w @ x
    scaled = (x - mean) / np.sqrt(w @ (x - mean) ** 2) / np.sqrt(shape[1])
    gram = scaled.T @ (w[:, None] * scaled) + 0.01 * np.eye(shape[1])
    expected = scaled @ np.linalg.solve(gram, scaled.T @ (w[:, None] * (y - w @ y))) + w @ y
    assert np.allclose(ridge_scores(x, y, w, x), expected)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), min_size=4, max_size=20))
def test_folds_do_not_share_voices_and_test_each_once(clips: list[tuple[str, int]]) -> None:
    labels = [label for label, _ in clips]
    voices = [f"{label}{voice}" for label, voice in clips]
    folds = voice_folds(labels, voices)
    tested = np.sum([fold.test for fold in folds], axis=0) if folds else np.zeros(len(clips))
    for fold in folds:
        names = [{v for v, used in zip(voices, side, strict=True) if used} for side in (fold.train, fold.test)]
        assert not names[0] & names[1]
        assert {labels[i] for i in np.flatnonzero(fold.test)} == {labels[i] for i in np.flatnonzero(fold.train)}
    several = {label for label in "ab" if len({v for v in voices if v.startswith(label)}) > 1}
    assert tested.tolist() == [1.0 if len(several) == 2 else 0.0] * len(clips) or len(several) < 2


def test_a_probe_finds_planted_labels_and_not_shuffled_ones() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0, 1] * 20)
    voices = [f"{k % 2}{(k // 2) % 4}" for k in range(40)]
    features = rng.normal(size=(40, 5, 30))
    features[..., 0] += 6 * labels[:, None]
    folds = voice_folds([str(k) for k in labels], voices)
    shuffled = np.stack([labels, rng.permutation(labels)])
    hits = fold_hits(features, shuffled, folds)
    assert hits[0].mean() > 0.95 and 0.1 < hits[1].mean() < 0.9


def test_scores_range_from_chance_to_one() -> None:
    classes = np.array([0, 0, 0, 1])
    perfect, constant = np.ones((2, 4)), np.tile([1.0, 1, 1, 0], (2, 1))
    probed = ProbeHits(classes, np.arange(4), {"encoder": perfect, "log-mel": constant})
    assert speech_probes.later_score(probed, "encoder", probed.every()) == 1
    assert speech_probes.later_score(probed, "log-mel", probed.every()) == 0
    assert speech_probes.avoided(probed, "encoder", probed.every()) == 1
    none = ProbeHits(classes, np.arange(4), {"encoder": perfect, "log-mel": perfect})
    assert np.isnan(speech_probes.avoided(none, "encoder", none.every()))


def test_intervals_are_over_voices() -> None:
    classes, voices = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1]), np.array([0, 0, 1, 1, 2, 2, 3, 3, 4])
    right = np.array([[1.0, 1, 0, 0, 1, 1, 1, 1, np.nan]])
    probed = ProbeHits(classes, voices, {"encoder": right})
    counts = probed.drawn(np.random.default_rng(0))
    assert (counts[:, [0, 2, 4, 6]] == counts[:, [1, 3, 5, 7]]).all() and not counts[:, 8].any()
    assert set(probed.accuracy("encoder", counts)[0]) == {0.5, 0.75, 1.0}
    assert probed.accuracy("encoder", probed.every()) == 0.75


def test_language_with_one_voice_is_left_out_with_a_note() -> None:
    finding = SpeechProbes().run(spoken("de en de en fr", "a b c d e"))
    assert any("left out" in note and note.endswith("fr.") for note in finding.notes)


def test_sample_is_balanced_over_languages_and_voices() -> None:
    assert balanced_indices(["en"] * 5 + ["de"], ["a", "a", "a", "b", "b", "c"], 3) == [0, 1, 3, 5]


def test_it_runs_and_draws_every_probe() -> None:
    context = spoken(*TWO)
    finding = SpeechProbes().run(context)
    assert {LANGUAGE, SPEECH} < {c.name for c in finding.claims} and len(finding.controls) == 4
    assert finding.measurement("accuracy, language").values.shape == (2, len(FEATURES), 2, 3)
    assert len(finding.draw()) == 2 and not listeners(context.model)


def test_speech_that_differs_from_other_sounds_is_detected() -> None:
    sample = speech_sample(spoken(*TWO))
    rng = np.random.default_rng(0)
    positions = rng.normal(size=sample.readings.positions.shape)
    positions[:, : len(sample.languages), :, 0] += 20
    vars(sample)["readings"] = replace(sample.readings, positions=positions)
    probed = probe_all(small_context(), sample)["is it speech", "position"]
    assert speech_probes.later_score(probed, "encoder", probed.every()) > 0.9
    assert abs(speech_probes.later_score(probed, "shuffled labels", probed.every())) < 0.5


@pytest.mark.parametrize("by_kind", [True, False])
def test_folds_do_not_share_kinds_or_voices(by_kind: bool) -> None:
    sample = speech_sample(spoken(*TWO))
    n = len(sample.languages)
    folds = speech_folds(sample, by_kind)
    assert len(folds) == 2 * (len(KINDS) if by_kind else VARIANTS)
    for fold in folds:
        assert not (fold.train & fold.test).any()
        names = [{v for v, used in zip(sample.voices, side, strict=False) if used} for side in (fold.train, fold.test)]
        assert not names[0] & names[1]
        kinds = [
            {s.kind for s, used in zip(sample.sounds, side[n:], strict=True) if used}
            for side in (fold.train, fold.test)
        ]
        assert bool(kinds[0] & kinds[1]) != by_kind


def test_single_language_names_the_unmet_gate() -> None:
    finding = REGISTRY["F13"].run(spoken("en en en", "a b c"))
    assert finding.status == "measured, no verdict" and "3 of en" in finding.status_reason
    assert next(c.name for c in finding.claims) == SPEECH  # which was measured all the same
    assert REGISTRY["F13"].run(small_context()).status == "not testable"
