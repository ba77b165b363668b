"""Speakers read from a few latents, on activations with one direction for each speaker."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sae_lens_audio.benchmark.probing_speakers import SpeakerProbing
from tests.sae.benchmark.small_speech import dictionary, directions, small_speech, true_dictionary


def test_a_latent_of_each_speaker_tells_all_of_them():
    score = SpeakerProbing(ks=(1,)).measure(true_dictionary(), small_speech())["speaker_probe_k1"]
    assert score.estimate.value > 0.95
    assert len(score.parts) == 8


def test_latents_of_phones_do_not_tell_speakers():
    score = SpeakerProbing(ks=(1,)).measure(dictionary(directions()[:5]), small_speech())["speaker_probe_k1"]
    assert score.estimate.value < 0.35


def test_clips_without_their_speakers_leave_chance():
    data = small_speech()
    clips = np.random.default_rng(0).permutation(data.clip.max() + 1) // 4
    score = SpeakerProbing(ks=(1,)).measure(true_dictionary(), replace(data, speaker=clips[data.clip]))
    assert score["speaker_probe_k1"].estimate.value < 0.35


def test_speakers_with_few_clips_have_no_score():
    data = small_speech()
    assert SpeakerProbing().measure(true_dictionary(), replace(data, clip=data.clip // 2)) == {}
