from __future__ import annotations

import io
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.audio import load_audio, to_windows
from hooked_whisper.errors import AudioError, MissingExtraError
from tests.audio.signals import babble, encoded

WAVE = babble(16000).numpy()
LOSSLESS = {"WAV": "FLOAT", "FLAC": "PCM_24", "AIFF": "FLOAT"}
LOSSY = {"OGG": "VORBIS", "MP3": None}


# --- what the samples are -----------------------------------------------------------------------------------------


@given(st.integers(400, 3000), st.integers(0, 99))
def test_16_khz_floats_pass_exactly(n: int, seed: int) -> None:
    wave = babble(n, seed)
    assert torch.equal(load_audio(wave), wave)
    assert torch.equal(load_audio(wave.numpy()), wave)
    assert torch.equal(load_audio((wave.numpy(), 16000)), wave)
    assert torch.equal(load_audio({"array": wave.numpy(), "sampling_rate": 16000}), wave)
    assert torch.equal(load_audio(encoded(wave.numpy(), subtype="FLOAT")), wave)


@pytest.mark.parametrize(
    ("dtype", "offset", "scale"),
    [(np.int8, 0, 2**7), (np.uint8, 128, 2**7), (np.int16, 0, 2**15), (np.int32, 0, 2**31), (">i2", 0, 2**15)],
)
def test_integers_are_scaled(dtype, offset: int, scale: int) -> None:
    info = np.iinfo(np.dtype(dtype))
    samples = np.array([info.min, offset, info.max] * 200, dtype=dtype)
    expected = (samples.astype(np.float64) - offset) / scale
    assert expected.min() == -1 and expected[1] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_audio(samples)
        assert loaded.dtype == torch.float32
        np.testing.assert_allclose(loaded.numpy(), expected, atol=1e-7)
        if dtype != ">i2":
            assert torch.equal(load_audio(torch.from_numpy(samples)), loaded)


def test_int16_wav_equals_int16_array() -> None:
    samples = (WAVE * 32767).astype(np.int16)
    assert torch.equal(load_audio(encoded(samples)), load_audio(samples))


def test_float64_and_half_become_float32() -> None:
    for wave in (WAVE.astype(np.float64), WAVE.astype(np.float16), torch.from_numpy(WAVE).bfloat16()):
        assert load_audio(wave).dtype == torch.float32


def test_unusual_arrays_are_read_or_refused() -> None:
    backwards = WAVE[::-1]
    assert np.array_equal(load_audio(backwards).numpy(), backwards)
    locked = WAVE.copy()
    locked.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_audio(locked)
    loaded.zero_()
    assert locked.any()  # the caller's array is not ours


def test_loud_floats_warn() -> None:
    with pytest.warns(UserWarning, match="int16"):
        load_audio(WAVE * 32767)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_audio(WAVE / np.abs(WAVE).max() * 1.4)


def test_float_file_of_unscaled_integers_warns(tmp_path: Path) -> None:
    path = tmp_path / "loud.wav"
    for subtype in ("FLOAT", "DOUBLE"):
        path.write_bytes(encoded(WAVE * 32767, subtype=subtype))
        for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
            with pytest.warns(UserWarning, match="full scale"):
                assert load_audio(source).abs().max() > 100
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_audio(encoded(0.9 * np.random.default_rng(0).uniform(-1, 1, 32_000), 16_000, "MP3"))  # overshoots


def test_stereo_is_averaged_whichever_axis() -> None:
    left, right = WAVE, np.roll(WAVE, 777)
    mean = (left + right) / 2
    for stereo in (np.stack([left, right]), np.stack([left, right], axis=1)):
        np.testing.assert_allclose(load_audio(stereo).numpy(), mean, atol=1e-7)
        np.testing.assert_allclose(load_audio(torch.from_numpy(stereo)).numpy(), mean, atol=1e-7)
    np.testing.assert_allclose(
        load_audio(encoded(np.stack([left, right], 1), subtype="FLOAT")).numpy(), mean, atol=1e-7
    )
    six = np.stack([np.roll(WAVE, i) for i in range(6)], 1)  # files may have any number
    np.testing.assert_allclose(load_audio(encoded(six, subtype="FLOAT")).numpy(), six.mean(1), atol=1e-6)
    assert load_audio(WAVE[None]).shape == load_audio(WAVE[:, None]).shape == WAVE.shape


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_resampling(rate: int) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    loaded = load_audio((tone, rate))
    assert len(loaded) == 16000
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(loaded[1000:-1000].numpy(), expected[1000:-1000], atol=1e-3)
    assert torch.equal(load_audio(tone, sample_rate=rate), loaded)
    assert torch.equal(load_audio(encoded(tone, rate, subtype="FLOAT")), loaded)
    assert torch.equal(load_audio(torch.from_numpy(tone), sample_rate=rate), loaded)
    assert torch.equal(loaded, torch.from_numpy(soxr.resample(tone, rate, 16000, quality="HQ")))


def test_resampling_does_not_alias() -> None:
    tone = np.sin(2 * np.pi * 10_000 * np.arange(44100) / 44100).astype(np.float32)  # above the new Nyquist
    assert load_audio((tone, 44100))[1000:-1000].abs().max() < 1e-4


