"""Checks of mels, tokens and encoder outputs given to public functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hooked_whisper.config import DecoderConfig, EncoderConfig
from hooked_whisper.errors import ArgumentError
from hooked_whisper.model.kernels import transformed


def described(value: Any) -> str:
    """Describe an invalid argument by type, dtype and shape, for error messages."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} of {value.dtype}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"a {type(value).__name__} {tuple(value.shape)} of {value.dtype}"
    text = f"{value!r}"
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def check_mel(mel: Any, cfg: EncoderConfig, positions: slice | None = None) -> None:
    """Check a mel for the encoder; with ``positions`` it may be shorter than the window.

    Raises:
        ArgumentError: ``mel`` is not a floating-point tensor ``[batch, mel, frame]`` of the model's size, or has NaN or
            infinite entries.
    """
    frames = f"{cfg.n_frames} frames" if positions is None else "any even number of frames"
    if not isinstance(mel, Tensor):
        fix = "torch.from_numpy(...)" if hasattr(mel, "__array__") else "model.to_mel(audio or path)"
        raise ArgumentError(
            f"the encoder needs a mel [batch, {cfg.n_mels}, frame] as a tensor, {frames}, got {described(mel)}: {fix} "
            "makes one"
        )
    if mel.dim() == 3 and mel.shape[2] % 2:
        raise ArgumentError(f"the encoder needs a mel with an even number of frames, got {described(mel)}")
    if mel.dim() != 3 or mel.shape[1] != cfg.n_mels or not mel.is_floating_point():
        raise ArgumentError(
            f"the encoder needs a mel [batch, {cfg.n_mels}, frame], floating point, {frames}, got {described(mel)}: "
            "model.to_mel(...) makes one"
        )
    if not len(mel):
        raise ArgumentError(
            f"the encoder needs a mel [batch, {cfg.n_mels}, frame] of at least one clip, got {described(mel)}"
        )
    if mel.device.type == "meta" or transformed():  # values are not known, or reading them would break a graph
        return
    low, high = mel.detach().aminmax()
    if not bool(low.isfinite() & high.isfinite()):  # NaN is passed on by both
        row = next(k for k, clip in enumerate(mel) if not bool(clip.isfinite().all()))
        raise ArgumentError(
            f"the mel of row {row} has NaN or infinite entries: they would make every output NaN. Look for them in the "
            "audio, or in what edited the mel"
        )


def check_tokens(tokens: Any, cfg: DecoderConfig, values: bool = True) -> None:
    """Check ids for the decoder; ``values=False`` assumes that they are in range.

    Raises:
        ArgumentError: ``tokens`` is not an integer tensor ``[batch, token]`` with at least one row and token, or ids
            are out of range.
    """
    if not isinstance(tokens, Tensor):
        raise ArgumentError(
            f"tokens must be integers [batch, token] as a tensor, got {described(tokens)}: use "
            "model.to_tokens(text), or torch.tensor([[...]]) of ids"
        )
    if tokens.dim() != 2 or tokens.dtype not in (torch.int64, torch.int32):
        raise ArgumentError(f"tokens must be integers [batch, token], got {described(tokens)}")
    if not tokens.numel():
        raise ArgumentError(f"tokens must have at least one row and one token [batch, token], got {described(tokens)}")
    if not values or transformed():  # reading the values would break a graph and synchronize a GPU
        return
    least, most = (int(edge) for edge in tokens.aminmax())
    if least < 0 or most >= cfg.n_vocab:
        wrong = least if least < 0 else most
        raise ArgumentError(
            f"token id {wrong} is outside the vocabulary of {cfg.n_vocab}: ids are 0 to {cfg.n_vocab - 1}"
        )


def check_encoder_out(encoder_out: Any, d_model: int) -> None:
    """Check an encoder output for the decoder.

    Raises:
        ArgumentError: it is not a floating-point tensor ``[clip, position, d_model]``.
    """
    good = isinstance(encoder_out, Tensor) and encoder_out.dim() == 3 and encoder_out.shape[-1] == d_model
    if not good or not encoder_out.is_floating_point() or not encoder_out.numel():
        raise ArgumentError(
            f"encoder output must be [batch, position, {d_model}], a floating-point tensor, got "
            f"{described(encoder_out)}: model.embed_audio(mel) makes one"
        )
