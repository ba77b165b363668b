"""SAEs on a hub: what is pushed loads again, the card has recipe and scores, unknown folders are answered."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml

from hooked_whisper.errors import ArgumentError, CheckpointError, UploadError
from sae_lens_audio import SAE, BatchTopK, BatchTopKConfig, Metadata, TopK, TopKConfig, from_pretrained, push_to_hub
from sae_lens_audio.cli import main
from sae_lens_audio.demo import FOLDER
from tests.loading.fake_hub import FakeHub
from tests.sae.saes import D, F, filled

HELD_OUT = {"rows": 500, "explained_variance": 0.91, "l0": 3.0, "dead": 0.25}
METADATA = Metadata(
    "encoder.blocks.2.hook_resid_post", checkpoint="tiny.en", corpus="9 recordings of speech", padding="dropped",
    extra={"held_out": HELD_OUT, "training": {"steps": 700, "lr": 0.001}},
)  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    hub = FakeHub(tmp_path / "hub").install(monkeypatch)

    def fetch(repo_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        if not (hub.root / repo_id).is_dir():
            raise OSError("404 Not Found")
        return str(hub.root / repo_id)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    return hub


@pytest.fixture
def sae() -> SAE:
    sae = filled(TopK(TopKConfig(D, F, k=3))).float()
    sae.metadata = METADATA
    return sae


@pytest.mark.parametrize("folder", ["", "encoder.blocks.2/topk/"])
def test_a_pushed_sae_loads_again(hub: FakeHub, sae: SAE, folder: str) -> None:
    log_sparsity = torch.linspace(-5, 0, F)
    uploaded = push_to_hub(sae, "me/saes", folder, log_sparsity=log_sparsity, license="mit")
    assert uploaded.url == "https://hub.test/me/saes/commit/1" and hub.calls[0][1]["private"] is True
    loaded = from_pretrained("me/saes", folder)
    assert loaded.metadata == METADATA
    torch.testing.assert_close(loaded.sae.state_dict(), sae.state_dict(), atol=0, rtol=0)
    torch.testing.assert_close(loaded.log_sparsity, log_sparsity)
    assert SAE.from_pretrained("me/saes", folder).cfg.hook_name == METADATA.hook_name


def test_the_card_has_recipe_and_scores(hub: FakeHub, sae: SAE) -> None:
    sae.push_to_hub("me/saes", "topk", license="cc-by-4.0")
    text = (hub.root / "me/saes/topk/README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "cc-by-4.0" and "saelens" in front["tags"]
    for cell in (
        "encoder.blocks.2.hook_resid_post", "tiny.en", "9 recordings of speech", "0.91", "0.25", "700",
        'SAE.from_pretrained("me/saes", "topk")',
    ):  # fmt: skip
        assert cell in text


def test_a_repository_with_a_card_keeps_it(hub: FakeHub, sae: SAE) -> None:
    first = sae.push_to_hub("me/saes", "a")
    second = sae.push_to_hub("me/saes", "b")
    assert "README.md" in first.files and "README.md" not in second.files
    assert {"a/README.md", "b/README.md"} <= {*first.files, *second.files}


def test_an_unknown_folder_is_answered_with_those_that_exist(hub: FakeHub, sae: SAE) -> None:
    sae.push_to_hub("me/saes", "block-2/topk")
    with pytest.raises(CheckpointError, match=r"no folder 'block-3' with an SAE; its SAEs are in block-2/topk"):
        SAE.from_pretrained("me/saes", "block-3")
    with pytest.raises(CheckpointError, match="cannot be fetched from the hub"):
        from_pretrained("no/body")


def test_nothing_is_sent_if_the_sae_cannot_be_saved(hub: FakeHub, sae: SAE) -> None:
    with pytest.raises(CheckpointError, match="threshold"):
        push_to_hub(BatchTopK(BatchTopKConfig(D, F, k=2)), "me/saes")
    with pytest.raises(ArgumentError, match="repo_id must be 'owner/name'"):
        push_to_hub(sae, "saes")
    assert hub.calls == []


def test_a_refused_commit_is_reported(hub: FakeHub, sae: SAE) -> None:
    hub.fails = "create_commit"
    with pytest.raises(UploadError, match="exists but is empty"):
        push_to_hub(sae, "me/saes")


def test_command(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["push", str(FOLDER / "topk-3"), "me/saes", "--folder", "topk-3", "--public"]
    assert main([*arguments, "--dry-run"]) == 0
    assert "to upload to the model me/saes (public if it is new)" in capsys.readouterr().out and hub.calls == []
    assert main(arguments) == 0
    assert hub.calls[0][1]["private"] is False
    assert SAE.from_pretrained("me/saes", "topk-3").cfg.d_sae == 1024
    assert main(["push", str(FOLDER / "topk-3"), "saes"]) == 2
    assert "repo_id must be 'owner/name'" in capsys.readouterr().err
