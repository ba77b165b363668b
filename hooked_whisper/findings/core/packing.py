"""Pack several utterances into one window, because a 30 s window costs the same no matter how much speech it holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hooked_whisper.corpora import Clip
from hooked_whisper.corpora.packing import GAP, SPARE, join_samples, window_groups
from hooked_whisper.findings.core.context import Context
from hooked_whisper.protocols import Alignment


def packed(context: Context) -> Context:
    """Return the context with its utterances packed into long windows. The result is cached on the context.

    A context whose model was trained on a synthetic corpus is returned unchanged, because that model was trained on
    single sentences. So is a context whose references are the model's own transcripts of the single clips.
    """
    if context.is_organism or context.reference == "model":
        return context
    return context.once("packed windows", lambda: context.with_utterances(pack(context.utterances, _room(context))))


def _room(context: Context) -> float:
    return context.model.time.duration - SPARE


def pack(utterances: Sequence[Clip], room: float, gap: float = GAP) -> tuple[Clip, ...]:
    """Join consecutive utterances of one speaker into clips of up to ``room`` seconds. Longer utterances are unchanged.

    Words and phones keep their labels, and their times are shifted to the joined clip. ``alignment.extra["packed"]`` is
    the number of utterances in it.
    """
    return tuple(_joined([utterances[i] for i in group], gap) for group in window_groups(utterances, room, gap))


def n_packed(utterances: Sequence[Clip]) -> int:
    """Return the number of utterances before packing."""
    return sum(int(u.alignment.extra.get("packed", "1")) for u in utterances)


def windows_holding(utterances: Sequence[Clip], count: int) -> int:
    """Return the number of leading windows that together hold ``count`` utterances, or of all windows if they hold
    fewer."""
    held = np.cumsum([n_packed([u]) for u in utterances])
    return min(int((held < count).sum()) + 1, len(utterances))


def _joined(utterances: Sequence[Clip], gap: float) -> Clip:
    if len(utterances) == 1:
        return utterances[0]
    audio, starts = join_samples(utterances, gap)
    seconds = [start / utterances[0].sample_rate for start in starts]
    alignments = [utterance.alignment for utterance in utterances]
    words = [word.shifted(s) for s, alignment in zip(seconds, alignments, strict=True) for word in alignment.words]
    phones = [phone.shifted(s) for s, alignment in zip(seconds, alignments, strict=True) for phone in alignment.phones]
    first = alignments[0]
    alignment = Alignment(
        f"{utterances[0].id} and {len(utterances) - 1} more",
        first.speaker,
        " ".join(u.text for u in utterances),
        len(audio) / 16_000,
        tuple(words),
        tuple(phones),
        {"packed": str(len(utterances))},
    )
    return Clip.aligned(audio, alignment)
