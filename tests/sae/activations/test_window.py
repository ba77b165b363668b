"""Windows of the sound: fewer positions, other activations, and the measured difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper._support.storage import as_path
from hooked_whisper.corpora import Recording
from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.synthetic import synthetic_recordings
from sae_lens_audio.activations import CollectOptions, StoredActivations, collect_activations, open_store
from tests.sae.activations.corpora import RESID, corpus

LAST = "encoder.blocks.3"


@pytest.fixture(scope="module")
def demo() -> HookedWhisper:
    return HookedWhisper.from_pretrained("demo")


@pytest.fixture(scope="module")
def spoken(demo: HookedWhisper) -> list[Recording]:
    from hooked_whisper.findings.core.sources import synthetic_corpus_of

    synthetic = synthetic_corpus_of("demo")
    assert synthetic is not None
    return synthetic_recordings(synthetic, 6, 0, "held-out")


def options(**change: object) -> CollectOptions:
    return CollectOptions(**{"dtype": "float32", "batch": 3, "window": "sound", "beyond": 25} | change)  # type: ignore[arg-type]


def rows(demo: HookedWhisper, recordings: list[Recording], folder: Path, **change: object) -> torch.Tensor:
    return collect_activations(demo, recordings, LAST, folder, options(**change), progress=False).read(LAST).rows[0]


def test_deviation_is_measured_and_kept(demo: HookedWhisper, spoken: list[Recording], tmp_path: Path) -> None:
    stored = {}
    for beyond in (0, 250, 1500):
        store = collect_activations(
            demo, spoken, [RESID, LAST], tmp_path / f"{beyond}", options(beyond=beyond), progress=False
        )
        stored[beyond] = open_store(tmp_path / f"{beyond}").deviation
        assert f"window of the sound and {beyond} positions" in store.header["padding"]
    full = collect_activations(demo, spoken, [RESID, LAST], tmp_path / "full", options(window="full"), progress=False)
    assert full.deviation is None
    early, late = (stored[0]["hooks"][hook]["relative_rms"] for hook in full.hooks)
    assert 0 < early < late < 1 and stored[0]["encoded"] < stored[250]["encoded"] < 0.7
    assert stored[1500]["encoded"] == 1 and stored[1500]["hooks"][full.hooks[1]]["relative_rms"] == 0
    # what the manifest says is what the rows are
    theirs, ours = (open_store(tmp_path / name).read(LAST).rows[0].double() for name in ("full", "0"))
    size = (theirs - theirs.mean(0)).square().sum(1).mean().sqrt()
    relative = float((ours - theirs).square().sum(1).mean().sqrt() / size)
    assert relative == pytest.approx(late, rel=0.05)


def test_rows_do_not_depend_on_other_rows(demo: HookedWhisper, spoken: list[Recording], tmp_path: Path) -> None:
    alone, together = (rows(demo, spoken, tmp_path / f"{batch}", batch=batch) for batch in (1, 6))
    torch.testing.assert_close(alone, together, atol=2e-4, rtol=1e-3)


def test_full_windows_have_all_positions(demo: HookedWhisper, tmp_path: Path) -> None:
    noise = (0.1 * np.random.default_rng(0).standard_normal(480000)).astype(np.float32)
    recordings = [Recording("long", noise)]
    assert torch.equal(rows(demo, recordings, tmp_path / "a"), rows(demo, recordings, tmp_path / "b", window="full"))


def test_contradictory_window_options_are_refused(demo: HookedWhisper, spoken: list[Recording], tmp_path: Path) -> None:
    with pytest.raises(HookedWhisperError, match="use window='full' for decoder points"):
        collect_activations(demo, spoken, "decoder.blocks.1", tmp_path, options(), progress=False)
    with pytest.raises(HookedWhisperError, match="no padding to keep"):
        options(padding="keep")


def test_a_store_at_a_url(tmp_path: Path) -> None:
    from tests.findings.worlds import small_model

    model, recordings = small_model(0), corpus(5)
    for part in (512, 2):
        change = CollectOptions(shard_rows=60, batch=2, part=part)
        place = as_path(f"memory://test_window/store-{part}")
        far = collect_activations(model, recordings, RESID, place, change, progress=False)
        near = collect_activations(model, recordings, RESID, tmp_path / f"{part}", change, progress=False)
        assert far.digest == near.digest and far.n_shards > 1
        again = open_store(str(place))
        assert torch.equal(again.read(RESID).rows[0], near.read(RESID).rows[0])
        blocks = [StoredActivations(store, RESID, shards_together=2).chunk(0, 0) for store in (again, near)]
        assert torch.equal(blocks[0].rows[0], blocks[1].rows[0])
