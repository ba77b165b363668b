"""Patches per second: a sweep (:func:`hooked_whisper.patching.run_patches`) against the naive loop.

    python -m benchmarks.patching [--rounds 3] [--threads 1] [--size tiny] [--json FILE]

The naive loop is what people write with hooks: one full pass of encoder and decoder for every patch, with one hook that
inserts the cached activation. Both use the same random weights and patches, take turns in one process, and must agree
in their results. The result is the ratio of times per patch. The sweep's time includes its two caching runs.
Attribution patching is timed against one forward and backward pass.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from benchmarks.bench.flops import gflop
from hooked_whisper.activations.options import WindowSize
from hooked_whisper.config import RELEASED
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.patching import (
    LogitDifference,
    Metric,
    Patch,
    PatchGrid,
    Positions,
    RunInputs,
    attribute_patches,
    make_grid,
    run_patches,
    token_spans,
    window_spans,
)
from hooked_whisper.protocols import Stack

N_TOKENS, N_SPEECH = 12, 300  # decoder tokens, encoder positions of a 6 s clip


@dataclass(frozen=True)
class Case:
    """A sweep, and the patches of it that the naive loop runs (only a few, since all cost the same).

    window: of the sweep. With ``"sound"``, all after the 6 s of speech is padding, in the naive loop too.
    """

    label: str
    side: str
    grid: PatchGrid
    window: WindowSize = "full"

    def sample(self, n: int) -> list[int]:
        step = max(1, len(self.grid.patches) // n)
        return list(range(0, len(self.grid.patches), step))[:n]


def cases(model: HookedWhisper) -> list[Case]:
    tokens = token_spans([str(i) for i in range(N_TOKENS)], start=1)
    spans = window_spans(N_SPEECH, 50)
    rows: list[tuple[str, Stack, str, Sequence[Positions] | None, bool]] = [
        ("residual", "decoder", "resid_post", tokens, False),
        ("heads", "decoder", "z", tokens, True),
        ("cross-attention heads", "decoder", "cross_z", tokens, True),
        ("cross-attention values by span", "decoder", "cross_v", spans, False),
        ("heads by token and span, 528", "decoder", "z", [*tokens, *tokens], True),
        ("encoder output by span", "decoder", "encoder.hook_out", window_spans(N_SPEECH, 10), False),
        ("residual by span", "encoder", "resid_post", spans, False),
        ("attention out by span", "encoder", "attn_out", spans, False),
        ("MLP out by span", "encoder", "mlp_out", spans, False),
        ("heads by span", "encoder", "z", spans, True),
        ("residual by span of 200 ms", "encoder", "resid_post", window_spans(N_SPEECH, 10), False),
    ]
    exact = [
        Case(f"{stack} {label}", stack, make_grid(model, what, _stack_of(what, stack), spans=s, per_head=h))
        for label, stack, what, s, h in rows
    ]
    sound = [
        replace(case, label=f"{case.label}, window of the sound", window="sound")
        for case in exact
        if case.side == "encoder"
    ]
    return [*exact, *sound]


def _stack_of(component: str, stack: Stack) -> Stack:
    return "encoder" if component.startswith("encoder.") else stack


def naive(
    model: HookedWhisper, patches: Sequence[Patch], base: RunInputs, source: RunInputs, metric: Metric
) -> tuple[list[float], float]:
    """Return the seconds per patch of one full forward pass per patch. Source activations are cached beforehand."""
    names = sorted({p.name for p in patches})
    _, cache = model.run_with_cache(source.mel, source.tokens, names_filter=names)
    results = []
    start = time.perf_counter()
    for patch in patches:
        theirs = cache[patch.name]
        mask = patch.mask(model.hook_dict[patch.name], theirs.shape)[None]

        def hook(x: torch.Tensor, mask: torch.Tensor = mask, theirs: torch.Tensor = theirs) -> torch.Tensor:
            return torch.where(mask, theirs, x)

        logits = model.run_with_hooks(base.mel, base.tokens, fwd_hooks=[(patch.name, hook)])
        results.append(float(logits[0, metric.at[0], metric.vocab[0]] - logits[0, metric.at[0], metric.vocab[1]]))  # type: ignore[index]
    return results, (time.perf_counter() - start) / len(patches)


@torch.no_grad()
def measure(model: HookedWhisper, case: Case, rounds: int, n_naive: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    enc = model.cfg.encoder
    clean = torch.randn(1, enc.n_mels, enc.n_frames, generator=generator)
    if case.window == "sound":
        clean[..., 2 * N_SPEECH :] = -1
    corrupt = clean.clone()
    corrupt[..., 160:260] = torch.randn(1, enc.n_mels, 100, generator=generator)
    tokens = torch.randint(0, 50000, (2, 1, N_TOKENS), generator=generator)
    base, source = RunInputs(tokens[0], mel=corrupt), RunInputs(tokens[1], mel=clean)
    if case.side == "decoder":  # start from a computed encoder output, as in an interactive session
        ready = [RunInputs(i.tokens, encoder_out=model.embed_audio(i.mel)) for i in (base, source)]  # type: ignore[arg-type]
    else:
        ready = [base, source]
    metric = LogitDifference(7, 9, N_TOKENS - 1)
    sample = case.sample(n_naive)
    patches, exact = case.grid.patches, case.window == "full"
    ratios, mine, theirs, deviations = [], [], [], []
    for _ in tqdm(range(rounds), desc=case.label, leave=False):
        slow, per_patch = naive(model, [patches[i] for i in sample], base, source, metric)
        start = time.perf_counter()
        fast = run_patches(model, patches, *ready, metric, window=case.window)
        seconds = (time.perf_counter() - start) / len(patches)
        deviations.append(float((fast.values[sample] - torch.tensor(slow)).abs().max()))
        if exact:
            torch.testing.assert_close(fast.values[sample].float(), torch.tensor(slow), rtol=1e-3, atol=1e-3)
        ratios.append(per_patch / seconds)
        mine.append(1 / seconds)
        theirs.append(1 / per_patch)
    sweep_gflop = gflop(lambda: run_patches(model, patches, *ready, metric, window=case.window))
    naive_gflop = gflop(lambda: model(base.mel, base.tokens))
    assert sweep_gflop is not None and naive_gflop is not None  # nothing here is compiled
    return {
        "sweep": case.label,
        "patches": len(patches),
        "ratio": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
        "per_second": statistics.median(mine),
        "naive_per_second": statistics.median(theirs),
        "deviation": max(deviations),
        "gflop": round(sweep_gflop / len(patches), 3),
        "naive_gflop": naive_gflop,
    }


def measure_attribution(size: str, rounds: int) -> list[dict[str, Any]]:
    """Return the time of attribution patching, in forward and backward passes, for few and for many patches."""
    torch.manual_seed(0)
    model = HookedWhisper(RELEASED[size])
    cfg = model.cfg.encoder
    mels = torch.randn(2, 1, cfg.n_mels, cfg.n_frames)
    tokens = torch.randint(0, 50000, (2, 1, N_TOKENS))
    runs = [RunInputs(tokens[k], mel=mels[k]) for k in range(2)]
    metric = LogitDifference(7, 9, N_TOKENS - 1)
    spans = window_spans(N_SPEECH, 50)
    grids = {
        "residual by span": make_grid(model, "resid_post", "encoder", spans=spans),
        "heads by span": make_grid(model, "z", "encoder", spans=spans, per_head=True),
        "neurons by span": make_grid(model, "mlp_post", "encoder", spans=spans, units=slice(None)),
        "heads by position": make_grid(model, "z", "encoder", spans=window_spans(cfg.n_ctx, 1), per_head=True),
    }

    def forward_and_backward() -> None:
        x = mels[0].clone().requires_grad_()
        logits = model(x, tokens[0])[0, N_TOKENS - 1]
        torch.autograd.grad(logits[7] - logits[9], x)

    ratios: dict[str, list[float]] = {label: [] for label in grids}
    for _ in tqdm(range(rounds), desc="attribution", leave=False):
        one_pass = _seconds(forward_and_backward)
        for label, grid in grids.items():
            ratios[label].append(_seconds(lambda g=grid: attribute_patches(model, g, *runs, metric)) / one_pass)
    return [
        {
            "sweep": f"encoder {label}",
            "patches": len(grids[label].patches),
            "ratio": statistics.median(values),
            "range": [min(values), max(values)],
            "target": 3,
        }
        for label, values in ratios.items()
    ]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure_all(size: str, rounds: int, n_naive: int) -> list[dict[str, Any]]:
    """Measure each sweep and return one row per sweep. One has at least 500 patches."""
    torch.manual_seed(0)
    model = HookedWhisper(RELEASED[size])
    return [
        measure(model, case, rounds, n_naive) | {"target": 20 if case.side == "decoder" else 4} for case in cases(model)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--naive", type=int, default=4, help="patches of each sweep that the naive loop runs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", default="tiny", choices=sorted(RELEASED))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.size}, float32, {args.threads} threads, {platform.machine()}; torch {torch.__version__}\n")
    print("| sweep | patches | times the naive loop | range | patches/s | naive/s | GFLOP, naive / ours | deviation |")
    print("|---|---|---|---|---|---|---|---|")
    rows = measure_all(args.size, args.rounds, args.naive)
    for row in rows:
        low, high = row["range"]
        print(
            f"| {row['sweep']} | {row['patches']} | {row['ratio']:.1f} | {low:.1f} to {high:.1f} "
            f"| {row['per_second']:.1f} | {row['naive_per_second']:.2f} "
            f"| {row['naive_gflop'] / row['gflop']:.1f} | {row['deviation']:.0e} |",
            flush=True,
        )
    print("\n| attribution patching | patches | times a forward and backward pass | range |\n|---|---|---|---|")
    attribution = measure_attribution(args.size, args.rounds)
    for row in attribution:
        low, high = row["range"]
        print(f"| {row['sweep']} | {row['patches']:,} | {row['ratio']:.2f} | {low:.2f} to {high:.2f} |")
    if args.json:
        results = {"size": args.size, "threads": args.threads, "rows": rows, "attribution": attribution}
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
