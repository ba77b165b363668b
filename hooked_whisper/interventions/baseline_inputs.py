"""Inputs with nothing in them. "Padding" is ambiguous, so each has a name, and a finding says which it used.

Zero audio gives a log-mel of -1.5 everywhere; the padding behind a real clip is at the floor of that clip,
``(max - 8 + 4) / 4``, which depends on its loudest bin; a log-mel of zeros is neither.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.audio import log_mel_spectrogram
from hooked_whisper.errors import HookedWhisperError, PatchError, check_option
from hooked_whisper.hooked import HookedWhisper

NULL_INPUTS = {
    "zero audio": "30 s of zero samples: a log-mel of -1.5",
    "mel floor": "the floor behind a clip whose loudest mel bin has power 10: a log-mel of -0.75",
    "mel zero": "a log-mel of 0, as some code pads with: no audio has it",
    "white noise": "30 s of white noise at -40 dB full scale (seeded)",
    "mean encoding": "the mean encoder output of real clips, position by position",
}
_NOISE_RMS = 0.01
_FLOOR = (1.0 - 8.0 + 4.0) / 4.0


def null_mel(model: HookedWhisper, kind: str, seed: int = 0) -> Float[Tensor, "1 mel frame"]:
    """Log-mel of one null input (all of :data:`NULL_INPUTS` but ``"mean encoding"``)."""
    check_option("kind", kind, [name for name in NULL_INPUTS if name != "mean encoding"], PatchError)
    cfg = model.cfg.encoder
    if kind in ("zero audio", "white noise"):
        audio = torch.zeros(1, cfg.n_frames * 160)
        if kind == "white noise":
            audio = _NOISE_RMS * torch.randn(audio.shape, generator=torch.Generator().manual_seed(seed))
        mel = log_mel_spectrogram(audio, cfg.n_mels)
    else:
        mel = torch.full((1, cfg.n_mels, cfg.n_frames), _FLOOR if kind == "mel floor" else 0.0)
    return mel.to(model.device, model.dtype)


@torch.no_grad()
def null_encoding(
    model: HookedWhisper,
    kind: str = "zero audio",
    clips: Float[Tensor, "clip position d_model"] | None = None,
    seed: int = 0,
) -> Float[Tensor, "1 position d_model"]:
    """Encoder output of a null input; ``"mean encoding"`` needs the encoder output of ``clips``."""
    check_option("kind", kind, NULL_INPUTS, PatchError)
    if kind == "mean encoding":
        if clips is None or not len(clips):
            raise HookedWhisperError("the mean encoding needs the encoder output of some clips")
        return mean_encoding(clips)
    return model.embed_audio(null_mel(model, kind, seed))


def mean_encoding(
    encoder_out: Float[Tensor, "clip position d_model"],
) -> Float[Tensor, "1 position d_model"]:
    """The mean over clips, position by position: an input that is typical and says nothing."""
    return torch.mean(encoder_out, dim=0, keepdim=True)
