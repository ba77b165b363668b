"""Compare SAE training: ours, EleutherAI sparsify, sae-lens, dictionary_learning.

    make bench-sae                                          (all; makes the peers' environments first)
    python -m benchmarks.sae_training --goals               (rows of the README's targets; 8 minutes)
    python -m benchmarks.sae_training --architectures topk --score-at 100 300 [--json FILE]
    python -m benchmarks.sae_training --activations FOLDER --key encoder.blocks.2.hook_resid_post

Each library runs its own training loop in a separate environment and process, on rows in memory. They take turns of a
few steps, one at a time, so that other work on the machine affects all of them. The results are the time ratio per
turn, and the explained variance on held-out rows after the same number of steps.

The same for all: rows, their order (ours shuffles them itself) and scale (the mean squared distance of a row from the
mean is its width), sizes, k, float32, threads, the L1 coefficient, and Adam's learning rate, constant from the first
step (that of Gao et al. 2024, the default of two peers). Each library's default: initialization, clipping and
projection of gradients, auxiliary losses, statistics, JumpReLU thresholds, and sparsify's optimizer (signum with its
default rate; "adam" is its alternative). BatchTopK is scored as in training, on the largest features of a batch.

"-sparse": every encoder bias is lowered so that about 1 % of the features are active (``Case.quiet``), which a penalty
reaches only after thousands of steps. Only our time depends on the number of active features.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.case import Case
from benchmarks.peers.drive import take_turns
from benchmarks.peers.rows import from_file, scaled, synthetic
from hooked_whisper.errors import HookedWhisperError

DENSE = (("ours", ""), ("sae-lens", ""), ("dictionary_learning", ""))
SPARSE = (("ours", ""), ("sparsify", ""), ("sae-lens", ""), ("dictionary_learning", ""))


@dataclass(frozen=True)
class Work:
    """score_at: numbers of steps. dead: share of features that are forced to be dead. quiet: see :class:`Case`."""

    architecture: str
    implementations: tuple[tuple[str, str], ...]
    score_at: tuple[int, ...] = (100,)
    dead: float = 0.0
    quiet: float = 0.0


WORK = {
    "topk": Work("topk", (*SPARSE, ("sparsify", "adam"), ("sae-lens", "sparse")), (100, 300)),
    "topk-dead": Work("topk", SPARSE, dead=0.25),
    "batchtopk": Work("batchtopk", DENSE),
    "matryoshka": Work("matryoshka", DENSE),
    "standard": Work("standard", DENSE),
    "jumprelu": Work("jumprelu", DENSE),
    "gated": Work("gated", DENSE),
    # with about as many active features as late in training; the rows above start with a thousand
    "standard-sparse": Work("standard", DENSE, quiet=2.3),
    "jumprelu-sparse": Work("jumprelu", DENSE, quiet=2.3),
    "gated-sparse": Work("gated", DENSE, quiet=2.3),
}
GOALS = ("topk", "standard", "jumprelu", "gated", "standard-sparse", "jumprelu-sparse", "gated-sparse")


def machine(threads: int, device: str) -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": list(os.getloadavg()),
    }


def table(name: str, cases: list[Case], results: dict[str, Any], score_at: tuple[int, ...]) -> str:
    heads = ["steps/s", "activations/s", "times as long as ours", "quartiles", "memory MB"]
    heads += [f"explained at {point}" for point in score_at] + ["L0", "dead"]
    others = results["others_used_cores"]
    ours, rates = cases[0], " and ".join(f"{rate:.2g}" for rate in sorted({case.lr for case in cases}))
    lines = [
        f"{name}: d_sae {ours.d_sae}, k {ours.k}, batch {ours.batch}, Adam's rate {rates}"
        + (f"; others used {others:.2f} cores" if others is not None else ""),
        "",
        f"| {name} | " + " | ".join(heads) + " |",
        "|---" * (len(heads) + 1) + "|",
    ]
    for row in results["implementations"]:
        ratio, last = row["times_as_long"], row["scores"][score_at[-1]]
        cells = [
            f"{row['name']} {row['version']}",
            f"{row['steps_per_s']:.2f}",
            f"{row['activations_per_s']:,.0f}",
            f"{ratio['median']:.2f}",
            "{:.2f} to {:.2f}".format(*ratio["quartiles"]),
            f"{row['peak_mb']:.0f}",
            *(f"{row['scores'][point]['explained_variance']:.3f}" for point in score_at),
            f"{last['l0']:.1f}",
            f"{last['dead']:.3f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="+", default=list(WORK), choices=list(WORK), metavar="NAME")
    parser.add_argument("--goals", action="store_true", help=f"only {', '.join(GOALS)}, 30 steps each")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="implementations besides ours")
    parser.add_argument("--activations", type=Path, help="a harvest, or a .npy or .safetensors of rows [row, d]")
    parser.add_argument("--key", help="hook point of the harvest, or tensor of the file")
    parser.add_argument("--rows", type=int, default=262_144, help="rows to train on, in the same order in every epoch")
    parser.add_argument("--held-out", type=int, default=16_384, help="rows for scores")
    parser.add_argument("--d-in", type=int, default=384, help="of made-up activations")
    parser.add_argument("--d-sae", type=int, help="default: 8 times the width of the activations")
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--score-at", type=int, nargs="+", help="numbers of steps")
    parser.add_argument("--per-turn", type=int, default=5, help="steps")
    parser.add_argument("--warm-up", type=int, default=2, help="untimed warm-up turns")
    parser.add_argument("--lr", type=float, help="of Adam; default: 2e-4 / sqrt(d_sae / 2^14)")
    parser.add_argument("--lr-ours", type=float, help="learning rate of ours, if different")
    parser.add_argument("--l1", type=float, default=1.0)
    parser.add_argument("--l0", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.goals:
        options.architectures, options.score_at = list(GOALS), options.score_at or [30]
    if min(options.score_at or [100]) < (options.warm_up + 2) * options.per_turn:
        parser.error("two turns at least must come after the warm-up: more steps to the first score, or fewer a turn")
    return options


def rows_of(options: argparse.Namespace) -> torch.Tensor:
    n = options.rows + options.held_out
    if options.activations:
        rows = from_file(options.activations, options.key, n, options.seed)
    else:
        rows = synthetic(n, options.d_in, options.seed)
    if len(rows) < options.held_out + options.batch:
        raise HookedWhisperError(f"{len(rows)} rows are too few for scores and a batch: change --held-out or --batch")
    return scaled(rows)


def cases_of(work: Work, options: argparse.Namespace, d_in: int, data: Path) -> list[Case]:
    d_sae = options.d_sae or 8 * d_in
    lr = options.lr or 2e-4 / (d_sae / 2**14) ** 0.5
    rates = {"ours": options.lr_ours or lr}
    shared = ("k", "batch", "held_out", "l1", "l0", "seed", "threads", "device")
    return [
        Case(
            who, variant, work.architecture, d_in, d_sae,
            data=str(data), dead=int(work.dead * d_sae), quiet=work.quiet, lr=rates.get(who, lr),
            **{name: getattr(options, name) for name in shared},
        )
        for who, variant in work.implementations
        if who == "ours" or options.only is None or who in options.only
    ]  # fmt: skip


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    rows = rows_of(options)
    here = machine(options.threads, options.device)
    print(f"{options.activations.name if options.activations else 'made-up activations'} {list(rows.shape)}, float32")
    print(", ".join(f"{name} {value}" for name, value in here.items() if name != "load") + "\n")
    settings = {name: str(v) if isinstance(v, Path) else v for name, v in vars(options).items()}
    facts: dict[str, Any] = {"machine": here, "settings": settings, "results": []}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.npy"
        np.save(data, rows.numpy())
        for name in options.architectures:
            work = WORK[name]
            score_at = tuple(sorted(options.score_at or work.score_at))
            cases = cases_of(work, options, rows.shape[1], data)
            results = take_turns(cases, score_at, options.per_turn, options.warm_up)
            print(table(name, cases, results, score_at), flush=True)
            case = {key: value for key, value in asdict(cases[0]).items() if key != "data"}  # a temporary file
            facts["results"].append({"name": name, "case": case, **results})
            if options.json:
                options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
