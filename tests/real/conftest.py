"""The real checkpoints of the extras ``weights`` and ``weights-base``, the same weights in the reference models, and
the speech that all of them hear."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
import whisper
from torch import Tensor
from transformers import WhisperForConditionalGeneration
from whisper.model import Whisper

from hooked_whisper import HookedWhisper
from hooked_whisper.audio import load_audio
from hooked_whisper.corpora.packaged import FOLDER, LIST, packaged_speech
from hooked_whisper.loading import openai_name
from hooked_whisper.loading.data_packages import PACKAGED
from tests.core.twins import to_hf

N_CLIPS = 2


@dataclass(frozen=True)
class RealTwins:
    """One released model, ours as ``from_pretrained`` gives it, and the reference implementations with its tensors."""

    name: str
    ours: HookedWhisper
    openai: Whisper

    @cached_property
    def hf(self) -> WhisperForConditionalGeneration:
        return to_hf(self.openai)

    def in_float64(self) -> tuple[HookedWhisper, WhisperForConditionalGeneration]:
        return copy.deepcopy(self.ours).double(), to_hf(self.openai).double()


@dataclass(frozen=True)
class Clip:
    """16 kHz samples, and what is said."""

    samples: np.ndarray
    text: str
    language: str = "en"


@pytest.fixture(scope="session", params=list(PACKAGED))
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RealTwins:
    return load_twins(request.param, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> RealTwins:
    return load_twins("base", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def english_only(tmp_path_factory: pytest.TempPathFactory) -> RealTwins:
    return load_twins("tiny.en", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def clips() -> list[Clip]:
    """English: neural speech where this installation has it, else clips of the demo world."""
    if (FOLDER / LIST).is_file():
        voices: dict[str, Clip] = {}
        for recording in packaged_speech("prose", language="en"):
            if recording.speaker not in voices and len(voices) < N_CLIPS:
                voices[recording.speaker] = Clip(recording.audio().numpy(), recording.text)
        return list(voices.values())
    folder = Path(str(resources.files("hooked_whisper") / "demo" / "clips"))
    rows = json.loads((folder / "clips.json").read_text(encoding="utf-8"))
    return [Clip(load_audio(folder / row["file"]).numpy(), row["alignment"]["text"]) for row in rows[: 5 * N_CLIPS : 5]]


@pytest.fixture(scope="session")
def foreign(clips: list[Clip]) -> list[Clip]:
    """One clip each of Spanish and French; English ones where there is no packaged speech."""
    if not (FOLDER / LIST).is_file():
        return clips
    recordings = [packaged_speech(language=language)[0] for language in ("es", "fr")]
    return [Clip(recording.audio().numpy(), recording.text, recording.language) for recording in recordings]


_LOADED: dict[str, RealTwins] = {}


def load_twins(name: str, empty_cache: Path) -> RealTwins:
    """A released model from its installed data package, once a session; skips without the package."""
    packaged = PACKAGED[name]
    if absence := packaged.absence():
        pytest.skip(f"{absence}: {packaged.install_command}")
    if name not in _LOADED:
        ours = HookedWhisper.from_pretrained(name, device="cpu", cache_dir=empty_cache, local_files_only=True)
        theirs = Whisper(ours.dims).eval()
        theirs.load_state_dict({openai_name(key): tensor for key, tensor in ours.state_dict().items()})
        theirs.set_alignment_heads(whisper._ALIGNMENT_HEADS[name])
        _LOADED[name] = RealTwins(name, ours, theirs)
    return _LOADED[name]


def mels(clips: list[Clip]) -> Tensor:
    """``[clip, mel, frame]`` by openai-whisper."""
    return torch.stack([whisper.log_mel_spectrogram(whisper.pad_or_trim(clip.samples)) for clip in clips])
