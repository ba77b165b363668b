from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import whisper
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.audio import load_audio, log_mel_max, log_mel_spectrogram, prepare_mel, to_windows
from hooked_whisper.errors import AudioError
from tests.audio.signals import babble, encoded

N_FRAMES = 60  # 0.6 s
prepare = partial(prepare_mel, n_mels=80, n_frames=N_FRAMES)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_equals_openai_on_a_padded_window(n_mels: int) -> None:
    audio = babble(50000)
    theirs = whisper.log_mel_spectrogram(whisper.pad_or_trim(audio), n_mels)
    ours = prepare_mel(audio, n_mels=n_mels, n_frames=3000)
    assert ours.shape == (1, n_mels, 3000)
    torch.testing.assert_close(ours[0], theirs, atol=1e-5, rtol=0)


@given(st.lists(st.integers(400, 160 * N_FRAMES), min_size=1, max_size=4))
def test_a_list_is_a_batch_of_its_clips(lengths: list[int]) -> None:
    clips = [babble(n, seed, loudness=10.0**-seed) for seed, n in enumerate(lengths)]
    together = prepare(clips)
    assert together.shape == (len(clips), 80, N_FRAMES)
    for row, clip in zip(together, clips, strict=True):
        assert torch.equal(row, prepare(clip)[0])


def test_every_kind_of_source_in_one_list(tmp_path: Path) -> None:
    wave = babble(8000)
    content = encoded(wave.numpy(), subtype="FLOAT")
    (tmp_path / "x.wav").write_bytes(content)
    sources = [wave, wave.numpy(), (wave.numpy(), 16000), content, tmp_path / "x.wav", prepare(wave), prepare(wave)[0]]
    mels = prepare(sources)
    assert mels.shape == (7, 80, N_FRAMES)
    assert all(torch.equal(mel, mels[0]) for mel in mels)


def test_sample_rate_is_for_bare_arrays() -> None:
    slow = babble(4000).numpy()
    assert torch.equal(prepare(slow, sample_rate=8000), prepare((slow, 8000)))


def test_mels_pass_through() -> None:
    mel = torch.randn(3, 80, N_FRAMES, requires_grad=True)
    assert prepare(mel) is mel
    prepare(mel[0]).sum().backward()
    assert mel.grad is not None and mel.grad[0].eq(1).all() and not mel.grad[1:].any()
    from_numpy = prepare(mel[0].detach().numpy().astype(np.float16), dtype=torch.float64)
    assert from_numpy.dtype == torch.float64 and from_numpy.shape == (1, 80, N_FRAMES)
    with pytest.raises(AudioError, match="reference_max"):
        prepare(mel, reference_max=1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    mel = prepare(babble(5000), dtype=dtype)
    assert mel.dtype == dtype
    torch.testing.assert_close(mel.float(), prepare(babble(5000)), atol=1e-2 if dtype.itemsize == 2 else 1e-4, rtol=0)
    if dtype == torch.float64:  # computed so, not only called so
        assert not torch.equal(mel, mel.float().double())


def test_reference_max_is_shared() -> None:
    loud, faint = babble(5000, 1), babble(5000, 2, loudness=0.001)
    top = log_mel_max(loud, padding=160 * N_FRAMES - 5000)
    mels = prepare([loud, faint], reference_max=top)
    assert torch.equal(mels[0], prepare(loud)[0])
    assert not torch.equal(mels[1], prepare(faint)[0])
    assert mels[1].min() == mels[0].min() == (top - 8 + 4) / 4
    assert torch.equal(prepare([loud, faint], reference_max=float(top)), mels)


def test_gradient_reaches_every_clip() -> None:
    waves = torch.stack([babble(5000, 1), babble(5000, 2)]).requires_grad_()
    prepare(list(waves)).square().sum().backward()
    assert waves.grad is not None and (waves.grad.abs().sum(1) > 0).all()


def test_silence_is_the_floor() -> None:
    assert torch.equal(prepare(torch.zeros(1000)), torch.full((1, 80, N_FRAMES), -1.5))


def test_long_audio() -> None:
    wave = babble(160 * N_FRAMES + 1)
    with pytest.raises(AudioError, match="to_windows"):
        prepare(wave)
    assert prepare(wave[:-1]).shape == (1, 80, N_FRAMES)
    windows = list(to_windows(wave, 0.6))
    assert prepare(windows).shape == (2, 80, N_FRAMES)
    torch.testing.assert_close(prepare(windows)[0], log_mel_spectrogram(wave[:-1]))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 5000), np.float32), "ambiguous"),  # two clips, or stereo?
        (torch.zeros(2, 5000), "ambiguous"),
        (torch.zeros(80, 2 * N_FRAMES), "ambiguous"),  # a mel of another window
        (torch.zeros(2, 128, N_FRAMES), r"\[batch, 80, 60\]"),
        ([], "is empty"),
        ([babble(1000), np.zeros(10, np.float32)], "clip 1 of the list: .*too short"),
    ],
)
def test_errors(source, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        prepare(source)


def test_numbers_are_not_a_clip(unchecked: None) -> None:
    with pytest.raises(AudioError, match=r"clip 0 of the list: .*numpy.asarray"):
        prepare([[0.1, 0.2]])
    with pytest.raises(AudioError, match=r"clip 0 of the list: .*float"):
        prepare([0.1, 0.2])


def test_unambiguous_inputs_are_accepted() -> None:
    wave = babble(5000)
    two_channels = torch.stack([wave, -0.5 * wave], 1)  # [sample, channel], as soundfile reads
    assert torch.equal(prepare(two_channels), prepare(load_audio(two_channels)))
    assert torch.equal(prepare(wave[None]), prepare(wave))
    assert torch.equal(prepare((two_channels.T.numpy(), 16000)), prepare(two_channels))  # one clip: it has a rate
