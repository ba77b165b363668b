"""Teacher-forced text: log-probability of each token, the word it belongs to, and when that word was spoken."""

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

FORCED_ROWS = 8  # rows unembedded at once, to bound the memory of logits
Times = list[tuple[float, float] | None]  # start and end of each word in seconds


def text_of(model: HookedWhisper, ids: Sequence[int]) -> str:
    """Return the text of text tokens, stripped."""
    return model.tokenizer.decode(list(ids)).strip()


def token_logprobs(
    model: HookedWhisper,
    encoder_out: Float[Tensor, "clip position d_model"],
    prompt: Int[Tensor, "1 token"],
    ids: Sequence[Sequence[int]],
) -> list[Float[np.ndarray, "_"]]:
    """Return the log-probability (nats) of each text token given the prompt and the tokens before it.

    One array per clip; one pass for all clips.
    """
    longest = max((len(row) for row in ids), default=0)
    if not longest:
        return [np.zeros(0) for _ in ids]
    eot, start = model.tokenizer.eot, prompt.shape[1]
    # shorter rows are padded with end-of-text, which cannot affect earlier tokens
    padded = torch.tensor([[*row, *[eot] * (longest - len(row))] for row in ids], device=encoder_out.device)
    tokens = torch.cat([prompt.to(padded).expand(len(ids), -1), padded], dim=1)[:, :-1]
    hidden = model.decoder.hidden(tokens, encoder_out)[:, start - 1 :]
    hooked = model.unembed.hook_in.active or model.unembed.hook_out.active  # hooks there must see the whole batch
    rows = len(ids) if hooked else FORCED_ROWS
    parts = [
        model.decoder.to_logits(h).log_softmax(-1).gather(-1, t[..., None])[..., 0]
        for h, t in zip(hidden.split(rows), padded.split(rows), strict=True)
    ]
    values = torch.cat(parts).double().cpu().numpy()
    return [values[k, : len(row)] for k, row in enumerate(ids)]


def words_of_tokens(model: HookedWhisper, ids: Sequence[int]) -> list[int]:
    """Return, for each text token, the index of its word in ``text.split()``."""
    if not ids:
        return []
    units, groups = model.tokenizer.split_tokens_on_unicode(list(ids))
    text = "".join(units)
    words = [(m.start(), m.end()) for m in re.finditer(r"\S+", text)]
    if not words:
        return [0] * len(ids)
    ends = np.array([end for _, end in words])
    word_indices: list[int] = []
    offset = 0
    for unit, group in zip(units, groups, strict=True):
        lead = len(unit) - len(unit.lstrip())
        word = int(np.searchsorted(ends, offset + (lead if lead < len(unit) else 0), side="right"))
        word_indices += [min(word, len(words) - 1)] * len(group)
        offset += len(unit)
    return word_indices


def aligned_times(text: str, alignment: Alignment) -> Times:
    """Return the times of the spoken word that each written word is aligned to; ``None`` for inserted words."""
    spoken, index = alignment.words, 0
    times: Times = []
    for op in word_diff(" ".join("".join(w.label.split()) or "-" for w in spoken), text):
        if op.kind in ("equal", "substitute"):
            times += [(float(w.start), float(w.end)) for w in spoken[index : index + len(op.reference)]]
        elif op.kind == "insert":
            times += [None] * len(op.hypothesis)
        index += len(op.reference)
    return times


def attention_times(
    model: HookedWhisper,
    encoded: Float[Tensor, "position d_model"],
    ids: Sequence[int],
    language: str = "en",
    filled: int | None = None,
) -> Times:
    """Return start and end of each word by openai-whisper's ``find_alignment`` (dynamic time warping of
    cross-attention), without encoding again.

    filled: positions that the clip fills; default: all.
    """
    from whisper.timing import find_alignment

    of_word = words_of_tokens(model, ids)
    times: Times = [None] * len(text_of(model, ids).split())
    if not times:
        return times
    tokenizer = tokenizer_of(model.cfg, language if model.is_multilingual else "en")
    source = _Encoded(model, encoded[None])
    frames = 2 * (filled or len(encoded))
    token = 0
    with threads_kept():
        timings = find_alignment(source, tokenizer, list(ids), torch.empty(0), frames)  # type: ignore[arg-type]
    for word in timings:
        for k in of_word[token : token + len(word.tokens)]:
            old = times[k]
            low, high = float(word.start), float(word.end)
            times[k] = (low, high) if old is None else (min(old[0], low), max(old[1], high))
        token += len(word.tokens)
    return times


class _Encoded:
    """The model with its encoder replaced by a known encoder output."""

    def __init__(self, model: HookedWhisper, encoder_out: Tensor) -> None:
        self._model, self._encoder_out = model, encoder_out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, mel: Tensor, tokens: Tensor) -> Tensor:
        return self._model.logits(tokens, self._encoder_out)
