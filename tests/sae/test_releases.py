"""SAEs by name: ids, defaults, runs, suggestions, and the warning about another model."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.config import RELEASED
from hooked_whisper.errors import CheckpointError
from hooked_whisper.hooks import SAEModelWarning
from hooked_whisper.loading import weights_sha256
from sae_lens_audio import SAE, Metadata, TopK, TopKConfig, available_saes, load_release, save_sae
from sae_lens_audio.cli.records import load_saes
from sae_lens_audio.pretrained.catalog import AvailableSAE, default_of, find_sae, sae_id_of
from tests.findings.worlds import small_model

HOOK = "encoder.blocks.0.hook_resid_post"


def described(variant: str, l0: float, explained_variance: float, d_sae: int = 100) -> AvailableSAE:
    hook, architecture = "encoder.blocks.2", variant.partition("-")[0]
    return AvailableSAE(
        "tiny.en", f"{hook}/{variant}", f"{hook}.hook_resid_post", architecture, 50, d_sae, l0, explained_variance
    )


def test_the_default_is_the_best_of_the_sparse_saes() -> None:
    dense, sparse, better = described("tied-200", 60, 0.99), described("topk-x2", 10, 0.8), described("topk-x4", 9, 0.9)
    assert default_of([dense, sparse, better]) == better
    assert default_of([dense, described("standard-200", 50, 0.7)]) == dense
    assert default_of([sparse, replace(sparse, sae_id="other", l0=None, explained_variance=None)]) == sparse


def test_an_id_is_a_hook_point_with_or_without_variant() -> None:
    tied, topk = described("tied-200", 60, 0.99), described("topk-x2", 10, 0.8)
    saes = [tied, topk]
    for sae_id in ("encoder.blocks.2", "encoder.blocks.2.hook_resid_post", "encoder.blocks.2/"):
        assert find_sae(saes, sae_id) == topk
    for sae_id in ("encoder.blocks.2/tied", "encoder.blocks.2/tied-200", "encoder.blocks.2.hook_resid_post/tied-200"):
        assert find_sae(saes, sae_id) == tied
    assert find_sae(saes, "encoder.blocks.3") is None and find_sae(saes, "encoder.blocks.2/gated") is None


def test_ids_name_architecture_size_and_seed() -> None:
    metadata = Metadata(hook_name="encoder.blocks.2.hook_resid_post")
    assert sae_id_of(metadata, "topk", 384, 768) == "encoder.blocks.2/topk-x2"
    assert sae_id_of(metadata, "tied", 384, 200) == "encoder.blocks.2/tied-200"
    again = replace(metadata, extra={"recipe": "matryoshka-x8", "training": {"seed": 2}})
    assert sae_id_of(again, "matryoshka_batchtopk", 384, 3072) == "encoder.blocks.2/matryoshka-x8-seed2"


def test_the_demo_models_saes_have_hook_points_too() -> None:
    assert type(SAE.from_pretrained("demo", "encoder.blocks.2")).__name__ == "TopK"
    loaded = load_release("demo", "encoder.blocks.3/tied")
    assert loaded.sae.dtype == torch.float32 and loaded.metadata.hook_name == "encoder.blocks.3.hook_resid_post"
    assert list(load_saes(["demo/tied-2", "demo/encoder.blocks.3"])) == ["tied-2", "topk-3"]


def test_saes_of_runs_are_listed_and_loaded(tmp_path: Path) -> None:
    sae = TopK(TopKConfig(4, 8, k=2))
    save_sae(sae, tmp_path / "small/run/sae", Metadata(hook_name=HOOK, checkpoint="small"))
    listed = available_saes("small", runs=tmp_path)
    assert [(row["sae_id"], row["default"]) for row in listed.to_rows()] == [("encoder.blocks.0/topk-x2", True)]
    loaded = SAE.from_pretrained("small", "encoder.blocks.0", runs=tmp_path)
    assert torch.equal(loaded.W_dec, sae.W_dec) and loaded.cfg.model_name == "small"
    with pytest.raises(CheckpointError, match="not a folder"):
        load_release("demo", "topk-2", runs=tmp_path / "none")


def test_an_sae_that_is_not_packaged_has_a_command() -> None:
    with pytest.raises(CheckpointError, match=r"pretrained --model tiny\.en .* --recipes topk-x8 --blocks 1"):
        SAE.from_pretrained("tiny.en", "encoder.blocks.1/topk-x8")
    recipes = [sae for sae in available_saes("openai/whisper-base") if sae.folder is None]
    assert {sae.release for sae in recipes} == {"base"} and all(sae.d_sae for sae in recipes)


@pytest.mark.parametrize(
    ("release", "sae_id", "hint"),
    [
        ("tiny.em", "encoder.blocks.2", "'tiny.en'"),
        ("tiny.en", "encoder.block.2/topk-x2", "'encoder.blocks.2/topk-x2'"),
        ("tiny.en", "", "needs a sae_id"),
        ("demo", "topk-5", "'topk-2'"),
        ("small.en", "encoder.blocks.2", "demo"),
    ],
)
def test_unknown_names_suggest_similar_ones(release: str, sae_id: str, hint: str) -> None:
    with pytest.raises(CheckpointError, match=hint):
        load_release(release, sae_id)
    if release in ("tiny.em", "small.en"):
        with pytest.raises(CheckpointError, match=hint):
            available_saes(release)


def test_packaged_saes_of_a_command_line_are_called_by_their_variant() -> None:
    assert list(load_saes(["tiny.en/encoder.blocks.2"])) == ["topk-x2"]
    both = ["tiny.en/encoder.blocks.2", "tiny.en/encoder.blocks.3"]
    assert list(load_saes(both)) == both  # the variants have the same name


def test_command_line_suggests_a_release() -> None:
    with pytest.raises(CheckpointError, match=r"not a folder.*did you mean 'tiny\.en'"):
        load_saes(["tiny.eng/encoder.blocks.2"])


def test_table_fits_a_screen_and_says_where_each_sae_is_from() -> None:
    lines = repr(available_saes("tiny.en")).splitlines()
    assert max(map(len, lines)) <= 120
    assert any("topk-x2" in line and "packaged*" in line for line in lines) and any("recipe " in line for line in lines)


def sae_for(model: HookedWhisper, checkpoint: str, digest: str | None) -> SAE:
    sae = TopK(TopKConfig(model.cfg.encoder.d_model, 8, k=2))
    sae.metadata = Metadata(hook_name=HOOK, checkpoint=checkpoint, checkpoint_sha256=digest)
    return sae


def test_attaching_to_other_weights_warns() -> None:
    model = small_model()
    name = model.cfg.name
    with warnings.catch_warnings():
        warnings.simplefilter("error", SAEModelWarning)
        for digest in (None, weights_sha256(model)):
            with model.attach_sae(sae_for(model, name, digest), HOOK):
                pass
    with (
        pytest.warns(SAEModelWarning, match="weights abc"),
        model.saes({HOOK: sae_for(model, name, "abc" * 9)}),
    ):
        pass
    sae = sae_for(model, name, weights_sha256(model))
    with torch.no_grad():
        next(model.parameters()).mul_(2)  # the digest of the first comparison no longer holds
    with pytest.warns(SAEModelWarning, match="edited"), model.attach_sae(sae, HOOK):
        pass


def test_attaching_at_another_hook_point_warns() -> None:
    model = small_model()
    sae = sae_for(model, model.cfg.name, None)
    with pytest.warns(SAEModelWarning, match=r"trained at encoder\.blocks\.0.*attached at encoder\.blocks\.1"):  # noqa: SIM117
        with model.attach_sae(sae, "encoder.blocks.1"):
            pass
    sae.metadata = replace(sae.metadata, hook_name="encoder.blocks.0")  # an alias of the point
    with warnings.catch_warnings():
        warnings.simplefilter("error", SAEModelWarning)
        with model.attach_sae(sae, HOOK):
            pass


def test_attaching_to_another_released_model_warns() -> None:
    with torch.device("meta"):
        model = HookedWhisper(RELEASED["tiny"])
    with pytest.warns(SAEModelWarning, match=r"trained on tiny\.en, but is attached to tiny"):  # noqa: SIM117
        with model.attach_sae(sae_for(model, "openai/whisper-tiny.en", None), HOOK):
            pass
