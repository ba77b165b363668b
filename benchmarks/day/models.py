"""The same weights as our model and as openai-whisper's. Each side imports only its own library."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.bench.openai_names import openai_name
from hooked_whisper.hooked import HookedWhisper


def ours(name: str) -> HookedWhisper:
    """Our model, after a window of silence, which imports what is imported late and compiles kernels."""
    model = HookedWhisper.from_pretrained(name)
    with torch.no_grad():
        model.embed_audio(model.to_mel(torch.zeros(16000)))
    return model


def openai(name: str) -> Any:
    """What ``whisper.load_model(name)`` returns, with our weights, so that nothing is downloaded; it ran once, too."""
    import whisper

    model = HookedWhisper.from_pretrained(name)
    theirs = whisper.Whisper(model.dims).eval()
    state = {openai_name(key): tensor for key, tensor in model.state_dict().items()}
    theirs.load_state_dict(state, strict=False)
    theirs.requires_grad_(False)
    if name in whisper._ALIGNMENT_HEADS:
        theirs.set_alignment_heads(whisper._ALIGNMENT_HEADS[name])
    with torch.no_grad():
        theirs.embed_audio(whisper.log_mel_spectrogram(torch.zeros(480000), model.dims.n_mels)[None])
    return theirs
