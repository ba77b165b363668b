"""The speakers: several accents, voices and pitches of two synthesizers. Four speakers are held out of training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr
from jaxtyping import Float

from hooked_whisper.protocols import Alignment, Interval
from hooked_whisper.synthetic import espeak, flite

SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class Speaker:
    """A voice and its settings.

    rate: words per minute (espeak), or a factor of the duration (flite).
    pitch: 0 to 99 (espeak), or the mean f0 in Hz (flite; 0 is the default of the voice).
    """

    id: str
    synthesizer: str
    voice: str
    rate: float
    pitch: float
    split: str = "train"


SPEAKERS: tuple[Speaker, ...] = (
    Speaker("us-m0", "espeak", "en-us", 165.0, 45.0),
    Speaker("us-f2", "espeak", "en-us+f2", 170.0, 55.0),
    Speaker("us-m3", "espeak", "en-us+m3", 160.0, 40.0),
    Speaker("us-m7", "espeak", "en-us+m7", 170.0, 60.0),
    Speaker("us-f5", "espeak", "en-us+f5", 165.0, 50.0),
    Speaker("us-f1", "espeak", "en-us+f1", 155.0, 65.0),
    Speaker("gb-m1", "espeak", "en+m1", 165.0, 50.0),
    Speaker("gb-f3", "espeak", "en+f3", 165.0, 50.0),
    Speaker("rp-m2", "espeak", "en-gb-x-rp+m2", 160.0, 40.0),
    Speaker("rp-f4", "espeak", "en-gb-x-rp+f4", 165.0, 45.0),
    Speaker("sc-m4", "espeak", "en-gb-scotland+m4", 160.0, 50.0),
    Speaker("ny-f2", "espeak", "en-us-nyc+f2", 170.0, 40.0),
    Speaker("ny-m5", "espeak", "en-us-nyc+m5", 165.0, 60.0),
    Speaker("us-michael", "espeak", "en-us+Michael", 160.0, 50.0),
    Speaker("gb-david", "espeak", "en+david", 160.0, 50.0),
    Speaker("us-quincy", "espeak", "en-us+quincy", 165.0, 50.0),
    Speaker("rp-rob", "espeak", "en-gb-x-rp+rob", 160.0, 50.0),
    Speaker("gb-robert", "espeak", "en+robert", 165.0, 50.0),
    Speaker("us-marcelo", "espeak", "en-us+marcelo", 160.0, 50.0),
    Speaker("us-m5", "espeak", "en-us+m5", 165.0, 45.0),
    Speaker("rp-m6", "espeak", "en-gb-x-rp+m6", 165.0, 50.0),
    Speaker("us-m8", "espeak", "en-us+m8", 160.0, 45.0),
    Speaker("us-denis", "espeak", "en-us+Denis", 165.0, 50.0),
    Speaker("ny-iven", "espeak", "en-us-nyc+iven", 160.0, 50.0),
    Speaker("us-gene", "espeak", "en-us+Gene2", 165.0, 50.0),
    Speaker("us-edward", "espeak", "en-us+edward", 165.0, 50.0),
    Speaker("us-andrea", "espeak", "en-us+Andrea", 165.0, 50.0),
    Speaker("rp-steph", "espeak", "en-gb-x-rp+steph", 165.0, 50.0),
    Speaker("us-linda", "espeak", "en-us+linda", 165.0, 50.0),
    Speaker("flite-slt", "flite", "slt", 1.0, 0.0),
    Speaker("flite-slt-low", "flite", "slt", 1.05, 140.0),
    Speaker("flite-slt-high", "flite", "slt", 0.95, 205.0),
    Speaker("flite-kal", "flite", "kal16", 1.0, 0.0),
    Speaker("flite-kal-high", "flite", "kal16", 1.05, 135.0),
    Speaker("flite-awb", "flite", "awb", 1.0, 0.0),
    Speaker("flite-awb-low", "flite", "awb", 1.05, 100.0),
    # The first two were evaluated while the augmentation was chosen, the last two only after training had ended.
    Speaker("us-f4", "espeak", "en-us+f4", 165.0, 50.0, "held-out"),
    Speaker("flite-rms", "flite", "rms", 1.0, 0.0, "held-out"),
    Speaker("us-annie", "espeak", "en-us+Annie", 165.0, 50.0, "held-out"),
    Speaker("gb-paul", "espeak", "en+paul", 165.0, 50.0, "held-out"),
)
BY_ID = {speaker.id: speaker for speaker in SPEAKERS}


def speakers(split: str = "train", synthesizer: str | None = None) -> tuple[Speaker, ...]:
    """Return the speakers of a split (``train`` or ``held-out``), by one synthesizer or by both."""
    return tuple(s for s in SPEAKERS if s.split == split and synthesizer in (None, s.synthesizer))


def speak(
    text: str,
    speaker: Speaker,
    utterance: str = "",
    tempo: float = 1.0,
    pitch_shift: float = 0.0,
    engine: espeak.Espeak | None = None,
) -> tuple[Float[np.ndarray, "sample"], Alignment]:
    """Speak a text. Return the audio at 16 kHz and its alignment.

    Args:
        tempo: factor of the speed; above 1 is faster.
        pitch_shift: change of pitch in espeak's units, or in percent of f0 (flite).
        engine: synthesizer for espeak's voices; default: the one that the process shares.
    """
    if speaker.synthesizer == "espeak":
        pitch = int(np.clip(round(speaker.pitch + pitch_shift), 0, 99))
        spoken = (engine or espeak.engine()).say(text, speaker.voice, rate=round(speaker.rate * tempo), pitch=pitch)
    else:
        f0 = speaker.pitch * (1 + pitch_shift / 100) if speaker.pitch else None
        spoken = flite.say(text, speaker.voice, speaker.rate / tempo, f0)
    audio = spoken.audio
    if spoken.rate != SAMPLE_RATE:
        audio = soxr.resample(audio, spoken.rate, SAMPLE_RATE, quality="HQ")
    duration = len(audio) / SAMPLE_RATE
    # Resampling rounds the number of samples, so cut the intervals to the end of the audio.
    phones = [_within(i, duration) for i in spoken.phones if i.start < duration]
    phones[-1] = Interval(phones[-1].start, duration, phones[-1].label)
    words = tuple(_within(i, duration) for i in spoken.words)
    extra = {"synthesiser": speaker.synthesizer, "voice": speaker.voice}
    return audio.astype(np.float32), Alignment(utterance, speaker.id, text, duration, words, tuple(phones), extra)


def _within(interval: Interval, duration: float) -> Interval:
    return interval if interval.end <= duration else Interval(interval.start, duration, interval.label)
