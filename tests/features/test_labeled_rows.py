"""Counts by blocks of features equal dense histograms, for every block size, in memory and on disk."""

from __future__ import annotations

import logging
from collections import namedtuple
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from operator import add
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper import HookedWhisper
from hooked_whisper.corpora import Clip
from hooked_whisper.corpora.packing import join_samples
from hooked_whisper.errors import AudioError, CacheSizeError, PatchError
from hooked_whisper.features import BothSigns, random_orthonormal, spool
from hooked_whisper.features.baselines import mel_bands
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.phones import row_labels
from hooked_whisper.features.phones.articulation import classes
from hooked_whisper.features.phones.joint_histogram import JointCounter, JointCounts, count
from hooked_whisper.features.phones.labeled_rows import MEL, LabeledRows, collect_rows
from hooked_whisper.features.phones.onsets import OnsetAverages
from hooked_whisper.features.phones.polyphony import RangeSummary, active_ranges
from hooked_whisper.features.phones.row_labels import CountOptions, RowLabels
from hooked_whisper.features.phones.selectivity import Selectivity
from hooked_whisper.features.spool import Spool
from hooked_whisper.protocols import Alignment
from tests.features.dense import dense_selectivity
from tests.features.test_labeled import tone_clip
from tests.findings.phone_worlds import spoken
from tests.findings.worlds import small_model

HOOKS = ("encoder.blocks.0.mlp.hook_post", "encoder.blocks.1.mlp.hook_post")
OPTIONS = CountOptions(k=4, min_tokens=8)


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return small_model(0)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [Clip.aligned(u.samples, u.alignment, u.alignment.speaker) for u in spoken(13)]


def dense(rows: LabeledRows, site: HookBasis, labels: RowLabels) -> tuple[list[JointCounts], list[JointCounts]]:
    """Histograms of all features, clip by clip, with true and shifted labels."""
    folds = [[JointCounter(rows.width(site), labels.names) for _ in labels.tokens] for _ in range(2)]
    for i, clip in enumerate(labels.clips):
        part = slice(labels.starts[i], labels.starts[i + 1])
        for counters, ids in zip(folds, (labels.ids, labels.control), strict=True):
            tokens = labels.true[i].tokens(labels.ids[part] >= 0)
            counters[labels.fold[part.start]].add(rows.features(site, clip), ids[part], tokens)
    true, shifted = ([counter.result() for counter in counters] for counters in folds)
    return true, shifted


def same(selectivity: Selectivity, expected: dict[str, np.ndarray]) -> None:
    for name, values in expected.items():
        if name in ("average_precision", "information", "information_share"):  # sums in another order
            np.testing.assert_allclose(getattr(selectivity, name), values, rtol=0, atol=1e-12, err_msg=name)
        else:
            np.testing.assert_array_equal(getattr(selectivity, name), values, err_msg=name)


