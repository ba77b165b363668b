"""What a harvest costs beside the bare encoder to the same block.

    python -m benchmarks.harvesting [--clips 32] [--threads 1] [--size tiny] [--seconds 30 10] [--json FILE]

In turn, several times: the encoder alone, block by block up to the hook, on log-mels that are there already; and a
whole harvest of the same clips (decoding, log-mel, encoder to the hook, checks, shuffling, statistics, SHA-256, files
synced to the disk). Random weights, random sound in WAV files, one process; the shortest time of each counts, since
what else the machine does only adds. By CPU time, the threads that decode, make log-mels and write are counted too.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

from hooked_whisper.config import RELEASED
from hooked_whisper.corpora import audio_folder
from hooked_whisper.hooked import HookedWhisper
from sae_lens_audio.activations import HarvestOptions, harvest


def bare(model: HookedWhisper, mel: torch.Tensor, block: int) -> None:
    """The encoder's own modules as far as the hook, nothing kept."""
    encoder = model.encoder
    x = encoder.conv2(encoder.conv1(mel).transpose(1, 2)) + encoder.positional_embedding
    for layer in encoder.blocks[: block + 1]:
        x = layer(x)


def measure(size: str, clips: int, seconds: float, batch: int, rounds: int, folder: Path) -> dict[str, float]:
    torch.manual_seed(0)
    model = HookedWhisper(RELEASED[size])
    block = model.cfg.encoder.n_layers // 2
    rng = np.random.default_rng(0)
    (folder / "audio").mkdir()
    for k in range(clips):
        loud = np.repeat(rng.random(-(-int(seconds * 16000) // 1600)), 1600)[: int(seconds * 16000)]
        soundfile.write(folder / "audio" / f"{k:03d}.wav", 0.3 * loud * rng.uniform(-1, 1, len(loud)), 16000)
    corpus = audio_folder(folder / "audio")
    options = HarvestOptions(batch=batch)
    spent: dict[str, list[float]] = {name: [] for name in ("bare", "harvest", "bare cpu", "harvest cpu")}

    def clock(name: str, work: Callable[[], object]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        spent[name].append(time.perf_counter() - wall)
        spent[f"{name} cpu"].append(time.process_time() - cpu)

    with torch.no_grad():
        mels = [model.to_mel([one.audio() for one in corpus[k : k + batch]]) for k in range(0, clips, batch)]
        bare(model, mels[0], block)
        for number in range(rounds):
            out, hook = folder / f"h{number}", f"encoder.blocks.{block}"
            clock("bare", lambda: [bare(model, mel, block) for mel in mels])
            clock("harvest", lambda out=out, hook=hook: harvest(model, corpus, hook, out, options, progress=False))
    result = {name: min(times) for name, times in spent.items()}
    rates = {f"rate{what}": result[f"bare{what}"] / result[f"harvest{what}"] for what in ("", " cpu")}
    return result | rates | {"clips": clips, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--seconds", type=float, nargs="+", default=[30.0, 10.0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for seconds in options.seconds:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(options.size, options.clips, seconds, options.batch, options.rounds, Path(folder)))
    print(f"{platform.machine()}, {options.threads} thread(s), {options.size}, torch {torch.__version__}")
    print("| sound in each clip | bare encoder to the block | harvest | its rate / the bare encoder's | by CPU time |")
    print("|---|---|---|---|---|")
    for row in rows:
        times = f"{row['bare']:.2f} s | {row['harvest']:.2f} s"
        print(f"| {row['seconds']:g} s | {times} | {row['rate']:.3f} | {row['rate cpu']:.3f} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
