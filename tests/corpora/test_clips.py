"""Clips, and their names of version 0.1."""

from __future__ import annotations

import numpy as np
import pytest

from hooked_whisper._support.renamed import RenamedWarning
from hooked_whisper.corpora import Clip
from hooked_whisper.protocols import Alignment, Interval

SAMPLES = np.zeros(16_000, np.float32)
ALIGNMENT = Alignment("a", "ann", "hello", 1.0, (Interval(0.2, 0.6, "hello"),))


def test_a_clip_has_the_facts_of_its_alignment() -> None:
    clip = Clip.aligned(SAMPLES, ALIGNMENT)
    assert (clip.id, clip.speaker, clip.text, clip.duration) == ("a", "ann", "hello", 1.0)
    assert clip.alignment is ALIGNMENT


def test_another_alignment_keeps_the_samples_and_a_known_speaker() -> None:
    clip = Clip.aligned(SAMPLES, ALIGNMENT).with_alignment(Alignment("b", "", "bye", 1.0))
    assert (clip.id, clip.speaker, clip.text) == ("b", "ann", "bye") and clip.samples is SAMPLES


def test_arguments_and_attributes_of_0_1_warn() -> None:
    with pytest.warns(RenamedWarning, match="Clip.aligned"):
        clip = Clip(audio=SAMPLES, alignment=ALIGNMENT, split="speakers")
    assert clip.text == "hello" and clip.samples is SAMPLES
    with pytest.warns(RenamedWarning, match="samples"):
        assert clip.audio is SAMPLES
    with pytest.warns(RenamedWarning, match="extra"):
        assert clip.split == "speakers"


def test_the_packaged_clips_know_their_split() -> None:
    from hooked_whisper.synthetic import SyntheticCorpus

    assert {clip.alignment.extra["split"] for clip in SyntheticCorpus.default().clips("speakers")} == {"speakers"}