@pytest.mark.parametrize("positions", ["all", "inner"])
@pytest.mark.parametrize("memory", [1 << 30, 0])
@pytest.mark.parametrize("kind", ["neurons", "random", "mel"])
def test_blocks_are_equal_to_dense_counts(
    model: HookedWhisper, clips: list[Clip], memory: int, kind: str, positions: row_labels.Positions
) -> None:
    site = {
        "neurons": HookBasis(HOOKS[1]),
        "random": HookBasis(HOOKS[1], BothSigns(random_orthonormal(64, 20))),
        "mel": HookBasis(MEL, mel_bands(model)),
    }[kind]
    if positions == "inner":  # phones long enough to have inner positions
        clips = [tone_clip(i, f"speaker{i % 3}") for i in range(13)]
    with collect_rows(model, clips, [*HOOKS, MEL], memory=memory) as rows:
        labels = replace(rows.labels(replace(OPTIONS, positions=positions)), size=7)
        blocks = list(rows.blocks(site, labels))
        assert [len(block.phones.best) for block in blocks][:-1] == [7] * (len(blocks) - 1) and len(blocks) > 5
        true, shifted = dense(rows, site, labels)
        turned = reduce(add, shifted)
        groups = classes(labels.names)
        selectivities = {"phones": dense_selectivity(true, 8, turned), "shifted_phones": dense_selectivity(shifted, 8)}
        for name, folds in (("classes", true), ("shifted_classes", shifted)) if groups else ():
            selectivities[name] = dense_selectivity([part.grouped(groups) for part in folds], 8)
        for name, expected in selectivities.items():
            same(Selectivity.joined([getattr(block, name) for block in blocks]), expected)
        for got, want in (("counts", reduce(add, true)), ("shifted_counts", turned)):
            counts = [getattr(block, got) for block in blocks]
            np.testing.assert_array_equal(np.concatenate([part.counts for part in counts]), want.counts)
            np.testing.assert_array_equal(np.concatenate([part.totals for part in counts]), want.totals)
            np.testing.assert_array_equal(counts[0].tokens, want.tokens)
            for ranges in ("deciles", "width"):
                summary = RangeSummary.joined([active_ranges(part, ranges).without_counts() for part in counts])
                whole = active_ranges(want, ranges)
                np.testing.assert_array_equal(summary.majority, whole.majority)
                np.testing.assert_array_equal(summary.label_counts, whole.counts.sum(1))
                np.testing.assert_array_equal(summary.equal_entropies, whole.equal_entropy())
        averages = OnsetAverages(rows.width(site), labels.names)
        for clip, part in zip(labels.clips, labels.true, strict=True):
            averages.add(rows.features(site, clip), part)
        np.testing.assert_allclose(
            np.concatenate([block.onsets.mean for block in blocks]), averages.mean, rtol=0, atol=1e-12
        )
        whole = rows.counts(site, labels)
        for name in ("values", "utterances"):
            parts = [getattr(block.top, name) for block in blocks]
            np.testing.assert_array_equal(np.concatenate(parts), getattr(whole.top, name))


def test_counting_some_clips(model: HookedWhisper, clips: list[Clip]) -> None:
    indices = [1, 2, 6, 9, 11]
    site = HookBasis(HOOKS[0])
    for memory in (1 << 30, 0):
        with collect_rows(model, clips, HOOKS, memory=memory) as rows:
            partial = rows.counts(site, rows.labels(OPTIONS, indices))
            turned = rows.counts(HookBasis(HOOKS[0], random_orthonormal(64)), rows.labels(OPTIONS, indices))
            values = torch.cat([rows.features(site, i) for i in indices])
            labels = rows.labels(OPTIONS, indices)
        want = count(values, labels.ids, labels.names)
        np.testing.assert_array_equal(partial.counts.counts, want.counts)
        assert turned.counts.rows == partial.counts.rows == len(values)
        assert partial.top.utterances.max() == 4


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 300), st.integers(0, 999), st.booleans())
def test_spool_returns_the_written_rows(n: int, width: int, seed: int, on_disk: bool) -> None:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_normal((n, width)).astype(np.float32))
    matrix = Spool(n, width, on_disk=on_disk)
    cuts = sorted({0, n, *rng.integers(0, n + 1, 3).tolist()})
    for a, b in list(pairwise(cuts))[::-1]:
        matrix.write(a, x[a:b])
    low, high = sorted(rng.integers(0, width + 1, 2).tolist())
    first, last = sorted(rng.integers(0, n + 1, 2).tolist())
    assert torch.equal(matrix.columns(slice(low, high)), x[:, low:high])
    assert torch.equal(matrix.rows(first, last), x[first:last])
    with pytest.raises(PatchError, match="do not fit"):
        matrix.write(n, x[:1])
    matrix.close()


