"""openai-whisper's text normalisers: what a word error rate should not depend on."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

Normalizer = Callable[[str], str]


def normalize_english(text: str) -> str:
    """Lower case, no punctuation, numbers as digits, contractions spelled out, American spelling, no "um" or "uh"."""
    return _normalizers()[0](text)


def normalize_basic(text: str) -> str:
    """Lower case, symbols and punctuation to spaces, brackets removed with their content: for any language."""
    return _normalizers()[1](text)


def normalizer_for(language: str | None) -> Normalizer:
    """:func:`normalize_english` for ``"en"`` or ``"english"``, else :func:`normalize_basic`."""
    return normalize_english if (language or "").lower() in ("en", "english") else normalize_basic


@lru_cache(maxsize=1)
def _normalizers() -> tuple[Any, Any]:
    from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer  # here: both imports and tables are slow

    return EnglishTextNormalizer(), BasicTextNormalizer()
