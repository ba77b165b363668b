"""Measure how time and memory of a pass, of collecting and of patching grow with layers, width and released size.

:func:`layers_and_widths` and :func:`sizes` measure each shape of model in a separate process, with random weights:

- a forward pass that caches the residual of the middle block;
- collecting that residual from two clips into a store;
- a sweep of four patches of that residual, with its two caching runs.

Memory is the peak beyond the process with its model, so one batch and what is kept.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from benchmarks.harvesting import write_clips
from benchmarks.process_memory import RETURNED_AT_ONCE, peak_reset, return_freed_memory, status_mib
from hooked_whisper.config import RELEASED, DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.patching import LogitDifference, RunInputs, make_grid, run_patches, window_spans
from sae_lens_audio.activations import CollectOptions, collect_activations

LAYERS, WIDTH = (2, 4, 8, 16), 512
WIDTHS, N_LAYERS = (256, 512, 768, 1024, 1280), 2
SIZES = ("tiny", "base", "small", "medium", "large-v3")
N_TOKENS, N_CLIPS = 12, 2


@dataclass(frozen=True)
class Cost:
    """Seconds, and MiB: of the weights, of the peak beyond them, and of the returned tensors or files."""

    seconds: float
    model_mib: float
    peak_mib: float
    kept_mib: float


def shape(layers: int, width: int) -> WhisperConfig:
    """Return a Whisper of this many layers in both stacks, with heads of 64 entries as in all released sizes."""
    encoder = EncoderConfig(d_model=width, n_heads=width // 64, n_layers=layers, d_mlp=4 * width)
    decoder = DecoderConfig(d_model=width, n_heads=width // 64, n_layers=layers, d_mlp=4 * width)
    return WhisperConfig(encoder, decoder, f"{layers} layers, width {width}")


def middle(model: HookedWhisper) -> str:
    return f"encoder.blocks.{model.cfg.encoder.n_layers // 2 - 1}.hook_resid_post"


# --- the work, which returns the MiB it keeps ----------------------------------------------------------------------


def forward(model: HookedWhisper, _: Path) -> float:
    mel, tokens = inputs(model)
    _, cache = model.run_with_cache(mel, tokens, names_filter=middle(model))
    return sum(x.nbytes for x in cache.values()) / 2**20


def collect(model: HookedWhisper, folder: Path) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as out:
        clips = write_clips(Path(out, "audio"), N_CLIPS, 6.0)
        collect_activations(model, clips, middle(model), Path(out, "store"), CollectOptions(), progress=False)
        return sum(path.stat().st_size for path in Path(out, "store").rglob("*") if path.is_file()) / 2**20


def sweep(model: HookedWhisper, _: Path) -> float:
    mel, tokens = inputs(model)
    runs = (RunInputs(tokens, mel=x) for x in (mel, mel + 0.1 * torch.randn_like(mel)))
    block = model.cfg.encoder.n_layers // 2 - 1
    grid = make_grid(model, "resid_post", "encoder", blocks=[block], spans=window_spans(300, 75))
    run_patches(model, grid.patches, *runs, LogitDifference(7, 9, N_TOKENS - 1))
    return 3 * 4 * model.cfg.encoder.n_ctx * model.cfg.encoder.d_model / 2**20  # residuals of the patched block


WORK: dict[str, Callable[[HookedWhisper, Path], float]] = {
    "forward pass that caches one residual": forward,
    "collecting one residual of two clips": collect,
    "four patches of one residual": sweep,
}


def inputs(model: HookedWhisper) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    cfg = model.cfg.encoder
    mel = torch.randn(1, cfg.n_mels, cfg.n_frames, generator=generator)
    return mel, torch.randint(0, 50000, (1, N_TOKENS), generator=generator)


# --- one process per shape ------------------------------------------------------------------------------------------


def in_process(config: str, repeats: int, threads: int) -> dict[str, Cost]:
    """Measure all work for one shape (``"8x512"``) or released size, each beyond the same model.

    Raises:
        RuntimeError: the process failed; with the end of its output.
    """
    command = [sys.executable, "-m", "benchmarks.model_sizes", config]
    options = ["--repeats", str(repeats), "--threads", str(threads)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=RETURNED_AT_ONCE)
    if done.returncode:
        raise RuntimeError(f"{config}: {done.stderr[-2000:]}")
    measured: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return {work: Cost(**cost) for work, cost in measured.items()}


@torch.no_grad()
def measure_here(config: WhisperConfig, repeats: int) -> dict[str, dict[str, float]]:
    """Measure in this process. Without repeats there is no warm-up: large models take minutes a run."""
    model = HookedWhisper(config).eval()
    model_mib = sum(p.nbytes for p in model.parameters()) / 2**20
    costs = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, work in WORK.items():
            if repeats > 1:
                work(model, Path(folder))
            seconds, peaks, kept_mib = [], [], 0.0
            for _ in range(repeats):
                gc.collect()
                return_freed_memory()
                before = status_mib("VmRSS")
                peak_reset()
                start = time.perf_counter()
                kept_mib = work(model, Path(folder))
                seconds.append(time.perf_counter() - start)
                peaks.append(status_mib("VmHWM") - before)
            costs[name] = {
                "seconds": min(seconds),
                "model_mib": round(model_mib, 1),
                "peak_mib": round(min(peaks), 1),
                "kept_mib": round(kept_mib, 1),
            }
    return costs


def layers_and_widths(repeats: int, threads: int) -> list[tuple[str, str, list[int], list[float], str]]:
    """Return what, against what, the amounts, their costs, and the unit of each."""
    axes = {
        "layers": {n: f"{n}x{WIDTH}" for n in LAYERS},
        "width": {width: f"{N_LAYERS}x{width}" for width in WIDTHS},
    }
    results = []
    for axis, shapes in axes.items():
        costs = {n: in_process(config, max(2, repeats), threads) for n, config in tqdm(shapes.items(), desc=axis)}
        for work in WORK:
            of_work = [cost[work] for cost in costs.values()]
            results.append((work, axis, list(costs), [cost.seconds for cost in of_work], "s"))
            results.append((f"memory of: {work}", axis, list(costs), [cost.peak_mib for cost in of_work], "MiB"))
    return results


def sizes(threads: int) -> list[dict[str, Any]]:
    """Return one row per released size and piece of work."""
    rows = []
    for size in tqdm(SIZES, desc="released sizes"):
        for work, cost in in_process(size, 1, threads).items():
            rows.append({"size": size, "work": work, **vars(cost)})
    return rows


def read_config(text: str) -> WhisperConfig:
    """Read ``"8x512"`` (layers by width) or a released size."""
    if text in RELEASED:
        return RELEASED[text]
    layers, width = map(int, text.split("x"))
    return shape(layers, width)


def size_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of a row of :func:`sizes` in the README."""
    numbers = (f"{row[key]:.0f}" for key in ("model_mib", "peak_mib", "kept_mib"))
    return (row["size"], row["work"], f"{row['seconds']:.2f}", *numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="8x512 (layers by width), or a released size")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(json.dumps(measure_here(read_config(args.config), args.repeats)))


if __name__ == "__main__":
    main()
