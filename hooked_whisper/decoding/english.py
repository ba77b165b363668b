"""English-only models: no language tokens to ask for, none to detect.

openai-whisper ignores a language or task that such a model does not have; here it is an error.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hooked_whisper.model import WhisperCore
from hooked_whisper.text.prompts import ENGLISH_ONLY, tokenizer_for


def check_language(model: WhisperCore, language: str | None, task: str | None) -> str | None:
    """Return the language to decode in: English where the model knows nothing else, else the one given.

    Raises:
        PromptError: an English-only model is asked for another language or a translation.
    """
    if model.cfg.decoder.n_vocab != ENGLISH_ONLY:
        return language
    if task != "lang_id":
        tokenizer_for(ENGLISH_ONLY, language, task)
    return "en"


def detect_english(model: WhisperCore, mel: Tensor) -> tuple[Tensor, Any]:
    """Return what ``whisper.detect_language`` would, for a model that knows English only: English, probability 1.

    Args:
        mel: ``[mel, frame]`` or a batch of those, or encoder output ``[.., position, d_model]``.

    Returns:
        The language token per clip (int64), and for each clip a probability for every language code.
    """
    tokenizer = tokenizer_for(model.cfg.decoder.n_vocab)
    probabilities = {code: float(code == "en") for code in tokenizer.all_language_codes}
    token = tokenizer.to_language_token("en")
    if mel.ndim == 2:
        return torch.tensor(token, device=mel.device), probabilities
    return torch.full((len(mel),), token, device=mel.device), [dict(probabilities) for _ in range(len(mel))]
