"""``sae-lens-audio collect``: output and files."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hooked_whisper.errors import HookedWhisperError
from sae_lens_audio.activations import open_store
from sae_lens_audio.cli.collect import add_collect, run_collect
from sae_lens_audio.cli.parser import main
from tests.findings.worlds import small_model


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_collect(parser)
    return run_collect(parser.parse_args(arguments))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small model, and a folder of recordings by two speakers, one of them broken."""
    path = tmp_path_factory.mktemp("collect")
    small_model().save_pretrained(path / "model")
    rng = np.random.default_rng(0)
    for k in range(4):
        file = path / "sound" / f"s{k % 2}" / f"{k}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, 0.1 * rng.standard_normal(16_000 + 4000 * k), 16_000)
    (path / "sound" / "s0" / "broken.wav").write_bytes(b"no sound")
    return path


def test_a_folder_of_sound(folder, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["--model", str(folder / "model"), "--audio", str(folder / "sound"), "--speaker-folders"]
    command += ["--hook", "encoder.blocks.0", "--hook", "encoder.blocks.1.mlp.1", "--dtype", "bfloat16"]
    command += ["--shard-rows", "100", "--batch", "2", "--margin", "2", "--out", str(out), "--device", "cpu"]
    assert run(*command) == 1
    printed, errors = capsys.readouterr()
    store = open_store(out)
    assert f"encoder.blocks.0.hook_resid_post: {store.rows} rows of 32, bfloat16" in printed
    assert f"encoder.blocks.1.mlp.hook_post: {store.rows} rows of 64, bfloat16" in printed
    assert "by 2 speakers" in printed and "1 of 5 recordings could not be used" in errors and "s0/broken: " in errors
    assert printed.rstrip().endswith(f"open with sae_lens_audio.activations.open_store({str(out)!r})")
    assert store.options.margin == 2 and store.n_shards > 1
    assert run(*command) == 1 and capsys.readouterr().out == printed, "a finished store is read"


def test_the_command_name_of_version_01_works_and_warns(folder, tmp_path, capsys):
    audio = ["--model", str(folder / "model"), "--audio", str(folder / "sound"), "--speaker-folders", "--device", "cpu"]
    assert main(["harvest", *audio, "--hook", "encoder.blocks.0", "--out", str(tmp_path / "out")]) == 1
    assert "is now called `sae-lens-audio collect`" in capsys.readouterr().err
    assert open_store(tmp_path / "out").rows


def test_invalid_inputs_raise_our_errors(folder, tmp_path):
    model = str(folder / "model")
    with pytest.raises(HookedWhisperError, match="no synthetic corpus: give recordings with --audio"):
        run("--model", model, "--hook", "encoder.blocks.0", "--out", str(tmp_path))
    with pytest.raises(HookedWhisperError, match="there is no file or folder"):
        run("--model", model, "--hook", "encoder.blocks.0", "--audio", "nowhere", "--out", str(tmp_path))
    for wrong in (["--hook", "x", "--batch", "0"], ["--hook", "x", "--dtype", "int8"], []):
        with pytest.raises(SystemExit):
            run(*wrong)


@pytest.mark.parametrize("speakers", ["train", "held-out"])
def test_the_synthetic_corpus(tmp_path, capsys, speakers):
    pytest.importorskip("espeakng_loader")
    command = ["--hook", "decoder.blocks.3", "--sentences", "3", "--speakers", speakers, "--threads", "1"]
    assert run(*command, "--out", str(tmp_path)) == 0
    assert "decoder.blocks.3.hook_resid_post" in capsys.readouterr().out
    store = open_store(tmp_path)
    assert store.unit == "token" and len(store.recordings) == 3 and store.rows >= 9
