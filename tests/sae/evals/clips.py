"""Clips with words and phones for small random models."""

from __future__ import annotations

from hooked_whisper.corpora import Clip
from tests.findings.phone_worlds import spoken
from tests.findings.worlds import utterance

HOOK = "encoder.blocks.1.hook_resid_post"


def sentences(n: int = 3) -> list[Clip]:
    """Noise with texts but no phones, for a random model whose transcripts do not matter."""
    texts = ("the red cat sat", "very blue hat", "dog ran", "the sea")
    return [utterance(f"u{k}", texts[k % len(texts)], 0.5 + 0.2 * k, seed=k) for k in range(n)]


def tones(n: int = 12) -> list[Clip]:
    """Each phone is a tone; three speakers."""
    return list(spoken(n))