def test_disk_space_is_checked_first(
    model: HookedWhisper, clips: list[Clip], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        collect_rows(model, clips[:4], HOOKS, memory=0, widest=64).close()
    assert "GiB in temporary files" in caplog.text
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(spool.shutil, "disk_usage", lambda _: usage(10 << 30, 9 << 30, 1 << 30))
    with pytest.raises(CacheSizeError, match=r"1\.0 GiB free.*TMPDIR"):
        collect_rows(model, clips[:4], HOOKS, memory=0)


def test_temporary_files_are_removed(model: HookedWhisper, clips: list[Clip], tmp_path: Path) -> None:
    with collect_rows(model, clips[:4], HOOKS, memory=0, folder=tmp_path) as rows:
        next(rows.blocks(HookBasis(HOOKS[0], random_orthonormal(64)), rows.labels(OPTIONS)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("labels", [5, 61])
def test_a_block_is_as_large_as_its_bytes_allow(
    model: HookedWhisper, clips: list[Clip], monkeypatch: pytest.MonkeyPatch, labels: int
) -> None:
    """The memory of counting depends on the size of a block, not on the number of features."""
    names = tuple(str(i) for i in range(labels))
    with collect_rows(model, clips, HOOKS[:1]) as rows:
        sizes = {}
        for limit in (1 << 20, 1 << 22):
            monkeypatch.setattr(row_labels, "BLOCK_BYTES", limit)
            labeled = rows.labels(replace(OPTIONS, names=names))
            sizes[limit] = labeled.size
            for block in rows.blocks(HookBasis(HOOKS[0]), labeled):
                held = sum(part.counts.nbytes for part in (*block.folds, *block.shifted, block.counts))
                assert held <= max(limit, labeled.tokens.size * 257 * 4 * 3)
        assert sizes[1 << 22] >= 3 * sizes[1 << 20] > 0


def test_errors(model: HookedWhisper, clips: list[Clip], unchecked: None) -> None:
    long = Clip.aligned(np.zeros(16_000 * 40, np.float32), clips[0].alignment, "x")
    with pytest.raises(AudioError, match="cut it into clips"):
        collect_rows(model, [clips[0], long], HOOKS)
    with pytest.raises(PatchError, match="hook_z has no vector per position"):
        collect_rows(model, clips[:2], ["encoder.blocks.0.attn.hook_z"])
    with pytest.raises(PatchError, match="'all' or 'inner', not 'iner'; did you mean 'inner'"):
        CountOptions(positions="iner")  # type: ignore[arg-type]
    with collect_rows(model, clips[:3], HOOKS[:1]) as rows:
        with pytest.raises(PatchError, match=r"blocks\.1.*was not collected"):
            rows.features(HookBasis(HOOKS[1]), 0)
        with pytest.raises(PatchError, match="mel bands are read at"):
            rows.features(HookBasis(HOOKS[0], mel_bands(model)), 0)
        labels = rows.labels(OPTIONS)
        values = torch.zeros(rows.n_rows, 3)
        values[2, 1] = torch.nan
        with pytest.raises(PatchError, match="feature 6 is NaN"):
            labels.count(values, first=5)


def test_packed_clips_have_the_rows_of_their_place_in_the_window(model):
    hook, rng = HOOKS[1], np.random.default_rng(0)
    clips = [
        Clip.aligned(
            0.1 * rng.standard_normal(n).astype(np.float32), Alignment(f"u{i}", speaker, "", n / 16_000, (), ())
        )
        for i, (n, speaker) in enumerate([(4000, "a"), (3333, "b"), (2500, "a")])
    ]
    with collect_rows(model, clips, [hook], room=model.time.duration) as rows:
        x = [rows.features(HookBasis(hook), i) for i in range(3)]
    samples, starts = join_samples([clips[0], clips[2]], multiple=320)
    _, cache = model.run_with_cache(model.to_mel([samples, clips[1].samples]), names_filter=hook)
    whole = cache[hook]
    torch.testing.assert_close(x[0], whole[0, : len(x[0])])
    torch.testing.assert_close(x[2], whole[0, starts[1] // 320 :][: len(x[2])])
    torch.testing.assert_close(x[1], whole[1, : len(x[1])])
