"""Measure how long training waits for rows: from memory, from a store on disk, and from a store outside the page cache.

    python -m benchmarks.sae_feeding [--clips 350] [--steps 96] [--threads 2] [--json FILE]

A TopK SAE with 8 features per dimension is trained on shuffled rows of a store with default settings (float16 shards of
131,072 rows). Few shards are mixed at a time, so that several chunks end during the measurement. The three sources take
turns of a few steps. Waiting is the time in which the trainer has no batch. Since the thread that prepares batches
shares the cores with training, steps may also become slower: the other column is their ratio. "No cache" asks the
operating system to drop the shards from its page cache before each chunk is read.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from hooked_whisper.config import RELEASED
from hooked_whisper.corpora import Recording
from hooked_whisper.hooked import HookedWhisper
from sae_lens_audio.activations import (
    ActivationChunk,
    ActivationSource,
    ActivationStore,
    CollectOptions,
    StoredActivations,
    TensorActivations,
    collect_activations,
)
from sae_lens_audio.architectures import TopK, TopKConfig
from sae_lens_audio.training import Batch, Batches, Trainer, TrainingConfig
from sae_lens_audio.training.batches import Feed, RowCursor


class Waiting:
    """A feed that records the seconds its caller waited for batches."""

    def __init__(self, feed: Feed) -> None:
        self.feed, self.seconds = feed, 0.0

    def __next__(self) -> Batch:
        began = time.perf_counter()
        batch = next(self.feed)
        self.seconds += time.perf_counter() - began
        return batch

    def close(self) -> None:
        self.feed.close()


class WatchedBatches(Batches):
    def start(self, cursor: RowCursor) -> Any:
        return Waiting(super().start(cursor))


class Forgotten(StoredActivations):
    """A store whose shards are dropped from the page cache before each read."""

    def chunk(self, epoch: int, index: int) -> ActivationChunk:
        for path in self.store.folder.glob("shard-*.safetensors"):
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)
        return super().chunk(epoch, index)


def stored(folder: Path, clips: int, size: str) -> ActivationStore:
    """Collect activations of a random model's conv stem on random sound, which is quick."""
    torch.manual_seed(0)
    model = HookedWhisper(RELEASED[size])
    sounds = [np.random.default_rng(k).uniform(-0.3, 0.3, 480_000).astype(np.float32) for k in range(8)]
    corpus = [Recording(f"{k:04d}", sounds[k % 8]) for k in range(clips)]
    return collect_activations(model, corpus, "encoder.blocks.0.hook_resid_pre", folder, CollectOptions())


def run(blocks: ActivationSource, steps: int, batch: int, k: int) -> tuple[list[float], float]:
    """Return the seconds of every step but the first, and the seconds spent waiting in them."""
    d = blocks.widths[0]
    trainer = Trainer(TopK(TopKConfig(d, 8 * d, k=k)), blocks, TrainingConfig(steps=steps + 1, batch=batch))
    trainer.batches = WatchedBatches(blocks, batch, 0)
    with trainer:
        trainer.step()  # the first step waits for the first chunk, as in every run
        feed: Any = trainer._feed
        feed.seconds = 0.0
        times = []
        for _ in range(steps):
            began = time.perf_counter()
            trainer.step()
            times.append(time.perf_counter() - began)
        return times, feed.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=350, help="of 30 s: 1,500 rows each")
    parser.add_argument("--steps", type=int, default=96, help="of each run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--shards-together", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--size", default="tiny", choices=sorted(RELEASED))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        store = stored(Path(folder), options.clips, options.size)
        hook, together = store.hooks[0], options.shards_together
        sources: dict[str, ActivationSource] = {
            "memory": TensorActivations(store.read(hook).rows[0]),
            "harvest": StoredActivations(store, hook, shards_together=together),
            "harvest, no cache": Forgotten(store, hook, shards_together=together),
        }
        waits: dict[str, list[tuple[list[float], float]]] = {name: [] for name in sources}
        for _ in tqdm(range(options.runs), desc="runs"):
            for name, blocks in sources.items():
                waits[name].append(run(blocks, options.steps, options.batch, options.k))
        shape = f"{store.rows:,} rows x {store.widths[0]} in {store.n_shards} shards, {store.bytes / 2**20:.0f} MiB"
    print(f"{shape}; {platform.machine()}, {options.threads} threads, torch {torch.__version__}\n")
    print("| rows from | ms a step (median) | times as long as from memory | waiting, share of all time |")
    print("|---|---|---|---|")
    base = statistics.median(second for times, _ in waits["memory"] for second in times)
    for name, runs in waits.items():
        step = statistics.median(second for times, _ in runs for second in times)
        waiting = sum(waited for _, waited in runs) / sum(sum(times) for times, _ in runs)
        print(f"| {name} | {1e3 * step:.0f} | {step / base:.3f} | {waiting:.4f} |")
    if options.json:
        options.json.write_text(json.dumps({"store": shape, "seconds": waits}, indent=1) + "\n")


if __name__ == "__main__":
    main()
