"""The tokens of a decoder pass: labels for the rows of a map, and the audio of each token."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import Interval

Spans = list[tuple[float, float] | None]


def token_labels(model: HookedWhisper, tokens: Sequence[int]) -> list[str]:
    """Return the text of each token, or its id if the vocabulary has no tokenizer."""
    if model.cfg.token_layout is None:
        return [f"token {token}" for token in tokens]
    return model.to_str_tokens(list(tokens))


def spoken_text(model: HookedWhisper, tokens: Sequence[int]) -> str:
    """Return the text of the tokens without special tokens and timestamps."""
    if model.cfg.token_layout is None:
        return ""
    end = model.tokenizer.eot
    return model.to_string([token for token in tokens if token < end])


def token_spans(model: HookedWhisper, tokens: Sequence[int], words: Sequence[Interval]) -> Spans:
    """Return the time of the word that each token belongs to; ``None`` for tokens outside every known word.

    Words are matched in order by their letters, so that a transcript may differ from the words of an alignment.
    """
    spans: Spans = [None] * len(tokens)
    if not words or model.cfg.token_layout is None:
        return spans
    groups = _words_of_tokens(model, tokens)
    text = [_letters(label) for label, _ in groups]
    spoken = [_letters(word.label) for word in words]
    for block in difflib.SequenceMatcher(None, text, spoken, autojunk=False).get_matching_blocks():
        for k in range(block.size):
            word = words[block.b + k]
            for index in groups[block.a + k][1]:
                spans[index] = (word.start, word.end)
    return spans


def _words_of_tokens(model: HookedWhisper, tokens: Sequence[int]) -> list[tuple[str, list[int]]]:
    """Return the words of the text, each with the indices of its tokens; punctuation alone is no word."""
    tokenizer = model.tokenizer
    indices = [index for index, token in enumerate(tokens) if token < tokenizer.eot]
    labels, pieces = tokenizer.split_to_word_tokens([tokens[index] for index in indices] + [tokenizer.eot])
    groups: list[tuple[str, list[int]]] = []
    start = 0
    for label, piece in zip(labels[:-1], pieces[:-1], strict=True):
        if _letters(label):
            groups.append((label, indices[start : start + len(piece)]))
        start += len(piece)
    return groups


def _letters(label: str) -> str:
    return "".join(character for character in label.casefold() if character.isalnum())
