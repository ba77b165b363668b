"""F17: mean cosines compared with the definition, a difference that raw cosines hide, and the level of the sounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hooked_whisper.audio import TimeMap
from hooked_whisper.findings import REGISTRY
from hooked_whisper.findings.speech.encoder_readings import loud_positions, read_encoder
from hooked_whisper.findings.speech.non_speech import KINDS, VARIANTS, sounds_like
from hooked_whisper.findings.speech.sample import speech_sample
from hooked_whisper.findings.speech_similarity import CENTERED, RAW, _contrast, cosines, within_speech
from tests.findings.worlds import small_context, small_model

RNG = np.random.default_rng(0)


def test_mean_cosines_match_the_pairwise_definition() -> None:
    rows = RNG.normal(size=(3, 4, 6))
    values = cosines(rows, 2, centered=False).values
    unit = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    slow = np.mean([unit[0, i] @ unit[2, j] for i in range(4) for j in range(4)])
    assert values[0, 2] == pytest.approx(slow) and values == pytest.approx(values.T)


def test_a_common_part_hides_a_difference_from_raw_cosines() -> None:
    rows = RNG.normal(size=(12, 8, 16))
    rows[:6, :, 0] += 4
    rows[..., 1] += 100
    raw, centered = (_contrast(cosines(rows, 6, c).groups(np.arange(6), np.arange(6, 12))) for c in (False, True))
    assert raw < 0.01 < 0.2 < centered


def test_sounds_have_the_level_of_the_clips() -> None:
    clips = [0.1 * RNG.standard_normal(20_000).astype(np.float32) for _ in range(4)]
    sounds = sounds_like(clips, TimeMap(), RNG)
    assert [s.kind for s in sounds] == [kind for kind in KINDS for _ in range(VARIANTS)]
    levels = [np.sqrt(np.mean(s.audio.astype(float) ** 2)) for s in sounds]
    assert levels[:3] == pytest.approx([0, 1e-4, 1e-3], rel=0.05) and levels[3:] == pytest.approx([0.1] * 9, rel=0.05)
    assert sounds_like([], TimeMap(), RNG) == ()


def test_pauses_and_padding_are_left_out() -> None:
    model = small_model(0)
    step = model.time.samples_per_position
    audio = np.concatenate([np.zeros(5 * step), 0.1 * np.ones(3 * step), np.zeros(4 * step)]).astype(np.float32)
    assert loud_positions(audio, model).tolist() == [5, 6, 7]


def test_batched_readings_match_single_clips() -> None:
    model = small_model(0)
    clips = [0.1 * RNG.standard_normal(n).astype(np.float32) for n in (16_000, 9_000, 12_000)]
    readings = read_encoder(model, clips[:2], clips[2:], iter(range(3)))
    name = "encoder.blocks.1.hook_resid_post"
    _, cache = model.run_with_cache(mel=model.to_mel(clips[1]), tokens=model.to_tokens(""), names_filter=name)
    x = cache[name][0].numpy()
    assert readings.pooled[1, 1] == pytest.approx(x[loud_positions(clips[1], model)].mean(0), abs=1e-4)
    assert readings.middle.shape == (2, 60, 32) and readings.encoded.shape == (2, 60, 32)
    assert readings.positions.shape == (2, 3, 20, 32) and readings.early.shape == (3, 20, 64)


def test_contrast_within_speech_is_small_unless_voices_differ() -> None:
    sample = speech_sample(small_context(count=10))
    rows = RNG.normal(size=sample.readings.early.shape)
    vars(sample)["readings"] = replace(sample.readings, early=rows)
    assert abs(within_speech(sample, centered=True)) < 0.05
    rows[:10:2, :, 0] += 50  # every second clip, as the halves of a single voice
    assert within_speech(sample, centered=True) > 0.2


def test_it_runs_on_any_speech() -> None:
    finding = REGISTRY["F17"].run(small_context(count=12))
    assert [c.name for c in finding.claims] == [RAW, CENTERED]
    assert finding.measurement("mean cosine").values.shape == (4, 2, 4, 3) and len(finding.draw()) == 2
    assert finding.measurement("contrast of speech and each kind of sound").values.shape == (len(KINDS), 2)
    assert REGISTRY["F17"].run(small_context(count=3)).status == "measured, no verdict"
    assert "one clip" in REGISTRY["F17"].run(small_context(count=1)).status_reason
    assert REGISTRY["F17"].run(small_context()).status == "not testable"