def test_gradient() -> None:
    wave = torch.from_numpy(WAVE).double().requires_grad_()
    loaded = load_audio(wave)
    assert loaded.dtype == torch.float64
    loaded.square().sum().backward()
    assert wave.grad is not None and torch.equal(wave.grad, 2 * wave.detach())
    stereo = torch.zeros(2, 1000, requires_grad=True)
    load_audio(stereo).sum().backward()
    assert stereo.grad is not None and torch.equal(stereo.grad, torch.full((2, 1000), 0.5))
    with pytest.raises(AudioError, match="gradient"):
        load_audio(wave, sample_rate=8000)
    with torch.no_grad():  # no gradient is wanted here
        assert load_audio(wave, sample_rate=8000).dtype == torch.float32


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "subtype"), [*LOSSLESS.items(), *LOSSY.items(), ("OGG", "OPUS")])
def test_formats_by_path_bytes_and_file_object(format: str, subtype: str | None, tmp_path: Path) -> None:
    content = encoded(WAVE, 16000, format, subtype)
    path = tmp_path / "speech.bin"  # content decides, not the name
    path.write_bytes(content)
    loaded = load_audio(path)
    assert loaded.shape == (16000,) and loaded.dtype == torch.float32
    assert torch.equal(load_audio(str(path)), loaded)
    assert torch.equal(load_audio(content), loaded)
    assert torch.equal(load_audio(bytearray(content)), loaded)
    assert torch.equal(load_audio({"bytes": content, "path": None}), loaded)
    assert torch.equal(load_audio({"bytes": None, "path": str(path)}), loaded)
    with path.open("rb") as stream:
        assert torch.equal(load_audio(stream), loaded)
    similarity = np.corrcoef(loaded.numpy(), WAVE)[0, 1]
    assert similarity > (0.999999 if format in LOSSLESS else 0.9)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_streamed_wav_without_length_loads(size: int) -> None:
    content = bytearray(encoded(WAVE))
    content[4:8] = content[40:44] = struct.pack("<I", size)
    assert len(load_audio(bytes(content))) == 16000


@pytest.mark.parametrize(
    ("format", "subtype"), [("WAV", None), ("WAV", "FLOAT"), *LOSSLESS.items(), *LOSSY.items(), ("OGG", "OPUS")]
)
@pytest.mark.parametrize("part", [0.03, 0.5, 0.9])
def test_truncated_files(format: str, subtype: str | None, part: float, tmp_path: Path) -> None:
    content = encoded(babble(48000).numpy(), 16000, format, subtype)
    path = tmp_path / f"cut.{format.lower()}"
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(AudioError, match="truncated") as caught:
        load_audio(path)
    assert "cut." in str(caught.value) and "fetch" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"Dear diary, today I made no sound.\n" * 50, "not audio in a known format"),
        (bytes(4000), "not audio in a known format"),
        (b"RIFF", "not audio in a known format"),
        (b"\xff\xfb" + bytes(4000), "broken"),
        (encoded(np.zeros(0, np.float32)), "no samples"),
    ],
)
def test_hostile_content(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=message) as caught:
        load_audio(path)
    assert "evil.wav" in str(caught.value)
    with pytest.raises(AudioError):
        load_audio(content)


def test_path_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="does not exist"):
        load_audio(tmp_path / "missing.wav")
    with pytest.raises(AudioError, match="folder"):
        load_audio(tmp_path)
    with pytest.raises(AudioError, match="cannot be opened"):
        load_audio("x" * 5000)
    raw = tmp_path / "x.raw"
    raw.write_bytes(bytes(4000))
    with pytest.raises(AudioError, match="without a header"):
        load_audio(raw)


def test_empty_file_object_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO(encoded(WAVE))
    load_audio(stream)
    with pytest.raises(AudioError, match="seek"):
        load_audio(stream)
    path = tmp_path / "x.wav"
    path.write_text("hello")
    with path.open() as text, pytest.raises(AudioError, match="binary mode"):
        load_audio(text)


@pytest.mark.parametrize(
    "head", [b"\0\0\0\x20ftypM4A ", b"\x1aE\xdf\xa3\x01\0\0\0", b"\xff\xf1\x50\x80"], ids=["m4a", "webm", "aac"]
)
def test_formats_that_need_the_extra_say_so(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pip install hooked-whisper\[av\]"):
        load_audio(head + bytes(2000))


@pytest.mark.parametrize(("container", "codec"), [("ipod", "aac"), ("mp4", "aac"), ("webm", "libopus")])
def test_formats_of_the_extra(container: str, codec: str) -> None:
    av = pytest.importorskip("av", reason="needs the extra: pip install hooked-whisper[av]")
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(96000) / 48000).astype(np.float32)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=48000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
        frame.sample_rate = 48000
        chunks = av.AudioResampler(stream.format, "stereo", 48000, frame_size=960 if codec == "libopus" else 1024)
        for chunk in [*chunks.resample(frame), *chunks.resample(None)]:
            out.mux(stream.encode(chunk))
        out.mux(stream.encode(None))
    loaded = load_audio(buffer.getvalue())
    assert abs(len(loaded) - 32000) < 1600
    spectrum = np.abs(np.fft.rfft(loaded[4000:20000].numpy()))
    assert spectrum.argmax() == 440 and abs(loaded[4000:20000].abs().max() - 0.3) < 0.02
    if codec == "aac":  # the index at the end of the file is missing
        with pytest.raises(AudioError, match="truncated"):
            load_audio(buffer.getvalue()[:8000])


