"""Models and pages on a hub: which files arrive, what the card says, and what is refused before anything is sent."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml

from hooked_whisper import HookedWhisper
from hooked_whisper.errors import ArgumentError, CheckpointError, UploadError
from hooked_whisper.loading import push_model, push_site, save_huggingface
from hooked_whisper.loading.hub_upload import check_repo_id, folder_files, upload
from tests.core.twins import Twins
from tests.loading.fake_hub import FakeHub

pytestmark = pytest.mark.filterwarnings("ignore:.*names no alignment heads")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    return FakeHub(tmp_path / "hub").install(monkeypatch)


@pytest.fixture
def model(one_block: Twins) -> HookedWhisper:
    return HookedWhisper.from_pretrained(one_block.core)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    (folder / "units").mkdir(parents=True)
    (folder / "index.html").write_text("<p>pages</p>")
    (folder / "units" / "3.html").write_text("<p>unit 3</p>")
    (folder / ".cache").write_text("hidden")
    return folder


def front_of(card: Path) -> dict:
    return yaml.safe_load(card.read_text().split("---\n")[1])


def test_a_pushed_model_loads_from_what_was_pushed(hub: FakeHub, model: HookedWhisper) -> None:
    model.metadata = {"source": "/home/me/model.pt", "training": "two epochs"}
    result = model.push_to_hub("me/probe", license="mit", token="hf_x", commit_message="First")
    assert result.url == "https://hub.test/me/probe/commit/1"
    folder = hub.root / "me/probe"
    assert set(result.files) == {"README.md", "config.json", "generation_config.json", "model.safetensors"}
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == dict(result.files)
    assert hub.calls[0] == (
        "create_repo",
        {"repo_id": "me/probe", "repo_type": "model", "private": True, "exist_ok": True},
    )
    assert hub.calls[1][1]["commit_message"] == "First" and hub.tokens == {"hf_x"}
    again = HookedWhisper.from_pretrained(folder)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    card = (folder / "README.md").read_text()
    assert front_of(folder / "README.md")["license"] == "mit"
    assert "two epochs" in card and "/home/me" not in card


def test_a_second_push_keeps_the_repository(hub: FakeHub, model: HookedWhisper) -> None:
    for private in (False, True):
        push_model(model, "me/probe", private=private)
    assert [name for name, _ in hub.calls] == ["create_repo", "create_commit", "create_commit"]
    assert hub.calls[0][1]["private"] is False


def test_transformers_reads_the_folder(model: HookedWhisper, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    save_huggingface(model, tmp_path)
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    mel, tokens = torch.randn(1, model.cfg.encoder.n_mels, model.cfg.encoder.n_frames), torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        logits = theirs(mel, decoder_input_ids=tokens).logits
        torch.testing.assert_close(logits, model(mel, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.real
def test_alignment_heads_and_vocabulary_are_kept(tmp_path: Path) -> None:
    model = HookedWhisper.from_pretrained("tiny.en")
    save_huggingface(model, tmp_path, torch.float16)
    again = HookedWhisper.from_pretrained(tmp_path)
    assert again.cfg.alignment_heads == model.cfg.alignment_heads and again.cfg.token_layout == model.cfg.token_layout
    assert front_of_model(model)["base_model"] == "openai/whisper-tiny.en"


def front_of_model(model: HookedWhisper) -> dict:
    from hooked_whisper.loading.hub_cards import model_card

    return yaml.safe_load(model_card(model, {}, "me/x", None).decode().split("---\n")[1])


def test_processed_weights_are_refused_before_anything_is_sent(hub: FakeHub, one_block: Twins) -> None:
    model = HookedWhisper.from_pretrained(one_block.core, fold_ln=True)
    with pytest.raises(CheckpointError, match=r"no bias in the unembedding, which fold_ln adds: .*save_pretrained"):
        push_model(model, "me/probe")
    assert hub.calls == []


@pytest.mark.parametrize("repo_id", ["probe", "me/a/b", "me/a b", "-me/a", ""])
def test_invalid_repository_ids(hub: FakeHub, model: HookedWhisper, repo_id: str) -> None:
    with pytest.raises(ArgumentError, match="repo_id"):
        check_repo_id(repo_id)
    assert hub.calls == []


def test_a_dry_run_lists_the_files_and_sends_nothing(hub: FakeHub, model: HookedWhisper) -> None:
    plan = push_model(model, "me/probe", dry_run=True)
    assert plan.url is None and hub.calls == [] and not hub.root.exists()
    text = repr(plan)
    assert "4 files" in text and "to upload to the model me/probe (private if it is new)" in text
    assert all(name in text for name in plan.files)


@pytest.mark.parametrize(
    ("fails", "match"),
    [("create_repo", "the repository is unchanged: log in"), ("create_commit", "exists but is empty: call again")],
)
def test_failures_say_what_is_on_the_hub(hub: FakeHub, model: HookedWhisper, fails: str, match: str) -> None:
    hub.fails = fails
    with pytest.raises(UploadError, match=rf"4 files could not be uploaded to me/probe \(403 Forbidden\); .*{match}"):
        push_model(model, "me/probe")


def test_a_failed_commit_to_an_existing_repository_leaves_it_unchanged(hub: FakeHub, model: HookedWhisper) -> None:
    push_model(model, "me/probe")
    hub.fails = "create_commit"
    with pytest.raises(UploadError, match="the repository is unchanged"):
        push_model(model, "me/probe")


@pytest.mark.parametrize("kind", ["space", "dataset"])
def test_a_site(hub: FakeHub, site: Path, kind: str) -> None:
    result = push_site(site, "me/pages", kind=kind, title="Neurons of tiny.en", license="cc-by-4.0")
    assert set(result.files) == {"README.md", "index.html", "units/3.html"}
    assert hub.calls[0][1]["repo_type"] == kind
    assert hub.calls[0][1].get("space_sdk") == ("static" if kind == "space" else None)
    front = front_of(hub.root / "me/pages/README.md")
    assert front["title"] == "Neurons of tiny.en" and front["license"] == "cc-by-4.0"
    assert front.get("sdk") == ("static" if kind == "space" else None)
    assert (hub.root / "me/pages/units/3.html").read_text() == "<p>unit 3</p>"


def test_a_card_in_the_folder_is_kept(hub: FakeHub, site: Path) -> None:
    (site / "README.md").write_text("mine")
    push_site(site, "me/pages")
    assert (hub.root / "me/pages/README.md").read_text() == "mine"


def test_a_folder_without_pages_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"has no index\.html"):
        push_site(tmp_path, "me/pages")
    with pytest.raises(ArgumentError, match="is not a folder"):
        folder_files(tmp_path / "absent")


@pytest.mark.parametrize("name", ["id_rsa", "server.pem", "prod.env", "credentials.json"])
def test_files_named_like_secrets_are_refused(hub: FakeHub, site: Path, name: str) -> None:
    (site / name).write_text("x")
    with pytest.raises(ArgumentError, match=f"{name} looks like a secret"):
        push_site(site, "me/pages")
    assert hub.calls == []


def test_tokens_in_texts_are_refused_without_repeating_them(hub: FakeHub, site: Path) -> None:
    token = "hf_" + "a1B2" * 9
    (site / "units" / "3.html").write_text(f"<p>{token}</p>")
    with pytest.raises(ArgumentError, match=r"units/3\.html contains what looks like a secret") as error:
        push_site(site, "me/pages")
    assert token not in str(error.value)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights")
def test_links_out_of_the_folder_are_refused(hub: FakeHub, site: Path, tmp_path: Path) -> None:
    (tmp_path / "private.txt").write_text("x")
    (site / "link.txt").symlink_to(tmp_path / "private.txt")
    with pytest.raises(ArgumentError, match="is a link out of the folder"):
        push_site(site, "me/pages")


def test_the_home_directory_in_a_text_is_noted(hub: FakeHub, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/researcher"))
    (site / "index.html").write_text("<p>--audio /home/researcher/speech</p>")
    assert "index.html names your home directory /home/researcher" in repr(push_site(site, "me/p", dry_run=True))


def test_nothing_to_upload() -> None:
    with pytest.raises(ArgumentError, match="no files to upload"):
        upload({}, "me/probe")


def test_a_card_that_names_a_place_on_this_machine_is_noted(tmp_path) -> None:
    (tmp_path / "index.html").write_text("<p>pages</p>")
    (tmp_path / "run.json").write_text(f'{{"corpus": "{tmp_path}", "other": "/no/such/place"}}')
    notes = push_site(tmp_path, "me/pages", dry_run=True).notes
    assert notes == (f"note: run.json names a place on this machine, {tmp_path}",)


def test_secrets_in_code_are_refused_and_a_readme_that_is_no_card_of_a_space_is_noted(tmp_path) -> None:
    (tmp_path / "index.html").write_text("<p>pages</p>")
    (tmp_path / "README.md").write_text("# Pages")
    assert "sdk: static" in repr(push_site(tmp_path, "me/pages", dry_run=True))
    assert push_site(tmp_path, "me/pages", kind="dataset", dry_run=True).notes == ()
    (tmp_path / "run.py").write_text("token = 'hf_" + "a" * 34 + "'")
    with pytest.raises(ArgumentError, match=r"run\.py contains what looks like a secret"):
        push_site(tmp_path, "me/pages", kind="dataset", dry_run=True)
