"""After any interruption the same call resumes, and the files equal those of an uninterrupted run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.corpora import Recording
from hooked_whisper.errors import CheckpointError, HookedWhisperError
from sae_lens_audio.activations import ActivationStore, CollectOptions, collect_activations, open_store
from sae_lens_audio.activations.reading import RowReader
from tests.findings.worlds import small_model
from tests.sae.activations.corpora import NEURONS, RESID, content, corpus
from tests.sae.activations.killed import CLIPS
from tests.sae.activations.killed import run as run_to_kill

MODULE = sys.modules["sae_lens_audio.activations.collecting"]
OPTIONS = CollectOptions(shard_rows=90, batch=2)


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return small_model(0)


def recordings() -> list[Recording]:
    """Broken ones at the start, in the middle and at the end."""
    recordings = corpus()
    for k in (0, 5, 6, 13):
        recordings[k] = Recording(f"broken-{k}", b"no audio", path=f"{k}.wav")
    return recordings


def run(model: HookedWhisper, folder: Path, **change) -> ActivationStore:
    settings = {"model": model, "corpus": recordings(), "hooks": [NEURONS, RESID], "options": OPTIONS} | change
    return collect_activations(folder=folder, progress=False, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    assert run(model, folder).n_shards == 6
    return content(folder)


def test_the_manifest_says_what_it_is(whole):
    manifest = json.loads(whole["manifest.json"])
    assert manifest["complete"] and manifest["header"]["padding"] == "dropped"
    assert [entry["name"] for entry in manifest["header"]["hooks"]] == [NEURONS, RESID]
    assert [entry["axes"][-1] for entry in manifest["header"]["hooks"]] == ["d_mlp", "d_model"]
    assert [entry["index"] for entry in manifest["failures"]] == [0, 5, 6, 13]
    assert [entry["rows"] == 0 for entry in manifest["recordings"]] == [k in (0, 5, 6, 13) for k in range(14)]
    for entry, recording in zip(manifest["recordings"], recordings(), strict=True):
        seconds = len(recording.audio()) / 16000 if entry["rows"] else 0
        assert (entry["id"], entry["speaker"]) == (recording.id, recording.speaker)
        assert entry["seconds"] == pytest.approx(seconds, abs=1e-4) and entry["rows"] == int(
            np.ceil(round(50 * seconds, 6))
        )
    assert sum(entry["rows"] for entry in manifest["recordings"]) == manifest["rows"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("after", range(13))  # six shards and the manifest after each; the manifest at the end
def test_stopped_at_any_file(model, tmp_path, monkeypatch, whole, after, when):
    written = 0
    real = MODULE.write_atomic

    def dies(path: Path, data: bytes) -> None:
        nonlocal written
        if written == after and when == "before":
            raise KeyboardInterrupt
        real(path, data)
        written += 1
        if written == after + 1 and when == "after":
            raise KeyboardInterrupt

    monkeypatch.setattr(MODULE, "write_atomic", dies)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path)
    monkeypatch.setattr(MODULE, "write_atomic", real)
    if (after, when) != (12, "after"):
        with pytest.raises(CheckpointError, match=r"is not complete|has no manifest"):
            open_store(tmp_path)
    (tmp_path / ".shard-00003.safetensors.half").write_bytes(b"what a kill leaves")
    run(model, tmp_path)
    assert content(tmp_path) == whole


@pytest.mark.parametrize("after", range(8))
def test_stopped_at_any_batch(model, tmp_path, monkeypatch, whole, after):
    read = 0
    real = RowReader._read

    def dies(self, *arguments):
        nonlocal read
        read += 1
        if read > after:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(RowReader, "_read", dies)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path)
    monkeypatch.setattr(RowReader, "_read", real)
    run(model, tmp_path)
    assert content(tmp_path) == whole


def test_only_the_open_shard_is_computed_twice(model, tmp_path, monkeypatch, whole):
    (tmp_path / "manifest.json").write_bytes(whole["manifest.json"])
    for name in whole:
        (tmp_path / name).write_bytes(whole[name])
    monkeypatch.setattr(RowReader, "_read", None)
    assert run(model, tmp_path).n_shards == 6


def test_resuming_after_sigkill(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_to_kill(whole)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-m", "tests.sae.activations.killed", str(killed)], env=environment)
    until = time.monotonic() + 300
    while not (killed / "shard-00003.safetensors").exists() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = len(json.loads((killed / "manifest.json").read_text())["shards"])
    assert 3 <= done < len(list(whole.iterdir())) - 1, "killed too late: this tests nothing"
    with pytest.raises(CheckpointError, match=rf"stopped at recording \d+ of {CLIPS}; collect into it again"):
        open_store(killed)
    run_to_kill(killed)
    assert content(killed) == content(whole)


def test_a_full_disk_keeps_written_shards(model, tmp_path, whole):
    """A file size limit of the system, below the size of the fourth shard."""
    resource = pytest.importorskip("resource")
    sizes = [len(whole[f"shard-{k:05d}.safetensors"]) for k in range(6)]
    assert max(sizes[:3]) < sizes[3]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[3] - 1, limits[1]))
    try:
        with pytest.raises(HookedWhisperError, match=r"shard-00003.safetensors .*cannot be written: File too large"):
            run(model, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(content(tmp_path)) == ["manifest.json", *(f"shard-{k:05d}.safetensors" for k in range(3))]
    run(model, tmp_path)
    assert content(tmp_path) == whole


def test_the_error_of_a_full_disk_names_the_file_and_the_fix(model, tmp_path, monkeypatch, whole):
    real, synced = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal synced
        synced += 1
        if synced == 5:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HookedWhisperError, match=r"shard-00002.safetensors \(0 MiB\) cannot be written: No space left"):
        run(model, tmp_path)
    assert sorted(content(tmp_path)) == ["manifest.json", "shard-00000.safetensors", "shard-00001.safetensors"]
    monkeypatch.setattr(os, "fsync", real)
    run(model, tmp_path)
    assert content(tmp_path) == whole


def test_an_activation_that_is_not_finite_keeps_written_shards(model, tmp_path, whole):
    passes = 0

    def spoil(x, hook):
        nonlocal passes
        passes += 1
        return x * torch.nan if passes == 6 else None

    with model.hooks([(RESID, spoil)]), pytest.raises(HookedWhisperError, match=r"resid_post: .* is not finite"):
        run(model, tmp_path)
    assert len(json.loads((tmp_path / "manifest.json").read_text())["shards"]) >= 3
    run(model, tmp_path)
    assert content(tmp_path) == whole


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path: path.write_bytes(path.read_bytes()[:-9] + b"?" + path.read_bytes()[-8:]),
        lambda path: path.write_bytes(b"?" * path.stat().st_size),
    ],
    ids=["missing", "truncated", "empty", "longer", "a bit", "rubbish"],
)
def test_damaged_shards_are_rewritten(model, tmp_path, monkeypatch, whole, damage):
    for name in whole:
        (tmp_path / name).write_bytes(whole[name])
    for number in (1, 4):
        damage(tmp_path / f"shard-{number:05d}.safetensors")
    match = r"shard-00001.safetensors is (missing|truncated|too long|damaged).*collect into this folder again.*2 of 6"
    with pytest.raises(CheckpointError, match=match):
        open_store(tmp_path)
    written = []
    real = MODULE._Run._write
    monkeypatch.setattr(MODULE._Run, "_write", lambda self, part, k: written.append(k) or real(self, part, k))
    run(model, tmp_path)
    assert written == [1, 4] and content(tmp_path) == whole


def test_damaged_and_not_complete(model, tmp_path, monkeypatch, whole):
    real = MODULE._Run._append

    def dies(self, part) -> None:
        real(self, part)
        if len(self.manifest.shards) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(MODULE._Run, "_append", dies)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path)
    (tmp_path / "shard-00001.safetensors").unlink()
    monkeypatch.setattr(MODULE._Run, "_append", real)
    run(model, tmp_path)
    assert content(tmp_path) == whole


def test_a_shard_of_changed_audio_cannot_be_rewritten(model, tmp_path, whole, caplog):
    for name in whole:
        (tmp_path / name).write_bytes(whole[name])
    (tmp_path / "shard-00001.safetensors").unlink()
    other_entry = recordings()
    other_entry[3] = Recording(
        other_entry[3].id, other_entry[3].audio()[:4000], speaker=other_entry[3].speaker, text=other_entry[3].text
    )
    with pytest.raises(CheckpointError, match="the recordings have other lengths"):
        run(model, tmp_path, corpus=other_entry)
    other_entry[3] = Recording(
        other_entry[3].id, recordings()[3].audio().flip(0), speaker=other_entry[3].speaker, text=other_entry[3].text
    )
    store = run(model, tmp_path, corpus=other_entry)
    assert "shard-00001.safetensors has other bytes than before" in caplog.text
    assert open_store(tmp_path).digest == store.digest != json.loads(whole["manifest.json"])


def test_another_store_in_the_folder_is_refused(model, tmp_path, whole):
    for name in whole:
        (tmp_path / name).write_bytes(whole[name])
    before = {"model": model}
    for change, what in (
        ({"corpus": corpus(4)}, "corpus_sha256"),
        ({"hooks": [RESID, NEURONS]}, "hooks"),
        ({"hooks": RESID}, "hooks"),
        ({"options": CollectOptions(shard_rows=90, batch=2, dtype="bfloat16")}, "options"),
        ({"options": CollectOptions(shard_rows=90, batch=2, margin=1)}, "padding"),
        ({"model": small_model(3)}, "checkpoint_sha256"),
    ):
        with pytest.raises(HookedWhisperError, match=f"another {what}.*choose another folder"):
            run(folder=tmp_path, **before | change)
    assert content(tmp_path) == whole


def test_shards_without_their_manifest_are_left_alone(model, tmp_path, whole):
    (tmp_path / "shard-00003.safetensors").write_bytes(whole["shard-00003.safetensors"])
    with pytest.raises(HookedWhisperError, match="holds shards of another store"):
        run(model, tmp_path)
    assert content(tmp_path) == {"shard-00003.safetensors": whole["shard-00003.safetensors"]}


def test_two_processes_in_one_folder_are_refused(model, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(HookedWhisperError, match="another process is collecting"):
            run(model, tmp_path)
    finally:
        os.close(handle)
    assert run(model, tmp_path).rows


def test_nothing_to_collect(model, tmp_path):
    with pytest.raises(HookedWhisperError, match="no recordings"):
        run(model, tmp_path, corpus=[])
    with pytest.raises(HookedWhisperError, match=r"none of 2 recordings has rows; the first failed: .* not audio"):
        run(model, tmp_path, corpus=[Recording("a", b"no"), Recording("b", b"no")])
    with pytest.raises(HookedWhisperError, match="the margin leaves no positions"):
        run(model, tmp_path, corpus=corpus(2, longest=1.1), options=CollectOptions(margin=60))
    assert list(tmp_path.iterdir()) == []


def test_a_margin_that_leaves_nothing_of_the_last_recordings(model, tmp_path):
    clips = corpus(3, longest=1.1)
    clips[0] = Recording("long", np.full(19200, 0.01, np.float32))
    store = run(model, tmp_path, corpus=clips, options=CollectOptions(margin=60, batch=1, shard_rows=60))
    assert [entry.rows for entry in store.recordings] == [60, 0, 0] and store.failures == ()
    assert [entry.seconds for entry in store.recordings] == [1.2, 0, 0]


def test_rows_are_shuffled_within_a_shard_and_depend_on_the_seed(model, tmp_path):
    orders = {}
    for seed in (0, 0, 1):
        store = run(model, tmp_path / f"{seed}", options=CollectOptions(shard_rows=90, batch=2, seed=seed))
        shard = store.shard(0).chunk([RESID])
        key = (shard.recording.long() * 1000 + shard.position).numpy()
        assert np.abs(np.corrcoef(np.arange(len(key)), key)[0, 1]) < 0.3
        orders.setdefault(seed, key)
        assert (orders[seed] == key).all()
    assert (np.sort(orders[0]) == np.sort(orders[1])).all() and (orders[0] != orders[1]).any()
    second = store.shard(1).chunk([RESID]).position
    assert store.shard(0).chunk([RESID]).position[:20].tolist() != second[:20].tolist()


def test_the_batch_size_does_not_change_the_rows(model, tmp_path):
    """Except for rounding."""
    rows = [
        run(model, tmp_path / f"{batch}", options=CollectOptions(shard_rows=rows, batch=batch, dtype="float32"))
        .read([NEURONS, RESID])
        .rows
        for batch, rows in ((1, 100), (5, 10**6))
    ]
    for entry, other_entry in zip(*rows, strict=True):
        torch.testing.assert_close(entry, other_entry, rtol=1e-4, atol=1e-5)
