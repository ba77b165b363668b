"""Measure how time and memory grow with clips, positions, windows, features, patches, processes, layers and width.

    python -m benchmarks.growth [--repeats 3] [--threads 1] [--only layers sizes]

Each quantity is doubled a few times; the slope of the logarithm of time (or of memory) against the logarithm of the
quantity is 1 where the cost is proportional and 0 where it does not grow. Slopes come with the standard error of the
fit. Writes ``benchmarks/growth.json``, ``benchmarks/figures/growth.svg`` and the table in ``benchmarks/README.md``.
Random weights (``tiny``, a small model where a corpus is read, or those of ``model_sizes.py``), random sound.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from scipy.stats import linregress
from tqdm.auto import tqdm

from benchmarks import model_sizes
from benchmarks.bench.markdown import table, write_into
from benchmarks.harvesting import write_clips
from benchmarks.patching import N_SPEECH
from hooked_whisper.config import RELEASED, DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.features.scan import ScanOptions, scan
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.model import local_window
from hooked_whisper.patching import LogitDifference, RunInputs, make_grid, run_patches, window_spans
from sae_lens_audio import TopK, TopKConfig
from sae_lens_audio.activations import CollectOptions, collect_activations
from sae_lens_audio.architectures.sparse.encode import encode_topk

matplotlib.use("Agg")
HERE = Path(__file__).parent
RESULTS = HERE / "growth.json"
SMALL = WhisperConfig(EncoderConfig(80, 300, 64, 4, 2, 256), DecoderConfig(51865, 64, 64, 4, 2, 256), "small random")


@dataclass(frozen=True)
class Growth:
    """slope, error: of the fit to the logarithms, and its standard error. unit: of ``cost``."""

    what: str
    of: str
    amounts: list[float]
    cost: list[float]
    unit: str
    slope: float
    error: float


def grown(what: str, of: str, amounts: Sequence[float], cost: Sequence[float], unit: str = "s") -> Growth:
    fit = linregress(np.log(amounts), np.log(cost))
    return Growth(what, of, list(amounts), list(cost), unit, round(fit.slope, 3), round(fit.stderr, 3))


def fastest(work: Callable[[], object], repeats: int) -> float:
    """Return the least seconds of several runs: other work on the machine can only add time."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@torch.no_grad()
def positions(repeats: int) -> list[Growth]:
    model = HookedWhisper(RELEASED["tiny"])
    mel = torch.randn(1, 80, 3000)
    lengths, widths = [200, 400, 800, 1500], [25, 50, 100, 200, 400]
    encoder = [fastest(lambda n=n: model.encoder(mel[..., : 2 * n], slice(0, n)), repeats) for n in lengths]
    pattern = "encoder.blocks.1.attn.hook_pattern"
    sizes = [
        model.run_with_cache(mel[..., : 2 * n], mel_positions=slice(0, n), names_filter=pattern)[1][pattern].nbytes
        / 2**20
        for n in lengths
    ]
    within = []
    for k in widths:
        with model.hooks(attn_masks={"encoder": local_window(k)}):
            within.append(fastest(lambda: model.encoder(mel), repeats))
    # time at window width 0, extrapolated linearly; the slope is that of the cost beyond it
    intercept = 2 * within[0] - within[1]
    beyond = [max(t - intercept, 1e-6) for t in within]
    return [
        grown("encoder, tiny", "positions", lengths, encoder),
        grown("memory of one pattern", "positions", lengths, sizes, "MiB"),
        grown("what windows add to the encoder", "positions to either side", widths, beyond),
    ]


def clips(repeats: int) -> list[Growth]:
    model, counts = HookedWhisper(SMALL), [16, 32, 64, 128]
    hook = "encoder.blocks.1.mlp.hook_post"
    collected, scans, peaks = [], [], []
    with tempfile.TemporaryDirectory() as name:
        corpus = write_clips(Path(name, "audio"), counts[-1], 6.0)
        for n in counts:

            def read(what: str, n: int = n) -> float:
                with tempfile.TemporaryDirectory(dir=name) as out:
                    start = time.perf_counter()
                    if what == "collect":
                        collect_activations(model, corpus[:n], hook, out, CollectOptions(), progress=False)
                    else:
                        scan(model, corpus[:n], [hook], out, ScanOptions(), progress=False)
                    return time.perf_counter() - start

            collected.append(min(read("collect") for _ in range(repeats)))
            scans.append(min(read("scan") for _ in range(repeats)))
            peaks.append(peak(n))
    return [
        grown("collecting", "clips", counts, collected),
        grown("scan of 256 neurons", "clips", counts, scans),
        grown("memory of a process that scans", "clips", counts, peaks, "MiB"),
    ]


