"""W1: pairs are checked before they are patched, known patches restore the whole gap, and the finding runs and
draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.findings import word_swap
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.sources import make_context
from hooked_whisper.findings.swaps.pairs import LEAST_GAP, PreparedPairs, prepare, synthetic_candidates, third_outputs
from hooked_whisper.findings.swaps.patches import COMPONENTS, attribution_agreement, patch_by_block, patch_pair
from hooked_whisper.findings.word_swap import WordSwap, mean_over_pairs
from hooked_whisper.synthetic import SyntheticCorpus
from tests.core.twins import listeners

pytest.importorskip("espeakng_loader")


@pytest.fixture(scope="module")
def context() -> Context:
    return make_context(HookedWhisper.from_pretrained("demo"), "demo", speech=False, seed=2)


@pytest.fixture(scope="module")
def prepared(context: Context) -> PreparedPairs:
    return prepare(context, context.model, synthetic_candidates(SyntheticCorpus.default(), 12, 0), 3, "")


def test_accepted_pairs_are_written_with_both_words(context: Context, prepared: PreparedPairs) -> None:
    assert 1 <= len(prepared.pairs) <= 3
    for pair in prepared.pairs:
        assert pair.gap >= LEAST_GAP
        assert torch.equal(pair.clean.tokens, pair.corrupt.tokens)
        differs = (pair.clean.mel - pair.corrupt.mel).abs().amax((0, 1)).nonzero()[:, 0] / 100
        assert pair.word.start - 0.05 <= differs.min() and differs.max() <= pair.word.end + 0.05
        ids = [context.model.to_single_token(f" {w}") for w in (pair.candidate.a, pair.candidate.b)]
        assert [pair.metric.answer, pair.metric.foil] == ids


def test_word_span_and_last_residual_restore_the_whole_gap(context: Context, prepared: PreparedPairs) -> None:
    """The word's span before the first block, and the last residual, each restore all of the gap."""
    pair = prepared.pairs[0]
    [third] = third_outputs(context.model, [pair])
    row, exact = patch_pair(context.model, pair, third)
    last = row["parts"][-1, COMPONENTS.index("resid_post")]
    assert last == pytest.approx(1, abs=1e-4)
    assert abs(row["wrong"]) < 0.2 < row["word"] and 0 <= row["local"] <= 1
    assert abs(row["third"]) < row["word"] and row["noised"] > 0.2
    assert exact.shape == (exact.size,) and min(attribution_agreement(context.model, pair, exact)) > 0.3
    table = patch_by_block(context.model, pair)
    assert table.shape == (5, 4) and table[0, 1] == pytest.approx(1, abs=1e-3)
    assert np.nan_to_num(np.abs(table[0, [0, 2, 3]])).max() < 1e-3
    assert not listeners(context.model)


def test_untrained_weights_write_no_pair(context: Context) -> None:
    assert prepare(context, context.untrained, synthetic_candidates(SyntheticCorpus.default(), 2, 0), 3, "").pairs == ()


def test_it_runs_and_draws(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "CANDIDATES": 6, "PAIRS": 2, "BLOCK_PAIRS": 1, "ATTRIBUTED_PAIRS": 1, "UNTRAINED_PAIRS": 1,
        "DETAILED_PAIRS": 1, "THIRD_PAIRS": 1,
    }.items():  # fmt: skip
        monkeypatch.setattr(word_swap, name, value)
    finding = WordSwap().run(context)
    assert finding.status == "measured, no verdict" and "pairs" in finding.status_reason
    assert {c.name for c in finding.controls} == {"wrong stretch", "third word", "spread evenly", "untrained model"}
    assert len(finding.draw()) == 5


def test_without_a_synthesizer_it_is_not_testable(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise OSError("no espeak-ng")

    monkeypatch.setattr(word_swap, "synthetic_candidates", missing)
    finding = WordSwap().run(context)
    assert finding.status == "not testable" and "no espeak-ng" in finding.status_reason


def test_mean_over_pairs_ignores_nan() -> None:
    mean = mean_over_pairs(np.array([1.0, np.nan, 3.0]), np.random.default_rng(0))
    assert mean.value == 2 and mean_over_pairs(np.array([np.nan]), np.random.default_rng(0)).value is None
