"""Text: prompts and tokens, normalization, word errors and word diffs."""

from hooked_whisper.text.normalize import Normalizer, normalize_basic, normalize_english, normalizer_for
from hooked_whisper.text.prompts import Prompter, tokenizer_for
from hooked_whisper.text.wer import DiffOp, WordError, bootstrap_interval, word_diff, word_error, word_errors

__all__ = [
    "DiffOp",
    "Normalizer",
    "Prompter",
    "WordError",
    "bootstrap_interval",
    "normalize_basic",
    "normalize_english",
    "normalizer_for",
    "tokenizer_for",
    "word_diff",
    "word_error",
    "word_errors",
]
