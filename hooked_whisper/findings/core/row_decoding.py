"""Greedy decoding of many encoder outputs at once, for experiments that decode thousands of variants of a few clips.

It returns the same texts as :class:`Transcriber`, up to floating-point rounding. Three things make it faster: finished
rows are dropped from the batch, encoder outputs of several conditions share one batch, and the cuts of one clip share
the keys and values of cross-attention.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper.findings.core.transcripts import DECODER_BATCH, Transcriber
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.model.kv_cache import KVCache

CUT_ROWS = 64  # cuts of one clip per batch: they share keys and values, so a row needs little memory
LEAVE = 4  # drop finished rows once they are 1/LEAVE of the batch: each drop copies the remaining rows


@dataclass
class RowKeys:
    """An attention mask that gives each row of the batch the keys it may attend to, the same for all queries."""

    allowed: Bool[Tensor, "row key"]

    def __call__(self, query: Tensor, key: Tensor) -> Bool[Tensor, "row 1 1 key"]:
        return self.allowed[:, None, None, :]


@torch.no_grad()
def greedy_ids(
    model: HookedWhisper,
    prompt: Int[Tensor, "1 token"],
    encoder_out: Float[Tensor, "clip position d_model"],
    n_rows: int,
    max_new_tokens: int,
    allowed: Bool[Tensor, "row position"] | None = None,
) -> list[list[int]]:
    """Return the text tokens of each row. The only special token that can be chosen is end-of-text.

    Args:
        encoder_out: one output for each row, or a single one that all rows share.
        allowed: the encoder positions that each row may read.
    """
    eot = model.tokenizer.eot
    texts: list[list[int]] = [[] for _ in range(n_rows)]
    rows, new, cache = list(range(n_rows)), prompt.to(encoder_out.device).expand(n_rows, -1).contiguous(), KVCache()
    ended = torch.zeros(n_rows, dtype=torch.bool, device=encoder_out.device)
    rule = None if allowed is None else RowKeys(allowed)
    with nullcontext() if rule is None else model.hooks(attn_masks={"cross_attn": rule}):
        for _ in range(min(max_new_tokens, model.cfg.decoder.n_ctx - prompt.shape[1])):
            logits = model.decoder.to_logits(model.decoder.hidden(new, encoder_out, cache)[:, -1:])[:, -1]
            tokens = logits[:, : eot + 1].argmax(-1)
            ended = ended | (tokens == eot)
            for row, token, over in zip(rows, tokens.tolist(), ended.tolist(), strict=True):
                if not over:
                    texts[row].append(token)
            n_ended = int(ended.sum())
            if n_ended == len(rows):
                break
            if LEAVE * n_ended >= len(rows):
                stay = (~ended).nonzero().flatten()
                _keep_rows(cache, stay, len(rows))
                rows = [rows[i] for i in stay.tolist()]
                tokens, ended = tokens[stay], ended[stay]
                # keys and values are cached: only the number of rows of the encoder output is still read
                encoder_out = encoder_out[: len(rows)]
                if rule is not None:
                    rule.allowed = rule.allowed[stay]
            new = tokens[:, None].to(prompt.dtype)
    return texts


def _keep_rows(cache: KVCache, stay: Int[Tensor, "remaining"], n_rows: int) -> None:
    for module, states in cache.items():
        if states.shape[0] == n_rows:
            # keep the memory layout that cross-attention expects: heads outermost
            cache[module] = states.transpose(1, 2)[stay].transpose(1, 2)


def _texts(transcriber: Transcriber, ids: Iterable[list[int]]) -> list[str]:
    return [transcriber.normalize(transcriber.model.tokenizer.decode(row).strip()) for row in ids]


def transcribe_cuts(
    transcriber: Transcriber,
    encoded: Float[Tensor, "position d_model"],
    null: Float[Tensor, "position d_model"],
    spans: Sequence[slice],
    max_new_tokens: int | None = None,
) -> list[str]:
    """Return one text per span: the transcript of the clip with that span replaced by the same positions of ``null``.

    Cross-attention does not depend on the order of its keys, so all rows share one encoder output: the clip followed by
    the positions of ``null``. Each row's mask hides the positions that do not belong to it.
    """
    if not spans:
        return []
    n, first, last = len(encoded), min(s.start for s in spans), max(s.stop for s in spans)
    both = torch.cat([encoded, null[first:last].to(encoded)])[None]
    allowed = torch.zeros(len(spans), both.shape[1], dtype=torch.bool, device=encoded.device)
    allowed[:, :n] = True
    for row, span in zip(allowed, spans, strict=True):
        row[span] = False
        row[n + span.start - first : n + span.stop - first] = True
    limit = transcriber.max_new_tokens if max_new_tokens is None else max_new_tokens
    texts: list[str] = []
    for rows in allowed.split(CUT_ROWS):
        ids = greedy_ids(transcriber.model, transcriber.prompt(), both, len(rows), limit, rows)
        texts += _texts(transcriber, ids)
    return texts


class DecodingQueue:
    """Decode encoder outputs of several conditions in full batches. ``texts`` has each condition's texts in order."""

    def __init__(self, transcriber: Transcriber, conditions: Iterable[Hashable], batch: int = DECODER_BATCH) -> None:
        self.transcriber = transcriber
        self.batch = batch
        self.texts: dict[Hashable, list[str]] = {name: [] for name in conditions}
        self._waiting: list[tuple[Hashable, Tensor]] = []

    def add(self, condition: Hashable, encoder_out: Float[Tensor, "clip position d_model"]) -> None:
        """Add clips to the queue, and decode them once they fill a batch."""
        self._waiting += [(condition, row) for row in encoder_out]
        while len(self._waiting) >= self.batch:
            self._decode(self.batch)

    def flush(self) -> None:
        """Decode the clips that are still in the queue."""
        if self._waiting:
            self._decode(len(self._waiting))

    def _decode(self, count: int) -> None:
        now, self._waiting = self._waiting[:count], self._waiting[count:]
        encoder_out = torch.stack([row for _, row in now])
        transcriber = self.transcriber
        ids = greedy_ids(transcriber.model, transcriber.prompt(), encoder_out, count, transcriber.max_new_tokens)
        for (condition, _), text in zip(now, _texts(transcriber, ids), strict=True):
            self.texts[condition].append(text)
