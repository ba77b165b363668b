"""The page's clips for released models: neural speech, and a first clip that the model hears right."""

from __future__ import annotations

import pytest

from hooked_whisper.explorer import Edits, Shelf
from hooked_whisper.text import word_error
from tests.real.conftest import load_twins


@pytest.fixture(scope="module", params=["tiny.en", "base"])
def shelf(request, tmp_path_factory) -> Shelf:
    return Shelf(load_twins(request.param, tmp_path_factory.mktemp("cache")).ours)


def test_the_first_clip_is_neural_speech_that_the_model_hears_right(shelf: Shelf) -> None:
    key = shelf.first()
    clip = shelf[key]
    assert key == "p001" and "packaged[" in clip.source and clip.aligned and clip.phones
    assert word_error(" ".join(w.label for w in clip.words), clip.text).wer == 0
    assert len(shelf.names()) == 24


def test_a_cut_word_loses_most_and_the_code_says_the_same(shelf: Shelf) -> None:
    clip = shelf[shelf.first()]
    word = next(w for w in clip.words if w.label == "cabins")
    edits = Edits(cuts=((round(word.start, 3), round(word.end, 3)),))
    change = edits.apply(shelf.model, clip, shelf.__getitem__, shelf.silence)
    assert change.most_affected.before == "cabins" and change.most_affected.logprob_change < -2
    code = edits.python(shelf.model.cfg.name, clip, shelf.__getitem__)
    assert "packaged_speech" in code and "margin=0.1" in code
    compile(code, "the page's Python", "exec")
