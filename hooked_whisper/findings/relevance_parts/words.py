"""Relevance carried on through cross-attention: does it find the words?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from hooked_whisper.analysis import audio_relevance
from hooked_whisper.findings.core.context import Context

WORDS = 4  # of each clip: every token takes a backward pass
NEAR = 0.1  # seconds from a word within which its most relevant audio may lie


def words_found(context: Context, some: Sequence[int]) -> Float[np.ndarray, "word what"]:
    """Relevance carried on through cross-attention (rules 7 to 10), word by word.

    Is the most relevant audio within 100 ms of the word, and what chance would have (that stretch over the clip)?
    """
    model, found = context.model, []
    for i in context.track(some, "F1 words"):
        one, n_prompt = context.utterances[i], context.transcriber().prompt().shape[1]
        tokens = model.to_tokens(f" {context.references[i]}", prompt=False)
        tokens = torch.cat([context.transcriber().prompt().to(tokens.device), tokens], dim=1)
        labels = model.to_str_tokens(tokens[0, n_prompt:])
        starts = [k for k, label in enumerate(labels) if k == 0 or label.startswith(" ")]
        n_tokens = starts[WORDS] if len(starts) > WORDS else len(labels)
        result = audio_relevance(model, context.mels([i]), tokens, list(range(n_prompt, n_prompt + n_tokens)))
        _, values = result.by_word()
        times = [w for w in one.alignment.words if w.duration > 0]
        if len(times) != len(starts):
            continue
        for word, row in zip(times, values, strict=False):
            peak = context.model.time.seconds(int(row.argmax()))
            length = context.n_positions[i] * context.seconds_per_position
            near = word.start - NEAR <= peak <= word.end + NEAR
            found.append([float(near), min(1.0, (word.duration + 2 * NEAR) / length)])
    return np.array(found).reshape(-1, 2)


def word_notes(words: Float[np.ndarray, "word what"]) -> tuple[str, ...]:
    """What share of the words their most relevant audio finds, and by chance."""
    if not len(words):
        return ()
    found, chance = words.mean(0)
    return (
        f"Carried on through cross-attention: the most relevant audio of {found:.0%} of "
        f"{len(words)} words lies within 100 ms of them (chance: {chance:.0%}).",
    )
