"""Which released vocabulary a checkpoint's ids belong to, as its own tokenizer or generation config says.

The number of tokens alone does not say: one token added to the 99 languages makes 51866, the size of large-v3's.
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
_START, _NO_TIMESTAMPS = "<|startoftranscript|>", "<|notimestamps|>"
# ids of these two -> released vocabulary
_LAYOUTS = {(50257, 50362): 51864, (50258, 50363): 51865, (50258, 50364): 51866}
OTHER = 0  # special ids that are those of no released vocabulary


def with_vocabulary(checkpoint: Checkpoint, folder: Path, generation: Mapping[str, Any] | None = None) -> Checkpoint:
    """Return the checkpoint with the vocabulary that the files of its folder name, where they do.

    Args:
        folder: with ``generation_config.json`` or a tokenizer's files (transformers', CTranslate2's), if there are any.
        generation: the generation config of a model in memory, instead of the folder's.
    """
    config = checkpoint.config
    if config.vocabulary is not None:
        return checkpoint
    found = _of_generation(generation) if generation is not None else _of_folder(folder)
    if found is None:
        return checkpoint
    vocabulary = found if found <= config.decoder.n_vocab else OTHER
    if vocabulary == config.token_layout:
        return checkpoint  # the sizes say the same
    return replace(checkpoint, config=replace(config, vocabulary=vocabulary))


def _of_folder(folder: Path) -> int | None:
    if (folder / GENERATION_CONFIG).is_file():
        found = _of_generation(read_json(folder / GENERATION_CONFIG))
        if found is not None:
            return found
    return next((found for ids in _special_ids(folder) if (found := _layout(ids)) is not None), None)


def _of_generation(data: Mapping[str, Any]) -> int | None:
    """By the id of no-timestamps; ``None`` where the config has none, as those that transformers makes up."""
    no_timestamps = data.get("no_timestamps_token_id")
    return None if no_timestamps is None else _layout({_NO_TIMESTAMPS: no_timestamps})


def _layout(ids: Mapping[str, Any]) -> int | None:
    """The vocabulary that has these special ids, :data:`OTHER` if none has; ``None`` if they are not among ``ids``."""
    if _NO_TIMESTAMPS not in ids:
        return None
    matches = [
        vocabulary
        for (start, no_timestamps), vocabulary in _LAYOUTS.items()
        if ids[_NO_TIMESTAMPS] == no_timestamps and ids.get(_START, start) == start
    ]
    return matches[0] if matches else OTHER


def _special_ids(folder: Path) -> Iterator[dict[str, Any]]:
    """Special tokens by name, from each of a tokenizer's files that is there and readable."""
    for name in ("added_tokens.json", "tokenizer.json", "vocabulary.json", "vocabulary.txt"):
        path = folder / name
        try:
            text = path.read_text(encoding="utf-8-sig")
            data = text.split("\n") if path.suffix == ".txt" else json.loads(text)
        except (OSError, ValueError, RecursionError):
            continue  # not there, or another program's
        if name == "tokenizer.json":
            added = data.get("added_tokens") if isinstance(data, dict) else None
            entries = [entry for entry in added if isinstance(entry, dict)] if isinstance(added, list) else []
            yield {str(entry.get("content")): entry.get("id") for entry in entries}
        elif isinstance(data, dict):
            yield data
        elif isinstance(data, list):
            yield {token: number for number, token in enumerate(data) if token in (_START, _NO_TIMESTAMPS)}
