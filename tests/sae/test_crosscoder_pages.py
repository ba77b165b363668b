"""Feature pages of a crosscoder: the same examples as by hand, and the decoder norm at each hook point."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hooked_whisper.corpora import Recording
from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.features import load_scan
from hooked_whisper.features.crosscoder_latents import CrosscoderLatents
from hooked_whisper.report.units import PageOptions, build_site
from sae_lens_audio import Crosscoder, CrosscoderConfig, Metadata, TopK, TopKConfig, load_sae, save_sae
from sae_lens_audio.cli.parser import main
from tests.findings.worlds import small_model

HOOKS = ["encoder.blocks.0.hook_resid_post", "encoder.blocks.1.hook_resid_post"]


def crosscoder() -> Crosscoder:
    sae = Crosscoder(CrosscoderConfig(32, 48, n_blocks=2), seed=3)
    with torch.no_grad():
        sae.W_dec[:, 1] *= torch.linspace(0, 3, 48)[:, None]
    return sae


def recordings() -> list[Recording]:
    rng = np.random.default_rng(0)
    return [Recording(f"r{k}", (0.2 * rng.standard_normal(16000)).astype(np.float32)) for k in range(3)]


def test_pages_of_a_crosscoder(tmp_path: Path) -> None:
    model, sae, corpus = small_model(0), crosscoder(), recordings()
    options = PageOptions(top=2, per_range=1, ranges=2)
    build_site(
        model, corpus, HOOKS, tmp_path, basis=sae, units=[3, 40], options=options, progress=False, basis_name="X"
    )
    assert not model.hook_names(lambda name: True)[0].startswith("hook_sae") and model.list_hooks() == {}
    best = []
    for recording in corpus:
        _, cache = model.run_with_cache(model.to_mel(recording.audio()), names_filter=HOOKS)
        with torch.no_grad():
            latents = sae.encode(torch.stack([cache[hook][0, :50] for hook in HOOKS], -2))
        best.append(latents.amax(0))
    scanned = load_scan(tmp_path / "scan")["units"]
    np.testing.assert_allclose(scanned.maximum, torch.stack(best).amax(0), atol=1e-5)
    page = (tmp_path / "units" / "40.html").read_text()
    assert "Feature 40 of X" in page and ", ".join(HOOKS) in page and "hook_sae" not in page
    record = json.loads((tmp_path / "units" / "40.json").read_text())
    norms = sae.W_dec[40].norm(dim=1).tolist()
    assert list(record["decoder_norms"]) == HOOKS
    np.testing.assert_allclose(list(record["decoder_norms"].values()), norms, rtol=1e-3)
    relative = (sae.W_dec.norm(dim=-1) / sae.W_dec.norm(dim=-1).mean(0))[40].tolist()
    np.testing.assert_allclose(list(record["relative_decoder_norms"].values()), relative, rtol=1e-3)
    assert f"({100 * relative[1] / sum(relative):.0f} %)" in page
    assert "Where the features write" in (tmp_path / "index.html").read_text()
    with pytest.raises(HookedWhisperError, match="choose another folder"):  # another crosscoder of the same size
        build_site(
            model, corpus, HOOKS, tmp_path, basis=Crosscoder(sae.config), units=[3], options=options, progress=False
        )
    with pytest.raises(HookedWhisperError, match="only a crosscoder reads several"):
        build_site(model, corpus, HOOKS, tmp_path / "no", basis=TopK(TopKConfig(32, 48, k=4)), progress=False)


def test_depths_are_relative_norms() -> None:
    latents = CrosscoderLatents(crosscoder(), tuple(HOOKS))
    norms = latents.relative_norms()
    np.testing.assert_allclose(norms.mean(0), 1, rtol=1e-5)
    np.testing.assert_allclose(latents.depths(), norms[:, 1] / norms.sum(1), rtol=1e-6)
    assert latents.W_dec.shape == (48, 64) and latents.depths()[0] == 0


def test_the_command_reads_the_hook_points_of_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_sae(crosscoder(), tmp_path / "pair" / "sae", Metadata(hook_name=", ".join(HOOKS), checkpoint="demo"))
    assert load_sae(tmp_path / "pair" / "sae").sae.reads_several_hooks
    command = ["features", str(tmp_path / "pair" / "sae"), "--units", "0:2", "--out", str(tmp_path / "site")]
    for arguments, words in (
        (["--hook", HOOKS[0]], "crosscoder of 2 hook points, not 1"),
        (["--hook", f"{HOOKS[0]}, encoder.blocks.2"], "was trained at"),
        ([], "takes vectors of 32"),
    ):
        assert main([*command, *arguments]) == 2
        assert words in capsys.readouterr().err
