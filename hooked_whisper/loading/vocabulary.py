"""Find the released vocabulary of a checkpoint from its generation config or tokenizer.

The number of tokens is not enough: base with one added token has 51866 tokens, as many as large-v3.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hooked_whisper._support.files import read_json
from hooked_whisper.loading.checkpoint import Checkpoint

GENERATION_CONFIG = "generation_config.json"
TOKENIZER_FILES = ("added_tokens.json", "tokenizer.json", "vocabulary.json", "vocabulary.txt")
"""Files with special tokens, of transformers and CTranslate2: the smallest first."""
_START, _NO_TIMESTAMPS = "<|startoftranscript|>", "<|notimestamps|>"
# ids of the two tokens above -> size of the released vocabulary
_LAYOUTS = {(50257, 50362): 51864, (50258, 50363): 51865, (50258, 50364): 51866}
OTHER = 0  # the special ids belong to no released vocabulary


def with_vocabulary(checkpoint: Checkpoint, folder: Path, generation: Mapping[str, Any] | None = None) -> Checkpoint:
    """Return the checkpoint with the vocabulary that its folder names, or unchanged if it names none.

    Args:
        folder: may hold ``generation_config.json`` and the tokenizer files of transformers or CTranslate2.
        generation: the generation config of a model in memory, used instead of the folder's.
    """
    config = checkpoint.config
    if config.vocabulary is not None:
        return checkpoint
    vocabulary = _of_generation(generation) if generation is not None else vocabulary_of(folder)
    if vocabulary is None:
        return checkpoint
    if vocabulary > config.decoder.n_vocab:
        vocabulary = OTHER
    if vocabulary == config.token_layout:
        return checkpoint  # the sizes already imply it
    return replace(checkpoint, config=replace(config, vocabulary=vocabulary))


def vocabulary_of(folder: Path) -> int | None:
    """Return the released vocabulary that a folder's generation config or tokenizer names.

    ``None`` if no file names one, :data:`OTHER` if the special ids belong to no released vocabulary.
    """
    if (folder / GENERATION_CONFIG).is_file():
        vocabulary = _of_generation(read_json(folder / GENERATION_CONFIG))
        if vocabulary is not None:
            return vocabulary
    layouts = map(_layout, _special_ids(folder))
    return next((vocabulary for vocabulary in layouts if vocabulary is not None), None)


def special_ids_of(vocabulary: int | None) -> tuple[int, int] | None:
    """Return the ids of the start and no-timestamps tokens of a released vocabulary; ``None`` for any other."""
    return next((ids for ids, size in _LAYOUTS.items() if size == vocabulary), None)


def _of_generation(data: Mapping[str, Any]) -> int | None:
    """Return the vocabulary of a generation config; ``None`` without a no-timestamps id, as transformers may derive."""
    no_timestamps = data.get("no_timestamps_token_id")
    return None if no_timestamps is None else _layout({_NO_TIMESTAMPS: no_timestamps})


def _layout(ids: Mapping[str, Any]) -> int | None:
    """Return the released vocabulary with these special ids.

    :data:`OTHER` if there is none, ``None`` if ``ids`` lacks the no-timestamps token.
    """
    if _NO_TIMESTAMPS not in ids:
        return None
    matches = [
        vocabulary
        for (start, no_timestamps), vocabulary in _LAYOUTS.items()
        if ids[_NO_TIMESTAMPS] == no_timestamps and ids.get(_START, start) == start
    ]
    return matches[0] if matches else OTHER


def _special_ids(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield special token ids by name, for each readable tokenizer file."""
    for name in TOKENIZER_FILES:
        path = folder / name
        try:
            text = path.read_text(encoding="utf-8-sig")
            data = text.split("\n") if path.suffix == ".txt" else json.loads(text)
        except (OSError, ValueError, RecursionError):
            continue  # missing, or written by another program
        if name == "tokenizer.json":
            added = data.get("added_tokens") if isinstance(data, dict) else None
            entries = [entry for entry in added if isinstance(entry, dict)] if isinstance(added, list) else []
            yield {str(entry.get("content")): entry.get("id") for entry in entries}
        elif isinstance(data, dict):
            yield data
        elif isinstance(data, list):
            yield {token: number for number, token in enumerate(data) if token in (_START, _NO_TIMESTAMPS)}
