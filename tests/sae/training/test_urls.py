"""Training from a store at a URL into a folder at a URL, stopped and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hooked_whisper._support.storage import as_path
from hooked_whisper.errors import CheckpointError
from sae_lens_audio import TopK, TopKConfig, load_sae, save_sae
from sae_lens_audio.activations import StoredActivations, collect_activations
from sae_lens_audio.activations.options import CollectOptions
from sae_lens_audio.cli.parser import main
from sae_lens_audio.errors import TrainingError
from sae_lens_audio.training import Trainer, TrainingConfig, read_metrics
from sae_lens_audio.training.log import TensorBoard
from tests.findings.worlds import small_model
from tests.sae.activations.corpora import RESID, corpus
from tests.sae.training.sources import trainer

DATA = Path(__file__).parents[1] / "data"
CONFIG = TrainingConfig(steps=12, batch=32, lr=1e-2)


def test_a_run_at_a_url_equals_a_local_run(tmp_path: Path) -> None:
    options = CollectOptions(shard_rows=90, batch=2)
    far = collect_activations(small_model(0), corpus(8), RESID, "memory://test_train/store", options, progress=False)
    near = collect_activations(small_model(0), corpus(8), RESID, tmp_path / "store", options, progress=False)
    folders = as_path("memory://test_train/run"), tmp_path / "run"
    for store, folder in zip((far, near), folders, strict=True):
        torch.manual_seed(0)
        for steps in (5, 12):  # stopped after five, then gone on with
            torch.manual_seed(0)
            sae = TopK(TopKConfig(store.widths[0], 40, k=4))
            with Trainer(sae, StoredActivations(store, RESID), CONFIG, folder, log_every=2) as trainer:
                if steps == 5:
                    for _ in range(steps):
                        trainer.step()
                    trainer.save()
                else:
                    assert trainer.number == 5
                    trainer.fit(progress=False)
    first, second = (load_sae(folder / "sae") for folder in folders)
    for name, tensor in first.sae.state_dict().items():
        assert torch.equal(tensor, second.sae.state_dict()[name])
    assert str(first.source) == "memory://test_train/run/sae/sae_weights.safetensors"
    metrics = [[{k: v for k, v in line.items() if k != "steps_per_s"} for line in read_metrics(f)] for f in folders]
    assert metrics[0] == metrics[1] and [line["step"] for line in metrics[0]] == [6, 8, 10, 12]


def test_errors_name_the_url() -> None:
    with pytest.raises(CheckpointError, match=r"memory://test_train/none"):
        load_sae("memory://test_train/none")
    place = as_path("memory://test_train/sae")
    save_sae(TopK(TopKConfig(4, 8, k=2)), place)
    (place / "cfg.json").write_bytes(b"{")
    with pytest.raises(CheckpointError, match=r"memory://test_train/sae/cfg.json"):
        load_sae(place)
    with pytest.raises(TrainingError, match="TensorBoard writes to local folders"):
        TensorBoard(place, 0)


def test_lines_at_a_url_are_written_before_the_checkpoint() -> None:
    """A killed run loses only the lines of steps that it repeats."""
    place = as_path("memory://test_train/killed")
    with trainer(place) as run:
        run._writers = run._open_writers()
        for number in range(1, 8):
            step = run.step()
            for writer in run._writers:
                writer.write(step.number, {"l0": 1.0})
            if number == 5:
                run.save()
                assert [line["step"] for line in read_metrics(place)] == [1, 2, 3, 4, 5]
        run._writers = []  # killed: nothing is closed
    assert [line["step"] for line in read_metrics(place)] == [1, 2, 3, 4, 5]
    with trainer(place) as again:
        assert again.number == 5
        again.fit(progress=False)
    steps = [line["step"] for line in read_metrics(place)]
    assert steps == [1, 2, 3, 4, 5, *range(10, 31, 5)]


def test_the_command_takes_urls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings, store and folder are URLs."""
    place = as_path("memory://test_train/command")
    options = CollectOptions(shard_rows=90, batch=2)
    collect_activations(small_model(0), corpus(8), RESID, str(place / "store"), options, progress=False)
    (place / "run.toml").write_text(
        f"""
[activations]
store = "{place / "store"}"
hook = "encoder.blocks.0"
held_out = 0.3
[sae]
architecture = "topk"
d_sae = 40
k = 4
[training]
steps = 12
batch = 32
"""
    )
    assert main(["train", str(place / "run.toml"), "--out", str(place / "run"), "--threads", "1"]) == 0
    assert f"load_sae('{place / 'run' / 'sae'}')" in capsys.readouterr().out
    about = load_sae(place / "run" / "sae").metadata
    assert about.corpus == "8 recordings of store" and about.extra["held_out"]["rows"] > 0


def test_only_files_of_an_sae_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    place = as_path("memory://test_train/among")
    save_sae(TopK(TopKConfig(4, 8, k=2)), place)
    for name in ("recording.wav", "other/ae.pt", "readme.md"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(b"not needed")
    fetched, get = [], type(place.fs).get_file  # type: ignore[attr-defined]

    def recorded(self: object, path: str, *arguments: object, **options: object) -> object:
        fetched.append(path.rsplit("/", 1)[1])
        return get(self, path, *arguments, **options)

    monkeypatch.setattr(type(place.fs), "get_file", recorded)  # type: ignore[attr-defined]
    load_sae(place)
    assert sorted(fetched) == ["cfg.json", "sae_weights.safetensors"]


@pytest.mark.parametrize("name", ["sparsify/plain", "dictionary_learning/BatchTopKSAE"])
def test_folders_of_other_libraries_at_urls(name: str) -> None:
    near, far = DATA / name, as_path(f"memory://test_train/{name}")
    far.mkdir(parents=True)
    for file in near.iterdir():
        (far / file.name).write_bytes(file.read_bytes())
    first, second = load_sae(near), load_sae(far)
    assert first.metadata == second.metadata and str(second.source) == f"{far}/{first.source.name}"
    for key, tensor in first.sae.state_dict().items():
        assert torch.equal(tensor, second.sae.state_dict()[key])


def test_a_weights_file_at_a_url_finds_its_configuration() -> None:
    near, far = DATA / "dictionary_learning/BatchTopKSAE", as_path("memory://test_train/steps")
    (far / "checkpoints").mkdir(parents=True)
    (far / "checkpoints/ae_100.pt").write_bytes((near / "ae.pt").read_bytes())
    with pytest.raises(CheckpointError, match=r"memory://test_train/steps/checkpoints/config.json does not exist"):
        load_sae(far / "checkpoints/ae_100.pt")
    (far / "config.json").write_bytes((near / "config.json").read_bytes())
    loaded = load_sae(str(far / "checkpoints/ae_100.pt"))
    assert torch.equal(loaded.sae.W_enc, load_sae(near).sae.W_enc)
