"""flite as a subprocess: 16 kHz audio with phone times from ``-psdur``.

Word times are computed from the phones of each word when it is spoken alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from hooked_whisper.protocols import SILENCE, Interval
from hooked_whisper.synthetic.espeak import Spoken
from hooked_whisper.synthetic.phones import VOWELS, from_flite

INSTALL = "flite is missing: apt-get install flite (Debian, Ubuntu) or brew install flite"
_PHONE = re.compile(r"([a-z]+):([\d.]+)")


def say(text: str, voice: str, stretch: float = 1.0, f0: float | None = None) -> Spoken:
    """Speak lower-case words joined by single spaces. ``f0`` is the mean pitch in Hz.

    Raises:
        ValueError: the phones differ from those of the single words.
        RuntimeError: flite is missing or fails.
    """
    audio, rate, timed = _synthesize(text, voice, stretch, f0)
    total = len(audio) / rate
    phones: list[Interval] = []
    start = 0.0
    for name, end in timed:
        end = min(end, total)  # the diphone voice shortens its last pause
        if end > start:
            phones.append(Interval(start, end, from_flite(name)))
        start = max(start, end)
    if start < total:
        phones.append(Interval(start, total, SILENCE))
    sounding = [p for p in phones if p.label != SILENCE]
    counts = [len(_pronunciation(word)) for word in text.split()]
    expected = [phone for word in text.split() for phone in _pronunciation(word)]
    # Vowels may be reduced in context (the, a, to); consonants and the number of phones must be equal.
    if len(expected) != len(sounding) or any(
        a != b.label and not (a in VOWELS and b.label in VOWELS) for a, b in zip(expected, sounding, strict=True)
    ):
        raise ValueError(f"flite spoke {text!r} with phones that differ from those of its single words")
    words, first = [], 0
    for word, count in zip(text.split(), counts, strict=True):
        words.append(Interval(sounding[first].start, sounding[first + count - 1].end, word))
        first += count
    return Spoken(audio, rate, tuple(phones), tuple(words))


def speak(text: str, voice: str) -> tuple[np.ndarray, int]:
    """Speak any text. Return samples and sample rate. Raises ``RuntimeError`` if flite is missing or fails."""
    audio, rate, _ = _synthesize(text, voice, 1.0, None)
    return audio, rate


def _synthesize(
    text: str, voice: str, stretch: float, f0: float | None
) -> tuple[np.ndarray, int, list[tuple[str, float]]]:
    program = shutil.which("flite")
    if program is None:
        raise RuntimeError(INSTALL)
    command = [program, "-voice", voice, "-psdur", "--setf", f"duration_stretch={stretch:.3f}"]
    if f0 is not None:
        command += ["--setf", f"int_f0_target_mean={f0:.1f}"]
    with tempfile.TemporaryDirectory(prefix="flite-") as folder:
        wav = Path(folder) / "out.wav"
        done = subprocess.run([*command, "-t", text, "-o", str(wav)], capture_output=True, text=True, check=False)
        if done.returncode or not wav.exists():
            raise RuntimeError(f"flite failed on {text!r}: {done.stderr.strip() or done.returncode}")
        audio, rate = soundfile.read(wav, dtype="float32")
    return audio, rate, [(name, float(end)) for name, end in _PHONE.findall(done.stdout)]


@cache
def _pronunciation(word: str) -> tuple[str, ...]:
    """Return the phones of a single word. flite's lexicon does not depend on the accent of the voice."""
    _, _, timed = _synthesize(word, "kal16", 1.0, None)
    return tuple(from_flite(name) for name, _ in timed if name != "pau")
