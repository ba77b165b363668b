"""Cuts on tiny.en and a packaged neural clip."""

from __future__ import annotations

import pytest

from hooked_whisper import HookedWhisper
from hooked_whisper.corpora import Clip, packaged_speech
from hooked_whisper.interventions import clean_transcripts, replace_encoder
from tests.real.conftest import load_twins


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> HookedWhisper:
    return load_twins("tiny.en", tmp_path_factory.mktemp("cache")).ours


def test_a_cut_lowers_its_own_word_most_and_an_identity_edit_none(model) -> None:
    recording = packaged_speech("prose")[1]
    alignment = recording.alignment()
    clean = clean_transcripts(model, model.to_mel(Clip.load(recording).samples), alignments=[alignment])
    same = clean.compare(encoder_edit=lambda x: x.clone())[0]
    assert same.after == same.before and all(abs(w.logprob_change) < 1e-4 for w in same.words)
    for name in ("rainbow", "stadium", "match"):
        change = clean.compare(encoder_edit=replace_encoder(model, name, alignment=alignment))[0]
        lowest = min((w for w in change.words if w.before), key=lambda w: w.logprob_change)
        assert name in lowest.before and lowest.logprob_change < -5 and change.most_affected == lowest
