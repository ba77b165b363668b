"""Sources of rows: every row once per epoch, determined by epoch and index, stored and streamed alike."""

from __future__ import annotations

import json
from threading import Thread

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper import HookedWhisper
from hooked_whisper.corpora import Recording
from hooked_whisper.errors import HookedWhisperError, UnknownHookError
from sae_lens_audio.activations import (
    ActivationChunk,
    ActivationSource,
    ActivationStore,
    CollectOptions,
    StoredActivations,
    StreamedActivations,
    TensorActivations,
    collect_activations,
)
from tests.findings.worlds import small_model
from tests.sae.activations.corpora import NEURONS, RESID, corpus, in_order, joined

OPTIONS = CollectOptions(dtype="float32", shard_rows=80, batch=3)


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return small_model(0)


@pytest.fixture(scope="module")
def store(model, tmp_path_factory) -> ActivationStore:
    return collect_activations(
        model, corpus(), [NEURONS, RESID], tmp_path_factory.mktemp("store"), OPTIONS, progress=False
    )


def epoch_of(blocks: ActivationSource, epoch: int) -> list[ActivationChunk]:
    return [blocks.chunk(epoch, k) for k in range(blocks.n_chunks(epoch))]


def same(first: ActivationChunk, second: ActivationChunk) -> bool:
    pairs = zip(
        (*first.rows, first.recording, first.position), (*second.rows, second.recording, second.position), strict=True
    )
    return all(torch.equal(a, b) for a, b in pairs)


subsets = st.one_of(st.none(), st.lists(st.integers(0, 13), min_size=1, max_size=14))


@given(st.integers(1, 12), st.integers(0, 3), st.integers(0, 5), subsets)
def test_stored_rows_occur_once_per_epoch(store, together, seed, epoch, recordings):
    blocks = StoredActivations(store, [RESID, NEURONS], recordings, together, seed)
    all_of_it = in_order(joined(epoch_of(blocks, epoch)))
    expected = store.read([RESID, NEURONS], recordings)
    assert same(all_of_it, expected) and len(all_of_it) == blocks.rows
    assert blocks.n_chunks(epoch) == int(np.ceil(store.n_shards / together))
    assert blocks.hooks == (RESID, NEURONS) and blocks.widths == (32, 64) and list(blocks.ids) == list(store.ids)


@given(st.integers(1, 6), st.integers(0, 3), subsets)
def test_a_stored_chunk_is_determined_by_epoch_and_index(store, together, seed, recordings):
    first, second = (StoredActivations(store, RESID, recordings, together, seed) for _ in range(2))
    n = first.n_chunks(0)
    forwards = [first.chunk(epoch, k) for epoch in range(2) for k in range(n)]
    backwards = [second.chunk(epoch, k) for epoch in (1, 0) for k in reversed(range(n))][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))


def test_epochs_and_seeds_group_other_shards(store):
    orders = {
        (seed, epoch): [
            block.recording.tolist() for block in epoch_of(StoredActivations(store, RESID, seed=seed), epoch)
        ]
        for seed in range(2)
        for epoch in range(3)
    }
    assert len({json.dumps(order) for order in orders.values()}) == 6


def test_groups_are_of_about_one_size(store):
    sizes = [len(block) for block in epoch_of(StoredActivations(store, RESID, shards_together=store.n_shards - 1), 0)]
    assert len(sizes) == 2 and min(sizes) > 0.3 * max(sizes)


