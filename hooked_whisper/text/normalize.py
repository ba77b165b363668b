"""Remove what a word error rate should not depend on, with openai-whisper's text normalizers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

Normalizer = Callable[[str], str]


def normalize_english(text: str) -> str:
    """Normalize English: lower case, no punctuation, "um" or "uh", digits, full forms, American spelling."""
    return _normalizers()[0](text)


def normalize_basic(text: str) -> str:
    """Normalize any language: lower-case, turn symbols and punctuation into spaces, drop bracketed text."""
    return _normalizers()[1](text)


def normalizer_for(language: str | None) -> Normalizer:
    """Return :func:`normalize_english` for ``"en"`` or ``"english"``, else :func:`normalize_basic`."""
    return normalize_english if (language or "").lower() in ("en", "english") else normalize_basic


@lru_cache(maxsize=1)
def _normalizers() -> tuple[Any, Any]:
    from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer  # imported here because it is slow

    return EnglishTextNormalizer(), BasicTextNormalizer()
