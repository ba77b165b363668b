"""Corruptions of the decoder input: one token changes, the audio stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.showing import Showing
from hooked_whisper.errors import PatchError, PromptError
from hooked_whisper.text import Prompter
from hooked_whisper.text.prompts import TASKS, tokenizer_of

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper


@dataclass(frozen=True, eq=False, repr=False)
class TokenCorruption(Showing):
    """Clean and corrupt decoder inputs of the same length that differ only at the indices ``changed``.

    was, now: texts of the changed token.

    Raises:
        PatchError: the lengths differ, or the inputs differ at other indices or nowhere.
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
                f"{self.kind}: {self.clean.shape[1]} clean and {self.corrupt.shape[1]} corrupt tokens: choose words "
                "with the same number of tokens"
            )
        differ = torch.nonzero(self.clean[0] != self.corrupt[0]).flatten().tolist()
        if not differ or not set(differ) <= set(self.changed):
            raise PatchError(f"{self.kind}: tokens {differ} differ, expected {list(self.changed)}: check the index")


def swap_language(model: HookedWhisper, tokens: Int[Tensor, "1 token"], language: str) -> TokenCorruption:
    """Replace the language token, for example ``<|en|>`` by ``<|fr|>``.

    Raises:
        PromptError: the language is unknown, the model is English-only, or the input has no language token.
    """
    tokenizer = tokenizer_of(model.cfg, language)
    languages = set(tokenizer_of(model.cfg).all_language_tokens)
    if not model.is_multilingual:
        raise PromptError("the prompt of an English-only model has no language token: use a multilingual model")
    return _swap(model, tokens, languages, tokenizer.to_language_token(tokenizer.language), "language token swap")


def swap_task(model: HookedWhisper, tokens: Int[Tensor, "1 token"]) -> TokenCorruption:
    """Replace ``<|transcribe|>`` by ``<|translate|>``, or the reverse.

    Raises:
        PromptError: the input has no task token (English-only models have none).
    """
    tokenizer = tokenizer_of(model.cfg)
    tasks = dict(zip(TASKS, (tokenizer.transcribe, tokenizer.translate), strict=True))
    present = [t for t in tokens[0].tolist() if t in tasks.values()]
    other = next((t for t in tasks.values() if present and t != present[0]), -1)
    return _swap(model, tokens, set(tasks.values()), other, "task token swap")


def swap_previous_word(model: HookedWhisper, tokens: Int[Tensor, "1 token"], index: int, word: str) -> TokenCorruption:
    """Replace the word at ``index`` of the decoder input by a word of one token (``" very"``).

    The language model then expects a different next word than the audio contains.

    Raises:
        PromptError: the word is several tokens.
        PatchError: ``index`` is out of range, or the word is the same.
    """
    new = Prompter.of(model.cfg).to_single_token(word)
    if not 0 <= index < tokens.shape[1]:
        raise PatchError(
            f"token {index} is outside the decoder input of {tokens.shape[1]} tokens: give 0 to {tokens.shape[1] - 1}"
        )
    return _replace(model, tokens, index, new, "previous word swap")


def shuffle_positions(
    encoder_out: Float[Tensor, "batch position d_model"], n_positions: int | None = None, seed: int = 0
) -> Float[Tensor, "batch position d_model"]:
    """Return encoder output with its positions in a random order, the same for all clips.

    n_positions: shuffle only the first positions (the clip), not the padding after it. Default: all.

    Raises:
        PatchError: ``n_positions`` exceeds the number of positions, or is 0.
    """
    n = encoder_out.shape[1] if n_positions is None else n_positions
    if not 0 < n <= encoder_out.shape[1]:
        raise PatchError(f"n_positions must be 1 to {encoder_out.shape[1]}, got {n}")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(encoder_out.device)
    return torch.cat([encoder_out[:, :n][:, order], encoder_out[:, n:]], dim=1)


def _swap(model: HookedWhisper, tokens: Tensor, kinds: set[int], new: int, kind: str) -> TokenCorruption:
    indices = [i for i, token in enumerate(tokens[0].tolist()) if token in kinds]
    if len(indices) != 1:
        raise PromptError(f"{kind}: the input has {len(indices)} such tokens, not 1: start with model.to_tokens(...)")
    return _replace(model, tokens, indices[0], new, kind)


def _replace(model: HookedWhisper, tokens: Tensor, index: int, new: int, kind: str) -> TokenCorruption:
    corrupt = tokens.clone()
    corrupt[0, index] = new
    prompter = Prompter.of(model.cfg)
    was, now = (prompter.to_str_tokens([int(t)])[0] for t in (tokens[0, index], new))
    return TokenCorruption(kind, tokens, corrupt, (index,), was, now)