def test_streamed_rows_are_the_stored_ones(model, store):
    blocks = StreamedActivations(model, corpus(), [NEURONS, RESID], 4, OPTIONS, seed=3)
    assert blocks.n_chunks(0) == 4 and blocks.widths == (64, 32) and list(blocks.ids) == list(store.ids)
    for epoch in range(2):
        streamed, expected = in_order(joined(epoch_of(blocks, epoch))), store.read([NEURONS, RESID])
        assert torch.equal(streamed.recording, expected.recording) and torch.equal(streamed.position, expected.position)
        for first, second in zip(streamed.rows, expected.rows, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


@given(st.integers(1, 5), st.integers(0, 3), subsets)
def test_streamed_rows_occur_once_and_are_determined(model, store, together, seed, recordings):
    first, second = (
        StreamedActivations(
            model, corpus(6), RESID, together, OPTIONS, seed, recordings and [k % 6 for k in recordings]
        )
        for _ in range(2)
    )
    forwards = epoch_of(first, 1)
    backwards = [second.chunk(1, k) for k in reversed(range(second.n_chunks(1)))][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    selected = range(6) if recordings is None else sorted({k % 6 for k in recordings})
    block = in_order(joined(forwards))
    expected = [(k, p) for k in selected for p in range(store.recordings[k].rows)]
    assert list(zip(block.recording.tolist(), block.position.tolist(), strict=True)) == expected


def test_streamed_recordings_come_in_another_order_every_epoch(model):
    blocks = StreamedActivations(model, corpus(), RESID, 5, OPTIONS)
    firsts = [tuple(sorted(set(blocks.chunk(epoch, 0).recording.tolist()))) for epoch in range(4)]
    assert len(set(firsts)) > 1 and all(len(first) == 5 for first in firsts)


def test_streams_of_tokens(model, tmp_path):
    recordings = corpus(6, longest=1.2)
    hook = "decoder.blocks.1.hook_cross_attn_out"
    stored = collect_activations(model, recordings, hook, tmp_path, OPTIONS, progress=False).read(hook)
    streamed = in_order(joined(epoch_of(StreamedActivations(model, recordings, hook, 2, OPTIONS), 0)))
    assert torch.equal(streamed.position, stored.position)
    torch.testing.assert_close(streamed.rows[0], stored.rows[0], rtol=1e-4, atol=1e-5)


def test_broken_recordings_are_skipped_and_logged_once(model, caplog):
    recordings = corpus(6)
    recordings[2] = Recording("broken", b"no audio", path="broken.wav")
    blocks = StreamedActivations(model, recordings, RESID, 3, OPTIONS)
    for epoch in range(3):
        assert 2 not in joined(epoch_of(blocks, epoch)).recording
    assert list(blocks.failures) == [2] and blocks.failures[2].path == "broken.wav"
    assert len(caplog.records) == 1 and "recording 'broken' is skipped" in caplog.text
    nothing = StreamedActivations(model, [recordings[2]], [RESID, NEURONS], options=CollectOptions())
    empty = nothing.chunk(0, 0)
    assert len(empty) == 0 and [x.shape for x in empty.rows] == [(0, 32), (0, 64)]
    assert empty.rows[0].dtype == torch.float16


def test_streams_may_be_asked_by_several_threads(model):
    blocks = StreamedActivations(model, corpus(8), [RESID, NEURONS], 2, OPTIONS)
    expected, streamed = epoch_of(blocks, 0), {}
    threads = [Thread(target=lambda k=k: streamed.update({k: blocks.chunk(0, k)})) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(expected[k], streamed[k]) for k in range(4))


def test_streams_leave_nothing_on_the_model(model):
    StreamedActivations(model, corpus(2), RESID, options=OPTIONS).chunk(0, 0)
    assert not any(point.active for point in model.hook_dict.values())
    assert torch.is_grad_enabled()


def test_descriptions_tell_sources_apart(model, store):
    recordings = corpus()
    others = [
        StoredActivations(store, RESID),
        StoredActivations(store, [RESID, NEURONS]),
        StoredActivations(store, RESID, seed=1),
        StoredActivations(store, RESID, shards_together=2),
        StoredActivations(store, RESID, recordings=[1, 2]),
        StoredActivations(store, RESID, recordings=[1, 3]),
        StreamedActivations(model, recordings, RESID),
        StreamedActivations(small_model(3), recordings, RESID),
        StreamedActivations(model, recordings[:5], RESID),
        StreamedActivations(model, recordings, RESID, options=CollectOptions(margin=1)),
        StreamedActivations(model, recordings, RESID, recordings=[1, 2]),
        TensorActivations(torch.zeros(3, 2)),
        TensorActivations(torch.ones(3, 2)),
        TensorActivations(torch.zeros(2, 3)),
        TensorActivations(torch.zeros(3, 2, dtype=torch.bfloat16)),
        TensorActivations({"other": torch.zeros(3, 2)}),
    ]
    described = [json.dumps(first.describe(), sort_keys=True) for first in others]
    assert len(set(described)) == len(others)
    again = [StoredActivations(store, ["encoder.blocks.0"]), StreamedActivations(model, corpus(), "encoder.blocks.0")]
    assert [json.dumps(first.describe(), sort_keys=True) for first in again] == [described[0], described[6]]
    other_shards = StreamedActivations(model, recordings, RESID, options=CollectOptions(shard_rows=7))
    assert json.dumps(other_shards.describe(), sort_keys=True) == described[6], "there are no shards in a stream"


def test_tensors():
    a, b = torch.randn(5, 3), torch.randn(5, 2, dtype=torch.float16)
    blocks = TensorActivations({"in": a, "out": b})
    assert blocks.hooks == ("in", "out") and blocks.widths == (3, 2) and blocks.n_chunks(7) == 1
    block = blocks.chunk(7, 0)
    assert block.rows[0] is a and block.rows[1] is b and block.position.tolist() == [0, 1, 2, 3, 4]
    assert list(blocks.ids) == ["0"] and TensorActivations(a).hooks == ("rows",)
    known = TensorActivations(a, torch.tensor([0, 0, 2, 1, 1]), torch.arange(5), ["x", "y", "z"])
    assert list(known.ids) == ["x", "y", "z"] and known.chunk(0, 0).recording.tolist() == [0, 0, 2, 1, 1]


def test_invalid_sources_are_refused(model, store, unchecked):
    for make, match in (
        (lambda: TensorActivations(torch.zeros(0, 3)), "at least one"),
        (lambda: TensorActivations({}), "at least one"),
        (lambda: TensorActivations(torch.zeros(3)), r"\[row, d\]"),
        (lambda: TensorActivations({"a": torch.zeros(2, 3), "b": torch.zeros(3, 3)}), "equally many"),
        (lambda: TensorActivations(torch.zeros(2, 3).long()), "floating point"),
        (lambda: TensorActivations({"a": torch.tensor([[1.0], [torch.nan]])}), "a: row 1 is not finite"),
        (lambda: TensorActivations(torch.zeros(2, 3)).chunk(0, 1), "there is no chunk 1: this epoch has 1"),
        (lambda: StoredActivations(store, RESID, shards_together=0), "at least 1"),
        (lambda: StoredActivations(store, RESID, recordings=[]), "got none"),
        (lambda: StoredActivations(store, RESID, recordings=[14]), "indices in a corpus of 14"),
        (lambda: StoredActivations(store, RESID).chunk(0, -1), "no chunk -1"),
        (lambda: StreamedActivations(model, [], RESID), "no recordings"),
        (lambda: StreamedActivations(model, corpus(2), RESID, 0), "at least 1"),
        (lambda: StreamedActivations(model, corpus(2), RESID, seed=-1), "at least 1 and seed at least 0"),
        (lambda: StreamedActivations(model, corpus(2), RESID).chunk(0, 1), "no chunk 1"),
    ):
        with pytest.raises(HookedWhisperError, match=match):
            make()
    with pytest.raises(UnknownHookError, match="has activations of"):
        StoredActivations(store, "encoder.blocks.1")


def test_selected_recordings_without_rows_are_refused(model, tmp_path):
    recordings = [*corpus(2), Recording("broken", b"no audio")]
    store = collect_activations(model, recordings, RESID, tmp_path, OPTIONS, progress=False)
    with pytest.raises(HookedWhisperError, match="have no rows"):
        StoredActivations(store, RESID, recordings=[2])
