"""F3: the ranking, the comparison, and the wiring of masks through a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.findings import head_windows
from hooked_whisper.findings.head_windows import (
    ALL,
    EXTRA,
    FIVE,
    LOCAL,
    LOCAL_COST,
    NEAREST,
    NONE,
    OTHERS,
    HeadSplit,
    LocalHeads,
    MaskedHeads,
    P,
    distances,
    local_count,
    most_local,
    random_heads,
    speech_rows,
)
from hooked_whisper.interventions.masks import window_masks
from tests.findings.worlds import small_context

EXPERIMENT = LocalHeads()


@given(st.integers(1, 4), st.integers(2, 8), st.integers(0, 99))
def test_most_local_heads_are_selected_in_each_block(n_blocks: int, n_heads: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    far, count = rng.random((n_blocks, n_heads)), local_count(n_heads)
    assert 1 <= count < n_heads
    nearest, drawn = most_local(far, count), random_heads(n_blocks, n_heads, count, rng)
    assert len(nearest) == len(drawn) == n_blocks * count
    for block in range(n_blocks):
        near = [far[b, h] for b, h in nearest if b == block]
        others = [far[block, h] for h in range(n_heads) if (block, h) not in nearest]
        assert max(near) <= min(others) and sum(b == block for b, _ in drawn) == count


def test_local_count_is_the_published_share() -> None:
    assert [local_count(n) for n in (2, 4, 6, 8, 20)] == [1, 3, 4, 5, 13]


def test_a_head_that_sees_only_itself_has_distance_zero() -> None:
    context = small_context(count=2)
    masks = window_masks(context.model, {(0, 1): 0, (1, 0): 3})
    with context.model.hooks(attn_masks=masks):
        far = distances(context, [0, 1])
    assert far.shape == (2, 2, 2)
    assert np.allclose(far[:, 0, 1], 0) and (far[:, 1, 0] < 3).all() and (far[:, 1, 0] > 0).all()
    assert (far[:, [0, 1], [0, 1]] > 5).all()
    assert not any(context.model.list_hooks().values())


def test_distances_match_the_attention_pattern_over_speech() -> None:
    context = small_context(count=1)
    rows = speech_rows(context, 0)
    assert 0 < rows.start < rows.stop < 60
    name = "encoder.blocks.1.attn.hook_pattern"
    with torch.no_grad():
        pattern = context.model.run_with_cache(context.mels([0]), names_filter=name)[1][name][0, 0].numpy()
    by_hand = np.mean([sum(pattern[i, j] * abs(i - j) for j in range(60)) for i in range(rows.start, rows.stop)])
    assert distances(context, [0])[0, 1, 0] == pytest.approx(by_hand, rel=1e-4)


def split(local: float, others: float, n: int = 40, none: float = 0.0) -> HeadSplit:
    rng = np.random.default_rng(1)
    words = np.full(n, 5.0)

    def errors(rate: float) -> np.ndarray:
        return rng.binomial(5, rate, n).astype(float)

    return HeadSplit(errors(local)[None], errors(others)[None], errors(none), words)


def test_a_true_difference_is_significant() -> None:
    estimates = split(0.02, 0.5).estimates(0)
    assert estimates[P].value < 0.01 and estimates[EXTRA].low > 0.3 and estimates[FIVE].value > 0
    reverse = split(0.5, 0.02).estimates(0)
    assert reverse[P].value > 0.99 and reverse[EXTRA].high < 0 and reverse[LOCAL_COST].value > 0.4


def test_no_difference_is_not_significant() -> None:
    same = split(0.3, 0.3)
    estimates = HeadSplit(same.local, same.local, same.none, same.words).estimates(0)
    assert estimates[EXTRA].value == 0 and estimates[P].value == 1
    # a gain from masking the local heads does not lower the bar for the others
    assert split(0.0, 0.1, none=0.2).estimates(0)[FIVE].value < 0


def planted(context, local: str, others: str, random: str, remaining: str):
    count = len(context.utterances)
    full = context.references[0]
    sets = {LOCAL: frozenset({(0, 0), (1, 1)}), OTHERS: frozenset({(0, 1), (1, 0)})}
    sets |= {NEAREST: sets[LOCAL], ALL: sets[LOCAL] | sets[OTHERS]}
    texts = {LOCAL: [local] * count, NEAREST: [local] * count, OTHERS: [others] * count}
    texts |= {ALL: [""] * count, NONE: [full] * count}
    for k in range(1, head_windows.RANDOM_DRAWS + 1):
        texts |= {f"random heads {k}": [random] * count, f"the rest {k}": [remaining] * count}
    measured = MaskedHeads(
        np.ones((2, 2, 2)), sets, texts, context.references, context.utterances, context.n_positions, 60
    )
    return EXPERIMENT.judge(measured, EXPERIMENT.setting(context))


def test_status_follows_the_rule() -> None:
    context, full = small_context(count=24), "the red cat sat"
    assert planted(context, full, "the red", full, full).status == "reproduced"
    assert planted(context, "the red", full, full, full).status == "not reproduced"
    also = planted(context, full, "the red", full, "the red")
    assert also.status == "not reproduced" and "random heads" in also.status_reason
    few = planted(small_context(count=3), full, "the red", full, full)
    assert few.status == "measured, no verdict" and "utterances" in few.status_reason


def test_released_models_have_two_more_criteria() -> None:
    full = "the red cat sat"
    context = small_context(count=24, truth=False)
    finding = planted(context, "the red cat", "the red", full, full)
    assert {c.name for c in finding.claims} == {EXTRA, P, LOCAL_COST, FIVE}
    assert finding.status == "not reproduced"  # the local heads cost a quarter of the words, the others only half
    assert planted(context, full, "the red", full, full).status == "reproduced"


def test_masks_reach_the_heads_and_leave_nothing_behind() -> None:
    context, seen = small_context(count=3), []
    module = context.model.encoder.blocks[1].attn
    original = module._attend

    def spy(q, k, v):
        if module.masks:
            positions = torch.arange(60)
            seen_by_head = [60, 60]
            for entry in module.masks:
                for head in range(2) if entry.heads is None else entry.heads:
                    seen_by_head[head] = int(entry.mask(positions, positions)[30].sum())
            seen.append(tuple(seen_by_head))
        return original(q, k, v)

    module._attend = spy
    finding = EXPERIMENT.run(context)
    assert finding.status == "measured, no verdict"
    assert set(seen) == {(21, 60), (60, 21), (21, 21)} and not module.masks
    wer = finding.measurement("WER")
    assert wer.axis("masked").entries[:5] == (NONE, LOCAL, OTHERS, NEAREST, ALL) and np.isfinite(wer.values).all()
    assert finding.parameters["utterances"] == 3
    assert len(finding.draw()) == 3 and len(finding.examples) == 3


def test_without_speech_it_is_not_testable() -> None:
    finding = EXPERIMENT.run(small_context())
    assert finding.status == "not testable" and "--audio" in finding.status_reason and finding.draw() == []
