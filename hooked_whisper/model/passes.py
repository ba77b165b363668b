"""One forward pass: its inputs, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from torch import Tensor

from hooked_whisper.errors import ArgumentError, check_option
from hooked_whisper.model.inputs import check_encoder_out, check_mel, check_tokens
from hooked_whisper.model.loss import Output, ReturnType

if TYPE_CHECKING:
    from hooked_whisper.model.whisper import WhisperCore


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """Inputs of one pass: ``mel`` or ``encoder_out``, and ``tokens`` unless only the encoder runs.

    mel_positions: positions of a mel that is shorter than the window.
    """

    mel: Tensor | None
    tokens: Tensor | None
    encoder_out: Tensor | None
    mel_positions: slice | None = None

    def check_pairing(self, caller: str) -> None:
        """
        Raises:
            ArgumentError: an input is missing, or one too many is given.
        """
        if (self.mel is None) == (self.encoder_out is None):
            raise ArgumentError(f"{caller} needs either mel or encoder_out")
        if self.tokens is None and self.encoder_out is not None:
            raise ArgumentError("encoder_out is for the decoder: give tokens too")

    def check(self, model: WhisperCore, caller: str) -> None:
        """Check all inputs, which the model would also do, but only when it comes to them.

        Raises:
            ArgumentError: the inputs do not fit the model or each other.
        """
        self.check_pairing(caller)
        if self.mel is not None:
            check_mel(self.mel, model.cfg.encoder, self.mel_positions)
        if self.tokens is not None:
            check_tokens(self.tokens, model.cfg.decoder)
        if self.encoder_out is not None:
            check_encoder_out(self.encoder_out, model.cfg.decoder.d_model)

    def lengths(self) -> dict[str, int]:
        """Return the axis lengths of the pass, to estimate the size of a cache."""
        if self.mel is not None:
            n_clips, n_positions = self.mel.shape[0], self.mel.shape[2] // 2
        else:
            assert self.encoder_out is not None
            n_clips, n_positions = self.encoder_out.shape[:2]
        return {
            "clip": n_clips,
            "batch": n_clips if self.tokens is None else self.tokens.shape[0],
            "frame": 2 * n_positions,
            "position": n_positions,
            "token": 0 if self.tokens is None else self.tokens.shape[-1],
        }

    def run(
        self, model: WhisperCore, return_type: ReturnType | None = "logits", loss_per_token: bool = False
    ) -> Tensor | Output | None:
        """Run the model; see :meth:`WhisperCore.forward` for the arguments.

        Raises:
            ArgumentError: an input is missing or one too many is given, ``return_type`` is unknown, or it asks for a
                loss without tokens.
        """
        check_return_type(return_type)
        self.check_pairing("the model")
        if self.tokens is None and return_type in ("loss", "both"):
            raise ArgumentError(f"return_type={return_type!r} needs tokens: without them only the encoder runs")
        if self.encoder_out is None:
            assert self.mel is not None
            encoded: Tensor = model.encoder(self.mel, self.mel_positions)
        else:
            encoded = self.encoder_out
        if self.tokens is None:
            return None if return_type is None else encoded
        if return_type is None and not (model.unembed.hook_in.active or model.unembed.hook_out.active):
            model.decoder.hidden(self.tokens, encoded)  # nobody reads the logits, which are the bulk of a decoder pass
            return None
        logits: Tensor = model.decoder(self.tokens, encoded)
        if return_type is None or return_type == "logits":
            return None if return_type is None else logits
        loss = model.loss_fn(logits, self.tokens, per_token=loss_per_token)
        return loss if return_type == "loss" else Output(logits, loss)


def check_return_type(return_type: ReturnType | None) -> None:
    """
    Raises:
        ArgumentError: ``return_type`` is unknown.
    """
    if return_type is not None:
        check_option("return_type", return_type, get_args(ReturnType))


def backward_from(
    loss_fn: Callable[[Tensor], Tensor] | None, return_type: str | None, stop_early: bool
) -> Callable[..., Tensor]:
    """Return the function of a pass's output from which the backward pass starts.

    Raises:
        ArgumentError: there is not exactly one loss, or the pass stops before it.
    """
    returns_loss = return_type in ("loss", "both")
    if stop_early or (loss_fn is not None) == returns_loss:
        raise ArgumentError(
            "incl_bwd needs one loss and a whole pass: give return_type='loss', or loss_fn (output -> scalar), and "
            "stop_early=False"
        )
    if loss_fn is not None:
        return loss_fn
    return lambda output: output.loss if isinstance(output, Output) else output
