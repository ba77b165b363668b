from __future__ import annotations

import pytest
import torch
import whisper
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.audio import log_mel_max, log_mel_spectrogram, mel_filters
from hooked_whisper.errors import AudioError
from tests.audio.signals import babble


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("n", [400, 1600, 12345, 80000])
@pytest.mark.parametrize("loudness", [1e-4, 0.3, 30.0])
def test_equals_openai(n: int, n_mels: int, loudness: float) -> None:
    audio = babble(n, loudness=loudness)
    ours, theirs = log_mel_spectrogram(audio, n_mels), whisper.log_mel_spectrogram(audio, n_mels)
    assert ours.shape == theirs.shape == (n_mels, n // 160)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_equals_openai_with_padding_and_on_silence() -> None:
    audio = babble(5000)
    torch.testing.assert_close(
        log_mel_spectrogram(audio, padding=4800), whisper.log_mel_spectrogram(audio, padding=4800), atol=1e-5, rtol=0
    )
    silence = log_mel_spectrogram(torch.zeros(1600))
    assert torch.equal(silence, torch.full((80, 10), -1.5))
    assert log_mel_max(torch.zeros(1600)) == -10


@given(st.integers(1, 4), st.integers(400, 3000), st.integers(0, 99))
def test_batch_equals_its_rows(rows: int, n: int, seed: int) -> None:
    clips = [babble(n, seed + i, loudness=10.0**-i) for i in range(rows)]  # unlike maxima
    together = log_mel_spectrogram(torch.stack(clips))
    for row, clip in zip(together, clips, strict=True):
        torch.testing.assert_close(row, log_mel_spectrogram(clip), atol=1e-6, rtol=0)


@given(st.integers(0, 3000), st.integers(0, 99))
def test_silent_tail_equals_frames_that_are_transformed(n_sound: int, seed: int) -> None:
    audio = babble(3000, seed).double()
    audio[n_sound:] = 0
    nearly = audio.clone()
    nearly[n_sound:] = 1e-30  # power far below the floor, but transformed
    torch.testing.assert_close(log_mel_spectrogram(audio), log_mel_spectrogram(nearly), atol=1e-12, rtol=0)


def test_gradient_of_a_silent_tail_is_zero() -> None:
    audio = torch.cat([babble(1600), torch.zeros(3200)]).requires_grad_()
    log_mel_spectrogram(audio).sum().backward()
    assert audio.grad is not None
    assert audio.grad[:1600].abs().sum() > 0
    assert not audio.grad[2000:].any()


def test_leading_axes_are_kept() -> None:
    audio = torch.stack([babble(800, i) for i in range(6)])
    grid = audio.reshape(2, 3, 800)
    assert log_mel_spectrogram(grid).shape == (2, 3, 80, 5)
    assert log_mel_max(grid).shape == (2, 3)
    torch.testing.assert_close(log_mel_spectrogram(grid).reshape(6, 80, 5), log_mel_spectrogram(audio))


def test_shared_maximum_keeps_other_frames() -> None:
    audio = babble(16000)
    edited = audio.clone()
    edited[8000:9600] = 5 * torch.sin(torch.arange(1600) / 3)
    far = [f for f in range(100) if not 8000 - 200 <= 160 * f <= 9600 + 200]
    assert not torch.equal(log_mel_spectrogram(audio)[:, far], log_mel_spectrogram(edited)[:, far])
    shared = torch.maximum(log_mel_max(audio), log_mel_max(edited))
    before, after = log_mel_spectrogram(audio, reference_max=shared), log_mel_spectrogram(edited, reference_max=shared)
    assert torch.equal(before[:, far], after[:, far])
    assert not torch.equal(before, after)


def test_reference_max_is_the_default_when_it_is_the_clips_own() -> None:
    audio = torch.stack([babble(1600, 1), babble(1600, 2, loudness=0.01)])
    maxima = log_mel_max(audio)
    assert torch.equal(log_mel_spectrogram(audio, reference_max=maxima), log_mel_spectrogram(audio))
    as_number = log_mel_spectrogram(audio, reference_max=float(maxima[0]))
    torch.testing.assert_close(as_number[0], log_mel_spectrogram(audio[0]), atol=1e-6, rtol=0)
    assert as_number[1].min() >= (maxima[0] - 8 + 4) / 4 - 1e-6
    assert log_mel_spectrogram(audio, reference_max=3).min() == (3 - 8 + 4) / 4  # a whole number is fine


def test_gradient_to_the_waveform() -> None:
    audio = torch.randn(2, 800, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mel = log_mel_spectrogram(audio)
    assert mel.dtype == torch.float64
    assert torch.autograd.gradcheck(lambda x: log_mel_spectrogram(x)[:, ::16], audio, fast_mode=True)
    silent = torch.zeros(800, requires_grad=True)
    log_mel_spectrogram(silent).sum().backward()
    assert silent.grad is not None and torch.equal(silent.grad, torch.zeros(800))


def test_float64_agrees_with_float32() -> None:
    audio = babble(8000)
    torch.testing.assert_close(
        log_mel_spectrogram(audio.double()).float(), log_mel_spectrogram(audio), atol=1e-4, rtol=0
    )


def test_half_precision_is_computed_in_float32() -> None:
    half = babble(1600).half()
    assert torch.equal(log_mel_spectrogram(half), log_mel_spectrogram(half.float()))


def test_filters_made_in_inference_mode_serve_gradients_later() -> None:
    mel_filters.cache_clear()
    whisper.audio.mel_filters.cache_clear()
    with torch.inference_mode():
        whisper.audio.mel_filters("cpu", 80)  # fills openai's cache with a tensor of inference mode
        log_mel_spectrogram(babble(800))
    whisper.audio.mel_filters.cache_clear()
    audio = babble(800).requires_grad_()
    log_mel_spectrogram(audio).sum().backward()
    assert audio.grad is not None and audio.grad.abs().max() > 0


def test_mel_filters_are_cached_and_equal_openai_whisper() -> None:
    filters = mel_filters(80, torch.float32, torch.device("cpu"))
    assert filters is mel_filters(80, torch.float32, torch.device("cpu"))
    assert torch.equal(filters, whisper.audio.mel_filters("cpu", 80))


@pytest.mark.parametrize(
    ("audio", "n_mels", "message"),
    [
        (torch.zeros(399), 80, "too short"),
        (torch.zeros(1600), 64, "80 and 128"),
    ],
)
def test_errors(audio: torch.Tensor, n_mels: int, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        log_mel_spectrogram(audio, n_mels)


def test_integers_are_refused(unchecked: None) -> None:
    with pytest.raises(AudioError, match="load_audio"):
        log_mel_spectrogram(torch.zeros(1600, dtype=torch.int16))
