"""Packaged lists of English: 6,000 words that are one token in every Whisper vocabulary, with frequencies, phones, and
bigrams.

:mod:`.bigrams` and :mod:`.neighbors` are F9 and F10 on released models.
"""

from hooked_whisper.findings.english.lexicon import English, load_english, parse
from hooked_whisper.findings.english.sounds import (
    differ_only_at_the_end,
    edit_distances,
    one_syllable_rime,
    spelled_rime,
)

__all__ = [
    "English",
    "differ_only_at_the_end",
    "edit_distances",
    "load_english",
    "one_syllable_rime",
    "parse",
    "spelled_rime",
]
