"""``sae-lens-audio train``: a settings file in, a scored SAE out; mistakes in the file are named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import soundfile
import torch

from sae_lens_audio import load_sae
from sae_lens_audio.activations import ActivationStore, CollectOptions, collect_activations
from sae_lens_audio.cli.parser import main
from sae_lens_audio.errors import TrainingError
from sae_lens_audio.formats import saelens
from sae_lens_audio.formats.files import write_together
from sae_lens_audio.training.settings import parse_settings, read_settings
from tests.findings.worlds import small_model
from tests.sae.activations.corpora import NEURONS, RESID, corpus

TOML = """
[activations]
store = "{store}"
hook = "encoder.blocks.0"
held_out = 0.3

[sae]
architecture = "batchtopk"
d_sae = 64
k = 4

[training]
steps = 20
batch = 64
lr = 1e-2

[run]
folder = "{out}"
log_every = 5
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    folder = tmp_path_factory.mktemp("store") / "activations"
    return collect_activations(
        small_model(0), corpus(), [RESID, NEURONS], folder, CollectOptions(shard_rows=300), progress=False
    )


def written(folder: Path, store: ActivationStore, *swaps: tuple[str, str]) -> Path:
    text = TOML.format(store=store.folder, out=folder / "run")
    for old, new in swaps:
        assert old in text
        text = text.replace(old, new)
    path = folder / "settings.toml"
    path.write_text(text)
    return path


def test_an_sae_is_trained_scored_and_resumed(
    tmp_path: Path, store: ActivationStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, store)
    saves: list[Path] = []
    monkeypatch.setattr(saelens, "write_together", lambda to, files: (saves.append(to), write_together(to, files)))
    assert main(["train", str(path), "--threads", "1"]) == 0
    assert saves == [tmp_path / "run" / "sae"], "once, with its scores"
    said = capsys.readouterr().out
    assert "held-out speakers: explained variance" in said and "load_sae" in said
    loaded = load_sae(tmp_path / "run" / "sae")
    about = loaded.metadata
    assert about.hook_name == RESID and about.padding == "dropped" and about.sample_rate == 16000
    assert (
        about.checkpoint_sha256 == store.header["checkpoint_sha256"] and about.corpus == "14 recordings of activations"
    )
    assert about.corpus_sha256 == store.header["corpus_sha256"] and about.extra["training"]["steps"] == 20
    # the scores are those of speakers that were left out
    test = store.split_by_speaker(0.7).test
    x = store.read(RESID, test).rows[0]
    with torch.no_grad():
        error = (loaded.sae(x) - x).square().sum() / (x - x.mean(0)).square().sum()
    assert about.extra["held_out"]["explained_variance"] == pytest.approx(1 - error.item(), abs=1e-4)
    assert about.extra["held_out"]["rows"] == len(x)
    assert main(["train", str(path)]) == 0, "done already: it is scored again"
    assert "resuming after step 20" in capsys.readouterr().err
    assert main(["train", str(path), "--out", str(tmp_path / "other"), "--device", "nonsense"]) == 2
    assert "device 'nonsense' is not available" in capsys.readouterr().err


def test_several_hook_points(tmp_path: Path, store: ActivationStore) -> None:
    both = 'hook = "encoder.blocks.0"\nhook_out = "encoder.blocks.1.mlp.1"'
    kind = 'topk_transcoder"\nskip = true'
    path = written(tmp_path, store, ('hook = "encoder.blocks.0"', both), ('batchtopk"', kind))
    assert main(["train", str(path)]) == 0
    loaded = load_sae(tmp_path / "run" / "sae")
    assert (loaded.metadata.hook_name, loaded.metadata.hook_name_out) == (RESID, NEURONS)
    assert loaded.sae(torch.randn(3, 32)).shape == (3, store.width(NEURONS))


def test_training_on_streamed_activations(tmp_path: Path, store: ActivationStore) -> None:
    """Train on a model and recordings in place of a store."""
    small_model(0).save_pretrained(tmp_path / "model")
    (tmp_path / "audio").mkdir()
    for recording in corpus(8, longest=1.0):
        soundfile.write(tmp_path / "audio" / f"{recording.id}.wav", recording.audio().numpy(), 16000)
    source = f'model = "{tmp_path / "model"}"\naudio = "{tmp_path / "audio"}"\nrecordings_per_chunk = 4'
    path = written(tmp_path, store, (f'store = "{store.folder}"', source), ("batch = 64", "batch = 32"))
    assert main(["train", str(path), "--threads", "1"]) == 0
    about = load_sae(tmp_path / "run" / "sae").metadata
    assert about.hook_name == RESID and about.corpus == "8 recordings of audio" and about.padding == "dropped"
    assert about.checkpoint_sha256 == store.header["checkpoint_sha256"]


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("steps = 20", "stepz = 20", r"settings.toml: \[training\] has no 'stepz': did you mean steps"),
        ("steps = 20", "steps = 20\nlearning_rate = 1.0", "no 'learning_rate': did you mean lr"),
        ("steps = 20", "", r"\[training\] needs steps"),
        ("lr = 1e-2", 'lr = "fast"', r"\[training\] lr must be float"),
        ("lr = 1e-2", "lr = -1.0", "lr must be above 0"),
        ("batchtopk", "batchtop", "did you mean 'batchtopk'"),
        ("d_sae = 64", "", r"\[sae\] needs d_sae"),
        ("k = 4", "k = 400", r"\[sae\] k must be"),
        ("k = 4", "kk = 4", r"\[sae\] has no 'kk'"),
        ("encoder.blocks.0", "encoder.blocks.1", "has activations of"),
        ('hook = "encoder.blocks.0"', "", "of a batchtopk SAE has hook"),
        ("[run]", "[ruin]", "there is no 'ruin': did you mean run"),
        ("log_every = 5", 'log = ["paper"]', "log has tensorboard, wandb, not 'paper'"),
        ("[training]", "[training", "is not readable TOML"),
        ("batch = 64", "batch = 64000", "no chunk of the activations has the 64000 rows"),
    ],
)
def test_wrong_settings_are_named(
    tmp_path: Path, store: ActivationStore, capsys: pytest.CaptureFixture[str], old: str, new: str, what: str
) -> None:
    assert main(["train", str(written(tmp_path, store, (old, new)))]) == 2
    said = capsys.readouterr().err
    assert said.startswith("sae-lens-audio: error: ") and re.search(what, said), said
    assert not list(tmp_path.rglob("checkpoint*"))  # which would refuse the corrected settings


def test_a_missing_file_and_conflicting_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="there is no settings file"):
        read_settings(tmp_path / "none.toml")
    data = {"sae": {"architecture": "topk", "d_sae": 9}, "training": {"steps": 3}}
    for activations in ({"hook": "a"}, {"hook": "a", "store": "x", "model": "demo"}):
        with pytest.raises(TrainingError, match="needs store"):
            parse_settings({**data, "activations": activations})


def test_the_recipes_are_readable() -> None:
    from sae_lens_audio.demo import RECIPES

    for name in ("topk", "tied"):
        sae = read_settings(RECIPES / f"{name}.toml").make_sae((128,))
        assert sae.architecture == name and sae.d_in == 128
