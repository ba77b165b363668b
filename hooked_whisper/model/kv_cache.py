"""``KVCache``: keys and values of the tokens so far, in buffers that are allocated once and grow by doubling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hooked_whisper.model.kernels import overwritable

if TYPE_CHECKING:
    from hooked_whisper.model.attention import Attention
    from hooked_whisper.model.step import StepPlan

_LEAST = 64  # tokens of a new buffer


class KVCache(dict[nn.Module, Tensor]):
    """Keys and values so far: projection module -> ``[batch, position, head, d_head]``, after its hooks.

    Keyed like openai-whisper's cache, so that its beam search can reorder the rows. The entries of self-attention are
    views of buffers that only this cache fills: copies of the cache, and entries that were replaced, get new ones.
    """

    _buffers: dict[nn.Module, tuple[Tensor, Tensor]]  # module -> (buffer, the entry that is a view of it)
    plan: StepPlan | None  # of the decoder that fills the cache

    def __new__(cls, *args: Any, **kwargs: Any) -> KVCache:
        self = super().__new__(cls, *args, **kwargs)
        self._buffers = {}
        self.plan = None
        return self

    def __getstate__(self) -> None:
        return None  # copies and pickles have the entries, and fill new buffers

    def n_tokens(self, attn: Attention) -> int:
        """Return the number of tokens in the cache."""
        return self[attn.key].shape[1] if attn.key in self else 0

    def append(
        self, module: nn.Module, new: Float[Tensor, "batch token head d_head"]
    ) -> Float[Tensor, "batch position head d_head"]:
        """Append keys or values of new tokens, and return those of all tokens."""
        before = self.get(module)
        if before is None:
            self[module] = new
            return new
        if not _appends_in_place(before, new):
            self[module] = torch.cat([before, new], dim=1)
            return self[module]
        start, stop = before.shape[1], before.shape[1] + new.shape[1]
        buffer, entry = self._buffers.get(module, (before, None))
        if entry is not before or buffer.shape[1] < stop:
            buffer = before.new_empty(before.shape[0], max(_LEAST, 2 * stop), *before.shape[2:])
            buffer[:, :start] = before
        buffer[:, start:stop] = new
        entry = buffer[:, :stop]
        self[module] = entry
        self._buffers[module] = buffer, entry
        return entry


def _appends_in_place(before: Tensor, new: Tensor) -> bool:
    """Whether writing into a buffer is what concatenation does: no gradient, equal sizes, dtype and device."""
    if not overwritable() or before.requires_grad or new.requires_grad:
        return False
    same = before.dtype == new.dtype and before.device == new.device
    return same and before.shape[0] == new.shape[0] and before.shape[2:] == new.shape[2:]
