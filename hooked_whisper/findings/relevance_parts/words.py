"""Check whether relevance through cross-attention locates words (F1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from hooked_whisper.analysis import audio_relevance
from hooked_whisper.findings.core.context import Context

WORDS = 4  # words per clip, because every token needs a backward pass
NEAR = 0.1  # largest distance in seconds of a word's most relevant audio from the word


def words_located(context: Context, clips: Sequence[int]) -> Float[np.ndarray, "word what"]:
    """Return for each word whether its most relevant audio is within 100 ms of it, and the probability by chance.

    Relevance is propagated through cross-attention (rules 7 to 10 of Chefer et al. 2021). Chance is the length of that
    span divided by the length of the clip.
    """
    model, words = context.model, []
    for i in context.track(clips, "F1 words"):
        clip, n_prompt = context.utterances[i], context.transcriber().prompt().shape[1]
        tokens = model.to_tokens(f" {context.references[i]}", prompt=False)
        tokens = torch.cat([context.transcriber().prompt().to(tokens.device), tokens], dim=1)
        labels = model.to_str_tokens(tokens[0, n_prompt:])
        starts = [k for k, label in enumerate(labels) if k == 0 or label.startswith(" ")]
        n_tokens = starts[WORDS] if len(starts) > WORDS else len(labels)
        result = audio_relevance(model, context.mels([i]), tokens, list(range(n_prompt, n_prompt + n_tokens)))
        _, values = result.by_word()
        times = [w for w in clip.alignment.words if w.duration > 0]
        if len(times) != len(starts):
            continue
        for word, row in zip(times, values, strict=False):
            peak = context.model.time.seconds(int(row.argmax()))
            length = context.n_positions[i] * context.seconds_per_position
            near = word.start - NEAR <= peak <= word.end + NEAR
            words.append([float(near), min(1.0, (word.duration + 2 * NEAR) / length)])
    return np.array(words).reshape(-1, 2)


def word_notes(words: Float[np.ndarray, "word what"]) -> tuple[str, ...]:
    """Return a note with the share of words that are located, and the share by chance."""
    if not len(words):
        return ()
    located, chance = words.mean(0)
    return (
        f"If relevance is propagated through cross-attention, the most relevant audio of {located:.0%} of {len(words)} "
        f"words is within 100 ms of the word (chance: {chance:.0%}).",
    )
