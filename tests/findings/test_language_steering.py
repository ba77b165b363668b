"""F14: flips count only while the words are recognized; it runs on two languages; refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.findings import REGISTRY, language_steering
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.language_steering import LanguageSteering, SteeringResult, language_direction
from hooked_whisper.findings.speech.sample import speech_sample
from hooked_whisper.interventions.steer import steer
from tests.core.twins import listeners
from tests.findings.worlds import small_config, small_context, utterance


def test_flips_count_only_while_the_words_are_recognized() -> None:
    words, plain = np.full(4, 5.0), np.array([1.0, 0, 0, 0])
    flipped = np.array([[False] * 4, [True, False, False, True], [True] * 4])
    result = SteeringResult(flipped, np.array([[1.0, 0, 0, 0], [1.0, 1, 0, 0], [5.0, 5, 5, 5]]))
    assert result.usable(words, plain) == [0, 1]
    assert result.flips([0, 1]).tolist() == [1, 0, 0, 1] and result.flips([]).tolist() == [0] * 4


def spoken(codes: str) -> Context:
    context = small_context()
    clips = []
    for k, code in enumerate(codes.split()):
        clip = utterance(f"u{k}", "the cat sat", seed=k)
        clips.append(clip.with_alignment(replace(clip.alignment, extra={"language": code})))
    return Context(context.model, context.untrained, tuple(clips))


def test_it_runs_on_two_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_steering, "LEAST_CLIPS", 3)
    context = spoken("de en de en de en fr")
    finding = LanguageSteering().run(context)
    assert finding.status == "measured, no verdict" and "WER" in finding.status_reason
    assert finding.measurement("clips flipped").values.shape == (2, 3)
    assert finding.measurement("WER, added at the encoder's output").values.shape == (2, 3)
    assert len(finding.draw()) == 3 and not listeners(context.model)


def test_a_direction_is_from_the_other_half() -> None:
    sample = speech_sample(spoken("de en de en"))
    middle, n = sample.readings.middle, sample.context.n_positions
    expected = middle[2, : n[2]].mean(0) - middle[3, : n[3]].mean(0)
    assert torch.allclose(language_direction(sample, ("de", "en"), range(4), 0), expected, atol=1e-5)


@torch.no_grad()
def test_steering_is_that_of_a_hook_at_the_middle_block() -> None:
    sample = speech_sample(spoken("de en"))
    context, vector = sample.context, torch.randn(32, generator=torch.Generator().manual_seed(0))
    hooks = steer(context.model, "encoder.blocks.1.hook_resid_post", vector, 2.0)
    with context.model.hooks(fwd_hooks=hooks):
        hooked = context.encode(context.model)
    resumed = context.model.encoder.from_resid(sample.readings.middle + 2 * vector, sample.readings.middle_block + 1)
    assert torch.allclose(hooked, resumed, atol=1e-5)


def test_too_few_clips_are_counted_in_the_reason() -> None:
    finding = LanguageSteering().run(spoken("de de en"))
    assert finding.status == "not testable" and "2 of de, 1 of en, expected 6" in finding.status_reason
    assert "other half" in finding.status_reason and "--corpus" in finding.status_reason
    assert LanguageSteering().run(small_context()).status == "not testable"


@pytest.mark.parametrize("id", ["F12", "F14"])
def test_a_model_of_english_names_the_remedy(id: str) -> None:
    cfg = replace(small_config(), decoder=replace(small_config().decoder, n_vocab=51864), name="tiny.en")
    model = HookedWhisper(cfg)
    finding = REGISTRY[id].run(Context(model, model, spoken("de en").utterances))
    assert finding.status == "not testable"
    assert "tiny.en is English-only" in finding.status_reason and "--model base" in finding.status_reason
