"""SAEs where hooked_whisper takes a basis: features are patched, scanned and shown on pages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.config import DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.corpora import Recording
from hooked_whisper.features import HookBasis, ScanOptions, scan
from hooked_whisper.patching import LogitDifference, RunInputs, make_grid, run_patches, subspaces_of
from hooked_whisper.report.units import PageOptions, build_site
from sae_lens_audio import (
    SAE,
    BatchTopK,
    BatchTopKConfig,
    Metadata,
    Standard,
    StandardConfig,
    Tied,
    TiedConfig,
    TopK,
    TopKConfig,
    load_sae,
    save_sae,
)
from tests.findings.worlds import small_model


@pytest.mark.parametrize(
    "sae",
    [Standard(StandardConfig(16, 24)), Tied(TiedConfig(16, 24)), BatchTopK(BatchTopKConfig(16, 24, k=4))],
    ids=lambda sae: sae.architecture,
)
def test_features_of_an_sae_are_patched(sae: SAE) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_mlp": 32}
        model = HookedWhisper(
            WhisperConfig(EncoderConfig(n_mels=80, n_ctx=24, **shape), DecoderConfig(n_vocab=60, n_ctx=12, **shape))
        )
    generator = torch.Generator().manual_seed(1)
    mels = torch.randn(2, 1, 80, 48, generator=generator)
    tokens = torch.randint(0, 60, (1, 5), generator=generator)
    base, source = (RunInputs(tokens, mel=mel) for mel in mels)
    if isinstance(sae, BatchTopK):
        sae.calibrate_([torch.randn(64, 16, generator=generator)])
    grid = make_grid(model, "resid_post", "decoder", blocks=[1], subspaces=subspaces_of(sae))
    assert grid.shape == (1, 24) and grid.axes[-1].labels == sae.labels
    results = run_patches(model, grid.patches, base, source, LogitDifference(3, 4, 4))
    changed = np.abs(results.values.detach().numpy() - results.base)
    assert np.isfinite(changed).all() and changed.max() > 1e-4


def test_a_saved_sae_is_scanned_and_gets_pages(tmp_path: Path) -> None:
    model, hook = small_model(0), "encoder.blocks.1.hook_resid_post"
    save_sae(TopK(TopKConfig(32, 48, k=4)), tmp_path / "sae", Metadata(hook_name=hook))
    sae = load_sae(tmp_path / "sae").sae
    rng = np.random.default_rng(0)
    corpus = [Recording(f"r{k}", (0.2 * rng.standard_normal(16000)).astype(np.float32)) for k in range(3)]
    results = scan(model, corpus, [HookBasis(hook, sae, "sae")], tmp_path / "scan", ScanOptions(k=3), progress=False)[
        "sae"
    ]
    acts = [
        model.run_with_cache(model.to_mel(recording.audio()), names_filter=hook)[1][hook][0, :50]
        for recording in corpus
    ]
    best = torch.stack([sae.encode(a).amax(0) for a in acts], 1).sort(dim=1, descending=True).values
    np.testing.assert_allclose(results.top.values, best.detach(), atol=1e-5)
    with pytest.raises(Exception, match="choose another folder"):
        other = TopK(TopKConfig(32, 48, k=4), seed=5)
        scan(model, corpus, [HookBasis(hook, other, "sae")], tmp_path / "scan", ScanOptions(k=3), progress=False)
    options = PageOptions(top=2, per_range=1, ranges=2)
    build_site(model, corpus, hook, tmp_path / "site", basis=sae, units=[0, 40], options=options, progress=False)
    strongest = int(results.maximum.argmax())  # it has examples, so its activations are read again
    named = {"basis": sae, "basis_name": "SAE <topk>", "units": [strongest]}
    build_site(model, corpus, hook, tmp_path / "one", options=options, progress=False, **named)
    page = (tmp_path / "one" / "units" / f"{strongest}.html").read_text()
    assert f"<h1>Feature {strongest} of SAE &lt;topk&gt;" in page and "euron" not in page
    assert "Features of SAE &lt;topk&gt; at" in (tmp_path / "one" / "index.html").read_text()
    units = json.loads((tmp_path / "site" / "units.json").read_text())
    assert [unit["index"] for unit in units["units"]] == [0, 40] and units["n_units"] == 48
