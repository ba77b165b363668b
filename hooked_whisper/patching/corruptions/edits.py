"""Edits of one clip's sound: silence, noise, another voice, another sentence, another moment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hooked_whisper.audio import SAMPLE_RATE
from hooked_whisper.errors import AudioError, check_option
from hooked_whisper.patching.corruptions.record import Audio, Corruption, as_audio, sample_range, whole_clip
from hooked_whisper.patching.corruptions.splice import cross_fade, rms, warp
from hooked_whisper.protocols import Alignment, Interval

SAMPLES_PER_POSITION = 320
NOISES = ("white", "pink", "babble")
FEWEST_ROOM_SAMPLES = 160  # 10 ms


def silence(audio: Audio, span: Interval, room: Audio | None = None) -> Corruption:
    """Take what is said in a span away, with 5 ms fades inside it.

    Args:
        room: room tone to put in its place (:func:`room_tone`); default zeros, which are a strong cue of their own, so
            compare both.
    """
    clean = as_audio(audio)
    here = sample_range(span, len(clean))
    n = here.stop - here.start
    if room is None:
        filling = np.zeros(n, dtype=np.float32)
    else:
        room = as_audio(room)
        if len(room) < FEWEST_ROOM_SAMPLES:
            raise AudioError(f"{len(room)} samples of room tone are too few: give at least {FEWEST_ROOM_SAMPLES}")
        filling = np.pad(room, (0, max(0, n - len(room))), mode="symmetric")[:n]  # mirrored: no clicks at the joins
    corrupt = clean.copy()
    corrupt[here] = cross_fade(clean[here], filling)
    return Corruption("silence", clean, corrupt, (span,), {"fill": "zeros" if room is None else "room tone"})


def room_tone(audio: Audio, alignment: Alignment) -> Audio:
    """The longest stretch that the alignment calls silence.

    Raises:
        AudioError: no silence of 10 ms in the alignment.
    """
    audio = as_audio(audio)
    longest = max(alignment.silences, key=lambda s: s.duration, default=None)
    if longest is None or longest.duration * SAMPLE_RATE < FEWEST_ROOM_SAMPLES + 2:
        raise AudioError(
            f"{alignment.text!r} has no silence of 10 ms: give room tone from another clip of the recording"
        )
    return audio[sample_range(longest, len(audio))]


def noise(n_samples: int, kind: str = "white", seed: int = 0, voices: Sequence[Audio] = ()) -> Audio:
    """Noise of unit power: ``white``, ``pink`` (power falls as 1/f), or ``babble``: the sum of ``voices``, each at unit
    power, repeated to the length and started at a random place.

    Raises:
        AudioError: another kind, or babble without voices.
    """
    check_option("kind", kind, NOISES, AudioError)
    rng = np.random.default_rng(seed)
    if kind == "babble":
        if not len(voices):
            raise AudioError("babble is other people's speech: give some recordings as voices")
        sound = np.zeros(n_samples)
        for voice in map(as_audio, voices):
            sound += np.roll(np.resize(voice, n_samples), rng.integers(n_samples)) / max(rms(voice), 1e-9)
    else:
        sound = rng.standard_normal(n_samples)
        if kind == "pink":
            spectrum = np.fft.rfft(sound) / np.sqrt(np.maximum(np.arange(n_samples // 2 + 1), 1))
            sound = np.fft.irfft(spectrum, n_samples)
    return (sound / max(rms(sound), 1e-9)).astype(np.float32)


def add_noise(
    audio: Audio,
    snr_db: float | int,
    kind: str = "white",
    span: Interval | None = None,
    *,
    seed: int = 0,
    voices: Sequence[Audio] = (),
) -> Corruption:
    """Add noise at a signal-to-noise ratio: mean power of the speech over that of the noise, in dB, both in the
    span, or in the whole clip (``span=None``).

    Noise in a span has 5 ms fades inside it. Whole-clip noise is unlike any edit of a word: it lifts
    the log-mel's floor everywhere.

    Raises:
        AudioError: a span of digital silence, which has no SNR; as :func:`noise`.
    """
    check_option("kind", kind, NOISES, AudioError)
    clean = as_audio(audio)
    where = whole_clip(len(clean)) if span is None else span
    here = sample_range(where, len(clean))
    level = rms(clean[here])
    if level == 0:
        raise AudioError(f"{where.label!r} is digital silence: no noise has an SNR to it; choose a span with sound")
    noisy = clean[here] + np.float32(level * 10 ** (-snr_db / 20)) * noise(here.stop - here.start, kind, seed, voices)
    corrupt = clean.copy()
    corrupt[here] = noisy if span is None else cross_fade(clean[here], noisy)
    return Corruption("noise", clean, corrupt, (where,), {"snr_db": float(snr_db), "noise": kind, "seed": seed})


def swap_speaker(audio: Audio, alignment: Alignment, other: Audio, other_alignment: Alignment) -> Corruption:
    """The same words at the same times in another voice: the other recording, warped boundary by boundary.

    Boundaries are those of the phones if both alignments have the same ones, else those of the words. The level is
    matched; silence before and after the words is zero or the other recording's.

    Raises:
        AudioError: different words, or a stretch of more than 4 times.
    """
    clean, donor = as_audio(audio), as_audio(other)
    ours, theirs = [w.label for w in alignment.words], [w.label for w in other_alignment.words]
    if not ours or ours != theirs:
        raise AudioError(f"a speaker swap needs the same words: {' '.join(ours)!r} and {' '.join(theirs)!r}")
    phones = [p.label for p in alignment.phones]
    by_phone = bool(phones) and phones == [p.label for p in other_alignment.phones]
    a, b = (alignment.phones, other_alignment.phones) if by_phone else (alignment.words, other_alignment.words)
    target, source = _boundaries(a, len(clean)), _boundaries(b, len(donor))
    keep = (np.diff(target, append=target[-1] + 1) > 0) & (np.diff(source, append=source[-1] + 1) > 0)
    target, source = target[keep], source[keep]
    fitted = warp(donor, source, target)
    corrupt = np.zeros_like(clean)
    corrupt[target[0] : target[-1]] = fitted * np.float32(rms(clean) / max(rms(fitted), 1e-9))
    parameters = {
        "from": alignment.speaker,
        "to": other_alignment.speaker,
        "aligned by": "phone" if by_phone else "word",
    }
    return Corruption("speaker swap", clean, corrupt, (whole_clip(len(clean)),), parameters)


def swap_utterance(audio: Audio, other: Audio) -> Corruption:
    """Another sentence altogether. The shorter clip is filled up with zeros, so both leave as much padding."""
    clean, corrupt = as_audio(audio), as_audio(other)
    n = max(len(clean), len(corrupt))
    filled = [np.pad(a, (0, n - len(a))) for a in (clean, corrupt)]
    parameters = {"clean_samples": len(clean), "corrupt_samples": len(corrupt)}
    return Corruption("utterance swap", filled[0], filled[1], (whole_clip(n),), parameters)


def shift_time(audio: Audio, positions: int) -> Corruption:
    """The same sound ``positions`` encoder positions (320 samples, 20 ms) later, or earlier if negative.

    Zeros are added at the other end of each clip, so nothing is lost and both are as long. A clip is shifted earlier by
    making the clean one later.

    Raises:
        AudioError: a shift by nothing.
    """
    if positions == 0:
        raise AudioError("a shift by 0 positions changes nothing: give another number")
    clean, n = as_audio(audio), abs(positions) * SAMPLES_PER_POSITION
    early, late = np.pad(clean, (0, n)), np.pad(clean, (n, 0))
    pair = (early, late) if positions > 0 else (late, early)
    return Corruption("time shift", *pair, (whole_clip(len(early)),), {"positions": positions})


def _boundaries(intervals: Sequence[Interval], n_samples: int) -> np.ndarray:
    """Where each starts and the last ends, in samples."""
    times = [*(i.start for i in intervals), intervals[-1].end]
    return np.minimum(np.rint(np.array(times) * SAMPLE_RATE).astype(int), n_samples)
