"""Several utterances in one window: a 30 s window costs the same however little is said in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hooked_whisper.corpora import Clip
from hooked_whisper.findings.core.context import Context
from hooked_whisper.protocols import Alignment, Interval

GAP = 0.25  # seconds of silence between two utterances
SPARE = 0.5  # seconds left free at the end of the window


def packed(context: Context) -> Context:
    """The context with its utterances packed into long windows, made once and kept.

    The demo model was trained on single sentences and cannot read several: a context with a world of its own is
    returned as it is, and so is one whose references are the model's own transcripts of the single clips.
    """
    if context.is_organism or context.reference == "model":
        return context
    return context.once("packed windows", lambda: context.with_utterances(pack(context.utterances, _room(context))))


def _room(context: Context) -> float:
    return context.model.time.duration - SPARE


def pack(utterances: Sequence[Clip], room: float, gap: float = GAP) -> tuple[Clip, ...]:
    """Join utterances of one speaker, in their order, as many as fit in ``room`` seconds; longer ones stay as they are.

    Words and phones keep their labels and get the times of the window. ``alignment.extra["packed"]`` holds the number
    of utterances in it.
    """
    by_speaker: dict[str, list[Clip]] = {}
    for utterance in utterances:
        by_speaker.setdefault(utterance.alignment.speaker, []).append(utterance)
    windows: list[Clip] = []
    for group in by_speaker.values():
        waiting: list[Clip] = []
        for utterance in group:
            if waiting and _seconds([*waiting, utterance], gap) > room:
                windows.append(_joined(waiting, gap))
                waiting = []
            waiting.append(utterance)
        windows.append(_joined(waiting, gap))
    return tuple(windows)


def n_packed(utterances: Sequence[Clip]) -> int:
    """How many utterances there were before packing."""
    return sum(int(u.alignment.extra.get("packed", "1")) for u in utterances)


def holding(utterances: Sequence[Clip], count: int) -> int:
    """How many of the first windows it takes to hold ``count`` utterances; all of them if they hold fewer."""
    held = np.cumsum([n_packed([u]) for u in utterances])
    return min(int((held < count).sum()) + 1, len(utterances))


def _seconds(utterances: Sequence[Clip], gap: float) -> float:
    return sum(len(u.samples) for u in utterances) / 16_000 + gap * (len(utterances) - 1)


def _joined(utterances: Sequence[Clip], gap: float) -> Clip:
    if len(utterances) == 1:
        return utterances[0]
    silence = np.zeros(round(gap * 16_000), np.float32)
    parts: list[np.ndarray] = []
    words: list[Interval] = []
    phones: list[Interval] = []
    samples = 0
    for utterance in utterances:
        start = samples / 16_000
        words += [word.shifted(start) for word in utterance.alignment.words]
        phones += [phone.shifted(start) for phone in utterance.alignment.phones]
        parts += [utterance.samples, silence]
        samples += len(utterance.samples) + len(silence)
    audio = np.concatenate(parts[:-1])
    first = utterances[0].alignment
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
