"""Measure the time of collecting activations relative to the bare encoder up to the same block.

    python -m benchmarks.harvesting [--clips 200] [--threads 2] [--size tiny] [--seconds 30 10] [--json FILE]

Each round times the encoder alone up to the hook, on prepared log-mels, and then the whole collection of the same clips
(decoding, log-mel, encoder, checks, shuffling, statistics, SHA-256, files synced to disk). Weights and WAV files are
random; everything runs in one process. A rate is the ratio of two neighboring measurements. CPU time includes the
threads that decode, compute log-mels and write.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from hooked_whisper.config import RELEASED
from hooked_whisper.corpora import Recording, audio_folder
from hooked_whisper.hooked import HookedWhisper
from sae_lens_audio.activations import CollectOptions, collect_activations


def bare(model: HookedWhisper, mel: torch.Tensor, block: int) -> None:
    """Run the encoder's modules up to the hook, without caching anything."""
    encoder = model.encoder
    x = encoder.conv2(encoder.conv1(mel).transpose(1, 2)) + encoder.positional_embedding
    for layer in encoder.blocks[: block + 1]:
        x = layer(x)


def write_clips(folder: Path, clips: int, seconds: float) -> list[Recording]:
    """Write WAV files of noise with changing loudness."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for k in range(clips):
        loud = np.repeat(rng.random(-(-int(seconds * 16000) // 1600)), 1600)[: int(seconds * 16000)]
        soundfile.write(folder / f"{k:03d}.wav", 0.3 * loud * rng.uniform(-1, 1, len(loud)), 16000)
    return audio_folder(folder)


class Clock:
    """Wall and CPU seconds of each task, per round."""

    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = {}
        self.cpu: dict[str, list[float]] = {}

    def time(self, name: str, work: Callable[[], object]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)
        self.cpu.setdefault(name, []).append(time.process_time() - cpu)

    def ratios(self, numerator: str, denominator: str) -> tuple[list[float], list[float]]:
        """Return the ratios of wall seconds and of CPU seconds, per round."""
        wall, cpu = ([a / b for a, b in zip(t[numerator], t[denominator], strict=True)] for t in (self.wall, self.cpu))
        return wall, cpu


@torch.no_grad()
def measure(size: str, clips: int, seconds: float, batch: int, rounds: int) -> dict[str, Any]:
    """Return the collection rate relative to the bare encoder's, per round."""
    torch.manual_seed(0)
    model = HookedWhisper(RELEASED[size])
    block = model.cfg.encoder.n_layers // 2
    hook, options, clock = f"encoder.blocks.{block}", CollectOptions(batch=batch), Clock()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = write_clips(folder / "audio", clips, seconds)
        # the bare encoder runs the same number of batches, reusing a few prepared log-mels
        mels = [
            model.to_mel([recording.audio() for recording in corpus[k : k + batch]])
            for k in range(0, min(clips, 32), batch)
        ]
        todo = [mels[k % len(mels)] for k in range(-(-clips // batch))]
        bare(model, mels[0], block)
        for number in range(rounds):
            clock.time("bare", lambda: [bare(model, mel, block) for mel in todo])
            out = folder / f"h{number}"
            clock.time(
                "harvest", lambda out=out: collect_activations(model, corpus, hook, out, options, progress=False)
            )
            shutil.rmtree(out)
    rate, cpu_rate = clock.ratios("bare", "harvest")
    return {"clips": clips, "seconds": seconds, "rate": rate, "cpu_rate": cpu_rate, "wall": clock.wall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--seconds", type=float, nargs="+", default=[30.0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [measure(options.size, options.clips, s, options.batch, options.rounds) for s in options.seconds]
    print(f"{platform.machine()}, {options.threads} thread(s), {options.size}, torch {torch.__version__}")
    print("| sound in each clip | harvest's rate / the bare encoder's | all rounds | by CPU time |\n|---|---|---|---|")
    for row in rows:
        rounds = ", ".join(f"{rate:.3f}" for rate in row["rate"])
        middle = (statistics.median(row[name]) for name in ("rate", "cpu_rate"))
        print("| {:g} s | {:.3f} | {} | {:.3f} |".format(row["seconds"], next(middle), rounds, next(middle)))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
