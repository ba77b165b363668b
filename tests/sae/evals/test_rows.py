"""Labeled clips of recordings, and rows of clips: without padding, drawn uniformly, with failures reported."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.corpora import Recording
from hooked_whisper.errors import AlignmentError, HookedWhisperError, ShapeError
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.phones.labeled_clips import labeled_clips
from hooked_whisper.features.phones.labeled_evaluation import features_of_clips
from hooked_whisper.features.phones.labeled_rows import collect_rows
from sae_lens_audio.evals.rows import gather_rows, row_share
from tests.findings.worlds import small_model
from tests.sae.evals.clips import HOOK, sentences, tones


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return small_model(0)


def recording(clip, **more) -> Recording:
    fields = {"speaker": clip.speaker, "text": clip.alignment.text, "find_alignment": lambda: clip.alignment}
    return Recording(clip.alignment.utterance, clip.samples, **fields | more)


def test_clips_of_a_corpus(model: HookedWhisper) -> None:
    def broken() -> None:
        raise AlignmentError("line 3 is no interval")

    tone = tones(2)
    long = np.zeros(2 * model.time.n_samples + 1000, dtype=np.float32)  # the last window is too short to count
    corpus = [
        recording(tone[0]),
        Recording("missing", "/nowhere/at/all.wav"),
        recording(tone[1], find_alignment=broken, speaker=""),
        Recording("long", long, text="very long", speaker="x"),
        Recording("plain", tone[1].samples, text="said"),
    ]
    clips, failures = labeled_clips(model, corpus, 10)
    assert [(c.alignment.utterance, c.offset, c.speaker) for c in clips] == [
        ("u0", 0, "a"), ("long", 0, "x"), ("long", pytest.approx(1.2), "x"), ("plain", 0, "plain"),
    ]  # fmt: skip
    assert clips[0].alignment.phones and clips[3].alignment.text == "said" and not clips[3].alignment.phones
    assert clips[1].alignment.duration > 1.2 and clips[3].alignment.duration == pytest.approx(
        len(tone[1].samples) / 16e3
    )
    assert [name for name, _ in failures] == ["missing", "u1"] and "line 3" in failures[1][1]
    assert len(labeled_clips(model, corpus, 2).clips) == 2


def test_rows_are_the_clips_activations(model: HookedWhisper) -> None:
    clips = sentences(3)
    other = "encoder.blocks.0.mlp.hook_post"
    rows = gather_rows(model, clips, [HOOK, other])
    expected = features_of_clips(model, clips, {HOOK: HookBasis(HOOK), other: HookBasis(other)})
    for hook in (HOOK, other):
        torch.testing.assert_close(rows[hook], expected[hook], atol=1e-5, rtol=1e-5)
    sample = gather_rows(model, clips, [HOOK, other], most=40)
    places = (sample[HOOK][:, None] == rows[HOOK]).all(-1).nonzero()[:, 1]
    assert 20 < len(places) < 60 and torch.equal(sample[other], rows[other][places])
    assert torch.equal(gather_rows(model, clips, [HOOK], most=40)[HOOK], sample[HOOK])


def test_a_sample_of_the_rows_of_labeled_clips(model: HookedWhisper) -> None:
    clips = sentences(3)
    share = row_share(model, clips, 40)
    assert (
        share == pytest.approx(40 / sum(-(-len(c.samples) // 320) for c in clips)) and row_share(model, clips, 999) == 1
    )
    whole = features_of_clips(model, clips, {"x": HookBasis(HOOK)})["x"]
    with collect_rows(model, clips, [HOOK]) as rows:
        assert torch.equal(rows.sample(HOOK, 1.0), whole)
        sample = rows.sample(HOOK, share, seed=1)
        assert torch.equal(sample, rows.sample(HOOK, share, seed=1)) and 0 < len(sample) < len(whole)
    drawn = torch.from_numpy(np.random.default_rng(1).random(len(whole)) < share)
    assert torch.equal(sample, whole[drawn])


def test_without_rows(model: HookedWhisper) -> None:
    silent = [Recording("a", np.zeros(8000, dtype=np.float32))]
    clips = labeled_clips(model, silent, 5).clips
    with pytest.raises(ShapeError, match="no row at decoder"):
        gather_rows(model, clips, ["decoder.blocks.0.hook_resid_post"])
    with pytest.raises(HookedWhisperError, match="axes"):
        gather_rows(model, clips, ["encoder.blocks.0.attn.hook_pattern"])
