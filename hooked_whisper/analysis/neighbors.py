"""Nearest neighbors of token embeddings by cosine similarity.

Source: "Token embeddings" in github.com/er537/whisper_interpretability and its blog post, section 3.2, which does not
center. All rows of the token embedding share a common direction, so that raw cosines are high for all pairs (" tea" and
" Xu": 0.85 in tiny.en); centering subtracts the mean first. Weight processing may change the unembedding, so the
embedding is used.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper._support.showing import visible
from hooked_whisper.analysis.token_lists import TokenList, check_count, ranked_list, text_tokens
from hooked_whisper.errors import check_option
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.patching.metrics import token_id

Embeddings = Literal["raw", "centered"]


@renamed_arguments(centred="centered")
def cosine_matrix(rows: Float[Tensor, "row d_model"], centered: bool = False) -> Float[Tensor, "row row"]:
    """Return the cosine similarity of every two rows; ``centered`` subtracts the mean of the rows first."""
    rows = rows.detach().double()
    if centered:
        rows = rows - rows.mean(dim=0)
    unit = F.normalize(rows, dim=-1)
    return unit @ unit.T


def _embeddings_of(centered: bool) -> str:
    return "centered" if centered else "raw"


@torch.no_grad()
@renamed_arguments(centred=("embeddings", _embeddings_of), centered=("embeddings", _embeddings_of))
def nearest_tokens(
    model: HookedWhisper,
    token: int | str,
    n: int = 24,
    among: Int[Tensor, "candidate"] | None = None,
    *,
    embeddings: Embeddings = "centered",
    text_only: bool = True,
) -> TokenList:
    """Return the tokens nearest to a token by cosine similarity of their embeddings, without the token itself:
    ``nearest_tokens(model, " tea")``.

    Args:
        token: a string of one token, with its leading space (``" tea"``), or an id.
        n: number of tokens to list.
        among: ids of the candidates; default: text tokens, or all tokens with ``text_only=False``.
        embeddings: ``"centered"`` subtracts the mean of the candidates first; ``"raw"``, as published, does not.
        text_only: leave out special tokens and timestamps.

    Raises:
        PromptError: the string is several tokens (lists them), or an id is not in the vocabulary.
        ArgumentError: ``embeddings`` or ``n`` is invalid.
    """
    check_option("embeddings", embeddings, get_args(Embeddings))
    check_count(n)
    index: int = token_id(model, token)
    rows = model.W_E.detach().float()
    if among is None:
        among = text_tokens(model) if text_only else torch.arange(len(rows))
    for candidate in (among.min(), among.max()) if len(among) else ():
        token_id(model, int(candidate))  # raises
    ids = among.to(rows.device)
    candidates, query = rows[ids], rows[index]
    if embeddings == "centered":
        mean = candidates.mean(dim=0)
        candidates, query = candidates - mean, query - mean
    cosine = F.cosine_similarity(candidates, query[None], dim=-1)
    cosine = cosine.masked_fill(ids == index, -torch.inf)
    top = cosine.topk(min(n, int((ids != index).sum())))
    word = visible(model.to_str_tokens([index])[0])
    title = f"Nearest to '{word}' ({model.cfg.name}, {embeddings} token embeddings)"
    return ranked_list(model, ids[top.indices], top.values, title, "cosine")
