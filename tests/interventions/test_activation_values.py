"""Means and samples: a corpus gives what its log-mels give, in one pass for points of both stacks."""

from __future__ import annotations

import pytest
import torch

from hooked_whisper._support.renamed import RenamedWarning
from hooked_whisper.corpora import Recording
from hooked_whisper.errors import PatchError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions import class_mean, mean_difference, means, position_mean, samples
from hooked_whisper.synthetic import SyntheticCorpus

NAMES = ["encoder.blocks.1.attn.hook_z", "encoder.hook_out"]


@pytest.fixture(scope="module")
def demo() -> HookedWhisper:
    return HookedWhisper.from_pretrained("demo", device="cpu")


@pytest.fixture(scope="module")
def corpus() -> list[Recording]:
    return [
        Recording(f"clip {i}", clip.samples, clip.text) for i, clip in enumerate(SyntheticCorpus.default().clips()[:3])
    ]


@pytest.fixture(scope="module")
def mel(demo: HookedWhisper, corpus: list[Recording]) -> torch.Tensor:
    return demo.to_mel([recording.source for recording in corpus])


def lengths(model: HookedWhisper, corpus: list[Recording]) -> list[int]:
    return [model.time.n_positions(len(recording.source) / 16000) for recording in corpus]


def test_a_corpus_has_the_means_and_samples_of_its_mels(demo, corpus, mel) -> None:
    n_valid = lengths(demo, corpus)
    of_corpus, of_mels = means(demo, corpus, NAMES), means(demo, mel, NAMES, n_valid=n_valid)
    assert of_corpus.n_positions == of_mels.n_positions == dict.fromkeys(NAMES, sum(n_valid))
    for name in NAMES:
        torch.testing.assert_close(of_corpus.values[name], of_mels.values[name], atol=1e-5, rtol=1e-5)
    drawn = samples(demo, corpus, NAMES).values[NAMES[0]]
    torch.testing.assert_close(drawn, samples(demo, mel, NAMES, n_valid=n_valid).values[NAMES[0]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(drawn.mean(0), of_mels.values[NAMES[0]], atol=1e-5, rtol=1e-5)


def test_means_by_position_and_differences_take_a_corpus(demo, corpus, mel) -> None:
    name, n_valid = NAMES[1], lengths(demo, corpus)
    torch.testing.assert_close(
        position_mean(demo, corpus, name), demo.embed_audio(mel).detach().mean(0), atol=1e-5, rtol=1e-5
    )
    difference = mean_difference(demo, corpus[:2], corpus[2:], name)
    expected = class_mean(demo, mel[:2], name, n_valid=n_valid[:2]) - class_mean(
        demo, mel[2:], name, n_valid=n_valid[2:]
    )
    torch.testing.assert_close(difference, expected, atol=1e-5, rtol=1e-5)


def test_points_of_both_stacks_come_from_one_encoder_pass(demo, mel, monkeypatch) -> None:
    passes = []
    forward = demo.encoder.forward
    monkeypatch.setattr(demo.encoder, "forward", lambda *a, **k: (passes.append(1), forward(*a, **k))[1])
    tokens = demo.to_tokens("").expand(3, -1)
    names = ["decoder.blocks.0.hook_mlp_out", "decoder.blocks.1.cross_attn.hook_v", "encoder.conv1.hook_post"]
    values = means(demo, mel, names, tokens=tokens, n_valid=[10, 20, 30])
    assert len(passes) == 1 and values.n_positions == dict(zip(names, (3 * tokens.shape[1], 60, 120), strict=True))


def test_old_names_warn(demo, mel) -> None:
    with pytest.warns(RenamedWarning, match="n_positions"):
        assert means(demo, mel, NAMES[1]).n_places
    with pytest.warns(RenamedWarning, match="clips="):
        means(demo, mels=mel, names=NAMES[1])


def test_a_corpus_has_lengths_and_texts_already(demo, corpus, unchecked) -> None:
    with pytest.raises(PatchError, match="leave out tokens= and n_valid="):
        means(demo, corpus, NAMES, n_valid=[1, 2, 3])
