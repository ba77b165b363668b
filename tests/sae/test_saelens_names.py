"""SAELens' names on an SAE: the configuration, loading by release, cached runs, folding decoder norms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.errors import ArgumentError, CheckpointError, ConfigError, UnknownHookError
from sae_lens_audio import SAE, Metadata, NormalizedSAE, Standard, Tied, TopK, TopKConfig, load_demo, load_sae, save_sae
from tests.sae.saes import ALL, D, F, all_of_them, filled, inputs

HOOK = "encoder.blocks.3.hook_resid_post"


def test_cfg_has_the_fields_of_saelens_and_of_the_architecture() -> None:
    cfg = SAE.from_pretrained("demo", "topk-3").cfg
    assert (cfg.architecture, cfg.d_in, cfg.d_sae, cfg.dtype, cfg.device) == ("topk", 128, 1024, "float32", "cpu")
    assert (cfg.k, cfg.apply_b_dec_to_input, cfg.normalize_activations) == (32, True, "none")
    assert cfg.hook_name == cfg.metadata.hook_name == HOOK and cfg.model_name == cfg.metadata.model_name == "demo"
    values = cfg.to_dict()
    assert values["k"] == 32 and values["metadata"]["hook_name"] == HOOK and values["architecture"] == "topk"
    with pytest.raises(AttributeError, match=r"no 'hookname': did you mean hook_name\?"):
        cfg.hookname  # noqa: B018


def test_cfg_follows_the_weights() -> None:
    sae = TopK(TopKConfig(D, F, k=3)).double()
    assert sae.cfg.dtype == "float64" and sae.cfg.hook_name is None
    assert NormalizedSAE(Standard(ALL["standard"].config), "layer_norm").cfg.normalize_activations == "layer_norm"


def test_metadata_is_saved_with_the_sae(tmp_path: Path) -> None:
    sae = filled(TopK(TopKConfig(D, F, k=3))).float()
    sae.metadata = Metadata(hook_name=HOOK, checkpoint="tiny.en")
    sae.save_model(tmp_path)
    assert SAE.load_from_disk(tmp_path).cfg.metadata.hook_name == HOOK
    save_sae(sae, tmp_path, Metadata(hook_name="another"))
    loaded = load_sae(tmp_path)
    assert loaded.sae.metadata == loaded.metadata and loaded.metadata.hook_name == "another"


def test_loading_by_release(tmp_path: Path) -> None:
    sae = filled(TopK(TopKConfig(D, F, k=3))).float()
    save_sae(sae, tmp_path / "block-2", Metadata(hook_name="here"))
    loaded = SAE.from_pretrained(str(tmp_path), "block-2", device="cpu", dtype=torch.float64)
    assert type(loaded) is TopK and loaded.dtype == torch.float64 and loaded.cfg.hook_name == "here"
    assert torch.equal(TopK.load_from_disk(tmp_path / "block-2").W_dec, sae.W_dec)


@pytest.mark.parametrize(
    ("release", "sae_id", "match"),
    [
        ("gpt2-small-res-jb", "blocks.8", "nor a repository of the Hugging Face hub"),
        ("demoo", "topk-3", "did you mean 'demo'"),
        ("demo", "", "needs a sae_id: .*topk-3"),
        ("demo", "topk-7", "did you mean 'topk-"),
    ],
)
def test_unknown_releases(release: str, sae_id: str, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        SAE.from_pretrained(release, sae_id)


def test_a_class_loads_only_its_architecture() -> None:
    with pytest.raises(CheckpointError, match="is a TopK, not a Tied"):
        Tied.from_pretrained("demo", "topk-3")


def test_keywords_of_saelens_are_answered() -> None:
    with pytest.raises(ArgumentError, match=r"does not take force_download=.*cache"):
        SAE.from_pretrained("demo", "topk-3", force_download=True)


@pytest.mark.parametrize("name", sorted(ALL))
def test_run_with_cache_is_the_forward_pass(name: str) -> None:
    sae = filled(all_of_them()[sorted(ALL).index(name)])
    x = inputs(sae)
    out, cache = sae.run_with_cache(x)
    assert torch.equal(out, sae(x))
    assert torch.equal(cache["hook_sae_acts_post"], sae.encode(x)) and torch.equal(cache["hook_sae_input"], x)
    assert torch.equal(cache["hook_sae_recons"], out) and cache["hook_sae_acts_pre"].shape == (len(x), F)


def test_run_with_cache_selects_by_name() -> None:
    sae = filled(TopK(TopKConfig(D, F, k=3)))
    x = inputs(sae)
    assert list(sae.run_with_cache(x, "*acts*")[1]) == ["hook_sae_acts_pre", "hook_sae_acts_post"]
    with pytest.raises(UnknownHookError, match="hook_sae_acts_post"):
        sae.run_with_cache(x, "hook_sae_act_post")
    normalized = NormalizedSAE(filled(Standard(ALL["standard"].config)), "layer_norm")
    out, cache = normalized.run_with_cache(x, ["hook_sae_acts_post"])
    assert torch.equal(out, normalized(x)) and torch.equal(cache["hook_sae_acts_post"], normalized.encode(x))


@pytest.mark.parametrize("name", ["standard", "jumprelu", "gated", "transcoder", "jumprelu_transcoder"])
def test_folding_decoder_norms_keeps_reconstructions(name: str) -> None:
    sae = filled(all_of_them()[[s.architecture for s in all_of_them()].index(name)])
    x = inputs(sae)
    before, features, norms = sae(x), sae.encode(x), sae.W_dec.norm(dim=1)
    sae.fold_W_dec_norm()
    torch.testing.assert_close(sae(x), before)
    torch.testing.assert_close(sae.encode(x), features * norms)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones_like(norms))


def test_folding_is_refused_where_it_would_change_the_active_features() -> None:
    sae = filled(TopK(TopKConfig(D, F, k=3)))
    with pytest.raises(ConfigError, match="compete by size"):
        sae.fold_W_dec_norm()
    sae.project_weights_()  # rows of norm 1
    before = sae(inputs(sae))
    sae.fold_W_dec_norm()
    assert torch.equal(sae(inputs(sae)), before)
    with pytest.raises(ConfigError, match="row per block"):
        filled(ALL["crosscoder"]).fold_W_dec_norm()


def test_a_model_attaches_it_where_its_metadata_says() -> None:
    model = HookedWhisper.from_pretrained("demo")
    sae = load_demo("topk-3").sae
    mel = torch.zeros(1, 80, 3000)
    with model.attach_sae(sae, sae.cfg.hook_name):
        attached = model.embed_audio(mel)
    assert not torch.equal(attached, model.embed_audio(mel))
