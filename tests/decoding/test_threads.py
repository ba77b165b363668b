"""Word timing keeps the number of threads. It runs in a subprocess, because the number is process-wide."""

from __future__ import annotations

import os
import subprocess
import sys

CODE = """
import torch
torch.set_num_threads(1)
from hooked_whisper import HookedWhisper
from hooked_whisper.analysis import align
from hooked_whisper.interventions import compare_transcript
from hooked_whisper.synthetic import SyntheticCorpus
model, clip = HookedWhisper.from_pretrained("demo"), SyntheticCorpus.default().clips()[1]
mel = model.to_mel(clip.samples)
align(model, mel, clip.text, duration=2.0)
print(torch.get_num_threads())
compare_transcript(model, mel, alignment="attention")
print(torch.get_num_threads())
model.transcribe(clip.samples, language="en", word_timestamps=True, temperature=0)
print(torch.get_num_threads())
"""


def test_word_timing_keeps_the_number_of_threads() -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CODE], capture_output=True, text=True, env=env)
    assert done.stdout.split() == ["1", "1", "1"], done.stdout + done.stderr
