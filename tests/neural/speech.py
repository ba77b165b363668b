"""Speech without a synthesizer: a tone for each symbol, silence for spaces after marks, and the durations of both."""

from __future__ import annotations

import numpy as np

from hooked_whisper.neural.build import Sentence, Synthesis
from hooked_whisper.neural.kokoro import RATE, Utterance
from hooked_whisper.neural.phonemes import Phone, Phonemes, Word
from hooked_whisper.neural.plan import Planned

FRAME = 600
LEAD_FRAMES, TAIL_FRAMES = 12, 8


class Tones:
    """In place of Kokoro: each symbol sounds for ``frames`` frames, a punctuation mark is silent."""

    def __init__(self, frames: int = 3) -> None:
        self.frames = frames
        self.calls: list[tuple[str, str, float]] = []

    def speak(self, symbols: str, voice: str, speed: float = 1.0) -> Utterance:
        self.calls.append((symbols, voice, speed))
        durations = [LEAD_FRAMES, *([self.frames] * len(symbols)), TAIL_FRAMES]
        loud = [0.0, *(0.0 if symbol in ",.?!" else 0.3 for symbol in symbols), 0.0]
        envelope = np.repeat(np.repeat(loud, durations), FRAME)
        tone = np.sin(2 * np.pi * 220 * np.arange(len(envelope)) / RATE)
        return Utterance((envelope * tone).astype(np.float32), np.array(durations, np.int64))


def words(text: str) -> Phonemes:
    """Each letter a phone with itself as symbol and its upper case as label; marks as written."""
    groups = []
    for token in text.split():
        bare = token.rstrip(",.?!")
        phones = tuple(Phone(letter, letter.upper()) for letter in bare)
        groups.append(Word(bare, phones, token[len(bare) :]))
    return Phonemes(tuple(groups))


def synthesis(text: str, frames: int = 3, planned: Planned | None = None) -> tuple[Synthesis, np.ndarray]:
    """A recording of one sentence by :class:`Tones`."""
    phonemes = words(text)
    speech = Tones(frames).speak(phonemes.symbols, "af_heart")
    planned = planned or Planned("x", "prose", "en", "af_heart", "train", (text,))
    sentence = Sentence(phonemes, 0, tuple(map(int, speech.durations)))
    return Synthesis(planned, (sentence,), len(speech.audio)), speech.audio
