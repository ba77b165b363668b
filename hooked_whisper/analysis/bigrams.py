"""What the decoder says after a word when the encoder has nothing to say.

Source: "Decoder: bigrams" in github.com/er537/whisper_interpretability and its blog post, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.hooked import HookedWhisper


@torch.no_grad()
def next_token_logits(
    model: HookedWhisper,
    prefix: Sequence[int],
    last: Int[Tensor, "prompt"],
    encoder_out: Float[Tensor, "1 position d_model"],
    batch: int = 128,
) -> Float[Tensor, "prompt vocab"]:
    """Raw logits (before any filter) of the token after ``prefix + [last]``, for each ``last``."""
    rows = []
    for some in last.split(batch):
        head = torch.tensor(prefix, device=model.device).expand(len(some), -1)
        tokens = torch.cat([head, some.to(model.device)[:, None]], dim=1)
        hidden = model.decoder.hidden(tokens, encoder_out)[:, -1:]
        rows.append(model.decoder.to_logits(hidden)[:, 0].cpu())
    return torch.cat(rows)


@dataclass(frozen=True)
class RankedToken:
    """One entry of a top list. ``text`` shows a leading space as ``␣``: ``" bye"`` and ``"bye"`` differ."""

    id: int
    text: str
    value: float


def visible(text: str) -> str:
    """Spaces at either end as ``␣``."""
    body = text.strip(" ")
    left = len(text) - len(text.lstrip(" "))
    right = len(text) - left - len(body)
    return "␣" * left + body + "␣" * right


def text_tokens(model: HookedWhisper) -> Int[Tensor, "text"]:
    """Ids of the tokens that spell text: neither special tokens nor timestamps."""
    return torch.arange(model.tokenizer.eot)


def top_tokens(
    model: HookedWhisper, values: Float[Tensor, "vocab"], n: int = 20, text_only: bool = True
) -> list[RankedToken]:
    """The ``n`` largest entries, keyed by id; ``text_only=False`` ranks special tokens and timestamps as well.

    After a prefix without ``<|notimestamps|>`` the likeliest tokens of real Whisper are nearly all timestamps.
    """
    candidates = values[: model.tokenizer.eot] if text_only else values
    top = candidates.topk(min(n, len(candidates)))
    names = model.to_str_tokens(top.indices.tolist())
    return [
        RankedToken(int(i), visible(name), float(v)) for i, name, v in zip(top.indices, names, top.values, strict=True)
    ]
