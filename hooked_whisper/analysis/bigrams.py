"""Next tokens of the decoder after a word, given an uninformative encoder output.

Source: "Decoder: bigrams" in github.com/er537/whisper_interpretability and its blog post, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.patching.metrics import token_id


@torch.no_grad()
def next_token_logits(
    model: HookedWhisper,
    prefix: Sequence[int],
    last: Int[Tensor, "prompt"] | Sequence[int | str],
    encoder_out: Float[Tensor, "1 position d_model"],
    batch: int = 128,
) -> Float[Tensor, "prompt vocab"]:
    """Return the raw logits of the token after ``prefix + [last]``, for each ``last``: an id, or a string of one token
    (``" very"``).

    Raises:
        PromptError: a string is several tokens.
    """
    rows = []
    ids = last if isinstance(last, Tensor) else torch.tensor([token_id(model, token) for token in last])
    for tokens_of_batch in ids.split(batch):
        prefixes = torch.tensor(prefix, device=model.device).expand(len(tokens_of_batch), -1)
        tokens = torch.cat([prefixes, tokens_of_batch.to(model.device)[:, None]], dim=1)
        hidden = model.decoder.hidden(tokens, encoder_out)[:, -1:]
        rows.append(model.decoder.to_logits(hidden)[:, 0].cpu())
    return torch.cat(rows)


@dataclass(frozen=True)
class RankedToken:
    """One entry of a ranking. ``text`` shows leading and trailing spaces as ``␣``."""

    id: int
    text: str
    value: float


def visible(text: str) -> str:
    """Return ``text`` with leading and trailing spaces shown as ``␣``."""
    body = text.strip(" ")
    left = len(text) - len(text.lstrip(" "))
    right = len(text) - left - len(body)
    return "␣" * left + body + "␣" * right


def text_tokens(model: HookedWhisper) -> Int[Tensor, "text"]:
    """Return the ids of text tokens: neither special tokens nor timestamps."""
    return torch.arange(model.tokenizer.eot)


def top_tokens(
    model: HookedWhisper, values: Float[Tensor, "vocab"], n: int = 20, text_only: bool = True
) -> list[RankedToken]:
    """Return the ``n`` tokens with the largest values. ``text_only=False`` includes special tokens and timestamps.

    After a prefix without ``<|notimestamps|>``, nearly all likely tokens of Whisper are timestamps.
    """
    candidates = values[: model.tokenizer.eot] if text_only else values
    top = candidates.topk(min(n, len(candidates)))
    names = model.to_str_tokens(top.indices.tolist())
    return [
        RankedToken(int(i), visible(name), float(v)) for i, name, v in zip(top.indices, names, top.values, strict=True)
    ]
