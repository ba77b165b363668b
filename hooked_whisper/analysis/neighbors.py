"""Which tokens have embeddings that point the same way.

Source: "Token embeddings" in github.com/er537/whisper_interpretability and its blog post, section 3.2: cosine
similarity
of the rows of the decoder's token embedding. All rows share a common direction, so a mean-centered form is offered as
well. The raw embedding is read, not the unembedding, which weight processing may change.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.analysis.bigrams import RankedToken, text_tokens, visible
from hooked_whisper.hooked import HookedWhisper


def cosine_matrix(rows: Float[Tensor, "row d_model"], centred: bool = False) -> Float[Tensor, "row row"]:
    """Cosine of every two rows; ``centred`` takes off the rows' mean first."""
    rows = rows.detach().double()
    if centred:
        rows = rows - rows.mean(dim=0)
    unit = F.normalize(rows, dim=-1)
    return unit @ unit.T


@torch.no_grad()
def nearest_tokens(
    model: HookedWhisper,
    token: int,
    n: int = 24,
    among: Int[Tensor, "candidate"] | None = None,
    centred: bool = False,
    text_only: bool = True,
) -> list[RankedToken]:
    """The ``n`` tokens nearest to ``token`` by cosine, itself left out.

    Candidates are the tokens that spell text, all tokens for ``text_only=False``, or those of ``among``; ``centred``
    subtracts the candidates' mean first.
    """
    rows = model.W_E.detach().float()
    if among is None:
        among = text_tokens(model) if text_only else torch.arange(len(rows))
    ids = among.to(rows.device)
    candidates, own = rows[ids], rows[token]
    if centred:
        mean = candidates.mean(dim=0)
        candidates, own = candidates - mean, own - mean
    cosine = F.cosine_similarity(candidates, own[None], dim=-1)
    cosine = cosine.masked_fill(ids == token, -torch.inf)
    top = cosine.topk(min(n, int((ids != token).sum())))
    found = ids[top.indices].tolist()
    names = model.to_str_tokens(found)
    return [RankedToken(i, visible(s), float(v)) for i, s, v in zip(found, names, top.values, strict=True)]