# --- arrays that cannot be audio ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros(0, np.float32), "empty"),
        (np.zeros((0, 2), np.float32), "empty"),
        (np.full(1000, np.nan), "NaN"),
        (np.array([0.0] * 999 + [np.inf]), "infinite"),
        (np.zeros(399, np.float32), "too short"),
        ((np.zeros(700, np.float32), 44100), "too short"),
        (np.zeros((4, 1000), np.float32), "a batch is a list"),
        (np.zeros((2, 2, 1000), np.float32), "a batch is a list"),
        (torch.tensor(1.0), "a batch is a list"),
        (np.arange(1000), "full scale is unknown"),
        (np.ones(1000, bool), "full scale is unknown"),
        (torch.ones(1000, dtype=torch.complex64), "full scale is unknown"),
        (np.array(["a"] * 1000), "full scale is unknown"),
        ((16000, WAVE), "in this order"),
        ((WAVE, WAVE), "in this order"),
        ((WAVE, 16), "implausible"),
        ((WAVE, -16000), "implausible"),
        ((WAVE, float("nan")), "implausible"),
        ({"array": WAVE}, "sampling_rate"),
        ({"bytes": None, "path": None}, "'path'"),
    ],
)
def test_invalid_arrays_are_refused(source, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        load_audio(source)


def test_other_objects(unchecked: None) -> None:
    for source in (None, 3.5, [0.1, 0.2]):
        with pytest.raises(AudioError, match="cannot load audio from"):
            load_audio(source)  # type: ignore[arg-type]


def test_contradictory_sample_rates_are_refused() -> None:
    for source in (encoded(WAVE), (WAVE, 16000), {"array": WAVE, "sampling_rate": 16000}):
        assert len(load_audio(source, sample_rate=16000)) == 16000
        with pytest.raises(AudioError, match="at 16000 Hz"):
            load_audio(source, sample_rate=8000)


# --- windows ------------------------------------------------------------------------------------------------------


@given(st.integers(400, 5000), st.sampled_from([0.025, 0.1, 0.3]))
def test_joined_windows_equal_the_audio(n: int, seconds: float) -> None:
    wave = babble(n)
    windows = to_windows(wave, seconds)
    assert windows.shape == (-(-n // round(16000 * seconds)), round(16000 * seconds))
    assert torch.equal(windows.flatten()[:n], wave)
    assert not windows.flatten()[n:].any()


def test_one_hour_of_audio(tmp_path: Path) -> None:
    hour = np.zeros(3600 * 16000, np.int16)
    hour[-1] = 1
    windows = to_windows(hour)
    assert windows.shape == (120, 480000)
    assert windows[-1, -1] == 2**-15 and not windows[:-1].any()


def test_windows_from_a_file_and_with_a_gradient(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", babble(8000).numpy(), 8000)
    assert to_windows(tmp_path / "x.wav", 0.5).shape == (2, 8000)
    wave = babble(1000).requires_grad_()
    to_windows(wave, 0.05).sum().backward()
    assert wave.grad is not None and torch.equal(wave.grad, torch.ones(1000))


@pytest.mark.parametrize("seconds", [0, -1, 0.001, float("nan")])
def test_too_short_window_is_refused(seconds: float) -> None:
    with pytest.raises(AudioError, match="too short"):
        to_windows(babble(1000), seconds)


class Decoder:
    """As ``datasets`` 4 gives audio: an object with items."""

    def __init__(self, samples: np.ndarray, rate: int) -> None:
        self._items = {"array": samples, "sampling_rate": rate}

    def __getitem__(self, key: str) -> object:
        return self._items[key]


@pytest.mark.usefixtures("unchecked")
def test_a_decoder_of_datasets_is_its_array() -> None:
    samples = np.random.default_rng(0).standard_normal(8000).astype(np.float32) / 10
    for rate in (16000, 8000):
        wanted = load_audio({"array": samples, "sampling_rate": rate})
        assert torch.equal(load_audio(Decoder(samples, rate)), wanted)
    with pytest.raises(AudioError, match="8000 Hz"):
        load_audio(Decoder(samples, 8000), sample_rate=16000)


def test_paths_and_file_objects_that_cannot_be_read(tmp_path: Path) -> None:
    closed = (tmp_path / "a.wav").open("wb")
    closed.close()
    with (tmp_path / "a.wav").open("wb") as writing:
        for source, named in ((closed, "a.wav"), (writing, "a.wav"), (tmp_path / "a\0b.wav", "null character")):
            with pytest.raises(AudioError, match=named):
                load_audio(source)
