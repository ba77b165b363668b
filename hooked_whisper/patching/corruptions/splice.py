"""Splice a piece of one recording into another, with matched duration and level and cross-fades.

Durations are matched by WSOLA (Verhelst & Roelands 1993, ICASSP, section 2): overlapping windows are taken where they
best continue the previous one, so duration changes but pitch and formants do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.lib.stride_tricks import sliding_window_view

from hooked_whisper.audio import SAMPLE_RATE
from hooked_whisper.errors import AudioError
from hooked_whisper.patching.corruptions.record import Audio, Corruption, as_audio, sample_range
from hooked_whisper.protocols import Interval

FADE_S = 0.005
HOP, WINDOW, SEARCH = 80, 320, 80  # samples: 5 ms, 20 ms, 5 ms to either side (together one period of 100 Hz)
MOST_STRETCH = 4.0
ZERO_CROSSING_S = 0.002


def warp(
    audio: Audio, source: Sequence[int] | Int[np.ndarray, "knot"], target: Sequence[int] | Int[np.ndarray, "knot"]
) -> Audio:
    """Time-warp ``audio[source[0]:source[-1]]`` so that each ``source`` sample moves to its ``target`` sample.

    The warp is linear between knots and keeps pitch and formants. Knots are accurate to 5 ms.

    Returns:
        ``target[-1] - target[0]`` samples; a copy of the input samples if no knot moves.

    Raises:
        AudioError: the knots do not rise or lie outside the clip, or the duration changes by more than a factor of 4.
    """
    knots, to = np.asarray(source, dtype=np.int64), np.asarray(target, dtype=np.int64)
    if knots.shape != to.shape or len(knots) < 2 or (np.diff(knots) <= 0).any() or (np.diff(to) <= 0).any():
        raise AudioError(f"source and target need the same number of rising samples, at least 2, got {knots} and {to}")
    if knots[0] < 0 or knots[-1] > len(audio):
        raise AudioError(f"samples [{knots[0]}, {knots[-1]}) are not inside the clip of {len(audio)} samples")
    if (ratio := (to[-1] - to[0]) / (knots[-1] - knots[0])) > MOST_STRETCH or ratio < 1 / MOST_STRETCH:
        raise AudioError(
            f"a warp changes durations by a factor of at most {MOST_STRETCH:g}, got {ratio:.2f}: use closer ones"
        )
    to = to - to[0]
    if np.array_equal(knots - knots[0], to):
        return audio[knots[0] : knots[-1]].copy()
    margin = WINDOW + SEARCH
    padded = np.pad(audio.astype(np.float64), margin)
    centers = np.arange(0, to[-1] + HOP, HOP)
    wanted = np.rint(np.interp(centers, to, knots)).astype(int) + margin
    sources = _continuing(padded, wanted)
    window = np.hanning(WINDOW + 1)[:-1]
    out, weight = np.zeros((2, centers[-1] + WINDOW))
    for center, source_center in zip(centers, sources, strict=True):
        samples = padded[source_center - WINDOW // 2 : source_center + WINDOW // 2]
        out[center : center + WINDOW] += window * samples
        weight[center : center + WINDOW] += window
    inner = slice(WINDOW // 2, WINDOW // 2 + int(to[-1]))
    return (out[inner] / np.maximum(weight[inner], 1e-3)).astype(np.float32)


def _continuing(padded: Float[np.ndarray, "sample"], wanted: Int[np.ndarray, "frame"]) -> list[int]:
    """Window centers near the wanted ones, each the best continuation of the previous window."""
    half, centers = WINDOW // 2, [int(wanted[0])]
    for center in wanted[1:].tolist():
        natural = centers[-1] + HOP
        template = padded[natural - half : natural + half]
        candidates = sliding_window_view(padded[center - SEARCH - half : center + SEARCH + half], WINDOW)
        if len(template) < WINDOW or len(candidates) < 2 * SEARCH + 1:  # at the very end of the clip
            centers.append(center)
            continue
        energy = np.sqrt((candidates**2).sum(1) + 1e-9)
        centers.append(center - SEARCH + int(np.argmax(candidates @ template / energy)))
    return centers


def cross_fade(under: Audio, over: Audio, fade_s: float | int = FADE_S) -> Audio:
    """Return ``over``, cross-faded with ``under`` (same length) in its first and last ``fade_s`` seconds."""
    n = min(round(fade_s * SAMPLE_RATE), len(over) // 2)
    share = np.ones(len(over), dtype=np.float32)
    ramp = (0.5 - 0.5 * np.cos(np.pi * (np.arange(n) + 0.5) / max(n, 1))).astype(np.float32)
    share[:n], share[len(over) - n :] = ramp, ramp[::-1]
    return (share * over + (1 - share) * under).astype(np.float32)


def splice(
    carrier: Audio,
    slot: Interval,
    donor: Audio,
    piece: Interval,
    *,
    knots: Sequence[tuple[float, float]] = (),
    match_level: bool = True,
    kind: str = "word swap",
) -> Corruption:
    """Put a piece of a donor recording into a slot of a carrier recording of the same voice, room and microphone.

    The piece is warped to the slot's length (:func:`warp`), scaled to the slot's RMS level, and cross-faded over 5 ms
    inside the slot.

    Args:
        carrier, donor: 16 kHz audio, [sample].
        slot, piece: intervals of the carrier and of the donor, in seconds.
        knots: ``(donor second, carrier second)`` of inner boundaries, such as those of phones that both words share.
        match_level: ``False`` keeps the donor's level, for donors of the same recording or synthesizer setting.

    Raises:
        AudioError: an interval lies outside its recording, or the duration changes by more than a factor of 4.
    """
    carrier, donor = as_audio(carrier), as_audio(donor)
    target_samples, source_samples = sample_range(slot, len(carrier)), sample_range(piece, len(donor))
    source = [source_samples.start, *(round(a * SAMPLE_RATE) for a, _ in knots), source_samples.stop]
    target = [target_samples.start, *(round(b * SAMPLE_RATE) for _, b in knots), target_samples.stop]
    fitted = warp(donor, source, target)
    gain = rms(carrier[target_samples]) / rms(fitted) if match_level and rms(fitted) > 0 else 1.0
    corrupt = carrier.copy()
    corrupt[target_samples] = cross_fade(carrier[target_samples], (gain * fitted).astype(np.float32))
    parameters = {
        "donor": (piece.start, piece.end, piece.label),
        "stretch": (target[-1] - target[0]) / (source[-1] - source[0]),
        "gain": float(gain),
        "fit": "WSOLA",
        "knots": len(knots),
    }
    label = f"{slot.label} -> {piece.label}"
    return Corruption(kind, carrier, corrupt, (Interval(slot.start, slot.end, label),), parameters)


def swap_word(carrier: Audio, slot: Interval, donor: Audio, word: Interval) -> Corruption:
    """:func:`splice` a whole word: voice, time and duration stay, the word changes."""
    return splice(carrier, slot, donor, word)


def swap_phone(carrier: Audio, phone: Interval, donor: Audio, other: Interval) -> Corruption:
    """:func:`splice` one phone inside a word, cut at zero crossings (within 2 ms of the boundaries).

    Neighboring phones keep their coarticulation with the replaced phone: do not interpret the 2 encoder positions on
    either side.
    """
    carrier, donor = as_audio(carrier), as_audio(donor)
    return splice(
        carrier, _at_zero_crossings(carrier, phone), donor, _at_zero_crossings(donor, other), kind="phone swap"
    )


def _at_zero_crossings(audio: Audio, span: Interval) -> Interval:
    samples = sample_range(span, len(audio))
    reach = round(ZERO_CROSSING_S * SAMPLE_RATE)
    crossings = np.flatnonzero(np.signbit(audio[1:]) != np.signbit(audio[:-1])) + 1

    def nearest(sample: int) -> int:
        near = crossings[np.abs(crossings - sample) <= reach]
        return int(near[np.argmin(np.abs(near - sample))]) if len(near) else sample

    start, stop = nearest(samples.start), nearest(samples.stop)
    if stop <= start:
        return span
    return Interval(start / SAMPLE_RATE, stop / SAMPLE_RATE, span.label)


def rms(audio: np.ndarray) -> float:
    """Return the root mean square, in double precision."""
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))
