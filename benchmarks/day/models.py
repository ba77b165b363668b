"""The same weights as our model and as openai-whisper's."""

from __future__ import annotations

import torch
import whisper

from benchmarks.bench.models import _openai_name as openai_name
from hooked_whisper.hooked import HookedWhisper


def ours(name: str) -> HookedWhisper:
    return HookedWhisper.from_pretrained(name)


def openai(name: str) -> whisper.Whisper:
    """What ``whisper.load_model(name)`` returns, with our weights, so that nothing is downloaded."""
    model = ours(name)
    theirs = whisper.Whisper(model.dims).eval()
    state = {openai_name(key): tensor for key, tensor in model.state_dict().items()}
    theirs.load_state_dict(state, strict=False)
    theirs.requires_grad_(False)
    heads = whisper._ALIGNMENT_HEADS.get(name)
    if heads is not None:
        theirs.set_alignment_heads(heads)
    return theirs


@torch.no_grad()
def warm_up(model: HookedWhisper | whisper.Whisper) -> None:
    """Encode a window of silence, which imports what is imported late and compiles kernels."""
    if isinstance(model, HookedWhisper):
        model.embed_audio(model.to_mel(torch.zeros(16000)))
    else:
        model.embed_audio(whisper.log_mel_spectrogram(torch.zeros(480000), model.dims.n_mels)[None])
