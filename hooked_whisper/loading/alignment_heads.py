"""Find the alignment heads of checkpoints that do not list them.

Word timing reads the cross-attention of these heads. openai-whisper lists them for every released model. Files of other
formats list them, or belong to a released model that their name or shape identifies.
"""

from __future__ import annotations

import base64
import gzip
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import whisper

from hooked_whisper.config import ALIASES, RELEASED, DecoderConfig, WhisperConfig

AlignmentHeads = tuple[tuple[int, int], ...]

# the longest first: "large-v3-turbo" before "large-v3"; "tiny" is not found in "tiny.en"
_NAMES = sorted([*RELEASED, *ALIASES], key=len, reverse=True)
_NAME = re.compile(rf"(?<![a-z0-9.])({'|'.join(map(re.escape, _NAMES))})(?![a-z0-9]|\.en)", re.IGNORECASE)


def released_heads(name: str, decoder: DecoderConfig) -> AlignmentHeads:
    """Return OpenAI's alignment heads of a released model, with this decoder, as (block, head) pairs."""
    packed = whisper._ALIGNMENT_HEADS[ALIASES.get(name, name)]
    mask = np.frombuffer(gzip.decompress(base64.b85decode(packed)), dtype=bool)
    rows = np.argwhere(mask.reshape(decoder.n_layers, decoder.n_heads))
    return tuple((int(block), int(head)) for block, head in rows)


def released_names(config: WhisperConfig, label: str, sha256: Callable[[], str] | None = None) -> list[str]:
    """Return the released models that a checkpoint may be, or may be fine-tuned from: none, one, or several.

    Args:
        config: the checkpoint's shape. Widths, depths and vocabulary identify every released size, except that
            ``large-v1`` and ``large-v2`` share theirs. Context lengths are ignored.
        label: a file name or Hugging Face id; a released name in it decides between models of the same shape.
        sha256: computes the checksum of a file as OpenAI published it; called only if shape and label do not decide.
    """
    names = [name for name, released in RELEASED.items() if _shape(released) == _shape(config)]
    if len(names) < 2:
        return names
    labeled = _NAME.search(label)
    if labeled and (name := ALIASES.get(labeled[1].lower(), labeled[1].lower())) in names:
        return [name]
    digest = sha256() if sha256 else ""
    return [name for name in names if published_sha256(name) == digest] or names


def published_sha256(name: str) -> str:
    """Return the SHA-256 of the ``.pt`` file that OpenAI published under a released name."""
    return whisper._MODELS[ALIASES.get(name, name)].split("/")[-2]  # by OpenAI's convention


def with_known_heads(
    config: WhisperConfig, label: str, source: str, sha256: Callable[[], str] | None = None
) -> WhisperConfig:
    """Return the config with alignment heads: its own, or those of the released model that it matches.

    If neither is known, warn with ``source`` and the heads that word timing will use.
    """
    if config.alignment_heads is not None:
        return config
    names = released_names(config, label, sha256)
    if len(names) == 1:
        return replace(config, alignment_heads=released_heads(names[0], config.decoder))
    whose = f"that of {' and '.join(names)}" if names else "no released model's"
    warn_of_fallback(config, source, f"the checkpoint names no alignment heads, and its shape is {whose}")
    return config


def with_listed_heads(config: WhisperConfig, heads: Any, label: str, source: str) -> WhisperConfig:
    """Return the config with the alignment heads that a JSON file lists.

    If it lists none (``heads`` is None), use :func:`with_known_heads`. If this decoder lacks a listed head (distilled
    models are published with their teacher's), drop the list with a warning.
    """
    if heads is None:
        return with_known_heads(config, label, source)
    try:
        return replace(config, alignment_heads=tuple((int(block), int(head)) for block, head in heads))
    except (TypeError, ValueError, OverflowError):
        warn_of_fallback(config, source, f"the alignment heads {str(heads)[:200]} do not exist in this decoder")
        return config


def warn_of_fallback(config: WhisperConfig, source: str, problem: str) -> None:
    """Warn that word timing reads every cross-attention head of the upper half of the decoder."""
    first, last = config.decoder.n_layers // 2, config.decoder.n_layers - 1
    blocks = f"block {last}" if first == last else f"blocks {first} to {last}"
    heads = config.decoder.n_heads * (last - first + 1)
    warnings.warn(
        f"{source}: {problem}. Word times will use all {heads} cross-attention heads of {blocks}, openai-whisper's "
        "fallback; hooked_whisper.analysis.choose_heads finds better ones",
        stacklevel=3,
    )


def _shape(config: WhisperConfig) -> tuple[object, ...]:
    n_vocab = config.token_layout or config.decoder.n_vocab  # added tokens do not change which model it is
    return replace(config.encoder, n_ctx=1), replace(config.decoder, n_ctx=1, n_vocab=n_vocab)
