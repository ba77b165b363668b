from __future__ import annotations

import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.audio import clip_around, load_audio, save_audio, to_data_uri, to_mp3_bytes
from hooked_whisper.errors import AudioError
from tests.audio.signals import babble

WAVE = 0.5 + torch.zeros(32000)


def test_the_published_window() -> None:
    clip, limited = clip_around(WAVE, 1.0)
    assert clip.shape == limited.shape == (16000,)
    gain = clip / 0.5
    assert (gain > 9.9999).sum() == 1000
    assert gain[7500:8500].min() == gain.max() == 10
    assert torch.equal(gain[80:7420], torch.ones(7340)) and torch.equal(gain[8580:15920], torch.ones(7340))
    torch.testing.assert_close(gain, gain.flip(0))
    assert gain.diff().abs().max() < 0.2  # no click: no jump
    assert gain[0] < 0.001
    assert limited.abs().max() <= 0.99
    torch.testing.assert_close(limited * (clip.abs().max() / 0.99), clip)


@given(st.floats(0, 2), st.floats(0.2, 1.5), st.floats(0.01, 100), st.integers(0, 9))
def test_clip_shows_the_requested_moment(centre: float, context: float, gain: float, seed: int) -> None:
    audio = babble(32000, seed)
    clip, limited = clip_around(audio, centre, context, gain)
    n = round(context * 16000)
    assert len(clip) == len(limited) == n
    assert limited.abs().max() <= 0.99 + 1e-6
    middle = round(centre * 16000)
    expected = audio[middle - 100 : middle + 100] if 100 <= middle <= 31900 else None
    if expected is not None:
        torch.testing.assert_close(clip[n // 2 - 100 : n // 2 + 100], gain * expected)


def test_quiet_clips_are_unchanged() -> None:
    clip, limited = clip_around(0.01 * babble(32000), 1.0)
    assert torch.equal(clip, limited)


def test_beyond_the_ends_is_silence() -> None:
    clip, _ = clip_around(WAVE, 0.0)
    assert not clip[:8000].any() and clip[8000] == 5
    clip, _ = clip_around(WAVE.numpy(), 2)
    assert not clip[8000:].any() and clip[7999] == 5


@pytest.mark.parametrize(
    "arguments",
    [
        {"center_s": -0.1},
        {"center_s": 2.1},
        {"center_s": float("nan")},
        {"center_s": 1.0, "context_s": 0.07},
        {"center_s": 1.0, "width_s": 0.0},
        {"center_s": 1.0, "fade_s": -0.01},
    ],
)
def test_invalid_windows_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(AudioError):
        clip_around(WAVE, **arguments)


def test_no_fade() -> None:
    clip, _ = clip_around(WAVE, 1.0, fade_s=0)
    assert clip[0] == 0.5 and (clip == 5).sum() == 1000


def test_mp3_and_data_uri() -> None:
    audio = babble(16000)
    content = to_mp3_bytes(audio)
    back, rate = soundfile.read(io.BytesIO(content))
    assert rate == 16000 and len(back) == 16000 and np.corrcoef(back, audio)[0, 1] > 0.9
    head, data = to_data_uri(audio).split(",")
    assert head == "data:audio/mpeg;base64" and base64.b64decode(data) == content
    full_scale = audio * (0.99 / audio.abs().max())
    torch.testing.assert_close(  # scaled, not clipped
        load_audio(to_mp3_bytes(20 * audio)), load_audio(to_mp3_bytes(full_scale)), atol=1e-2, rtol=0
    )


def test_save_and_load(tmp_path: Path) -> None:
    audio = babble(16000)
    save_audio(tmp_path / "a.wav", 5 * audio)
    assert torch.equal(load_audio(tmp_path / "a.wav"), 5 * audio)
    save_audio(tmp_path / "a.flac", audio.numpy())
    torch.testing.assert_close(load_audio(tmp_path / "a.flac"), audio, atol=2**-15, rtol=0)
    for name in ("a.ogg", "a.mp3"):
        save_audio(str(tmp_path / name), audio)
        assert np.corrcoef(load_audio(tmp_path / name), audio)[0, 1] > 0.9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.flac", "a.mp3", "a.ogg", "a.wav"]
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "a.wav").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    save_audio(path, babble(1000))
    before = path.read_bytes()

    def fails(*_: object) -> None:
        raise OSError("no space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fails)
            with pytest.raises(OSError, match="no space"):
                save_audio(path, babble(2000))
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "audio", "message"),
    [
        ("a.xyz", torch.zeros(100), "suffix"),
        ("a", torch.zeros(100), "suffix"),
        ("a.wav", torch.zeros(0), "no samples"),
        ("a.wav", torch.full((100,), float("nan")), "NaN"),
        ("a.flac", 2 * torch.ones(100), "clip"),
    ],
)
def test_invalid_saves_are_refused(name: str, audio: torch.Tensor, message: str, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=message):
        save_audio(tmp_path / name, audio)
    assert not list(tmp_path.iterdir())


def test_impossible_mp3_rate_is_refused() -> None:
    with pytest.raises(AudioError, match="resample"):
        to_mp3_bytes(babble(1000), 12345)
