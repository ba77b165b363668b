"""The command lines as real processes on small input, killed at random moments and started again."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import soundfile

from tests.findings.worlds import small_model


def make_input(folder: Path, clips: int = 40) -> None:
    """A small model, clips of noise by four speakers, and settings for training on their activations."""
    small_model(0).save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    for k in range(clips):
        path = folder / "audio" / f"s{k % 4}" / f"{k:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.2 * rng.standard_normal(int(rng.integers(8000, 40000))), 16000)
    (folder / "topk.toml").write_text(
        f"""
[activations]
store = "{folder / "store"}"
hook = "encoder.blocks.0"
shards_together = 2

[sae]
architecture = "topk"
d_sae = 64
k = 4

[training]
steps = 400
batch = 64
lr = 1e-3

[run]
folder = "{folder / "unused"}"
checkpoint_s = 0.05
log_every = 100
"""
    )


def command(what: str, folder: Path, out: Path, ranks: int = 1) -> list[str]:
    """``what``: collect, scan or train."""
    start = [sys.executable]
    if ranks > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    common = ["--threads", "1"]
    of_corpus = ["--model", str(folder / "model"), "--audio", str(folder / "audio"), "--speaker-folders", *common]
    if what == "collect":
        options = ["--hook", "encoder.blocks.0", "--shard-rows", "300", "--part", "8", "--batch", "2"]
        return [*start, "-m", "sae_lens_audio", "collect", *options, *of_corpus, "--out", str(out)]
    if what == "scan":
        options = ["--hook", "encoder.blocks.1.mlp.1", "--top", "5", "--chunk", "4", "--batch", "2"]
        return [*start, "-m", "hooked_whisper", "scan", *options, *of_corpus, "--out", str(out)]
    return [*start, "-m", "sae_lens_audio", "train", str(folder / "topk.toml"), *common, "--out", str(out)]


def run(words: list[str]) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return time.monotonic() - began


def run_with_kills(words: list[str], seconds: float, kills: int, seed: int) -> int:
    """SIGKILL after a random share of ``seconds``, so many times; then to the end. How many were killed in time."""
    chance = random.Random(seed)
    killed = 0
    for _ in range(kills):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(chance.uniform(0.3, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
    run(words)
    return killed


def content(folder: Path) -> dict[str, bytes]:
    """All files but those that hold times: metrics, and the checkpoint, whose entries have no order."""
    files = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return {n: p.read_bytes() for n, p in files.items() if p.name not in ("metrics.jsonl", "checkpoint.safetensors")}
