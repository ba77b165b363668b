"""Whole scans on a small model: results equal the encoder's activations, also after kills and with broken files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper._support.storage import as_path
from hooked_whisper.activations import iter_activations
from hooked_whisper.corpora import Recording
from hooked_whisper.errors import CheckpointError, HookedWhisperError
from hooked_whisper.features import BothSigns, random_orthonormal
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.scan import FIRES, ScanOptions, load_scan, scan
from hooked_whisper.features.scan.chunks import ChunkScan
from tests.findings.worlds import small_model

NEURONS = "encoder.blocks.1.mlp.hook_post"
OPTIONS = ScanOptions(k=6, context_s=0.1, ranges=4, per_range=3, batch=3, chunk=3, rows=64, per_bin=4)


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return small_model(0)  # a window of 60 positions, 1.2 s


def corpus(n: int = 14, seed: int = 0) -> list[Recording]:
    """0.2 to 3 s of noise: up to three windows."""
    rng = np.random.default_rng(seed)
    sounds = [(0.2 * rng.standard_normal(int(rng.integers(3200, 48000)))).astype(np.float32) for _ in range(n)]
    return [Recording(f"clip-{i:02d}", sound, speaker=f"s{i % 3}") for i, sound in enumerate(sounds)]


def activations(model: HookedWhisper, recording: Recording, hook: str = NEURONS) -> torch.Tensor:
    """Activations at all positions of a recording, window by window, without padding."""
    size, result = model.time.n_samples, []
    samples = recording.audio()
    for start in range(0, len(samples), size):
        part = samples[start : start + size]
        mel = model.to_mel(torch.nn.functional.pad(part, (0, size - len(part))))
        _, cache = model.run_with_cache(mel, names_filter=hook, stop_early=True)
        result.append(cache[hook][0, : model.time.n_positions(len(part) / 16000)])
    return torch.cat(result)


def test_a_scan_equals_the_encoder(model: HookedWhisper, tmp_path: Path) -> None:
    recordings = corpus()
    result = scan(model, recordings, ["encoder.blocks.1.mlp.1"], tmp_path, OPTIONS, progress=False)[NEURONS]
    acts = [activations(model, recording) for recording in recordings]
    every = torch.cat(acts).double().numpy()
    assert result.positions == len(every) and result.labels[:2] == ("0", "1")
    np.testing.assert_allclose(result.mean, every.mean(0), atol=1e-6)
    np.testing.assert_allclose(result.variance, every.var(0), rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(result.maximum, every.max(0), rtol=1e-5)
    np.testing.assert_allclose(result.firing_rate, (every >= FIRES).mean(0), atol=2 / len(every))
    best = np.array([a.amax(0).numpy() for a in acts]).T  # [feature, recording]
    np.testing.assert_allclose(result.top.values, -np.sort(-best, 1)[:, :6], rtol=1e-5, atol=1e-7)
    for feature, rank in ((0, 0), (5, 3), (60, 5)):
        position, recording = result.top.positions[feature, rank], result.top.recordings[feature, rank]
        assert abs(acts[recording][position, feature].item() - result.top.values[feature, rank]) < 1e-6
        assert result.top.traces is not None
        assert result.top.traces[feature, rank, 5] == result.top.values[feature, rank]
    for ranges in result.ranges.values():
        edges, examples = ranges.edges, ranges.examples
        there = examples.recordings >= 0
        assert there.any(2).mean() > 0.7
        low, high = edges[:, :-1, None], edges[:, 1:, None]
        assert ((low <= examples.values) & (examples.values < high))[there].all()
        feature, part, rank = (index[7] for index in there.nonzero())
        value = acts[examples.recordings[feature, part, rank]][examples.positions[feature, part, rank], feature]
        assert abs(value.item() - examples.values[feature, part, rank]) < 1e-6


def test_several_points_and_bases_in_one_pass(model: HookedWhisper, tmp_path: Path) -> None:
    basis = BothSigns(random_orthonormal(32, 5))
    sites = [
        HookBasis(NEURONS),
        HookBasis("encoder.blocks.0", basis, "random"),
        HookBasis("encoder.blocks.0.attn.hook_z"),
    ]
    result = scan(model, corpus(4), sites, tmp_path, OPTIONS, progress=False)
    assert [s.n_features for s in result.bases.values()] == [64, 10, 32]
    assert (
        result["random"].labels[:1] == ("+random 0",)
        and result.bases["encoder.blocks.0.attn.hook_z"].labels[17] == "1.1"
    )
    acts = torch.cat([activations(model, recording, "encoder.blocks.0.hook_resid_post") for recording in corpus(4)])
    np.testing.assert_allclose(result["random"].maximum, basis.encode(acts).amax(0), rtol=1e-4)
    np.testing.assert_allclose(result["random"].minimum[:5], -result["random"].maximum[5:], rtol=1e-5)


def test_window_of_the_sound_with_its_deviation(model: HookedWhisper, tmp_path: Path) -> None:
    recordings = corpus()
    full = scan(model, recordings, [NEURONS], tmp_path / "full", OPTIONS, progress=False)
    same = replace(OPTIONS, window="sound", beyond=60)  # with all padding
    whole = scan(model, recordings, [NEURONS], tmp_path / "whole", same, progress=False)
    np.testing.assert_allclose(whole[NEURONS].top.values, full[NEURONS].top.values, rtol=1e-5)
    assert full.deviation == {} and "window" not in full.header["options"], "as before there was a choice"
    assert whole.deviation["encoded"] == 1 and whole.deviation["hooks"][NEURONS]["relative_rms"] < 1e-6

    sounds = [recording for recording in recordings if len(recording.audio()) < 8000]
    short = scan(model, sounds, [NEURONS], tmp_path / "short", replace(same, beyond=0), progress=False)
    batches = iter_activations(model, sounds, [NEURONS], window="sound", beyond=0)
    expected = torch.cat([batch.rows[NEURONS] for batch in batches]).amax(0)
    np.testing.assert_allclose(short[NEURONS].maximum, expected.numpy(), rtol=1e-5)
    assert short.deviation["encoded"] < 1 and short.deviation["hooks"][NEURONS]["relative_rms"] > 1e-3
    assert load_scan(tmp_path / "short").deviation == short.deviation


def test_negative_padding_is_refused() -> None:
    with pytest.raises(HookedWhisperError, match="beyond is -1"):
        ScanOptions(beyond=-1)


def test_tables_are_plain_parquet(model: HookedWhisper, tmp_path: Path) -> None:
    result = scan(model, corpus(), [NEURONS], tmp_path, OPTIONS, progress=False)[NEURONS]
    header = json.loads((tmp_path / "scan.json").read_text())
    examples = pq.read_table(tmp_path / "examples.parquet").to_pylist()
    first = next(row for row in examples if row["kind"] == "top" and row["feature"] == 3 and row["rank"] == 0)
    assert first["id"] == f"clip-{result.top.recordings[3, 0]:02d}" and first["speaker"].startswith("s")
    assert first["seconds"] == pytest.approx(0.02 * result.top.positions[3, 0]) and len(first["trace"]) == 11
    features = pq.read_table(tmp_path / "features.parquet").to_pylist()
    assert len(features) == 64 and sum(features[3]["counts"]) == header["sites"][0]["positions"]
    edges = header["histogram_edges"]
    assert edges[features[3]["cells"][-1]] <= features[3]["maximum"] <= edges[features[3]["cells"][-1] + 1]
    again = load_scan(tmp_path)[NEURONS]
    np.testing.assert_array_equal(again.histogram, result.histogram)
    np.testing.assert_array_equal(again.top.traces, result.top.traces)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("after", [3, 5, 8])
def test_killed_and_resumed_gives_the_same_bytes(
    model: HookedWhisper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    recordings = corpus()
    recordings[4] = Recording("broken", b"no audio")
    scan(model, recordings, [NEURONS], tmp_path / "whole", OPTIONS, progress=False)
    taken = 0
    real = ChunkScan._add

    def dies(self: ChunkScan, *batch: object) -> None:
        nonlocal taken
        taken += 1
        if taken > after:
            raise KeyboardInterrupt
        real(self, *batch)  # type: ignore[arg-type]

    monkeypatch.setattr(ChunkScan, "_add", dies)
    with pytest.raises(KeyboardInterrupt):
        scan(model, recordings, [NEURONS], tmp_path / "parts", OPTIONS, progress=False, checkpoint_s=0)
    assert len(list((tmp_path / "parts").glob("state-*.safetensors"))) == 1
    monkeypatch.setattr(ChunkScan, "_add", real)
    scan(model, recordings, [NEURONS], tmp_path / "parts", OPTIONS, progress=False)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_broken_files_are_listed_and_do_not_affect_others(model: HookedWhisper, tmp_path: Path) -> None:
    good = corpus(6)
    bad = [Recording("gone", tmp_path / "gone.wav", path="gone.wav"), Recording("text", b"this is no sound")]
    mixed = [bad[0], *good[:3], bad[1], *good[3:]]
    result = scan(model, mixed, [NEURONS], tmp_path / "mixed", OPTIONS, progress=False)
    clean = scan(model, good, [NEURONS], tmp_path / "good", OPTIONS, progress=False)
    assert [(f["index"], f["id"]) for f in result.failures] == [(0, "gone"), (4, "text")]
    assert "does not exist" in result.failures[0]["reason"] and result.header["recordings"] == 6
    np.testing.assert_array_equal(result[NEURONS].top.values, clean[NEURONS].top.values)
    names = np.vectorize(lambda i: mixed[i].id)(result[NEURONS].top.recordings)
    assert (names == np.vectorize(lambda i: good[i].id)(clean[NEURONS].top.recordings)).all()
    with pytest.raises(HookedWhisperError, match="none of 2 recordings"):
        scan(model, bad, [NEURONS], tmp_path / "bad", OPTIONS, progress=False)


def test_a_finished_scan_is_read_and_another_refused(model: HookedWhisper, tmp_path: Path) -> None:
    recordings = corpus(3)
    scan(model, recordings, [NEURONS], tmp_path, OPTIONS, progress=False)
    before = content(tmp_path)
    scan(model, recordings, [NEURONS], tmp_path, OPTIONS, progress=False)
    for change in (
        {"corpus": corpus(4)},
        {"hooks": ["encoder.blocks.0.mlp.1"]},
        {"options": ScanOptions(k=3)},
        {"model": small_model(3)},
        {"hooks": [HookBasis(NEURONS, random_orthonormal(64, 64), NEURONS)]},
    ):
        options = {"model": model, "corpus": recordings, "hooks": [NEURONS], "options": OPTIONS} | change
        with pytest.raises(HookedWhisperError, match="choose another folder"):
            scan(folder=tmp_path, progress=False, **options)  # type: ignore[arg-type]
    assert content(tmp_path) == before


def test_errors(model: HookedWhisper, tmp_path: Path) -> None:
    recordings = corpus(2)
    for sites, match in (
        ([], r"named \[\]"),
        ([NEURONS, "encoder.blocks.1.mlp.1"], "named"),
        (["encoder.blocks.*.mlp.hook_post"], "matches 2 hook points"),
        (["encoder.blocks.0.attn.hook_pattern"], "has axes"),
        (["decoder.blocks.0.mlp.1"], "an encoder point"),
    ):
        with pytest.raises(HookedWhisperError, match=match):
            scan(model, recordings, sites, tmp_path, OPTIONS, progress=False)
    with pytest.raises(HookedWhisperError, match="no recordings"):
        scan(model, [], [NEURONS], tmp_path, OPTIONS, progress=False)
    with pytest.raises(HookedWhisperError, match="k is 0"):
        ScanOptions(k=0)
    with pytest.raises(HookedWhisperError, match="no finished scan"):
        load_scan(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nan_names_the_hook_and_the_recording(tmp_path: Path) -> None:
    sick = small_model(1)
    with torch.no_grad():
        sick.encoder.blocks[1].mlp.up.bias[3] = torch.nan
    with pytest.raises(HookedWhisperError, match=r"mlp.hook_post: an activation of recording 'clip-00' is not finite"):
        scan(sick, corpus(2), [NEURONS], tmp_path, OPTIONS, progress=False)


def test_broken_tables_and_checkpoints_name_the_file(model: HookedWhisper, tmp_path: Path) -> None:
    scan(model, corpus(2), [NEURONS], tmp_path, OPTIONS, progress=False)
    table = tmp_path / "examples.parquet"
    table.write_bytes(table.read_bytes()[:100])
    with pytest.raises(HookedWhisperError, match="cannot be read"):
        load_scan(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "state-0.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"state-0.safetensors cannot be read .*: delete it"):
        scan(model, corpus(2), [NEURONS], other, OPTIONS, progress=False)


def test_results_at_a_url(model: HookedWhisper, tmp_path: Path) -> None:
    place = as_path("memory://test_scanner/scan")
    far = scan(model, corpus(4), [NEURONS], place, OPTIONS, progress=False)
    scan(model, corpus(4), [NEURONS], tmp_path, OPTIONS, progress=False)
    assert content(place) == content(tmp_path)
    np.testing.assert_array_equal(load_scan(str(place))[NEURONS].mean, far[NEURONS].mean)
