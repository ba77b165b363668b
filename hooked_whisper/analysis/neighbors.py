"""Nearest neighbors of token embeddings by cosine similarity.

Source: "Token embeddings" in github.com/er537/whisper_interpretability and its blog post, section 3.2. All rows of the
token embedding share a common direction; ``centered`` subtracts the mean first. Weight processing may change the
unembedding, so the embedding is used.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper.analysis.bigrams import RankedToken, text_tokens, visible
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.patching.metrics import token_id


@renamed_arguments(centred="centered")
def cosine_matrix(rows: Float[Tensor, "row d_model"], centered: bool = False) -> Float[Tensor, "row row"]:
    """Return the cosine similarity of every two rows; ``centered`` subtracts the mean of the rows first."""
    rows = rows.detach().double()
    if centered:
        rows = rows - rows.mean(dim=0)
    unit = F.normalize(rows, dim=-1)
    return unit @ unit.T


@torch.no_grad()
@renamed_arguments(centred="centered")
def nearest_tokens(
    model: HookedWhisper,
    token: int | str,
    n: int = 24,
    among: Int[Tensor, "candidate"] | None = None,
    centered: bool = False,
    text_only: bool = True,
) -> list[RankedToken]:
    """Return the ``n`` tokens nearest to ``token`` by cosine similarity, without ``token`` itself.

    Args:
        token: an id, or a string of one token (``" very"``).
        among: candidates; default: text tokens, or all tokens with ``text_only=False``.
        centered: subtract the mean of the candidates first.

    Raises:
        PromptError: a string is several tokens.
    """
    index: int = token_id(model, token)
    rows = model.W_E.detach().float()
    if among is None:
        among = text_tokens(model) if text_only else torch.arange(len(rows))
    ids = among.to(rows.device)
    candidates, query = rows[ids], rows[index]
    if centered:
        mean = candidates.mean(dim=0)
        candidates, query = candidates - mean, query - mean
    cosine = F.cosine_similarity(candidates, query[None], dim=-1)
    cosine = cosine.masked_fill(ids == index, -torch.inf)
    top = cosine.topk(min(n, int((ids != index).sum())))
    nearest = ids[top.indices].tolist()
    names = model.to_str_tokens(nearest)
    return [RankedToken(i, visible(s), float(v)) for i, s, v in zip(nearest, names, top.values, strict=True)]
