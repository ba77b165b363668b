"""Text: prompts and tokens, normalisation, word errors and word diffs."""

from hooked_whisper.text.prompts import Prompter, tokenizer_for

__all__ = ["Prompter", "tokenizer_for"]
