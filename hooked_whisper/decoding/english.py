"""Check the language and task of a decoding request, and suppress tokens added to the released vocabulary.

openai-whisper ignores a language or task that a model does not support, and derives its special tokens from the number
of tokens alone. Here an unsupported language or task is an error, and added tokens are never chosen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hooked_whisper.errors import PromptError, check_option
from hooked_whisper.model import WhisperCore
from hooked_whisper.text.prompts import ENGLISH_ONLY, TASKS, tokenizer_of


def check_language(model: WhisperCore, language: str | None, task: str | None) -> str | None:
    """Return the language to decode in: ``"en"`` for an English-only model, else ``language``.

    Raises:
        PromptError: the language or task is unknown, an English-only model is used for another language or a
            translation, or the model's special tokens are unknown.
    """
    if task is not None:
        check_option("task", task, (*TASKS, "lang_id"), PromptError)
    tokenizer_of(model.cfg, language, None if task == "lang_id" else task)
    return "en" if model.cfg.token_layout == ENGLISH_ONLY else language


def without_added_tokens(model: WhisperCore, suppress: str | Iterable[int] | None) -> str | list[int] | None:
    """Return ``suppress_tokens`` for ``DecodingOptions``, extended by tokens added to the released vocabulary.

    openai-whisper would treat them as timestamps after the last one.
    """
    layout, n_vocab = model.cfg.token_layout, model.cfg.decoder.n_vocab
    if suppress is None or isinstance(suppress, str):
        if layout is None or layout == n_vocab:
            return suppress
        suppressed = [int(token) for token in (suppress or "").split(",") if token]
    else:
        suppressed = [int(token) for token in suppress]
    return suppressed + list(range(layout or n_vocab, n_vocab))


def detect_english(model: WhisperCore, mel: Tensor) -> tuple[Tensor, Any]:
    """Return the result of ``whisper.detect_language`` for an English-only model: English with probability 1.

    Args:
        mel: ``[mel, frame]`` or a batch of those, or encoder output ``[.., position, d_model]``.

    Returns:
        The language token per clip (int64), and for each clip a probability for every language code.
    """
    tokenizer = tokenizer_of(model.cfg)
    probabilities = {code: float(code == "en") for code in tokenizer.all_language_codes}
    token = tokenizer.to_language_token("en")
    if mel.ndim == 2:
        return torch.tensor(token, device=mel.device), probabilities
    return torch.full((len(mel),), token, device=mel.device), [dict(probabilities) for _ in range(len(mel))]
