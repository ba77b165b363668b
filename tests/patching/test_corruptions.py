"""Corruptions change the intended part of the input and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.errors import AudioError, PatchError, PromptError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.patching import corruptions as c
from hooked_whisper.protocols import Alignment, Interval
from hooked_whisper.synthetic import SyntheticCorpus

RATE = 16_000


@pytest.fixture(scope="module")
def demo() -> HookedWhisper:
    return HookedWhisper.from_pretrained("demo")


@pytest.fixture(scope="module")
def clips():
    return SyntheticCorpus.default().clips()[:3]


def tone(hz: float | int, seconds: float | int = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def peak_hz(audio: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(audio * np.hanning(len(audio)))).argmax() * RATE / len(audio))


@given(st.integers(100, 6000), st.integers(2000, 8000), st.integers(2000, 8000))
def test_warp_has_the_requested_length_and_keeps_pitch(start: int, source: int, target: int):
    out = c.warp(tone(220), [start, start + source], [0, target])
    assert len(out) == target
    assert abs(peak_hz(np.pad(out, (0, RATE - target))) - 220) < 12
    if source == target:
        np.testing.assert_array_equal(out, tone(220)[start : start + source])


def test_warp_moves_a_boundary_to_its_knot():
    audio = np.concatenate([tone(300, 0.3), tone(1500, 0.3)])
    out = c.warp(audio, [0, 4800, 9600], [0, 3200, 9600])
    assert abs(peak_hz(out[:2900]) - 300) < 20 and abs(peak_hz(out[3500:]) - 1500) < 20


def test_stray_changes_and_unequal_lengths_are_refused():
    clean = tone(200)
    corrupt = clean.copy()
    corrupt[100] += 0.1
    with pytest.raises(PatchError, match="outside the changed spans"):
        c.Corruption("x", clean, corrupt, (Interval(0.5, 0.6, "w"),))
    with pytest.raises(PatchError, match="fit the lengths"):
        c.Corruption("x", clean, clean[:-1], (Interval(0.5, 0.6, "w"),))
    with pytest.raises(AudioError, match="late"):
        c.silence(clean, Interval(2.0, 2.1, "late"))


def test_span_edits_share_the_mel_outside(demo: HookedWhisper, clips):
    clip, other = clips[0], clips[1]
    # the loudest word, whose own maximum would change every frame
    word = max(
        clip.alignment.words, key=lambda w: np.square(clip.samples[round(w.start * RATE) : round(w.end * RATE)]).mean()
    )
    room = c.room_tone(clip.samples, clip.alignment)
    corruptions = [
        c.silence(clip.samples, word),
        c.silence(clip.samples, word, room),
        c.add_noise(clip.samples, 0, "pink", word),
        c.swap_word(clip.samples, word, other.samples, other.alignment.words[0]),
        c.low_pass(clip.samples, 1000, word),
    ]
    for corruption in corruptions:
        outside, clean, corrupt = ~corruption.changed, corruption.clean, corruption.corrupt
        np.testing.assert_array_equal(clean[outside], corrupt[outside])
        assert (clean != corrupt)[corruption.changed].mean() > 0.5 and not corruption.whole
        clean, corrupt = corruption.mels(demo)
        assert clean.shape == corrupt.shape and (clean - corrupt).abs().max() > 0.1


def test_own_maxima_would_be_refused():
    from hooked_whisper.patching.corruptions.record import check_frames, frame_mask

    a, b = torch.zeros(1, 80, 100), torch.zeros(1, 80, 100)
    b[..., 40:] = 0.01
    with pytest.raises(PatchError, match="one reference maximum"):
        check_frames(a, b, frame_mask((Interval(0.4, 0.6, "w"),), 100), "x")


@pytest.mark.parametrize("kind", ["white", "pink", "babble"])
def test_noise_has_the_requested_snr(kind: str):
    corruption = c.add_noise(tone(200), 6.0, kind, voices=[tone(500, 0.4), tone(900, 0.7)])
    added = corruption.corrupt - corruption.clean
    assert 10 * np.log10(np.square(corruption.clean).mean() / np.square(added).mean()) == pytest.approx(6, abs=0.1)
    assert corruption.whole


def test_noise_names_are_checked():
    with pytest.raises(AudioError, match="did you mean 'pink'"):
        c.noise(100, "pnik")
    with pytest.raises(AudioError, match="voices="):
        c.noise(100, "babble")


@given(st.integers(-20, 20).filter(bool))
def test_time_shift_moves_whole_positions(n: int):
    corruption = c.shift_time(tone(200), n)
    early, late = (corruption.clean, corruption.corrupt) if n > 0 else (corruption.corrupt, corruption.clean)
    np.testing.assert_array_equal(late[320 * abs(n) :], early[: -320 * abs(n)])


def test_speaker_swap_keeps_word_times():
    def said(first: float, pitches: tuple[int, int], who: str):
        audio = np.concatenate([np.zeros(1600, np.float32), tone(pitches[0], first), tone(pitches[1], 0.8 - first)])
        words = (Interval(0.1, 0.1 + first, "a"), Interval(0.1 + first, 0.9, "b"))
        return audio, Alignment("u", who, "a b", 0.9, words)

    audio, alignment = said(0.5, (200, 700), "x")
    other, other_alignment = said(0.3, (300, 1000), "y")
    corruption = c.swap_speaker(audio, alignment, other, other_alignment)
    assert (
        abs(peak_hz(corruption.corrupt[2000:9000]) - 300) < 15
        and abs(peak_hz(corruption.corrupt[10200:14000]) - 1000) < 15
    )
    with pytest.raises(AudioError, match="same words"):
        c.swap_speaker(audio, alignment, other, dataclasses.replace(other_alignment, words=alignment.words[:1]))


def test_filters_keep_their_band():
    both = tone(300) + tone(3000)
    assert abs(peak_hz(c.low_pass(both, 1000).corrupt) - 300) < 5
    assert abs(peak_hz(c.high_pass(both, 1000).corrupt) - 3000) < 5
    assert abs(peak_hz(c.band_stop(both, 200, 500).corrupt) - 3000) < 5
    assert abs(peak_hz(c.band_pass(both, 200, 500).corrupt) - 300) < 5
    with pytest.raises(AudioError, match="must rise"):
        c.band_pass(both, 500, 200)


def test_mel_band_mask(demo: HookedWhisper, clips):
    word = clips[0].alignment.words[0]
    corruption = c.mask_mel_band(demo, clips[0].samples, 1000, 3000, word)
    changed = corruption.clean != corruption.corrupt
    assert set(torch.nonzero(changed.any(-1)[0]).flatten().tolist()) <= set(corruption.bins)
    frames = torch.nonzero(changed.any(1)[0]).flatten()
    assert frames.min() >= word.start * 100 - 1 and frames.max() < word.end * 100
    assert corruption.corrupt.min() >= corruption.clean.min() - 1e-6


def test_token_swaps(demo: HookedWhisper):
    tokens = demo.to_tokens(" the very good duck")
    french = c.swap_language(demo, tokens, "french")
    assert (french.was, french.now) == ("<|en|>", "<|fr|>") and french.changed == (1,)
    assert c.swap_task(demo, tokens).now == "<|translate|>"
    word = c.swap_previous_word(demo, tokens, tokens.shape[1] - 2, " bad")
    assert (word.was, word.now) == (" good", " bad")
    with pytest.raises(PatchError, match="differ"):
        c.swap_previous_word(demo, tokens, tokens.shape[1] - 2, " good")
    with pytest.raises(PromptError, match="start with"):
        c.swap_task(demo, tokens[:, :2])


def test_shuffled_positions_leave_the_padding():
    encoded = torch.arange(10.0)[None, :, None].expand(2, 10, 3)
    out = c.shuffle_positions(encoded, 6)
    assert torch.equal(out[:, 6:], encoded[:, 6:]) and not torch.equal(out, encoded)
    assert torch.equal(out[:, :6].sort(dim=1).values, encoded[:, :6])


def test_snr_sweep_finds_the_crossing():
    sweep = c.find_snr(lambda snr: min(1.0, max(0.0, (snr + 10) / 20)))
    assert sweep.snr_db == pytest.approx(0.0)
    assert c.find_snr(lambda snr: 0.9).snr_db is None and c.find_snr(lambda snr: 0.1).snr_db is None
    with pytest.raises(PatchError, match="between 0 and 1"):
        c.find_snr(lambda snr: 50)


def test_a_phone_swapped_for_itself_changes_nothing_and_for_another_only_its_span() -> None:
    clip, other = SyntheticCorpus.default().clips()[:2]
    phones = [p for p in clip.alignment.phones if p.label != "SIL" and p.duration > 0.06]
    donors = [p for p in other.alignment.phones if p.label != "SIL" and p.duration > 0.06]
    same = c.swap_phone(clip.samples, phones[1], clip.samples, phones[1])
    np.testing.assert_allclose(same.corrupt, same.clean, atol=1e-4)
    swapped = c.swap_phone(clip.samples, phones[1], other.samples, donors[2])
    assert swapped.kind == "phone swap" and np.any(swapped.corrupt != swapped.clean)
    (span,) = swapped.spans
    assert abs(span.start - phones[1].start) <= 0.002 + 1e-9 and abs(span.end - phones[1].end) <= 0.002 + 1e-9
