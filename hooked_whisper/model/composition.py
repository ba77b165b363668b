"""Composition scores: how much an attention head reads what an earlier head writes, from the weights alone.

For heads with ``W_OV`` (earlier) and ``W_QK`` (later), Q-composition is ``|W_OV W_QK| / (|W_OV| |W_QK|)`` in Frobenius
norms; K-composition takes ``W_QKᵀ``, V-composition the later ``W_OV`` (Elhage et al. 2021, "A Mathematical Framework
for Transformer Circuits"). The layer norms are included as far as they are linear, so that scores do not depend on
weight processing: gains, and centering before every norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import ArgumentError, check_option
from hooked_whisper.model.factored_matrix import FactoredMatrix
from hooked_whisper.protocols import STACKS, Stack

if TYPE_CHECKING:
    from hooked_whisper.model.whisper import WhisperCore

Composition = Literal["Q", "K", "V"]

# (writer, reader) -> what the reader reads there
_DEFINED: dict[tuple[Stack, Stack], tuple[Composition, ...]] = {
    ("encoder", "encoder"): ("Q", "K", "V"),
    ("encoder", "cross"): ("K", "V"),
    ("decoder", "decoder"): ("Q", "K", "V"),
    ("decoder", "cross"): ("Q",),
    ("cross", "decoder"): ("Q", "K", "V"),
    ("cross", "cross"): ("Q",),
}


def composition_scores(
    left: FactoredMatrix, right: FactoredMatrix
) -> Float[Tensor, "left_layer left_head right_layer right_head"]:
    """Return ``|left right| / (|left| |right|)`` in Frobenius norms for every pair of heads.

    left, right: ``[layer, head, d_model, d_model]``, such as ``model.encoder.OV`` and ``model.encoder.QK``.
    """
    # |A B| = |R_A B| with A = Q R, so that only factors with d_head rows are multiplied
    writers = (torch.linalg.qr(left.A).R @ left.B).flatten(0, 1)  # [writer, d_head, d_model]
    readers = (right.A @ torch.linalg.qr(right.B.mT).R.mT).flatten(0, 1)  # [reader, d_model, d_head]
    n_readers, d_model, d_head = readers.shape
    columns = readers.transpose(0, 1).reshape(d_model, n_readers * d_head)
    norms = torch.stack([(w @ columns).square().sum(0).reshape(n_readers, d_head).sum(1).sqrt() for w in writers])
    scores = norms / writers.flatten(1).norm(dim=1)[:, None] / readers.flatten(1).norm(dim=1)
    return scores.reshape(*left.shape[:2], *right.shape[:2])


def all_composition_scores(
    model: WhisperCore, mode: Composition, writer: Stack, reader: Stack | None = None
) -> Float[Tensor, "left_layer left_head right_layer right_head"]:
    """See :meth:`~hooked_whisper.model.WhisperCore.all_composition_scores`."""
    check_option("mode", mode, get_args(Composition))
    check_option("writer", writer, STACKS)
    reader = writer if reader is None else reader
    check_option("reader", reader, STACKS)
    modes = _DEFINED.get((writer, reader), ())
    if mode not in modes:
        raise ArgumentError(_undefined(mode, writer, reader, modes))
    with torch.no_grad():
        scores = composition_scores(_Circuits.of(model, writer).OV, _Circuits.of(model, reader).reading(mode))
    n_left, n_right = scores.shape[0], scores.shape[2]
    if writer == "encoder" and reader == "cross":  # every block of the encoder comes before the decoder
        return scores
    # self-attention comes before cross-attention of the same block
    before = torch.arange(n_left)[:, None] < torch.arange(n_right) + (writer == "decoder" and reader == "cross")
    return scores * before[:, None, :, None].to(scores)


def _undefined(mode: str, writer: Stack, reader: Stack, modes: tuple[str, ...]) -> str:
    if modes:
        return f"{reader} reads what {writer} writes as {' and '.join(modes)}, not as {mode}"
    pairs = ", ".join(f"{first} -> {second} ({'/'.join(kinds)})" for (first, second), kinds in _DEFINED.items())
    return f"{reader} heads do not read what {writer} heads write; the defined compositions are {pairs}"


@dataclass(frozen=True)
class _Circuits:
    """Weights of one kind of attention with the norms before it and the centering after it."""

    QK: FactoredMatrix
    OV: FactoredMatrix

    @classmethod
    def of(cls, model: WhisperCore, stack: Stack) -> _Circuits:
        blocks: list[Any] = (model.encoder if stack == "encoder" else model.decoder).block_list()
        weights: Any = model.decoder.cross if stack == "cross" else getattr(model, stack)
        queries = torch.stack([(block.ln_cross if stack == "cross" else block.ln1).weight for block in blocks])
        sources = model.encoder.ln_post.weight.expand_as(queries) if stack == "cross" else queries
        w_q, w_k, w_v = (
            _centered(w * gain[:, None, :, None], dim=-2)
            for w, gain in ((weights.W_Q, queries), (weights.W_K, sources), (weights.W_V, sources))
        )
        return cls(FactoredMatrix(w_q, w_k.mT), FactoredMatrix(w_v, _centered(weights.W_O, dim=-1)))

    def reading(self, mode: Composition) -> FactoredMatrix:
        """Return the matrix whose left side reads the stream."""
        return {"Q": self.QK, "K": self.QK.T, "V": self.OV}[mode]


def _centered(weight: Tensor, dim: int) -> Tensor:
    return weight - weight.mean(dim, keepdim=True)
