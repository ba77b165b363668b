"""Logit differences at the last token of each row, with or without activations patched from another run (W2)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import HookPoint


def logits_at(logits: Tensor | None, here: Bool[Tensor, "row token"]) -> Float[Tensor, "row vocab"]:
    """Return the logits at the marked token of each row."""
    assert logits is not None
    return logits[here]


def logit_difference(logits: Float[Tensor, "row vocab"], ids: Int[Tensor, "row word"]) -> Float[Tensor, "row"]:
    """Return the logit of each row's first word minus that of its second. Other words are ignored."""
    both = logits.gather(1, ids[:, :2])
    return (both[:, 0] - both[:, 1]).double()


def patched_difference(
    model: HookedWhisper,
    names: str,
    cache: Any,
    here: Bool[Tensor, "row token"],
    tokens: Int[Tensor, "row token"],
    encoded: Float[Tensor, "row position d_model"],
    ids: Int[Tensor, "row word"],
) -> Float[Tensor, "row"]:
    """Return the logit difference with the outputs at the marked token patched from the ``cache`` of another run."""

    def patch(x: Tensor, hook: HookPoint) -> Tensor:
        return torch.where(here[..., None], cache[hook.name], x)

    with model.hooks(fwd_hooks=[(names, patch)]):
        hidden = model.decoder.hidden(tokens, encoded)
        return logit_difference(model.decoder.to_logits(hidden[here][:, None])[:, 0], ids)
