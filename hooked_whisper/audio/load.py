"""Load audio from any source as mono float32 at 16 kHz, and convert it to the model's mel input.

ffmpeg is not required: libsndfile reads wav, flac, ogg, opus, mp3 and aiff. The optional packages PyAV and G722 read
other formats (m4a, webm; telephone prompts in g722).
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from upath import UPath

from hooked_whisper._support.audio_notices import ARRAY, AudioNotice, notify
from hooked_whisper._support.storage import AnyPath, as_path, is_local
from hooked_whisper.audio.files import read_audio
from hooked_whisper.audio.g722 import ENDING, decode_g722
from hooked_whisper.audio.mel import HOP, MIN_SAMPLES, SAMPLE_RATE, Number, log_mel_spectrogram
from hooked_whisper.audio.pieces import Seekable
from hooked_whisper.errors import AudioError


@runtime_checkable
class Readable(Protocol):
    """A file object in binary mode."""

    def read(self, size: int = -1, /) -> Any: ...


AudioSource = (
    str
    | os.PathLike[str]
    | UPath
    | bytes
    | bytearray
    | Readable
    | np.ndarray
    | Tensor
    | tuple[Any, Any]
    | Mapping[str, Any]
)
"""The source of one clip, see :func:`load_audio`. A list of sources is a batch."""

_INTEGER_SCALES = {"uint8": (128, 128), "int8": (0, 128), "int16": (0, 2**15), "int32": (0, 2**31)}  # offset, divisor
_LOUD = 1.5  # peak of float samples that is worth a notice
_MOST_OVERLOAD = 16.0  # 24 dB over full scale; larger peaks are unscaled integers


def load_audio(source: AudioSource, sample_rate: Number | None = None) -> Float[Tensor, "sample"]:
    """Load one clip as mono float32 samples in [-1, 1] at 16 kHz.

    Args:
        source: one of

            - a path or URL (``s3://...``), the bytes of an audio file, or a file object opened in binary mode. All
              samples are read, even if the header counts fewer, including all parts of joined files (mp3, ogg, opus,
              flac, wav);
            - an array or tensor of samples. Floats are not scaled (with a warning above 1.5); ``int16``, ``int32``,
              ``int8`` and ``uint8`` are scaled to [-1, 1]. With two axes, the shorter axis is the channels, 1 or 2:
              soundfile returns ``[sample, channel]``, torchaudio ``[channel, sample]``. ``[2, sample]`` without a
              rate gives a warning, because it could also be a batch of two clips;
            - ``(array, rate)``, ``{"array": ..., "sampling_rate": ...}`` as in Hugging Face datasets (a mapping, or an
              object with these items: ``AudioDecoder``), or their undecoded ``{"bytes": ..., "path": ...}``.
        sample_rate: rate of a bare array in Hz, default 16000. If the source has a rate, both must be equal.

    Channels are averaged; other rates are resampled with soxr (HQ). A tensor stays on its device. A tensor that
    requires grad passes through with its gradient and its dtype, and must be at 16 kHz.

    Raises:
        AudioError: the file does not exist, is not audio, or is truncated (the message says how much is missing), or
            the samples are empty, shorter than 25 ms, NaN or infinite.
        MissingExtraError: the format needs ``pip install hooked-whisper[av]``.
    """
    samples, rate, name = _decode(source, sample_rate)
    if samples.numel() == 0:
        raise AudioError(f"{name} is empty: it has no samples")
    if not torch.stack(samples.detach().aminmax()).isfinite().all():  # aminmax propagates NaN
        raise AudioError(f"{name} has NaN or infinite samples: repair it, for example with numpy.nan_to_num")
    samples = _resample(samples, rate, name)
    if len(samples) < MIN_SAMPLES:
        raise AudioError(
            f"{name} has {len(samples)} samples at 16 kHz, too short for one analysis window of {MIN_SAMPLES} (25 ms): "
            "pad it with zeros"
        )
    return samples


def to_windows(
    source: AudioSource, seconds: Number = 30.0, sample_rate: Number | None = None
) -> Float[Tensor, "window sample"]:
    """Cut a clip of any length into consecutive windows of ``seconds``; the last is padded with zeros.

    ``model.to_mel(list(to_windows(audio)))`` converts a whole recording to one batch. Gradients are kept.

    Raises:
        AudioError: ``seconds`` is shorter than 25 ms, or :func:`load_audio` raises.
    """
    size = round(seconds * SAMPLE_RATE) if seconds > 0 else 0
    if size < MIN_SAMPLES:
        raise AudioError(f"windows of {seconds} s are too short: take at least {MIN_SAMPLES / SAMPLE_RATE} s")
    samples = load_audio(source, sample_rate)
    return F.pad(samples, (0, -len(samples) % size)).reshape(-1, size)


def prepare_mel(
    source: AudioSource | list[AudioSource],
    *,
    n_mels: int,
    n_frames: int,
    reference_max: Number | Float[Tensor, ""] | None = None,
    sample_rate: Number | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "batch mel frame"]:
    """Convert one clip or a list of clips to the model's input, as ``HookedWhisper.to_mel`` does.

    Each clip is padded with zeros to ``160 n_frames`` samples, as by ``whisper.pad_or_trim``, but never trimmed. The
    maximum of the log-mel is taken per clip.

    Args:
        source: any source that :func:`load_audio` accepts, or a float mel ``[mel, frame]`` or ``[batch, mel, frame]``
            of exactly this size, which is returned; or a list of these. A bare array ``[k, sample]`` with ``k > 1`` is
            an error: it could be a batch (``list(x)``) or channels (``x.mean(0)``).
        n_mels: mel bins, 80 or 128 for audio.
        n_frames: frames per window, twice ``n_audio_ctx``.
        reference_max: log10 maximum for all clips, see :func:`~hooked_whisper.audio.mel.log_mel_spectrogram`.
        sample_rate: rate of bare arrays, see :func:`load_audio`.
        dtype: type of the result. The log-mel is computed in float32, or in float64 for ``torch.float64``.

    Raises:
        AudioError: a clip is longer than the window, a mel has another size, the list is empty, or :func:`load_audio`
            raises.
    """
    if isinstance(source, list):
        if not source:
            raise AudioError("the list of clips is empty: give at least one")
        rows = []
        for i, item in enumerate(source):
            try:
                rows.append(_clip_mel(item, n_mels, n_frames, reference_max, sample_rate, dtype, device))
            except AudioError as error:
                raise AudioError(f"clip {i} of the list: {error}") from error
        return torch.cat(rows)
    return _clip_mel(source, n_mels, n_frames, reference_max, sample_rate, dtype, device)


def _clip_mel(
    source: Any,
    n_mels: int,
    n_frames: int,
    reference_max: Number | Tensor | None,
    sample_rate: Number | None,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Float[Tensor, "batch mel frame"]:
    if isinstance(source, list):
        raise AudioError("a list inside a list is not a clip: make arrays of samples with numpy.asarray")
    if isinstance(source, np.ndarray | Tensor):
        if _is_mel(source, n_mels, n_frames):
            if reference_max is not None:
                raise AudioError("reference_max applies to audio, but this is a mel: give it when the mel is made")
            mel = torch.as_tensor(source).to(device=device, dtype=dtype)
            return mel if mel.ndim == 3 else mel[None]
        _refuse_ambiguous(source, n_mels, n_frames)
    samples = load_audio(source, sample_rate).to(device)
    if dtype == torch.float64:
        samples = samples.double()
    size = n_frames * HOP
    if len(samples) > size:
        raise AudioError(
            f"the clip lasts {len(samples) / SAMPLE_RATE:.2f} s, the model's window {size / SAMPLE_RATE:g} s: "
            "use transcribe for long audio, or cut it up with to_windows"
        )
    samples = F.pad(samples, (0, size - len(samples)))
    return log_mel_spectrogram(samples, n_mels, reference_max)[None].to(dtype)


def _is_mel(array: np.ndarray | Tensor, n_mels: int, n_frames: int) -> bool:
    return array.ndim in (2, 3) and tuple(array.shape[-2:]) == (n_mels, n_frames) and "float" in str(array.dtype)


def _refuse_ambiguous(array: np.ndarray | Tensor, n_mels: int, n_frames: int) -> None:
    if array.ndim > 2 or (array.ndim == 2 and 1 < array.shape[0] < array.shape[1]):
        raise AudioError(
            f"an array of shape {tuple(array.shape)} is not a mel of this model [batch, {n_mels}, {n_frames}], and as "
            "audio it is ambiguous: give list(x) for a batch of clips, or x.mean(0) for one clip with channels"
        )


# From a source to samples -------------------------------------------------------------------------------------------


def _decode(source: Any, sample_rate: Number | None) -> tuple[Tensor, Number, str]:
    """Return mono float samples, their rate, and the source's name for error messages."""
    if isinstance(source, np.ndarray | Tensor):
        rate = SAMPLE_RATE if sample_rate is None else sample_rate
        _warn_if_two_rows(source)
        return _mono_float(source, ARRAY), rate, ARRAY
    if isinstance(source, tuple):
        if len(source) != 2 or not isinstance(source[1], Real):
            raise AudioError("a tuple must be (array, rate in Hz), in this order; a batch of clips is a list")
        return _decode_array(source[0], source[1], sample_rate)
    if isinstance(source, Mapping):
        if source.get("array") is not None and "sampling_rate" in source:
            return _decode_array(source["array"], source["sampling_rate"], sample_rate)
        inner = source.get("bytes") or source.get("path")
        if inner is None:
            raise AudioError(
                f"an audio mapping needs 'array' and 'sampling_rate', 'bytes' or 'path'; got {list(source)}"
            )
        return _decode(inner, sample_rate)
    if (decoded := _of_decoder(source)) is not None:
        return _decode_array(*decoded, sample_rate)
    samples, rate, name = _decode_file(source)
    _check_rate(rate, sample_rate, name)
    return torch.from_numpy(samples), rate, name


def _of_decoder(source: Any) -> tuple[Any, Any] | None:
    """Return array and rate of an object with these items (``AudioDecoder`` of ``datasets``), else ``None``."""
    if isinstance(source, str | bytes | bytearray | os.PathLike) or not hasattr(type(source), "__getitem__"):
        return None
    try:
        return source["array"], source["sampling_rate"]
    except (KeyError, TypeError, IndexError, AttributeError):
        return None


def _decode_array(array: Any, rate: Any, sample_rate: Number | None) -> tuple[Tensor, Number, str]:
    _check_rate(rate, sample_rate, ARRAY)
    return _mono_float(array if isinstance(array, Tensor) else np.asarray(array), ARRAY), rate, ARRAY


def _fetched(path: UPath, name: str) -> bytes:
    """Fetch a complete remote file, because decoders seek in it."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise AudioError(f"{name} does not exist: check the URL") from None
    except IsADirectoryError:
        raise AudioError(f"{name} is a folder: give one audio file, or a list of them") from None
    except Exception as error:  # object store clients also raise other types
        raise AudioError(f"{name} cannot be fetched: {str(error) or type(error).__name__}") from error


def _decode_file(source: Any) -> tuple[np.ndarray, Number, str]:
    if isinstance(source, str | os.PathLike | UPath):
        path = as_path(source)
        name = f"file {str(path)!r}"
        if "\0" in str(path):
            raise AudioError(f"{name} has a null character in its name: check the path")
        if not is_local(path):
            return _read(io.BytesIO(_fetched(path, name)), path, name)
        try:
            with path.open("rb") as stream:
                return _read(stream, path, name)
        except FileNotFoundError:
            raise AudioError(f"{name} does not exist: check the path and the working folder") from None
        except IsADirectoryError:
            raise AudioError(f"{name} is a folder: give one audio file, or a list of them") from None
        except OSError as error:
            raise AudioError(f"{name} cannot be opened: {error.strerror or error}") from error
    if isinstance(source, bytes | bytearray):
        return _read(io.BytesIO(source), None, "byte string")
    if hasattr(source, "read"):
        name = f"file object {getattr(source, 'name', type(source).__name__)!r}"
        try:
            content = source.read()
        except (OSError, ValueError) as error:  # closed, or opened for writing
            raise AudioError(f"{name} cannot be read ({error}): open it in binary mode ('rb')") from error
        if not isinstance(content, bytes):
            raise AudioError(f"{name} returns text: open it in binary mode ('rb')")
        if not content:
            raise AudioError(f"{name} is empty, or was already read to its end: rewind it with seek(0)")
        return _read(io.BytesIO(content), None, name)
    raise AudioError(
        f"cannot load audio from {type(source).__name__}: give a path, bytes, a binary file object, an array or "
        "tensor, (array, rate) or {'array': ..., 'sampling_rate': ...}"
    )


def _read(stream: Seekable, path: AnyPath | None, name: str) -> tuple[np.ndarray, Number, str]:
    if path is not None and path.suffix.lower() == ENDING:
        integers, rate = decode_g722(stream.read(), name)
        return integers.astype(np.float32) / 2**15, rate, name
    decoded = read_audio(stream, name)
    if decoded.unscaled:
        _warn_if_loud(torch.from_numpy(decoded.samples), name)
    return decoded.samples, decoded.rate, name


def _warn_if_loud(samples: Tensor, name: str) -> None:
    if not samples.numel() or not _LOUD < (peak := samples.detach().abs().max().item()) < float("inf"):
        return
    if peak <= _MOST_OVERLOAD:
        problem = "float samples exceed full scale, 1 (a loud recording or mix)"
        advice = "a copy in 16 bits would clip; divide the samples by their peak if the level matters"
    else:
        problem = "float samples look like unscaled integers (full scale is 1)"
        advice = "divide them by 32768, or give them as int16"
    notify(AudioNotice(name, problem, f"peak {peak:.5g}", advice))


def _warn_if_two_rows(array: np.ndarray | Tensor) -> None:
    """Notify of a bare array ``[2, sample]``: with a rate it is one stereo clip, without one perhaps two clips."""
    if array.ndim == 2 and 2 == array.shape[0] < array.shape[1]:
        notify(
            AudioNotice(
                ARRAY,
                "two rows of samples are averaged as the channels of one clip",
                f"shape {tuple(array.shape)}",
                "give list(x) for two clips, or x.mean(0) for one stereo clip",
            )
        )


def _check_rate(rate: Number, requested: Number | None, name: str) -> None:
    if requested is not None and requested != rate:
        raise AudioError(
            f"{name} is at {rate} Hz, but sample_rate={requested}: omit sample_rate, which is for bare arrays"
        )


def _mono_float(array: np.ndarray | Tensor, name: str) -> Tensor:
    kind = array.dtype.name if isinstance(array, np.ndarray) else str(array.dtype).removeprefix("torch.")
    is_float = "float" in kind
    if not is_float and kind not in _INTEGER_SCALES:
        raise AudioError(
            f"{name} has dtype {array.dtype}, whose full scale is unknown: convert to int16, or to float in [-1, 1]"
        )
    if isinstance(array, np.ndarray):
        tensor = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))  # a copy: native bytes, writable
    else:
        tensor = array if _carries_gradient(array) else array.detach().to(torch.float32)
    tensor = _mono(tensor, name)
    if not is_float:
        offset, divisor = _INTEGER_SCALES[kind]
        return (tensor - offset) / divisor
    _warn_if_loud(tensor, name)
    return tensor


def _mono(tensor: Tensor, name: str) -> Tensor:
    if tensor.ndim == 1:
        return tensor
    if tensor.numel() == 0:
        return tensor.reshape(-1)
    if tensor.ndim != 2 or min(tensor.shape) > 2:
        raise AudioError(
            f"{name} of shape {tuple(tensor.shape)} is not one clip: that is [sample], or two axes of which "
            "the shorter is at most 2 channels; a batch is a list of clips"
        )
    return tensor.mean(0 if tensor.shape[0] < tensor.shape[1] else 1)


def _carries_gradient(tensor: Tensor) -> bool:
    return tensor.requires_grad and torch.is_grad_enabled()


def _resample(samples: Tensor, rate: Any, name: str) -> Float[Tensor, "sample"]:
    if not isinstance(rate, Real) or not 1000 <= float(rate) <= 1_000_000:
        raise AudioError(f"{name}: a sample rate of {rate!r} is implausible, it is in Hz, such as 16000 or 44100")
    if rate == SAMPLE_RATE:
        return samples
    if _carries_gradient(samples):
        raise AudioError(
            f"{name} requires grad and is at {rate} Hz: resampling here would cut the gradient; bring it to 16000 Hz "
            "with a differentiable resampler first, or detach it"
        )
    resampled = soxr.resample(samples.cpu().numpy(), rate, SAMPLE_RATE, quality="HQ")
    return torch.from_numpy(resampled).to(samples.device)
