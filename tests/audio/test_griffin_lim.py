"""Sound from a mel: the mel of the sound is the mel, the model still reads it, and it never clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper import HookedWhisper
from hooked_whisper.audio import log_mel_spectrogram, mel_filters
from hooked_whisper.audio.griffin_lim import griffin_lim, mel_to_power
from hooked_whisper.errors import AudioError
from hooked_whisper.interventions.transcriber import Transcriber
from hooked_whisper.synthetic.synthetic_corpus import SyntheticCorpus
from hooked_whisper.text import word_errors

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clips() -> list[torch.Tensor]:
    sounds = [torch.from_numpy(clip.samples) for clip in SyntheticCorpus.default().clips()[:5]]
    return [audio[: len(audio) // 160 * 160] for audio in sounds]


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(np.corrcoef(a.flatten(), b.flatten())[0, 1])


def test_mel_inversion_keeps_speech(clips: list[torch.Tensor]) -> None:
    model = HookedWhisper.from_pretrained("demo")
    sounds = []
    for audio in clips:
        mel = log_mel_spectrogram(audio)
        sounds.append(griffin_lim(mel))
        assert sounds[-1].shape == audio.shape and sounds[-1].abs().max() <= 0.99 + 1e-6
        assert correlation(log_mel_spectrogram(sounds[-1]), mel) > 0.98
    write = Transcriber(model, max_new_tokens=12)
    with torch.no_grad():
        heard, rebuilt = (write(model.embed_audio(model.to_mel(list(batch)))) for batch in (clips, sounds))
    errors = word_errors(heard, rebuilt)
    assert sum(e.errors for e in errors) <= 0.3 * sum(e.n_reference for e in errors)


def test_more_steps_fit_better_than_random_phases(clips: list[torch.Tensor]) -> None:
    mel = log_mel_spectrogram(clips[0])
    fits = [correlation(log_mel_spectrogram(griffin_lim(mel, iterations=n)), mel) for n in (0, 4, 32)]
    assert fits[0] < fits[1] < fits[2]


@pytest.mark.parametrize("n_mels", [80, 128])
def test_power_has_the_bands_of_the_mel(clips: list[torch.Tensor], n_mels: int) -> None:
    mel = log_mel_spectrogram(clips[0], n_mels=n_mels)
    power = mel_to_power(mel)
    bands = mel_filters(n_mels, torch.float32, CPU) @ power
    assert power.shape == (201, mel.shape[-1]) and (power >= 0).all() and not power[[0, -1]].any()
    apart = (bands.clamp(min=1e-12).log10() - (4 * mel - 4)).abs()
    assert apart.mean() < 0.01


@settings(max_examples=8)
@given(st.integers(3, 20), st.floats(-1.5, 1.0), st.integers(0, 99))
def test_any_mel_makes_finite_sound(frames: int, top: float, seed: int) -> None:
    drawn = torch.rand(2, 80, frames, generator=torch.Generator().manual_seed(seed))
    mel = top - 2 * drawn
    sound = griffin_lim(mel, iterations=4, seed=seed)
    assert sound.shape == (2, 160 * frames) and torch.isfinite(sound).all() and sound.abs().max() <= 0.99 + 1e-6
    assert torch.equal(sound, griffin_lim(mel, iterations=4, seed=seed))
    torch.testing.assert_close(sound[1], griffin_lim(mel[1], iterations=4, seed=seed), atol=1e-3, rtol=1e-2)


def test_level_follows_the_mel(clips: list[torch.Tensor]) -> None:
    quiet = 0.05 * clips[0]
    sound = griffin_lim(log_mel_spectrogram(quiet))
    assert 0.8 < sound.norm() / quiet.norm() < 1.25


def test_silence_is_silent() -> None:
    assert griffin_lim(torch.full((80, 10), -1.5)).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("mel", "words"),
    [
        (torch.zeros(80, 2), "too short"),
        (torch.full((80, 10), torch.nan), "NaN"),
        (torch.zeros(40, 10), "40 bins"),
    ],
)
def test_invalid_requests_are_refused(mel: torch.Tensor, words: str) -> None:
    with pytest.raises(AudioError, match=words):
        griffin_lim(mel)
