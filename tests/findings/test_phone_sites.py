"""The evaluation that the findings on phones share: halves, tops among some utterances, correlations, one run only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.corpora import Clip
from hooked_whisper.features import mel_bands
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.phones import TopExamples
from hooked_whisper.features.phones.labeled_rows import MEL, collect_rows
from hooked_whisper.features.phones.row_labels import CountOptions
from hooked_whisper.features.phones.top_examples import ABSENT
from hooked_whisper.findings import Untestable
from hooked_whisper.findings.core.sources import further_clips, packaged_clips
from hooked_whisper.findings.early_blocks import EarlyBlocks
from hooked_whisper.findings.phones import evaluation as phone_sites
from hooked_whisper.findings.phones.evaluation import (
    PhoneEvaluation,
    first_half,
    mel_correlations,
    phone_evaluation,
    resampled_means,
    share,
)
from hooked_whisper.findings.phones.summaries import Named, TopPurity, Tops
from hooked_whisper.findings.phonetic_neurons import PhoneticNeurons
from hooked_whisper.findings.polyphony import Polyphony
from hooked_whisper.protocols import SILENCE
from hooked_whisper.synthetic.synthetic_corpus import SyntheticCorpus
from tests.findings.phone_worlds import PHONES, context_with_phones, planted, spoken
from tests.findings.worlds import small_context, small_model


@given(st.integers(1, 15), st.integers(1, 6), st.integers(0, 999))
def test_tops_among_utterances_are_those_of_a_run_on_only_these(count: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(count) < 0.5
    every, few = TopExamples(3, count, labelings=3), TopExamples(3, k, labelings=3)
    for u in range(count):
        x = torch.from_numpy(rng.integers(5, size=(int(rng.integers(0, 4)), 3))).float()
        ids = [*rng.integers(-1, 4, size=(2, len(x))), 10 * u + np.arange(len(x))]
        every.add(x, *ids)
        if mask[u]:
            few.add(x, *ids)
    tops = Tops.of(every).among(mask, k)
    n = min(k, count)  # no more than there are utterances at all
    np.testing.assert_array_equal(tops.values, few.values[:, :n])
    np.testing.assert_array_equal(tops.ids, np.stack([few.ids(0), few.ids(1)])[:, :, :n])
    both = Tops.of(every).of_both(mask, k)
    for part in (mask, ~mask, np.ones(count, dtype=bool)):
        whole, short = Tops.of(every).among(part, k), both.among(part, k)
        m = short.values.shape[1]  # what is left out is absent
        np.testing.assert_array_equal(whole.values[:, :m], short.values)
        np.testing.assert_array_equal(whole.ids[:, :, :m], short.ids)
        np.testing.assert_array_equal(whole.utterance[:, :m], short.utterance)
        assert (whole.utterance[:, m:] == ABSENT).all()
    np.testing.assert_array_equal(tops.position, few.ids(2)[:, :n])
    numbers = np.append(np.flatnonzero(mask), ABSENT)
    np.testing.assert_array_equal(tops.utterance, numbers[np.where(few.utterances >= 0, few.utterances, -1)][:, :n])


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_halves_have_the_same_speakers(speakers: list[str]) -> None:
    first = first_half(speakers)
    for speaker in set(speakers):
        mine = np.array([s == speaker for s in speakers])
        assert 0 <= (first & mine).sum() - (~first & mine).sum() <= 1


def test_mel_correlations_find_the_band_that_is_the_feature() -> None:
    model = small_model(0)
    clips = list(spoken(6))
    hook = "encoder.blocks.0.mlp.hook_post"
    with collect_rows(model, clips, [hook, MEL]) as rows:
        correlations = mel_correlations(rows, HookBasis(hook), range(6))
        assert correlations.shape == (64,) and (correlations <= 1 + 1e-5).all() and (correlations >= 0).all()
        bands = mel_correlations(rows, HookBasis(MEL, mel_bands(model)), range(6))
    np.testing.assert_allclose(bands, 1, atol=1e-4)


def test_it_is_evaluated_once_with_the_further_clips() -> None:
    asked = []

    def more() -> tuple[Clip, ...]:
        asked.append(1)
        return spoken(6, seed=1)

    context = replace(context_with_phones(18), more_speech=more)
    assert not asked
    evaluation = phone_evaluation(context)
    assert isinstance(evaluation, PhoneEvaluation) and evaluation is phone_evaluation(context) and asked == [1]
    assert evaluation.n_blocks == len(evaluation.random) == len(evaluation.principal) == len(evaluation.untrained) == 2
    assert len(evaluation.judges) == 24 and evaluation.chooses.sum() == evaluation.judges.sum() == 12
    assert evaluation.untrained[0].tops.values.shape == (64, 12)
    assert (
        evaluation.inputs()["further clips"] == 6
        and evaluation.inputs()["utterances"] == 24
        and evaluation.inputs()["phones judged"] == 0
    )  # 24 of each: below 50
    assert not any(gate.passed for gate in evaluation.gates())
    assert len(evaluation.labels(0)) == 64
    assert evaluation.sizes == (24,) and evaluation.top_purity["neurons"][1].by_size.shape == (2, 1, 64)
    assert evaluation.probes is None  # no phone is said 50 times


@pytest.mark.parametrize("kind", ["no clips", "no phones", "one speaker"])
def test_untestable_contexts_have_a_reason(kind: str) -> None:
    alone = tuple(u.with_alignment(replace(u.alignment, speaker="a")) for u in spoken(4))
    context, reason = {
        "no clips": (small_context(0), "--corpus"),
        "no phones": (small_context(3), "no phone alignment"),
        "one speaker": (replace(small_context(0), utterances=alone), "1 speaker"),
    }[kind]
    with pytest.raises(Untestable, match=reason):
        phone_evaluation(context)


ARPABET = ("P", "B", "T", "D", "K", "G", "M", "N", "S", "Z", "SH", "F", "V", "L")
TIMIT = ("pcl", "b", "tcl", "dx", "kcl", "g", "m", "en", "s", "z", "sh", "f", "v", "el")


@pytest.mark.parametrize("labels", [ARPABET, tuple(x.lower() for x in ARPABET), TIMIT])
def test_any_set_of_phone_labels_is_evaluated(labels: tuple[str, ...]) -> None:
    """The packaged speech writes ARPABET in upper case, TIMIT in lower case, folded to 39 or not."""
    written = dict(zip(PHONES, labels, strict=True)) | {SILENCE: SILENCE}
    utterances = []
    for u in spoken(54):
        phones = tuple(replace(i, label=written[i.label]) for i in u.alignment.phones)
        utterances.append(u.with_alignment(replace(u.alignment, phones=phones)))
    context = replace(context_with_phones(0), utterances=tuple(utterances))
    evaluation = phone_evaluation(context)
    assert isinstance(evaluation, PhoneEvaluation)
    assert set(evaluation.neurons[0].names) == {*labels, SILENCE}
    assert evaluation.inputs()["phones judged"] == len(labels)
    assert evaluation.neurons[0].classes.names  # articulations are known
    assert evaluation.probes is not None and set(evaluation.probes.mel.names) == set(labels)
    assert evaluation.probes.mel.accuracy > 0.5 > evaluation.probes.shifted[0].accuracy
    for experiment in (PhoneticNeurons(), EarlyBlocks()):
        assert [len(figure.axes) for figure in experiment.run(context).draw()]
    for experiment in (PhoneticNeurons(), Polyphony(), EarlyBlocks()):
        assert experiment.run(context).claims


def test_purity_by_number_of_clips_and_with_the_best_lag() -> None:
    """Feature 0 peaks at its phone, 1 two positions after it, 2 anywhere; 3 is never positive."""
    rng = np.random.default_rng(0)
    count, length = 60, 40
    top, ids = TopExamples(4, count, labelings=3), []
    for u in range(count):
        labels = rng.integers(1, 5, length)
        labels[10] = 0
        x = np.zeros((length, 4))
        x[10, 0] = x[12, 1] = x[rng.integers(20, 40), 2] = 1 + rng.random()
        top.add(torch.from_numpy(x).float(), labels, labels, np.arange(length) + u * length)
        ids.append(labels)
    lags = np.stack([np.roll(np.stack(ids), 6 - lag, axis=1).reshape(-1) for lag in range(13)])
    named = Named(("p", "b", "t", "d", "k"), {}, lags, rng.permutation(count))
    assert named.sizes == (25, 50, 60)
    half = np.arange(count) % 2 == 0
    purity = TopPurity.of(Tops.of(top), named, half)
    assert purity.by_size.shape == (2, 3, 4)
    np.testing.assert_array_equal(purity.by_size[:, :, 0], 1)
    assert (purity.by_size[:, :, 1:3] < 0.8).all() and np.isnan(purity.by_size[:, :, 3]).all()
    assert purity.lagged[0] == purity.lagged[1] == 1 and purity.lagged[2] < 0.7 and np.isnan(purity.lagged[3])
    joined = TopPurity.joined([purity, purity])
    assert joined.by_size.shape == (2, 3, 8) and joined.lagged.shape == (8,)


def test_labels_at_a_lag_stay_within_their_clip() -> None:
    model = small_model(0)
    with collect_rows(model, list(spoken(4)), [MEL]) as rows:
        labels = rows.labels(CountOptions())
    lagged = labels.lagged(2)
    np.testing.assert_array_equal(lagged[2], labels.ids)
    for start, stop in zip(labels.starts[:-1], labels.starts[1:], strict=True):
        np.testing.assert_array_equal(lagged[4, start : stop - 2], labels.ids[start + 2 : stop])
        assert (lagged[4, stop - 2 : stop] == -1).all() and (lagged[0, start : start + 2] == -1).all()


def test_bootstraps() -> None:
    rng = np.random.default_rng(0)
    estimate = share(np.arange(400) < 240, rng)
    assert estimate.value == 0.6 and 0.54 < (estimate.low or 0) < 0.57 and 0.63 < (estimate.high or 0) < 0.66
    assert share(np.zeros(0, dtype=bool), rng).value is None
    means = resampled_means(np.arange(100.0), rng)
    assert abs(means.mean() - 49.5) < 0.3 and abs(means.std() - np.arange(100).std() / 10) < 0.15
    assert np.isnan(resampled_means(np.zeros(0), rng)).all()


def test_planted_sites_are_what_they_are_said_to_be() -> None:
    evaluation = planted(True)
    assert np.nanmean(evaluation.neurons[1].phones.f1) > np.nanmean(evaluation.neurons[0].phones.f1) + 0.2
    assert evaluation.neurons[1].alive(evaluation.judges).any() and phone_sites.short("random directions") == "random"


def test_further_clips_are_other_sentences_by_held_out_speakers() -> None:
    synthetic = SyntheticCorpus.default()
    taken = packaged_clips(synthetic, 3, "").utterances
    more = further_clips(synthetic, taken, 6)
    assert len(more) == 6 and not {u.text for u in more} & {u.text for u in taken}
    held_out = {s.id for s in synthetic.speakers if s.split == "held-out"}
    assert {u.alignment.speaker for u in more} <= held_out
    assert all(u.alignment.phones for u in more) and len({u.id for u in more}) == 6


def test_without_a_synthesiser_the_packaged_clips_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def mute(*_: object) -> None:
        raise RuntimeError("no voice")

    monkeypatch.setattr(SyntheticCorpus, "say", mute)
    synthetic = SyntheticCorpus.default()
    taken = packaged_clips(synthetic, 3, "").utterances
    more = further_clips(synthetic, taken, 4)
    assert 0 < len(more) <= 4 and not {u.id for u in more} & {u.id for u in taken}
