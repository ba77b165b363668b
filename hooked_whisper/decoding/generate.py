"""Greedy generation with a key-value cache; every hook fires at every step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.indices import is_integer, read_indices
from hooked_whisper._support.inputs import check_encoder_out, check_tokens
from hooked_whisper.errors import ArgumentError
from hooked_whisper.model import KVCache, WhisperCore


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
    """The most probable next token, again and again: prompt and continuation, ``[batch, token]``.

    Rows that have reached ``eot`` are filled with it; the loop ends when all have. ``suppress`` lists ids never
    chosen. The encoder output is read once: cross-attention keys and values are cached, so hooks on them fire at the
    first step only. In hooks, ``hook.offset`` is the index of the first token of the step. For beam search,
    temperature and timestamp rules use ``model.decode``.
    """
    cfg = model.cfg.decoder
    check_tokens(prompt, cfg)
    check_encoder_out(encoder_out, cfg.d_model)
    if not is_integer(max_new_tokens) or max_new_tokens < 0:
        raise ArgumentError(f"max_new_tokens must be a whole number from 0, got {max_new_tokens!r}")
    for name, ids in (("eot", () if eot is None else (eot,)), ("suppress", suppress)):
        if len(ids):
            read_indices(list(ids), cfg.n_vocab, f"token ids, in {name}")
    tokens, cache = prompt, KVCache()
    new = prompt
    done = torch.zeros(prompt.shape[0], dtype=torch.bool, device=prompt.device)
    room = min(max_new_tokens, model.cfg.decoder.n_ctx - prompt.shape[1])
    for _ in range(room):
        # only the last position's logits are needed: a prompt of n tokens costs one row of the unembedding
        logits = model.decoder.to_logits(model.decoder.hidden(new, encoder_out, cache)[:, -1:])[:, -1]
        if len(suppress):
            logits[:, list(suppress)] = -torch.inf
        step = logits.argmax(-1)
        if eot is not None:
            step = torch.where(done, eot, step)
            done = done | (step == eot)
        new = step[:, None].to(prompt.dtype)
        tokens = torch.cat([tokens, new], dim=1)
        if eot is not None and bool(done.all()):
            break
    return tokens
