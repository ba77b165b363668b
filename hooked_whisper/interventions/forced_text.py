"""A text forced on the decoder: log-probability of each token, which word it belongs to, when that word was spoken."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.decoding import threads_kept
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import Alignment
from hooked_whisper.text import word_diff
from hooked_whisper.text.prompts import tokenizer_of

FORCED_ROWS = 8  # rows unembedded at once: bounds the memory of a batch's logits
Times = list[tuple[float, float] | None]  # seconds, word by word


def text_of(model: HookedWhisper, ids: Sequence[int]) -> str:
    """The text of text tokens, without space round it."""
    return model.tokenizer.decode(list(ids)).strip()


def token_logprobs(
    model: HookedWhisper,
    encoder_out: Float[Tensor, "clip position d_model"],
    prompt: Int[Tensor, "1 token"],
    ids: Sequence[Sequence[int]],
) -> list[Float[np.ndarray, "_"]]:
    """Log-probability (nats) of each text token, the prompt and the tokens before it given; one array per clip.

    One pass for all clips.
    """
    longest = max((len(row) for row in ids), default=0)
    if not longest:
        return [np.zeros(0) for _ in ids]
    eot, start = model.tokenizer.eot, prompt.shape[1]
    # shorter rows end in end-of-text: what stands behind a token does not reach it
    padded = torch.tensor([[*row, *[eot] * (longest - len(row))] for row in ids], device=encoder_out.device)
    tokens = torch.cat([prompt.to(padded).expand(len(ids), -1), padded], dim=1)[:, :-1]
    hidden = model.decoder.hidden(tokens, encoder_out)[:, start - 1 :]
    whole = model.unembed.hook_in.active or model.unembed.hook_out.active  # who listens there sees the batch
    rows = len(ids) if whole else FORCED_ROWS
    parts = [
        model.decoder.to_logits(h).log_softmax(-1).gather(-1, t[..., None])[..., 0]
        for h, t in zip(hidden.split(rows), padded.split(rows), strict=True)
    ]
    values = torch.cat(parts).double().cpu().numpy()
    return [values[k, : len(row)] for k, row in enumerate(ids)]


def words_of_tokens(model: HookedWhisper, ids: Sequence[int]) -> list[int]:
    """For each text token the number of the word of ``text.split()`` that it belongs to."""
    if not ids:
        return []
    units, groups = model.tokenizer.split_tokens_on_unicode(list(ids))
    text = "".join(units)
    words = [(m.start(), m.end()) for m in re.finditer(r"\S+", text)]
    if not words:
        return [0] * len(ids)
    ends = np.array([end for _, end in words])
    found, at = [], 0
    for unit, group in zip(units, groups, strict=True):
        lead = len(unit) - len(unit.lstrip())
        word = int(np.searchsorted(ends, at + (lead if lead < len(unit) else 0), side="right"))
        found += [min(word, len(words) - 1)] * len(group)
        at += len(unit)
    return found


def aligned_times(text: str, alignment: Alignment) -> Times:
    """Start and end in seconds of each written word, from the spoken one that it stands for; ``None`` for others."""
    spoken, at = alignment.words, 0
    found: Times = []
    for op in word_diff(" ".join("".join(w.label.split()) or "-" for w in spoken), text):
        if op.kind in ("equal", "substitute"):
            found += [(float(w.start), float(w.end)) for w in spoken[at : at + len(op.reference)]]
        elif op.kind == "insert":
            found += [None] * len(op.hypothesis)
        at += len(op.reference)
    return found


def attention_times(
    model: HookedWhisper,
    encoded: Float[Tensor, "position d_model"],
    ids: Sequence[int],
    language: str = "en",
    filled: int | None = None,
) -> Times:
    """Start and end of each word by openai-whisper's ``find_alignment`` (dynamic time warping of cross-attention), on
    an encoder output that is there already."""
    from whisper.timing import find_alignment

    of_word = words_of_tokens(model, ids)
    times: Times = [None] * len(text_of(model, ids).split())
    if not times:
        return times
    tokenizer = tokenizer_of(model.cfg, language if model.is_multilingual else "en")
    source = _Encoded(model, encoded[None])
    frames = 2 * (filled or len(encoded))
    at = 0
    with threads_kept():
        found = find_alignment(source, tokenizer, list(ids), torch.empty(0), frames)  # type: ignore[arg-type]
    for word in found:
        for k in of_word[at : at + len(word.tokens)]:
            old = times[k]
            low, high = float(word.start), float(word.end)
            times[k] = (low, high) if old is None else (min(old[0], low), max(old[1], high))
        at += len(word.tokens)
    return times


class _Encoded:
    """The model with an encoder output in place of its encoder, for code that would encode again."""

    def __init__(self, model: HookedWhisper, encoder_out: Tensor) -> None:
        self._model, self._encoder_out = model, encoder_out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, mel: Tensor, tokens: Tensor) -> Tensor:
        return self._model.logits(tokens, self._encoder_out)
