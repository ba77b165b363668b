"""Measure the time of a scan relative to the encoder and to the usual loop with heaps.

    python -m benchmarks.scanning [--clips 40] [--threads 1] [--size tiny] [--json FILE]

Per clip, times: the bare encoder on the 30 s window; the scan of one block's MLP neurons (largest examples, samples per
range, moments, histogram); a Python loop over neurons with a heap each, as in the published code, for the k largest
values per neuron and clip; and the same loop over all positions (a few neurons, scaled up). Weights and sound are
random; everything runs in one process. Totals include the first clips.
"""

from __future__ import annotations

import argparse
import heapq
import json
import platform
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from benchmarks.harvesting import Clock, write_clips
from hooked_whisper.config import RELEASED
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.scan import ScanOptions, scan
from hooked_whisper.features.scan.priority import priorities
from hooked_whisper.features.scan.reader import FeatureReader
from hooked_whisper.features.scan.state import WindowFeatures
from hooked_whisper.hooked import HookedWhisper
from sae_lens_audio.activations import CollectOptions, collect_activations

FEW = 16  # number of neurons in the slowest loop


@dataclass
class Heaps:
    """The published method: a Python loop over neurons, with a heap for each."""

    k: int
    heaps: dict[int, list[tuple[float, int, int]]] = field(default_factory=dict)

    def add_largest(self, x: torch.Tensor, recording: int) -> None:
        values, rows = x.max(0)
        for feature, (value, row) in enumerate(zip(values.tolist(), rows.tolist(), strict=True)):
            self._push(feature, (value, -recording, -row))

    def add_all(self, x: torch.Tensor, recording: int) -> None:
        for feature, column in enumerate(x.T.tolist()):
            for row, value in enumerate(column):
                self._push(feature, (value, -recording, -row))

    def _push(self, feature: int, item: tuple[float, int, int]) -> None:
        heap = self.heaps.setdefault(feature, [])
        if len(heap) < self.k:
            heapq.heappush(heap, item)
        elif item > heap[0]:
            heapq.heapreplace(heap, item)

    def values(self) -> list[list[float]]:
        return [[v for v, _, _ in sorted(self.heaps[f], reverse=True)] for f in sorted(self.heaps)]


def measure(size: str, clips: int, seconds: float, seed: int = 0) -> dict[str, float]:
    """Return total seconds by part. The scan is also extrapolated from the median clip of the later half."""
    torch.manual_seed(seed)
    config = RELEASED[size]
    model = HookedWhisper(config)
    hook = f"encoder.blocks.{config.encoder.n_layers - 1}.mlp.hook_post"
    reader = FeatureReader(model, HookBasis(hook), ScanOptions(k=20))
    top_only = FeatureReader(model, HookBasis(hook), ScanOptions(k=20)).top
    per_clip, per_position = Heaps(20), Heaps(20)
    rng = np.random.default_rng(seed)
    spent = dict.fromkeys(("encoder", "to the hook", "scan", "largest only", "heaps", "heaps, every position"), 0.0)
    shares = []
    n = model.time.n_positions(seconds)

    def clock(name: str, began: float, scale: float = 1.0) -> None:
        spent[name] += scale * (time.perf_counter() - began)

    with torch.no_grad():
        model.encoder(model.to_mel(np.zeros(16000, np.float32)))
        for clip in tqdm(range(clips), desc=f"{size}, {seconds:g} s"):
            loud = np.repeat(rng.random(-(-int(seconds * 16000) // 1600)), 1600)[: int(seconds * 16000)]
            mel = model.to_mel((0.3 * loud * rng.standard_normal(len(loud))).astype(np.float32))
            began = time.perf_counter()
            model.encoder(mel)
            bare = time.perf_counter() - began
            clock("encoder", began)
            began = time.perf_counter()
            _, cache = model.run_with_cache(mel, names_filter=hook, stop_early=True)
            clock("to the hook", began)
            x = cache[hook][0, :n]
            began = time.perf_counter()
            reader.add(x, clip, f"{clip}", 0, priorities(f"{clip}", range(n), 0))
            clock("scan", began)
            shares.append((time.perf_counter() - began) / bare)
            stretch = WindowFeatures(x, clip, 0, torch.zeros(len(x), dtype=torch.int64))
            began = time.perf_counter()
            top_only.add(stretch, x.amax(0))
            clock("largest only", began)
            began = time.perf_counter()
            per_clip.add_largest(x, clip)
            clock("heaps", began)
            began = time.perf_counter()
            per_position.add_all(x[:, :FEW], clip)
            clock("heaps, every position", began, x.shape[1] / FEW)
    ours = top_only.ranked().values[:, : min(20, clips)].numpy()
    assert np.allclose(np.array(per_clip.values()), ours), "the two ways find different examples"
    late = statistics.median(shares[clips // 2 :])
    return spent | {"scan of the later half": late * spent["encoder"], "clips": clips, "seconds": seconds}


@torch.no_grad()
def compare(size: str, clips: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Compare a whole scan of the middle block's neurons with a whole collection of them, taking turns."""
    torch.manual_seed(0)
    model = HookedWhisper(RELEASED[size])
    hook = f"encoder.blocks.{model.cfg.encoder.n_layers // 2}.mlp.hook_post"
    clock = Clock()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = write_clips(folder / "audio", clips, seconds)
        for number in range(rounds):
            for what in ("harvest", "scan"):
                out = folder / f"{what}-{number}"
                work = partial(collect_activations, options=CollectOptions(batch=4)) if what == "harvest" else scan
                clock.time(what, lambda work=work, out=out: work(model, corpus, [hook], out, progress=False))
                shutil.rmtree(out)
    ratio, cpu_ratio = clock.ratios("scan", "harvest")
    return {"clips": clips, "seconds": seconds, "ratio": ratio, "cpu_ratio": cpu_ratio, "wall": clock.wall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--seconds", type=float, nargs="+", default=[30.0, 10.0, 3.0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--beside-harvest", action="store_true", help="a whole scan beside a whole harvest, instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.beside_harvest:
        result = compare(options.size, options.clips, options.seconds[0], 5)
        print(f"scan / harvest: {result['ratio']}, by CPU time {result['cpu_ratio']}")
        return
    rows = [measure(options.size, options.clips, seconds) for seconds in options.seconds]
    print(f"{platform.machine()}, {options.threads} thread(s), {options.size}, torch {torch.__version__}")
    names = ("to the hook", "scan", "scan of the later half", "largest only", "heaps", "heaps, every position")
    print("| sound in each clip | " + " | ".join(f"{name} / encoder" for name in names) + " | heaps / largest only |")
    print("|---" * (len(names) + 2) + "|")
    for row in rows:
        ratios = [row[name] / row["encoder"] for name in names]
        cells = " | ".join(f"{ratio:.3f}" if ratio < 10 else f"{ratio:.0f}" for ratio in ratios)
        print(f"| {row['seconds']:g} s | {cells} | {row['heaps'] / row['largest only']:.1f} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