def peak(n: int) -> float:
    """Return the peak memory (MiB) of a process that scans this many clips."""
    worker = [sys.executable, "-m", "benchmarks.growth", "--scan-and-say", str(n)]
    done = subprocess.run(worker, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def scan_and_say(n: int) -> None:
    import resource

    with tempfile.TemporaryDirectory() as name:
        corpus = write_clips(Path(name, "audio"), n, 6.0)
        scan(HookedWhisper(SMALL), corpus, ["encoder.blocks.1.mlp.hook_post"], Path(name, "scan"), progress=False)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


@torch.no_grad()
def features(repeats: int) -> list[Growth]:
    widths, x = [768, 1536, 3072, 6144, 12288], torch.randn(2048, 384)
    encode = []
    for width in widths:
        sae = TopK(TopKConfig(384, width, k=32))
        encode.append(fastest(lambda sae=sae: encode_topk(x, sae.W_enc, sae.b_enc, None, 32), repeats))
    return [grown("TopK: 2,048 rows to codes", "features", widths, encode)]


@torch.no_grad()
def patches(repeats: int) -> list[Growth]:
    model, tokens = HookedWhisper(RELEASED["tiny"]), torch.randint(0, 50000, (2, 1, 12))
    encoded = model.encoder(torch.randn(2, 80, 3000))
    inputs = [RunInputs(tokens[k], encoder_out=encoded[k : k + 1]) for k in range(2)]
    grid = make_grid(model, "encoder.hook_out", "encoder", spans=window_spans(N_SPEECH, 1))
    counts = [30, 60, 120, 240]
    cost = [
        fastest(lambda n=n: run_patches(model, grid.patches[:n], *inputs, LogitDifference(7, 9, 11)), repeats)
        for n in counts
    ]
    return [grown("patches of the encoder's output", "patches", counts, cost)]


def processes(_: int) -> list[Growth]:
    """Measure one and two processes, one core each: the reference machine has two cores."""
    seconds = []
    with tempfile.TemporaryDirectory() as name:
        write_clips(Path(name, "audio"), 96, 20.0)
        HookedWhisper(RELEASED["tiny"]).save_pretrained(Path(name, "model"))
        for n in (1, 2):
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
            command = ["-m", "sae_lens_audio", "collect", "--hook", "encoder.blocks.2", "--part", "8", "--threads", "1"]
            paths = ["--model", f"{name}/model", "--audio", f"{name}/audio", "--out", f"{name}/out-{n}"]
            began = time.perf_counter()
            subprocess.run([*launcher, *command, *paths], check=True, capture_output=True)
            seconds.append(time.perf_counter() - began)
    return [grown("collecting from 96 clips, start included", "processes", [1, 2], seconds)]


def layers(repeats: int, threads: int) -> list[Growth]:
    """Measure layers and width, with the number of threads of this run."""
    return [grown(*row) for row in model_sizes.layers_and_widths(repeats, threads)]


def rendered(results: Mapping[str, Any]) -> str:
    """Return the tables of the README."""
    slopes = [
        (g["what"], g["of"], f"{g['amounts'][0]:,} to {g['amounts'][-1]:,}", f"{g['slope']:.2f} ± {g['error']:.2f}",
         f"{_cost(g['cost'][0], g['unit'])} to {_cost(g['cost'][-1], g['unit'])}")
        for g in results["slopes"]
    ]  # fmt: skip
    parts = [table(("of", "against", "from", "slope", "cost"), slopes)]
    if results["sizes"]:
        head = ("size", "work", "s", "MiB of weights", "MiB at most beyond them", "MiB kept")
        parts.append(table(head, [model_sizes.size_cells(row) for row in results["sizes"]]))
    return "\n\n".join(parts) + "\n"


def _cost(amount: float, unit: str) -> str:
    return f"{amount:,.3g} {unit}"


def merged(old: Mapping[str, Any], growths: Sequence[Growth], sizes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return stored results in which the measured ones replace those of the same name."""
    slopes = {(g["what"], g["of"]): g for g in [*old.get("slopes", ()), *map(asdict, growths)]}
    return {"slopes": list(slopes.values()), "sizes": list(sizes or old.get("sizes", ()))}


def draw(growths: Sequence[Growth], path: Path) -> None:
    """Draw each cost on logarithmic axes of equal length in decades: a slope of 1 rises by as much as it goes right."""
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator

    columns = 3
    rows = -(-len(growths) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(11, 2.7 * rows), constrained_layout=True, squeeze=False)
    for axis, growth in zip(axes.flat, growths, strict=False):
        axis.loglog(growth.amounts, growth.cost, "o-", color="#2a6f97")
        labels = [f"{a:g}" for a in growth.amounts]
        axis.set(xlabel=growth.of, ylabel=growth.unit, xticks=growth.amounts, xticklabels=labels)
        axis.tick_params(labelsize=7)
        axis.minorticks_off()
        amounts, costs = np.log10(growth.amounts), np.log10(growth.cost)
        half = 0.55 * max(np.ptp(amounts), np.ptp(costs))
        axis.set_ylim(*(10 ** (costs.min() + np.ptp(costs) / 2 + side * half) for side in (-1, 1)))
        axis.yaxis.set_major_locator(LogLocator(10, (1, 2, 5), numticks=9))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:g}"))
        axis.set_title(f"{growth.what}\nslope {growth.slope:.2f} ± {growth.error:.2f}", fontsize=9)
    for axis in axes.flat[len(growths) :]:
        axis.axis("off")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=[*MEASURES, "layers", "sizes"], help="default: everything")
    parser.add_argument("--scan-and-say", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.scan_and_say:
        scan_and_say(args.scan_and_say)
        return
    wanted = args.only or [*MEASURES, "layers", "sizes"]
    growths = []
    for name in tqdm([name for name in MEASURES if name in wanted], desc="growth"):
        growths += MEASURES[name](args.repeats)
    growths += layers(args.repeats, args.threads) if "layers" in wanted else []
    sizes = model_sizes.sizes(args.threads) if "sizes" in wanted else []
    for growth in growths:
        costs = [round(c, 4) for c in growth.cost]
        print(f"{growth.what} / {growth.of}: slope {growth.slope} ± {growth.error}  {costs} {growth.unit}")
    results = merged(json.loads(RESULTS.read_text()), growths, sizes)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    write_into(HERE / "README.md", rendered(results), "growth")
    draw([Growth(**growth) for growth in results["slopes"]], HERE / "figures" / "growth.svg")


MEASURES: dict[str, Callable[[int], list[Growth]]] = {
    measure.__name__: measure for measure in (positions, clips, features, patches, processes)
}


if __name__ == "__main__":
    main()
