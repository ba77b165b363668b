"""F2: the masks, the curve, and the wiring through a model that needs its window."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.findings import attention_windows as windows
from hooked_whisper.findings.core.packing import pack, windows_holding
from hooked_whisper.findings.windows.curve import Curve, locality
from hooked_whisper.findings.windows.masks import band, scrambled_band
from tests.findings.worlds import small_context, utterance

CPU = torch.device("cpu")


def test_band_does_not_mask_rows_after_the_clip() -> None:
    mask = band(10, 2, [4, 10], CPU)
    assert mask.shape == (2, 1, 10, 10)
    assert mask[0, 0, 3].nonzero().flatten().tolist() == [1, 2, 3, 4, 5]
    assert mask[0, 0, 4:].all()
    assert not mask[1, 0, 9, :7].any()


@given(st.integers(2, 24), st.integers(0, 24), st.data())
def test_scrambled_band_keeps_the_number_of_keys_and_its_own_position(n: int, k: int, data: st.DataObject) -> None:
    speech = data.draw(st.integers(0, n))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    mask = scrambled_band(n, k, [speech], rng, CPU)[0, 0]
    positions = torch.arange(n)
    near = (positions[:, None] - positions[None, :]).abs() <= k
    assert mask.diagonal().all()
    # as many keys in all, and (but for the row's own key) as many within the clip
    assert (mask.sum(1) == near.sum(1)).all()
    assert (mask[:, :speech].sum(1) == near[:, :speech].sum(1)).all()


def texts(*rates: float, n: int = 40) -> list[list[str]]:
    """Per window, the texts of ``n`` utterances "a b" of which a share is lost."""
    return [["" if i < round(rate * n) else "a b" for i in range(n)] for rate in rates]


def test_statistics_of_a_falling_curve() -> None:
    windows_ = [10, 20, 50, 75, 100, 200, 400, 1499]
    shuffled = texts(1.0, 0.8, 0.4, 0.2, 0.1, 0.05, 0.02, 0.0)
    curve = Curve(["a b"] * 40, dict(zip(windows_, shuffled, strict=True)), 0)
    assert curve.rank_correlation().value == pytest.approx(1, abs=0.02)
    assert curve.narrowest().value == 1
    assert curve.excess(400).value == pytest.approx(0.025, abs=0.03)
    assert curve.at(50).value == pytest.approx(0.4)
    assert curve.at(33).value is None


def test_a_flat_curve_has_no_rank_correlation() -> None:
    curve = Curve(["a b"] * 10, {10: [""] * 10, 400: [""] * 10, 1499: [""] * 10}, 0)
    assert curve.rank_correlation().value is None
    assert curve.narrowest().value == 1 and curve.excess(400).value == 0


def test_rise_of_a_curve_is_measured() -> None:
    back = Curve(["a b"] * 40, dict(zip([5, 10, 20, 50, 1499], texts(0.0, 0.9, 0.2, 0.5, 0.1), strict=True)), 0)
    assert back.rise().value == pytest.approx(0.3)  # from k = 20 to 50; k = 5 is not judged
    falls = Curve(["a b"] * 40, dict(zip([10, 20, 1499], texts(0.9, 0.2, 0.1), strict=True)), 0)
    assert falls.rise().value == pytest.approx(-0.1) and falls.rise().high < 0
    assert Curve(["a b"] * 4, {1499: ["a b"] * 4}, 0).rise().value is None


def test_windows_that_differ_by_noise_share_a_rank_in_the_note() -> None:
    rates = (1.0, 0.8, 0.5, 0.3, 0.025, 0.0, 0.025, 0.0)
    curve = Curve(["a b"] * 40, dict(zip([10, 20, 50, 75, 100, 200, 400, 1499], texts(*rates), strict=True)), 0)
    note = windows._tied(curve)
    assert ": 100, 200, 400." in note and "0.939" in note


def test_number_of_windows_that_hold_some_utterances() -> None:
    clips = [utterance(f"u{k}", "the red cat", 1.0) for k in range(7)]
    packed = pack(clips, 3.6)  # three, three, one
    assert [windows_holding(packed, n) for n in (1, 3, 4, 6, 7, 99)] == [1, 1, 2, 2, 3, 3]


def test_locality_is_a_paired_difference() -> None:
    good, bad = texts(0.0, 0.5)
    narrow = Curve(["a b"] * 40, {20: good, 1499: good}, 0)
    scrambled = Curve(["a b"] * 40, {20: bad, 1499: good}, 0)
    assert locality(narrow, scrambled).value == pytest.approx(0.5)
    assert locality(narrow, narrow).value == 0
    assert locality(narrow, Curve(["a b"] * 40, {400: good}, 0)).value is None


def _run(monkeypatch, context):
    monkeypatch.setattr(windows, "WINDOWS", (10, 20, 50))
    monkeypatch.setattr(windows, "VARIANT_WINDOWS", (10, 20))
    monkeypatch.setattr(windows, "UNTRAINED_WINDOWS", (10,))
    return windows.AttentionWindows().run(context)


def test_masks_reach_the_encoder_and_leave_nothing_behind(monkeypatch) -> None:
    context = small_context(count=3)
    seen: list[tuple[int, int]] = []
    model = context.model
    original = model.encoder.blocks[1].attn._attend

    def spy(q, k, v):
        masks = model.encoder.blocks[1].attn.masks
        if masks:
            entry = masks[0].mask
            mask = entry if isinstance(entry, torch.Tensor) else entry(torch.arange(60), torch.arange(60))
            seen.append((len(masks), int(mask.reshape(-1, 60, 60)[0, 30].sum())))
        return original(q, k, v)

    model.encoder.blocks[1].attn._attend = spy
    finding = _run(monkeypatch, context)
    assert finding.status == "measured, no verdict" and "spoken words" in finding.status_reason
    assert {count for count, _ in seen} == {1}
    assert {keys for _, keys in seen} == {3, 11, 21, 41, 60}  # 2 k + 1 keys, or the whole window where k covers it
    assert not model.encoder.blocks[1].attn.masks
    wer = finding.measurement("WER")
    assert wer.axis("window").entries == (1, 5, 10, 20, 50, 59)
    assert np.isfinite(wer.at(mask="all rows")).all()
    assert len(finding.draw()) == 1
    assert finding.examples[0].transcripts[0][0] == "full"


def test_the_full_window_is_not_run_again(monkeypatch) -> None:
    context = small_context(count=2)
    context.transcripts  # noqa: B018 - computed here once
    calls = []
    original = type(context.model).embed_audio
    monkeypatch.setattr(
        type(context.model), "embed_audio", lambda self, mel: (calls.append(len(mel)), original(self, mel))[1]
    )
    _run(monkeypatch, context)
    # 5 windows for all rows, 2 for those of the clip, 2 scrambled, 2 for the untrained model: one batch each
    assert len(calls) == 11


def test_without_speech_it_is_not_testable() -> None:
    finding = windows.AttentionWindows().run(small_context())
    assert finding.status == "not testable" and "--audio" in finding.status_reason
