"""Next tokens of the decoder after a word, without informative audio: bigrams.

Source: "Decoder: bigrams" in github.com/er537/whisper_interpretability and its blog post, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.showing import visible
from hooked_whisper.analysis.token_lists import TokenList, check_count, top_tokens
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions import baseline_encoding
from hooked_whisper.patching.metrics import token_id


@torch.no_grad()
def bigrams(
    model: HookedWhisper,
    token: int | str,
    n: int = 20,
    *,
    baseline: str = "zero audio",
    encoder_out: Float[Tensor, "1 position d_model"] | None = None,
    text_only: bool = True,
    language: str = "en",
    timestamps: bool = False,
) -> TokenList:
    """Return what the decoder predicts after one word, with their probabilities: ``bigrams(model, " traffic")``.

    The decoder reads the prompt and the word, and audio without speech, so that the prediction comes from its weights
    alone. Probabilities are over the whole vocabulary, also where only text tokens are listed.

    Args:
        token: a string of one token, with its leading space (``" traffic"``), or an id.
        n: number of tokens to list.
        baseline: the audio, one of :data:`hooked_whisper.interventions.BASELINE_INPUTS`.
        encoder_out: an encoder output to use instead, such as the mean of many clips.
        text_only: leave out special tokens and timestamps.
        language, timestamps: of the prompt. After a prompt with ``timestamps=True``, nearly all likely tokens are
            timestamps.

    Raises:
        PromptError: the string is several tokens (lists them), or the id is not in the vocabulary.
        PatchError: ``baseline`` is unknown.
    """
    check_count(n)
    index = token_id(model, token)
    encoded = baseline_encoding(model, baseline) if encoder_out is None else encoder_out
    prompt = model.to_tokens(language=language, timestamps=timestamps)[0].tolist()
    probabilities = next_token_logits(model, prompt, [index], encoded)[0].float().softmax(-1)
    word = visible(model.to_str_tokens([index])[0])
    audio = baseline if encoder_out is None else "the given encoder output"
    title = f"Next tokens after '{word}' ({model.cfg.name}, {audio})"
    return top_tokens(model, probabilities, n, text_only, title=title, unit="probability")


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
        PromptError: a string is several tokens, or an id is not in the vocabulary.
    """
    rows = []
    ids = last if isinstance(last, Tensor) else torch.tensor([token_id(model, token) for token in last])
    for tokens_of_batch in ids.split(batch):
        prefixes = torch.tensor(prefix, device=model.device).expand(len(tokens_of_batch), -1)
        tokens = torch.cat([prefixes, tokens_of_batch.to(model.device)[:, None]], dim=1)
        hidden = model.decoder.hidden(tokens, encoder_out)[:, -1:]
        rows.append(model.decoder.to_logits(hidden)[:, 0].cpu())
    return torch.cat(rows)
