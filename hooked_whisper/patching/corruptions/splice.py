"""Putting a stretch of one recording into another: time fit, level, cross-fades inside the slot.

The time fit is WSOLA (Verhelst & Roelands 1993, ICASSP, section 2): overlapping windows are taken where they continue
what is already there best, so that duration changes and pitch and formants do not. Resampling would move both.
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
HOP, WINDOW, SEARCH = 80, 320, 80  # samples: 5 ms, 20 ms, 5 ms to either side (a period of 100 Hz in all)
MOST_STRETCH = 4.0
ZERO_CROSSING_S = 0.002


def warp(
    audio: Audio, source: Sequence[int] | Int[np.ndarray, "knot"], target: Sequence[int] | Int[np.ndarray, "knot"]
) -> Audio:
    """``audio[source[0]:source[-1]]`` with each ``source`` sample moved to its ``target`` sample, linear in between.

    Pitch and formants stay. Knots are kept to within 5 ms (the search for a good join).

    Returns:
        audio of ``target[-1] - target[0]`` samples; the very samples if nothing is to be moved.

    Raises:
        AudioError: knots that do not rise, or lie outside the clip, or a stretch of more than 4 times either way.
    """
    at, to = np.asarray(source, dtype=np.int64), np.asarray(target, dtype=np.int64)
    if at.shape != to.shape or len(at) < 2 or (np.diff(at) <= 0).any() or (np.diff(to) <= 0).any():
        raise AudioError(f"a warp needs as many rising source as target samples, at least 2: {at}, {to}")
    if at[0] < 0 or at[-1] > len(audio):
        raise AudioError(f"the stretch [{at[0]}, {at[-1]}) is not inside the {len(audio)} samples of the clip")
    if (ratio := (to[-1] - to[0]) / (at[-1] - at[0])) > MOST_STRETCH or ratio < 1 / MOST_STRETCH:
        raise AudioError(f"a stretch of {ratio:.2f} times is more than a time fit can do: choose a closer duration")
    to = to - to[0]
    if np.array_equal(at - at[0], to):
        return audio[at[0] : at[-1]].copy()
    margin = WINDOW + SEARCH
    padded = np.pad(audio.astype(np.float64), margin)
    centres = np.arange(0, to[-1] + HOP, HOP)
    wanted = np.rint(np.interp(centres, to, at)).astype(int) + margin
    taken = _continuing(padded, wanted)
    window = np.hanning(WINDOW + 1)[:-1]
    out, weight = np.zeros((2, centres[-1] + WINDOW))
    for centre, here in zip(centres, taken, strict=True):
        out[centre : centre + WINDOW] += window * padded[here - WINDOW // 2 : here + WINDOW // 2]
        weight[centre : centre + WINDOW] += window
    inner = slice(WINDOW // 2, WINDOW // 2 + int(to[-1]))
    return (out[inner] / np.maximum(weight[inner], 1e-3)).astype(np.float32)


def _continuing(padded: Float[np.ndarray, "sample"], wanted: Int[np.ndarray, "frame"]) -> list[int]:
    """Centres near the wanted ones whose windows continue each other. Each depends on the last: hence the loop."""
    half, taken = WINDOW // 2, [int(wanted[0])]
    for at in wanted[1:].tolist():
        natural = taken[-1] + HOP
        template = padded[natural - half : natural + half]
        candidates = sliding_window_view(padded[at - SEARCH - half : at + SEARCH + half], WINDOW)
        if len(template) < WINDOW or len(candidates) < 2 * SEARCH + 1:  # at the very end of the clip
            taken.append(at)
            continue
        energy = np.sqrt((candidates**2).sum(1) + 1e-9)
        taken.append(at - SEARCH + int(np.argmax(candidates @ template / energy)))
    return taken


def cross_fade(under: Audio, over: Audio, fade_s: float | int = FADE_S) -> Audio:
    """``over``, faded in from and out to ``under`` (as long) within its first and last ``fade_s`` seconds."""
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
    """Put ``piece`` of a donor recording (same voice, room and microphone) in a slot of the carrier recording.

    The piece is fitted to the slot's length by :func:`warp`, brought to the slot's RMS level, and cross-faded over 5 ms
    inside the slot. Works on any recordings with alignments.

    Args:
        carrier, donor: 16 kHz audio, [sample].
        slot, piece: intervals in seconds, of the carrier and of the donor.
        knots: (donor second, carrier second) of boundaries inside, such as those of phones both words have.
        match_level: ``False`` keeps the donor's level, for donors of the same recording or synthesizer setting.

    Raises:
        AudioError: an interval outside its recording, or a stretch of more than 4 times.
    """
    carrier, donor = as_audio(carrier), as_audio(donor)
    here, there = sample_range(slot, len(carrier)), sample_range(piece, len(donor))
    source = [there.start, *(round(a * SAMPLE_RATE) for a, _ in knots), there.stop]
    target = [here.start, *(round(b * SAMPLE_RATE) for _, b in knots), here.stop]
    fitted = warp(donor, source, target)
    gain = rms(carrier[here]) / rms(fitted) if match_level and rms(fitted) > 0 else 1.0
    corrupt = carrier.copy()
    corrupt[here] = cross_fade(carrier[here], (gain * fitted).astype(np.float32))
    parameters = {
        "donor": (piece.start, piece.end, piece.label),
        "stretch": (here.stop - here.start) / (there.stop - there.start),
        "gain": float(gain),
        "fit": "WSOLA",
        "knots": len(knots),
    }
    label = f"{slot.label} -> {piece.label}"
    return Corruption(kind, carrier, corrupt, (Interval(slot.start, slot.end, label),), parameters)


def swap_word(carrier: Audio, slot: Interval, donor: Audio, word: Interval) -> Corruption:
    """:func:`splice` of a whole word: which word is said, with voice, place and duration as they were."""
    return splice(carrier, slot, donor, word)


def swap_phone(carrier: Audio, phone: Interval, donor: Audio, other: Interval) -> Corruption:
    """:func:`splice` of one phone inside a word, cut at zero crossings (within 2 ms of the boundaries).

    Its neighbours keep their coarticulation with the phone that was there: leave 2 encoder positions on either side out
    of what is read off.
    """
    carrier, donor = as_audio(carrier), as_audio(donor)
    return splice(
        carrier, _at_zero_crossings(carrier, phone), donor, _at_zero_crossings(donor, other), kind="phone swap"
    )


def _at_zero_crossings(audio: Audio, span: Interval) -> Interval:
    stretch = sample_range(span, len(audio))
    reach = round(ZERO_CROSSING_S * SAMPLE_RATE)
    crossings = np.flatnonzero(np.signbit(audio[1:]) != np.signbit(audio[:-1])) + 1

    def nearest(sample: int) -> int:
        near = crossings[np.abs(crossings - sample) <= reach]
        return int(near[np.argmin(np.abs(near - sample))]) if len(near) else sample

    start, stop = nearest(stretch.start), nearest(stretch.stop)
    if stop <= start:
        return span
    return Interval(start / SAMPLE_RATE, stop / SAMPLE_RATE, span.label)


def rms(audio: np.ndarray) -> float:
    """Root mean square, in double precision."""
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))
