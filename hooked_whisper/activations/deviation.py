"""Difference between activations of short windows (``window="sound"``) and those of full windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.activations.stream import ActivationStream
from hooked_whisper.corpora import Failure, Recording, windows_from
from hooked_whisper.corpora.windows import Part

SAMPLED = 32  # recordings


@dataclass(frozen=True)
class Deviation:
    """Deviation at one hook point, over all positions that have rows.

    relative_rms: RMS difference, relative to the RMS of the full-window activations about their mean.
    worst_5_percent: 95th percentile of the same ratio of single positions. cosine: mean over positions, about the mean
    of the full-window activations.
    """

    relative_rms: float
    worst_5_percent: float
    cosine: float


@torch.no_grad()
def measure_deviation(stream: ActivationStream, corpus: Sequence[Recording], most: int = SAMPLED) -> dict[str, Any]:
    """Run the first windows of recordings from all over the corpus both ways and compare.

    Returns JSON values: number of ``windows`` compared, ``encoded`` (share of the full window's positions that are
    computed), and ``hooks`` with a :class:`Deviation` each; empty if nothing could be read.
    """
    step = -(-len(corpus) // most)
    sample = Part(corpus, range(step // 2, len(corpus), step))
    full: dict[str, list[Tensor]] = {hook: [] for hook in stream.hooks}
    short: dict[str, list[Tensor]] = {hook: [] for hook in stream.hooks}
    clock, encoded = stream.model.time, []

    def ignored(failure: Failure) -> None:
        """Failures are reported elsewhere."""

    for window in windows_from(sample, clock.n_samples, failed=ignored):
        if window.number:
            continue
        mel, n = stream.mel([window]), clock.n_positions(window.length / clock.sample_rate)
        encoded.append(stream.encoded_positions(window))
        for activations, length in ((full, clock.n_ctx), (short, encoded[-1])):
            for hook, rows in stream.read(mel, [(0, n)], [length]).items():
                activations[hook].append(rows.cpu())
    if not encoded:
        return {}
    return {
        "windows": len(encoded),
        "encoded": round(sum(encoded) / (len(encoded) * clock.n_ctx), 4),
        "hooks": {hook: asdict(_compared(torch.cat(full[hook]), torch.cat(short[hook]))) for hook in stream.hooks},
    }


def deviation_lines(deviation: Mapping[str, Any]) -> list[str]:
    """Return the lines that a command prints about a measured deviation; none if there is none."""
    if not deviation:
        return []
    share = f"{deviation['encoded']:.0%}"
    lines = [f"NOT the activations of full windows: {share} of their positions were encoded. Differences:"]
    for hook, of_hook in deviation["hooks"].items():
        lines.append(
            f"  {hook}: {of_hook['relative_rms']:.1%} of the size of the activations, above "
            f"{of_hook['worst_5_percent']:.1%} at 5 % of positions, cosine {of_hook['cosine']:.4f} "
            f"({deviation['windows']} windows compared)"
        )
    return lines


def _compared(full: Float[Tensor, "row d"], short: Float[Tensor, "row d"]) -> Deviation:
    full, short = full.double(), short.double()
    mean = full.mean(0)
    size = (full - mean).square().sum(1).mean().sqrt()
    each = (short - full).square().sum(1).sqrt() / size
    cosine = torch.nn.functional.cosine_similarity(full - mean, short - mean, dim=1).mean()
    return Deviation(
        round(float(each.square().mean().sqrt()), 6), round(float(each.quantile(0.95)), 6), round(float(cosine), 6)
    )
