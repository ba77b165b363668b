"""L2: readings of every block, statistics of the error curve, and the experiment on a small model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hooked_whisper.findings import REGISTRY, decoder_lens, run_experiment
from hooked_whisper.findings.decoder_lens import (
    BLANK,
    EARLY,
    GAIN,
    ORDER,
    ErrorCurve,
    LensReadings,
    early_share,
    gamma,
    read_layers,
    settled,
    text_tokens,
)
from tests.core.twins import listeners
from tests.findings.worlds import small_context, utterance


def lens(*texts: list[str], rank: np.ndarray | None = None) -> LensReadings:
    ranks = np.zeros((len(texts), 1), int) if rank is None else rank
    zero = np.zeros(ranks.shape, np.float32)
    clip_of = np.zeros(ranks.shape[1], int)
    layers = tuple(f"block {k}" for k in range(len(texts)))
    return LensReadings(layers, tuple(map(tuple, texts)), zero, ranks, zero, clip_of, ("x",) * ranks.shape[1])


def test_blocks_that_improve_in_order_meet_the_criteria() -> None:
    said = ["a b c d"] * 30
    statistics = ErrorCurve(
        said, lens([""] * 30, ["a x y z"] * 30, ["a b y z"] * 30, said), np.random.default_rng(0)
    ).statistics()
    assert statistics[ORDER].value == pytest.approx(1) and statistics[BLANK].value == 1 and statistics[GAIN].value == 1


def test_blocks_that_do_not_improve_fail_the_criteria() -> None:
    said = ["a b"] * 10
    statistics = ErrorCurve(said, lens([""] * 10, [""] * 10, [""] * 10), np.random.default_rng(0)).statistics()
    assert statistics[ORDER].value is None and statistics[GAIN].value == 0


def test_gamma_ignores_ties_and_decreases_with_every_wrong_pair() -> None:
    readable_at_last = [1.9, 1.6, 1.0, 1.2, 0.1]  # ties at "unreadable", whatever the WER
    one_wrong_pair = [1.0, 0.6, 0.7, 0.1]
    gammas = gamma(np.array([readable_at_last[1:], one_wrong_pair, one_wrong_pair[::-1], [1.0, 2.0, 0.95, 0.9]]))
    assert gammas[:3] == pytest.approx([1, 4 / 6, -4 / 6]) and np.isnan(gammas[3])


def test_gamma_of_shuffled_blocks_is_near_zero() -> None:
    said = ["a b c d"] * 5
    curve = ErrorCurve(said, lens(["x"] * 5, ["a y z y"] * 5, ["a b y z"] * 5, said), np.random.default_rng(0))
    shuffled = curve.in_random_order(np.random.default_rng(1))
    assert curve.statistics()[ORDER].value == 1 and abs(shuffled.value or 0) < 0.1 and (shuffled.low or 0) < -0.9


def test_early_share_excludes_guessed_tokens_and_those_of_the_last_block() -> None:
    #       guessed, block 0, the last, wrong in the end
    rank = np.array([[0, 3, 4, 0], [0, 0, 2, 0], [0, 0, 0, 5]])
    share = early_share(lens([], [], [], rank=rank), np.random.default_rng(0))
    assert share.value == pytest.approx(1 / 3)
    assert early_share(lens([], [], rank=np.ones((2, 3), int)), np.random.default_rng(0)).value is None


def test_token_settles_at_the_first_block_after_which_it_stays_right() -> None:
    rank = np.array([[0, 4, 0, 1], [3, 0, 0, 2], [0, 0, 0, 5]])
    first, right = settled(lens([], [], [], rank=rank))
    assert first[:3].tolist() == [2, 1, 0] and right.tolist() == [True, True, True, False]


@torch.no_grad()
def test_readings_are_the_models_own_log_probabilities() -> None:
    context = small_context()
    clips = (utterance("u0", "the red cat sat", seed=0), utterance("u1", "a dog", seed=1))
    context = type(context)(context.model, context.untrained, clips)
    tokens, lengths = text_tokens(context, context.model, [0, 1])
    assert lengths == [4, 2] and tokens.shape == (2, 9)
    readings = read_layers(context, context.model, [0, 1], "")
    assert readings.log_prob.shape == (3, 5 + 3) and readings.clip_of.tolist() == [0] * 5 + [1] * 3
    assert readings.labels[0] == " the" and readings.labels[-1] == "<|endoftext|>"
    for clip, start in ((0, 0), (1, 5)):
        n = lengths[clip] + 1
        row = tokens[clip : clip + 1, : 4 + n]
        logits = context.model(context.mels([clip]), row[:, :-1])[0, 3:]
        expected = logits.log_softmax(-1).gather(-1, row[0, 4:, None])[:, 0]
        np.testing.assert_allclose(readings.log_prob[-1, start : start + n], expected.numpy(), rtol=1e-4, atol=1e-4)
    assert readings.texts[-1] == tuple(context.transcriber()(context.encoded))


def test_it_runs_draws_and_names_the_unmet_gate() -> None:
    context = small_context(count=3)
    finding = run_experiment(REGISTRY["L2"], context)
    assert finding.status == "measured, no verdict" and "clips" in finding.status_reason
    assert EARLY in [c.name for c in finding.claims]
    wer = finding.measurement("WER by layer")
    assert wer.axis("layer").entries == ("embedding", "block 0", "block 1")
    assert {c.name for c in finding.controls} == {"untrained model", "texts of other clips", "blocks in random order"}
    assert len(finding.examples) == 3 and len(finding.examples[0].transcripts) == 3
    assert len(finding.draw()) == 3
    assert not listeners(context.model)


def test_many_blocks_have_few_ticks() -> None:
    names = ["embedding", *(f"block {k}" for k in range(32))]
    ticks, labels = decoder_lens._sparse_ticks(names)
    assert len(ticks) <= 9 and ticks[-1] == 32 and labels[-1] == "31"


def test_without_speech_it_is_not_testable() -> None:
    finding = run_experiment(REGISTRY["L2"], small_context())
    assert finding.status == "not testable" and finding.draw() == []
