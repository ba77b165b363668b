"""Decoder-side corruptions: one token of the decoder's input is another, the audio stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import PatchError, PromptError
from hooked_whisper.text import Prompter
from hooked_whisper.text.prompts import TASKS, tokenizer_of

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper


@dataclass(frozen=True, eq=False)
class TokenCorruption:
    """Clean and corrupt decoder inputs, as long, that differ at ``changed`` only.

    Raises:
        PatchError: other lengths, or other places that differ.
    """

    kind: str
    clean: Int[Tensor, "1 token"]
    corrupt: Int[Tensor, "1 token"]
    changed: tuple[int, ...]
    was: str
    now: str

    def __post_init__(self) -> None:
        if self.clean.shape != self.corrupt.shape:
            raise PatchError(
                f"{self.kind}: {self.clean.shape[1]} clean and {self.corrupt.shape[1]} corrupt tokens: choose words of "
                "as many tokens"
            )
        differ = torch.nonzero(self.clean[0] != self.corrupt[0]).flatten().tolist()
        if not differ or not set(differ) <= set(self.changed):
            raise PatchError(f"{self.kind}: tokens {differ} differ, {list(self.changed)} were to: check the index")


def swap_language(model: HookedWhisper, tokens: Int[Tensor, "1 token"], language: str) -> TokenCorruption:
    """Another language token: ``<|en|>`` to ``<|fr|>``.

    Raises:
        PromptError: an unknown language, an English-only model, or no language token in the input.
    """
    tokenizer = tokenizer_of(model.cfg, language)
    languages = set(tokenizer_of(model.cfg).all_language_tokens)
    if not model.is_multilingual:
        raise PromptError("an English-only model's prompt has no language token: use a multilingual one")
    return _swap(model, tokens, languages, tokenizer.to_language_token(tokenizer.language), "language token swap")


def swap_task(model: HookedWhisper, tokens: Int[Tensor, "1 token"]) -> TokenCorruption:
    """``<|transcribe|>`` to ``<|translate|>``, or back.

    Raises:
        PromptError: no task token in the input (English-only models have none).
    """
    tokenizer = tokenizer_of(model.cfg)
    tasks = dict(zip(TASKS, (tokenizer.transcribe, tokenizer.translate), strict=True))
    here = [t for t in tokens[0].tolist() if t in tasks.values()]
    other = next((t for t in tasks.values() if here and t != here[0]), -1)
    return _swap(model, tokens, set(tasks.values()), other, "task token swap")


def swap_previous_word(model: HookedWhisper, tokens: Int[Tensor, "1 token"], index: int, word: str) -> TokenCorruption:
    """Another single-token word at ``index`` of the decoder input (a word inside a sentence starts with a space:
    ``" very"``): the language model then expects another follower than the audio has.

    Raises:
        PromptError: a word of several tokens. PatchError: no such index, or the word that is there already.
    """
    new = Prompter.of(model.cfg).to_single_token(word)
    if not 0 <= index < tokens.shape[1]:
        raise PatchError(f"token {index} is outside the decoder input of {tokens.shape[1]} tokens")
    return _replace(model, tokens, index, new, "previous word swap")


def shuffle_positions(
    encoder_out: Float[Tensor, "batch position d_model"], n_positions: int | None = None, seed: int = 0
) -> Float[Tensor, "batch position d_model"]:
    """Encoder output in a random order (one order for all clips): what is heard, without when.

    ``n_positions``: only the first so many, those of the clip; the padding behind stays in place. Other ablations of
    the encoder: ``baseline_encoding`` (padding only, mean).

    Raises:
        PatchError: more positions than there are.
    """
    n = encoder_out.shape[1] if n_positions is None else n_positions
    if not 0 < n <= encoder_out.shape[1]:
        raise PatchError(f"{n} positions to shuffle, but this encoder output has {encoder_out.shape[1]}")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(encoder_out.device)
    return torch.cat([encoder_out[:, :n][:, order], encoder_out[:, n:]], dim=1)


def _swap(model: HookedWhisper, tokens: Tensor, kinds: set[int], new: int, kind: str) -> TokenCorruption:
    at = [i for i, token in enumerate(tokens[0].tolist()) if token in kinds]
    if len(at) != 1:
        raise PromptError(f"{kind}: {len(at)} such tokens in the input, one is needed: start with model.to_tokens(...)")
    return _replace(model, tokens, at[0], new, kind)


def _replace(model: HookedWhisper, tokens: Tensor, index: int, new: int, kind: str) -> TokenCorruption:
    corrupt = tokens.clone()
    corrupt[0, index] = new
    prompter = Prompter.of(model.cfg)
    was, now = (prompter.to_str_tokens([int(t)])[0] for t in (tokens[0, index], new))
    return TokenCorruption(kind, tokens, corrupt, (index,), was, now)
