"""Audio encoder: conv stem, sinusoidal positions, blocks, final norm."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from whisper.model import sinusoids

from hooked_whisper._support.indices import read_indices
from hooked_whisper.config import EncoderConfig
from hooked_whisper.errors import ArgumentError
from hooked_whisper.hooks import HookPoint, StackClock
from hooked_whisper.model.block import Block
from hooked_whisper.model.inputs import check_mel, described
from hooked_whisper.model.kernels import conv1d, gelu
from hooked_whisper.model.layers import LayerNorm
from hooked_whisper.model.weights_view import BlockStack


class ConvStage(nn.Module):
    """Convolution over mel frames, then GELU. The output has channels last."""

    def __init__(self, d_in: int, d_out: int, stride: int, axis: str) -> None:
        super().__init__()
        self.conv = nn.Conv1d(d_in, d_out, kernel_size=3, stride=stride, padding=1)
        self.hook_pre = HookPoint("batch", axis, "d_model", sizes={"d_model": d_out}, aliases=(".",))
        self.hook_post = HookPoint("batch", axis, "d_model", sizes={"d_model": d_out})

    def forward(self, x: Float[Tensor, "batch d_in time"]) -> Float[Tensor, "batch time_out d_out"]:
        conv, dtype = self.conv, x.dtype
        bias = None if conv.bias is None else conv.bias.to(dtype)
        pre = conv1d(x, conv.weight.to(dtype), bias, conv.stride, conv.padding)
        pre = self.hook_pre(pre.transpose(1, 2))  # [batch, time, d_model]
        return self.hook_post(gelu(pre, overwrite=False))  # [batch, time, d_model]


class Encoder(BlockStack):
    """``mel [batch, mel, frame] -> [batch, position, d_model]``, with two frames (20 ms) per position."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.clock = StackClock()
        sizes = {"mel": cfg.n_mels, "d_model": cfg.d_model}
        self.hook_mel = HookPoint("batch", "mel", "frame", sizes=sizes, shared=True)
        self.conv1 = ConvStage(cfg.n_mels, cfg.d_model, stride=1, axis="frame")
        self.conv2 = ConvStage(cfg.d_model, cfg.d_model, stride=2, axis="position")
        self.register_buffer("positional_embedding", sinusoids(cfg.n_ctx, cfg.d_model))
        self.hook_embed = HookPoint("batch", "position", "d_model", sizes=sizes)
        self.hook_pos_embed = HookPoint("position", "d_model", sizes=sizes, shared=True)
        self.blocks = nn.ModuleList(
            Block(cfg.d_model, cfg.n_heads, cfg.d_mlp, cross=False) for _ in range(cfg.n_layers)
        )
        self.ln_post = LayerNorm(cfg.d_model, "batch", "position")
        aliases = (".", ".ln_post")
        self.hook_out = HookPoint("batch", "position", "d_model", sizes=sizes, aliases=aliases, shared=True)

    positional_embedding: Tensor

    @property
    def W_pos(self) -> Float[Tensor, "position d_model"]:
        """The fixed sinusoids."""
        return self.positional_embedding

    def forward(
        self, mel: Float[Tensor, "batch mel frame"], positions: slice | None = None
    ) -> Float[Tensor, "batch position d_model"]:
        """Encode one window per row.

        The mel must fill the window (``2 * n_ctx`` frames). For a shorter mel, ``positions`` gives its positions within
        the window.
        """
        start, n = self._window(mel, positions)
        self.clock.offset = start
        x = self.conv1(self.hook_mel(mel))  # [batch, frame, d_model]
        x = self.hook_embed(self.conv2(x.transpose(1, 2)))  # [batch, position, d_model]
        pos = self.hook_pos_embed(self.positional_embedding[start : start + n].to(x.dtype))  # [position, d_model]
        # convolutions leave positions last in memory, which would slow down all later sums and norms
        return self.from_resid((x + pos).contiguous(), 0, start)

    def from_resid(
        self, resid: Float[Tensor, "batch position d_model"], block: int, start: int = 0
    ) -> Float[Tensor, "batch position d_model"]:
        """Run the rest of the encoder from the residual that enters ``block`` (``n_layers``: only the final norm).

        start: index of the first position, for windows shorter than the encoder's.
        """
        self.clock.offset = start
        x = resid
        for layer in self.blocks[block:]:
            x = layer(x)
        return self.hook_out(self.ln_post(x))  # [batch, position, d_model]

    def _window(self, mel: Tensor, positions: slice | None) -> tuple[int, int]:
        cfg = self.cfg
        check_mel(mel, cfg, positions)
        n = mel.shape[2] // 2
        if positions is None:
            if n != cfg.n_ctx:
                raise ArgumentError(
                    f"encoder needs {cfg.n_frames} mel frames, got {mel.shape[2]}: pad the audio to the window "
                    "(model.to_mel does), or give the positions of a shorter window as positions=slice(a, b)"
                )
            return 0, n
        if not isinstance(positions, slice):
            raise ArgumentError(f"positions is a slice of the {cfg.n_ctx} positions, got {described(positions)}")
        indices = read_indices(positions, cfg.n_ctx)
        past_end = positions.stop is not None and positions.stop > cfg.n_ctx
        if past_end or len(indices) != n or indices[-1] - indices[0] != n - 1:
            raise ArgumentError(
                f"positions {positions} must be {n} of the {cfg.n_ctx} positions: the mel has {2 * n} frames"
            )
        return indices[0], n
