"""Greedy generation with a key-value cache; every hook fires at every step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.indices import is_integer
from hooked_whisper.decoding.task import most_probable
from hooked_whisper.errors import ArgumentError
from hooked_whisper.model import KVCache, WhisperCore
from hooked_whisper.model.inputs import check_encoder_out, check_tokens


@torch.no_grad()
def generate(
    model: WhisperCore,
    prompt: Int[Tensor, "batch token"],
    encoder_out: Float[Tensor, "clip position d_model"],
    *,
    max_new_tokens: int = 64,
    eot: int | None = None,
    suppress: Sequence[int] = (),
) -> Int[Tensor, "batch token_out"]:
    """Decode greedily and return the prompt with its continuation.

    Cross-attention keys and values are cached, so hooks on them fire at the first step only. In hooks, ``hook.offset``
    is the index of the first token of the step. For beam search, temperature and timestamp rules use
    ``model.decode``.

    Args:
        max_new_tokens: upper limit; generation also stops at the end of the decoder's context.
        eot: token id that ends a row; the row is filled with it until all rows have ended.
        suppress: token ids that are never chosen.

    Raises:
        ArgumentError: a token id in ``eot`` or ``suppress`` is not in the vocabulary, or ``max_new_tokens`` is
            negative.
    """
    cfg = model.cfg.decoder
    check_tokens(prompt, cfg)
    check_encoder_out(encoder_out, cfg.d_model)
    if not is_integer(max_new_tokens) or max_new_tokens < 0:
        raise ArgumentError(f"max_new_tokens must be a whole number from 0, got {max_new_tokens!r}")
    for name, ids in (("eot", () if eot is None else (eot,)), ("suppress", suppress)):
        for token in ids:
            if not is_integer(token) or not 0 <= token < cfg.n_vocab:
                raise ArgumentError(f"{name}: {token!r:.80} is not a token id: ids are 0 to {cfg.n_vocab - 1}")
    suppressed = torch.tensor(list(suppress), dtype=torch.long, device=encoder_out.device)
    tokens = step_tokens = prompt
    cache = KVCache()
    done = torch.zeros(prompt.shape[0], dtype=torch.bool, device=prompt.device)
    for _ in range(min(max_new_tokens, cfg.n_ctx - prompt.shape[1])):
        # unembed only the last position: the logits of the others are not used
        logits = model.decoder.to_logits(model.decoder.hidden(step_tokens, encoder_out, cache)[:, -1:])[:, -1]
        if len(suppress):
            logits.index_fill_(1, suppressed, -torch.inf)
        next_tokens = most_probable(logits)
        if eot is not None:
            next_tokens = torch.where(done, eot, next_tokens)
            done = done | (next_tokens == eot)
        step_tokens = next_tokens[:, None].to(prompt.dtype)
        tokens = torch.cat([tokens, step_tokens], dim=1)
        if eot is not None and bool(done.all()):
            break
    return tokens
