"""Audio corruptions of a clip: silence, noise, another speaker, another sentence, a shift in time."""

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
    """Replace a span by silence, with 5 ms fades inside it.

    room: room tone to put in (:func:`room_tone`); default: zeros. Zeros are themselves a strong cue, so compare both.

    Raises:
        AudioError: the span is outside the clip, or ``room`` is shorter than 10 ms.
    """
    clean = as_audio(audio)
    samples = sample_range(span, len(clean))
    n = samples.stop - samples.start
    if room is None:
        filling = np.zeros(n, dtype=np.float32)
    else:
        room = as_audio(room)
        if len(room) < FEWEST_ROOM_SAMPLES:
            raise AudioError(f"room tone has {len(room)} samples: give at least {FEWEST_ROOM_SAMPLES}")
        filling = np.pad(room, (0, max(0, n - len(room))), mode="symmetric")[:n]  # repeat it mirrored, to avoid clicks
    corrupt = clean.copy()
    corrupt[samples] = cross_fade(clean[samples], filling)
    return Corruption("silence", clean, corrupt, (span,), {"fill": "zeros" if room is None else "room tone"})


def room_tone(audio: Audio, alignment: Alignment) -> Audio:
    """Return the longest silence of the alignment.

    Raises:
        AudioError: the alignment has no silence of 10 ms.
    """
    audio = as_audio(audio)
    longest = max(alignment.silences, key=lambda s: s.duration, default=None)
    if longest is None or longest.duration * SAMPLE_RATE < FEWEST_ROOM_SAMPLES + 2:
        raise AudioError(
            f"{alignment.text!r} has no silence of 10 ms: take room tone from another clip of the recording"
        )
    return audio[sample_range(longest, len(audio))]


def noise(n_samples: int, kind: str = "white", seed: int = 0, voices: Sequence[Audio] = ()) -> Audio:
    """Return noise of unit power: ``"white"``, ``"pink"`` (power falls as 1/f) or ``"babble"``.

    Babble is the sum of ``voices``, each at unit power, repeated to the length and started at a random sample.

    Raises:
        AudioError: ``kind`` is unknown, or babble is requested without voices.
    """
    check_option("kind", kind, NOISES, AudioError)
    rng = np.random.default_rng(seed)
    if kind == "babble":
        if not len(voices):
            raise AudioError("babble is a sum of recordings: give recordings as voices=")
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
    """Add noise at a signal-to-noise ratio in dB, within a span or in the whole clip (``span=None``).

    The SNR is the mean power of the speech over that of the noise, both in the span. Noise in a span has 5 ms fades
    inside it. Noise in the whole clip raises the floor of the log-mel everywhere, unlike edits of a word.

    Raises:
        AudioError: the span is digital silence, which has no SNR; as :func:`noise`.
    """
    check_option("kind", kind, NOISES, AudioError)
    clean = as_audio(audio)
    changed = whole_clip(len(clean)) if span is None else span
    samples = sample_range(changed, len(clean))
    level = rms(clean[samples])
    if level == 0:
        raise AudioError(f"{changed.label!r} is digital silence, which has no SNR: choose a span with sound")
    gain = np.float32(level * 10 ** (-snr_db / 20))
    noisy = clean[samples] + gain * noise(samples.stop - samples.start, kind, seed, voices)
    corrupt = clean.copy()
    corrupt[samples] = noisy if span is None else cross_fade(clean[samples], noisy)
    return Corruption("noise", clean, corrupt, (changed,), {"snr_db": float(snr_db), "noise": kind, "seed": seed})


def swap_speaker(audio: Audio, alignment: Alignment, other: Audio, other_alignment: Alignment) -> Corruption:
    """Replace the speaker: warp another recording of the same words to the word times of this one.

    The warp aligns phone boundaries if both alignments have the same phones, else word boundaries. The level is
    matched. Samples outside the aligned intervals become zero.

    Raises:
        AudioError: the words differ, or an interval would be stretched by more than a factor of 4.
    """
    clean, donor = as_audio(audio), as_audio(other)
    ours, theirs = [w.label for w in alignment.words], [w.label for w in other_alignment.words]
    if not ours or ours != theirs:
        raise AudioError(f"a speaker swap needs the same words: {' '.join(ours)!r} and {' '.join(theirs)!r}")
    phones = [p.label for p in alignment.phones]
    by_phone = bool(phones) and phones == [p.label for p in other_alignment.phones]
    a, b = (alignment.phones, other_alignment.phones) if by_phone else (alignment.words, other_alignment.words)
    target, source = _boundaries(a, len(clean)), _boundaries(b, len(donor))
    rising = (np.diff(target, append=target[-1] + 1) > 0) & (np.diff(source, append=source[-1] + 1) > 0)
    target, source = target[rising], source[rising]
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
    """Use another sentence as corrupt clip. The shorter clip is padded with zeros to the length of the longer."""
    clean, corrupt = as_audio(audio), as_audio(other)
    n = max(len(clean), len(corrupt))
    filled = [np.pad(a, (0, n - len(a))) for a in (clean, corrupt)]
    parameters = {"clean_samples": len(clean), "corrupt_samples": len(corrupt)}
    return Corruption("utterance swap", filled[0], filled[1], (whole_clip(n),), parameters)


def shift_time(audio: Audio, positions: int) -> Corruption:
    """Shift the sound by ``positions`` encoder positions (320 samples, 20 ms): later, or earlier if negative.

    Zeros are added at the other end of each clip, so no sound is lost and both have the same length. For a negative
    shift, the clean clip gets the leading zeros.

    Raises:
        AudioError: ``positions`` is 0.
    """
    if positions == 0:
        raise AudioError("a shift by 0 positions changes nothing: give a positive or negative number")
    clean, n = as_audio(audio), abs(positions) * SAMPLES_PER_POSITION
    early, late = np.pad(clean, (0, n)), np.pad(clean, (n, 0))
    pair = (early, late) if positions > 0 else (late, early)
    return Corruption("time shift", *pair, (whole_clip(len(early)),), {"positions": positions})


def _boundaries(intervals: Sequence[Interval], n_samples: int) -> np.ndarray:
    """Return the start of each interval and the end of the last, in samples."""
    times = [*(i.start for i in intervals), intervals[-1].end]
    return np.minimum(np.rint(np.array(times) * SAMPLE_RATE).astype(int), n_samples)
