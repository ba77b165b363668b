"""Baseline inputs without speech. "Padding" is ambiguous, so each has a name.

Zero audio has a log-mel of -1.5 everywhere. The padding after a real clip is at that clip's floor,
``(max - 8 + 4) / 4``, which depends on its loudest bin. A log-mel of zeros is neither.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.audio import log_mel_spectrogram
from hooked_whisper.errors import HookedWhisperError, PatchError, check_option
from hooked_whisper.hooked import HookedWhisper

BASELINE_INPUTS = {
    "zero audio": "30 s of zero samples: a log-mel of -1.5",
    "mel floor": "the floor after a clip whose loudest mel bin has power 10: a log-mel of -0.75",
    "mel zero": "a log-mel of 0, which some code pads with; no audio has it",
    "white noise": "30 s of white noise at -40 dB full scale (seeded)",
    "mean encoding": "the mean encoder output of real clips, position by position",
}
_NOISE_RMS = 0.01
_FLOOR = (1.0 - 8.0 + 4.0) / 4.0


def baseline_mel(model: HookedWhisper, kind: str, seed: int = 0) -> Float[Tensor, "1 mel frame"]:
    """Return the log-mel of a baseline input: any of :data:`BASELINE_INPUTS` except ``"mean encoding"``.

    Raises:
        PatchError: ``kind`` is unknown.
    """
    check_option("kind", kind, [name for name in BASELINE_INPUTS if name != "mean encoding"], PatchError)
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
def baseline_encoding(
    model: HookedWhisper,
    kind: str = "zero audio",
    clips: Float[Tensor, "clip position d_model"] | None = None,
    seed: int = 0,
) -> Float[Tensor, "1 position d_model"]:
    """Return the encoder output of a baseline input; ``"mean encoding"`` needs the encoder output of ``clips``.

    Raises:
        PatchError: ``kind`` is unknown.
        HookedWhisperError: ``"mean encoding"`` without ``clips``.
    """
    check_option("kind", kind, BASELINE_INPUTS, PatchError)
    if kind == "mean encoding":
        if clips is None or not len(clips):
            raise HookedWhisperError("the mean encoding needs the encoder output of clips: give clips=")
        return mean_encoding(clips)
    return model.embed_audio(baseline_mel(model, kind, seed))


def mean_encoding(
    encoder_out: Float[Tensor, "clip position d_model"],
) -> Float[Tensor, "1 position d_model"]:
    """Return the mean over clips, position by position: a typical input without content."""
    return torch.mean(encoder_out, dim=0, keepdim=True)
