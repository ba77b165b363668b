"""The packaged SAEs of real Whisper: they load, belong to their models, have true cards, and are small."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.corpora import packaged_speech
from hooked_whisper.features.phones.labeled_clips import labeled_clips
from hooked_whisper.hooks import SAEModelWarning
from hooked_whisper.loading import weights_sha256
from sae_lens_audio import SAE, Metadata, Tied, TiedConfig, TopK, TopKConfig, available_saes, load_release, load_sae
from sae_lens_audio.evals.reconstruction import ReconstructionScores
from sae_lens_audio.evals.rows import gather_rows
from sae_lens_audio.formats import LoadedSAE
from sae_lens_audio.pretrained.cards import cards_of
from sae_lens_audio.pretrained.catalog import AvailableSAE, real_saes
from sae_lens_audio.pretrained.package import MOST_BYTES, SHIPPED, package_one, packaged_bytes

PACKAGED = real_saes()


def test_what_ships_is_packaged_and_small() -> None:
    ids = {(sae.release, sae.sae_id) for sae in PACKAGED}
    assert ids <= {(release, sae_id) for release, sae_ids in SHIPPED.items() for sae_id in sae_ids}
    assert {sae_id for release, sae_id in ids if release == "tiny.en"} == set(SHIPPED["tiny.en"])
    assert packaged_bytes() <= MOST_BYTES
    assert {(row["release"], row["sae_id"]) for row in available_saes().to_rows() if row["source"] == "packaged"} >= ids


@pytest.mark.parametrize("packaged", PACKAGED, ids=lambda sae: f"{sae.release}/{sae.sae_id}")
def test_a_packaged_sae_loads_with_its_record(packaged: AvailableSAE) -> None:
    loaded = load_release(packaged.release, packaged.sae_id)
    assert loaded.sae.dtype == torch.float32 and load_sae(packaged.folder).sae.dtype == torch.float16
    assert loaded.metadata.checkpoint == packaged.release and loaded.metadata.checkpoint_sha256
    assert packaged.sae_id.startswith(str(loaded.metadata.hook_name).removesuffix(".hook_resid_post"))
    extra = loaded.metadata.extra
    assert packaged.explained_variance == extra["human"]["explained_variance"] > 0.5
    assert extra["human"]["rows"] > 10_000 and extra["speech_hours"] and extra["recipe"] in packaged.sae_id
    assert loaded.sae(torch.zeros(2, packaged.d_in)).shape == (2, packaged.d_in)


@pytest.mark.parametrize("hook", ["encoder.blocks.2", "encoder.blocks.3"])
def test_a_hook_point_alone_names_its_default(hook: str) -> None:
    sae = SAE.from_pretrained("tiny.en", hook)
    (default,) = (
        row for row in available_saes("tiny.en").to_rows() if row["default"] and row["sae_id"].startswith(hook)
    )
    assert torch.equal(sae.W_dec, SAE.from_pretrained("tiny.en", default["sae_id"]).W_dec)


def test_the_cards_are_those_that_the_command_writes() -> None:
    for path, card in cards_of().items():
        assert path.read_bytes() == card, f"{path} is old: python -m sae_lens_audio.pretrained.cards"


@pytest.mark.parametrize("kind", ["topk", "tied"])
def test_packaging_rounds_scores_and_repeats(kind: str, tmp_path: Path) -> None:
    sae = TopK(TopKConfig(16, 32, k=4), seed=1) if kind == "topk" else Tied(TiedConfig(16, 24), seed=1)
    metadata = Metadata(hook_name="encoder.blocks.0.hook_resid_post", checkpoint="tiny.en", extra={"recipe": kind})
    rows = {"human": (torch.randn(500, 16, generator=torch.Generator().manual_seed(0)), "500 rows")}
    folder = tmp_path / "tiny.en/encoder.blocks.0" / kind
    package_one(LoadedSAE(sae, metadata, Path("x")), folder, rows)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    package_one(LoadedSAE(sae, metadata, Path("x")), folder, rows)
    assert first == {path.name: path.read_bytes() for path in folder.iterdir()}
    (packaged,) = real_saes(tmp_path)
    scores = ReconstructionScores.of(load_sae(folder).sae.float(), rows["human"][0])
    assert packaged.l0 == round(scores.l0, 5) and packaged.scored_on == "human speech"
    assert packaged.explained_variance == round(scores.explained_variance, 5)
    assert abs(load_sae(folder).metadata.extra["float16"]["explained_variance"]) < 1e-3
    assert sae.dtype == torch.float32


@pytest.mark.real
def test_packaged_saes_belong_to_tiny_en() -> None:
    model = HookedWhisper.from_pretrained("tiny.en")
    saes = [sae for sae in PACKAGED if sae.release == "tiny.en"]
    corpus = packaged_speech("prose", split="held-out")[:12]
    rows = gather_rows(model, labeled_clips(model, corpus, 12).clips, sorted({sae.hook_name for sae in saes}))
    for packaged in saes:
        loaded = load_release("tiny.en", packaged.sae_id)
        assert loaded.metadata.checkpoint_sha256 == weights_sha256(model)
        scores = ReconstructionScores.of(loaded.sae, rows[packaged.hook_name])
        expected = loaded.metadata.extra["voices"]
        assert scores.explained_variance == pytest.approx(expected["explained_variance"], abs=0.03)
        assert scores.l0 == pytest.approx(expected["l0"], rel=0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("error", SAEModelWarning)
            with model.saes(loaded):
                pass
