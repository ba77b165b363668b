"""The command under torchrun trains the same SAE as one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sae_lens_audio import load_sae
from sae_lens_audio.speech.build import TABLE
from tests.corpora.sounds import write_noise

NAME = "demo/encoder.blocks.1-topk-x2"


@pytest.mark.slow  # the trainer itself is tested with two processes in tests/sae/training/test_ranks.py
def test_two_processes_train_the_same_sae_as_one(tmp_path: Path) -> None:
    speech = tmp_path / "speech"
    speakers = ("human-a", "flite-b", "kokoro-c")
    for number, speaker in enumerate(speakers):  # the second and third have enough rows for a batch
        write_noise(speech / f"{number}.wav", 3.0 + 15 * bool(number), seed=number)
        with (speech / TABLE).open("a") as table:
            table.write(json.dumps({"file_name": f"{number}.wav", "text": "noise", "speaker": speaker}) + "\n")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for folder, start in (("one", []), ("two", launch)):
        words = ["--model", "demo", "--audio", str(speech), "--runs", str(tmp_path / folder), "--recipes", "topk-x2"]
        command = [sys.executable, *start, "-m", "sae_lens_audio.pretrained", *words]
        options = ["--blocks", "1", "--steps", "16", "--device", "cpu", "--threads", "1"]
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr[-2000:]
    alone, together = (load_sae(tmp_path / folder / NAME / "sae") for folder in ("one", "two"))
    torch.testing.assert_close(alone.sae.W_dec.float(), together.sae.W_dec.float(), atol=2e-3, rtol=2e-3)
    assert "2 processes" in together.metadata.extra["machine"]
    assert (tmp_path / "two" / NAME / "at-0.25/cfg.json").is_file()
