"""The command that trains SAEs from recipes: a whole run on the demo model, interrupted runs, held-out speakers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hooked_whisper import HookedWhisper
from sae_lens_audio import load_sae
from sae_lens_audio.activations import open_store
from sae_lens_audio.pretrained.__main__ import _blocks, _parser, main
from sae_lens_audio.pretrained.recipes import Recipe
from sae_lens_audio.pretrained.runs import (
    finished_metadata,
    hours_by_kind,
    open_speech,
    split_off_speakers,
    training_rows,
)
from sae_lens_audio.speech.build import TABLE
from sae_lens_audio.training import Trainer
from sae_lens_audio.training.checkpoint import CHECKPOINT
from sae_lens_audio.training.runs import alone
from sae_lens_audio.training.settings import Settings
from tests.corpora.sounds import write_noise

SPEAKERS = ("human-a", "flite-b", "kokoro-c", "kokoro-d")


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of noise by four speakers, of whom the first has the least."""
    folder = tmp_path_factory.mktemp("speech")
    rows = []
    for number in range(8):
        speaker = SPEAKERS[number % 4]
        write_noise(folder / f"{number}.wav", 2.0 + number % 4, seed=number)
        rows.append({"file_name": f"{number}.wav", "text": "noise", "speaker": speaker, "language": "en"})
    (folder / TABLE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def trained(speech: Path, small_batches: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of two recipes, one of them a transcoder."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(command(speech, folder, "topk-x2", "transcoder-x8")) == 0
    return folder / "demo"


@pytest.fixture(scope="module")
def small_batches() -> Iterator[None]:
    """Batches that the small corpus can fill."""
    settings_of = Recipe.settings

    def settings(self: Recipe, d_model: int, block: int, seed: int = 0, steps: int | None = None) -> Settings:
        settings = settings_of(self, d_model, block, seed, steps)
        return replace(settings, training=replace(settings.training, batch=64))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recipe, "settings", settings)
        yield


def command(speech: Path, folder: Path, *recipes: str) -> list[str]:
    words = ["--model", "demo", "--audio", str(speech), "--runs", str(folder), "--blocks", "1", "--steps", "32"]
    return [*words, "--device", "cpu", "--threads", "1", "--recipes", *recipes]


def test_run_writes_half_precision_with_its_origin(trained: Path) -> None:
    loaded = load_sae(trained / "encoder.blocks.1-topk-x2/sae")
    assert loaded.sae.dtype == torch.float16 and loaded.sae.n_features == 256
    extra = loaded.metadata.extra
    assert extra["recipe"] == "topk-x2" and extra["trained_rows"] == 32 * 64 and extra["seconds"] > 0
    assert set(extra["speech_hours"]) == {"flite", "human", "kokoro"}
    assert "--recipes topk-x2" in extra["command"] and "1 CPU thread" in extra["machine"]
    assert set(extra["held_out"]) == {"rows", "explained_variance", "l0", "dead"}
    assert loaded.metadata.checkpoint == "demo" and "hours of speech" in loaded.metadata.corpus


def test_transcoder_records_both_points(trained: Path) -> None:
    metadata = load_sae(trained / "encoder.blocks.1-transcoder-x8/sae").metadata
    assert metadata.hook_name == "encoder.blocks.1.ln2.hook_normalized"
    assert metadata.hook_name_out == "encoder.blocks.1.hook_mlp_out"


def test_early_saes_differ_from_the_last(trained: Path) -> None:
    folder = trained / "encoder.blocks.1-topk-x2"
    early, later, last = (load_sae(folder / name).sae.float() for name in ("at-0.0625", "at-0.25", "sae"))
    distance = [float((sae.W_dec - last.W_dec).detach().norm()) for sae in (early, later)]
    assert distance[0] > distance[1] > 0


def test_finished_runs_are_not_repeated(trained: Path, speech: Path) -> None:
    weights = trained / "encoder.blocks.1-topk-x2/sae/sae_weights.safetensors"
    before = weights.stat().st_mtime_ns
    assert main(command(speech, trained.parent, "topk-x2")) == 0
    assert weights.stat().st_mtime_ns == before


def test_interrupted_run_ends_with_the_same_weights(
    trained: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = load_sae(trained / "encoder.blocks.1-topk-x2/sae").sae
    name = "encoder.blocks.1-topk-x2"
    step, count = Trainer.step, []

    def interrupted(self: Trainer):
        count.append(0)
        if len(count) == 20:
            raise KeyboardInterrupt
        return step(self)

    shutil.copytree(trained / "activations", tmp_path / "demo/activations")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        assert main(command(speech, tmp_path, "topk-x2")) == 130
    folder = tmp_path / "demo" / name
    assert finished_metadata(folder) is None and (folder / CHECKPOINT).is_file()
    assert main(command(speech, tmp_path, "topk-x2")) == 0
    sae = load_sae(folder / "sae").sae
    assert torch.equal(sae.W_dec, reference.W_dec) and torch.equal(sae.W_enc, reference.W_enc)


def test_speakers_with_the_fewest_rows_are_held_out(trained: Path) -> None:
    store = open_store(store_in(trained))
    [(train, test)] = split_off_speakers([store], 0.1)
    assert {store.recordings[k].speaker for k in test} == {"human-a"}
    assert {store.recordings[k].speaker for k in train} == set(SPEAKERS[1:])
    [most] = split_off_speakers([store], 0.99)
    assert {store.recordings[k].speaker for k in most.train} == {"kokoro-d"}  # one speaker remains
    assert len(most.train) + len(most.test) == len(store.recordings)


def test_blocks_default_to_the_published_ones_or_all() -> None:
    demo = HookedWhisper.from_pretrained("demo", device="cpu")
    words = ["--audio", "speech", "--runs", "runs"]
    assert _blocks(_parser().parse_args([*words, "--model", "tiny.en"]), demo) == [0, 1, 2, 3]
    assert _blocks(_parser().parse_args([*words, "--model", "demo"]), demo) == [0, 1, 2, 3]
    assert _blocks(_parser().parse_args([*words, "--blocks", "3", "1", "3"]), demo) == [3, 1]


def test_mistakes_are_reported(speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = command(speech, tmp_path, "topk-x2")
    assert main([*words, "--blocks", "9"]) == 2 and "blocks 0 to 3" in capsys.readouterr().err
    assert main(command(speech, tmp_path, "topk-2")) == 2 and "did you mean 'topk-x2'" in capsys.readouterr().err


def test_finished_run_with_other_settings_is_refused(
    trained: Path, speech: Path, small_batches: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a quick look with few steps, the whole training needs another folder."""
    sae = trained / "encoder.blocks.1-topk-x2/sae/sae_weights.safetensors"
    before = sae.read_bytes()
    words = command(speech, trained.parent, "topk-x2")
    words[words.index("--steps") + 1] = "64"
    assert main(words) == 2
    assert "steps was 32, now 64" in capsys.readouterr().err and sae.read_bytes() == before


def test_two_processes_do_not_train_in_one_folder(
    speech: Path, small_batches: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "demo/encoder.blocks.1-topk-x2"
    with alone(folder):
        assert main(command(speech, tmp_path, "topk-x2")) == 2
    assert "another process is training in" in capsys.readouterr().err and not list(folder.iterdir())


def test_store_with_more_points_is_used(trained: Path, speech: Path, tmp_path: Path) -> None:
    stores = trained / "activations"
    words = [*command(speech, tmp_path, "transcoder-x8"), "--acts", str(stores)]
    assert main(words) == 0
    assert len(list(stores.iterdir())) == 1
    assert load_sae(tmp_path / "demo/encoder.blocks.1-transcoder-x8/sae").sae.predicts_other_hook


def test_several_corpora_have_a_store_each_and_are_mixed(
    trained: Path, speech: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    more = tmp_path_factory.mktemp("more")
    write_noise(more / "9.wav", 6.0, seed=9)
    (more / TABLE).write_text(json.dumps({"file_name": "9.wav", "text": "noise", "speaker": "human-e"}) + "\n")
    acts = tmp_path / "acts"
    shutil.copytree(trained / "activations", acts)
    assert main([*command(speech, tmp_path, "topk-x2"), "--acts", str(acts), "--audio", str(speech), str(more)]) == 0
    stores = [open_store(path) for path in acts.iterdir()]
    assert {len(store.recordings) for store in stores} == {8, 1}
    rows = training_rows(stores, ["encoder.blocks.1"])
    ids = [rows.activations.ids[k] for k in rows.activations.chunk(0, 0).recording.unique()]
    assert "9" in ids and len(ids) == 7  # all but the two of the held-out speaker
    extra = load_sae(tmp_path / "demo/encoder.blocks.1-topk-x2/sae").metadata.extra
    assert extra["speech_hours"] == hours_by_kind(stores)


def test_recording_in_two_stores_is_read_once(trained: Path) -> None:
    store = open_store(store_in(trained))
    first, second = split_off_speakers([store, store], 0.1)
    assert len(first.train) + len(first.test) == len(store.recordings)
    assert not len(second.train) and not len(second.test)
    assert hours_by_kind([store, store]) == hours_by_kind([store])


def test_order_of_a_corpus_is_random(speech: Path) -> None:
    ids = [recording.id for recording in open_speech(str(speech))]
    assert ids != sorted(ids) and [recording.id for recording in open_speech(str(speech))] == ids


def store_in(folder: Path) -> Path:
    """Return the only store of a folder of runs."""
    (path,) = (folder / "activations").iterdir()
    return path
