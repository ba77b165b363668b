"""Stores: opened only if complete, read without copying, sampled uniformly, with statistics of their rows."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.errors import AudioError, CheckpointError, HookedWhisperError, UnknownHookError
from sae_lens_audio.activations import ActivationStore, CollectOptions, collect_activations, open_store
from sae_lens_audio.activations.statistics import merged, statistics_of
from tests.findings.worlds import small_model
from tests.sae.activations.corpora import NEURONS, RESID, corpus

MANIFEST = "manifest.json"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ActivationStore:
    folder = tmp_path_factory.mktemp("store")
    recordings = corpus()
    recordings[4] = type(recordings[4])("broken", b"no audio", speaker="s9")
    options = CollectOptions(shard_rows=150, batch=3)
    return collect_activations(small_model(0), recordings, [NEURONS, RESID], folder, options, progress=False)


@pytest.fixture
def damaged(store, tmp_path) -> Path:
    """A copy to damage."""
    for path in store.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_contents_of_a_store(store):
    again = open_store(store.folder)
    assert again.hooks == (NEURONS, RESID) and again.widths == (64, 32) and again.unit == "position"
    assert again.rows == store.rows == sum(entry.rows for entry in again.recordings)
    assert again.ids[:2] == ["clip-00", "clip-01"] and [entry["id"] for entry in again.failures] == ["broken"]
    assert again.options == CollectOptions(shard_rows=150, batch=3)
    assert again.bytes == sum(path.stat().st_size for path in store.folder.glob("shard-*"))
    assert again.seconds == pytest.approx(sum(entry.seconds for entry in again.recordings))
    assert again.digest == store.digest and again.width("encoder.blocks.1.mlp.1") == 64
    assert repr(again).endswith(f"{store.rows} rows of {NEURONS}, {RESID})")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rows_are_a_map_of_the_file(tmp_path, dtype):
    store = collect_activations(small_model(0), corpus(3), RESID, tmp_path, CollectOptions(dtype=dtype), progress=False)
    rows = store.shard(0).tensor(RESID)
    assert rows.dtype == getattr(torch, dtype)
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(tmp_path / "shard-00000.safetensors") in maps.read_text()
    rows[0] = 7  # a private map: what is written there does not reach the file
    assert open_store(tmp_path).rows == len(rows)
    del rows
    assert not maps.exists() or str(tmp_path) not in maps.read_text()


def test_statistics_are_those_of_the_rows(store):
    for hook in store.hooks:
        rows = torch.cat([store.shard(k).tensor(hook) for k in range(store.n_shards)]).double().numpy()
        statistics = store.statistics[hook]
        assert statistics.count == len(rows) == store.rows
        np.testing.assert_allclose(statistics.mean, rows.mean(0), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(statistics.variance, rows.var(0), rtol=1e-11)
        norms = np.linalg.norm(rows, axis=1)
        assert statistics.mean_norm == pytest.approx(norms.mean(), rel=1e-12)
        assert statistics.mean_square_norm == pytest.approx((norms**2).mean(), rel=1e-12)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=6), st.integers(0, 99))
def test_statistics_do_not_depend_on_the_parts(sizes, seed):
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(1000 + rng.standard_normal((sum(sizes), 3)))  # far from 0: naive sums would cancel
    parts = merged([statistics_of(part) for part in rows.split(sizes)])
    np.testing.assert_allclose(parts.mean, rows.numpy().mean(0), rtol=1e-13)
    np.testing.assert_allclose(parts.variance, rows.numpy().var(0), rtol=1e-9, atol=1e-12)
    assert parts.count == len(rows)


def test_read_sorts_all_rows(store):
    block = store.read([RESID, NEURONS])
    assert [x.shape[1] for x in block.rows] == [32, 64] and block.rows[0].dtype == torch.float32
    key = block.recording.long() * 10**6 + block.position
    assert len(block) == store.rows and (key.diff() > 0).all()
    by_shard = store.shard(1).chunk(store.hooks)
    k = int((key == int(by_shard.recording[5]) * 10**6 + int(by_shard.position[5])).nonzero()[0])
    assert torch.equal(block.rows[0][k], by_shard.rows[1][5].float())
    assert torch.equal(block.rows[1][k], by_shard.rows[0][5].float())


@given(
    st.lists(st.integers(0, 13), min_size=1, max_size=5), st.one_of(st.none(), st.integers(1, 400)), st.integers(0, 9)
)
def test_read_selects_hooks_and_recordings(store, recordings, most, seed):
    block = store.read(RESID, recordings, most, seed)
    there = sum(store.recordings[k].rows for k in set(recordings))
    assert len(block) == (there if most is None else min(most, there))
    assert set(block.recording.tolist()) <= set(recordings)
    pairs = list(zip(block.recording.tolist(), block.position.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs) and pairs == sorted(pairs)
    again = store.read(RESID, recordings, most, seed)
    assert torch.equal(again.rows[0], block.rows[0])


def test_read_draws_evenly(store):
    """Every row has the same probability."""
    times = torch.zeros(store.rows)
    key = {pair: k for k, pair in enumerate(zip(*(x.tolist() for x in _where(store.read(RESID))), strict=True))}
    for seed in range(200):
        for pair in zip(*(x.tolist() for x in _where(store.read(RESID, most=store.rows // 4, seed=seed))), strict=True):
            times[key[pair]] += 1
    # binomial(200, 1/4) has mean 50 and deviation 6.1
    assert times.min() > 20 and times.max() < 80
    assert abs(times[: store.rows // 2].mean() - 50) < 2 and abs(times.std() - 6.1) < 0.7


def _where(block) -> tuple[torch.Tensor, torch.Tensor]:
    return block.recording, block.position


def test_read_refuses(store):
    for arguments, match in (
        ((RESID, [14]), "indices in a corpus of 14"),
        ((RESID, [-1]), "indices in a corpus of 14"),
        ((RESID, []), "got none"),
        ((RESID, None, 0), "most must be at least 1"),
    ):
        with pytest.raises(HookedWhisperError, match=match):
            store.read(*arguments)
    with pytest.raises(UnknownHookError, match=r"did you mean encoder.blocks.0.hook_resid_post"):
        store.read("encoder.blocks.3")
    with pytest.raises(UnknownHookError, match="no hook point is given"):
        store.read([])
    with pytest.raises(HookedWhisperError, match="there is no 99"):
        store.shard(99)
    assert len(store.read(RESID, [4])) == 0, "a recording that could not be read has no rows"


def test_split_by_speaker(store):
    train, test = store.split_by_speaker(0.5, seed=1)
    speakers = [{store.recordings[k].speaker for k in side} for side in (train, test)]
    assert speakers[0] and speakers[1] and not speakers[0] & speakers[1]
    assert sorted([*train, *test]) == [k for k in range(14) if k != 4]
    with pytest.raises(AudioError, match="share"):
        store.split_by_speaker(1.5)


# What is not whole -------------------------------------------------------------------------------------------------


def test_without_verification_sizes_are_checked(damaged):
    path = damaged / "shard-00002.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b"??")
    assert open_store(damaged, verify=False).rows
    with pytest.raises(CheckpointError, match=r"shard-00002.safetensors is damaged \(its SHA-256"):
        open_store(damaged)
    path.write_bytes(content[:-2])
    with pytest.raises(CheckpointError, match=rf"is truncated \({len(content) - 2} bytes instead of {len(content)}\)"):
        open_store(damaged, verify=False)


def test_files_that_change_while_they_are_open(damaged):
    store = open_store(damaged)
    path = damaged / "shard-00000.safetensors"
    path.rename(damaged / "elsewhere")
    with pytest.raises(CheckpointError, match=r"shard-00000.safetensors is missing: collect into this folder again"):
        store.read(RESID)
    path.write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match=r"shard-00000.safetensors cannot be read"):
        store.read(RESID)
    other = collect_activations(small_model(0), corpus(3), RESID, damaged / "other", CollectOptions(), progress=False)
    path.write_bytes((other.folder / path.name).read_bytes())
    with pytest.raises(CheckpointError, match=r"shard-00000.safetensors: .* the manifest says"):
        store.read(RESID)


def test_a_folder_without_a_store(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no manifest.json, so no activations"):
        open_store(tmp_path)
    with pytest.raises(CheckpointError, match=r"has no manifest.json"):
        open_store(tmp_path / "nowhere")
    for content in (b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"format": "other"}', b"[" * 100_000):
        (tmp_path / MANIFEST).write_bytes(content)
        with pytest.raises(CheckpointError, match=MANIFEST):
            open_store(tmp_path)
    (tmp_path / MANIFEST).write_text('{"format": "sae_lens_audio activations", "format_version": 99}')
    with pytest.raises(CheckpointError, match="format version 99, this sae_lens_audio reads 1"):
        open_store(tmp_path)


def leaves(node, path=()):
    """Every path in a JSON value, including containers."""
    yield path
    inner = node.items() if isinstance(node, dict) else enumerate(node[:2]) if isinstance(node, list) else ()
    for key, value in inner:
        yield from leaves(value, (*path, key))


JUNK = (None, -1, 10**30, "", "../../etc/passwd", [], {}, [[]], True, 0.5)


def test_hostile_manifests_are_errors_or_change_nothing(damaged, unchecked):
    """Any value anywhere gives our own error, or a store that can be read."""
    manifest = json.loads((damaged / MANIFEST).read_text())
    tried = 0
    for path in leaves(manifest):
        if not path:
            continue
        for junk in ("gone", *JUNK):
            content = copy.deepcopy(manifest)
            place = content
            for key in path[:-1]:
                place = place[key]
            if junk == "gone":
                del place[path[-1]]
            else:
                place[path[-1]] = junk
            (damaged / MANIFEST).write_text(json.dumps(content))
            tried += 1
            try:
                store = open_store(damaged, verify=False)
                store.read(store.hooks[0], most=3)
                store.split_by_speaker()
                assert store.statistics
            except HookedWhisperError:
                pass
    assert tried > 500
