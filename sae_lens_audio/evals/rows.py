"""Activations for an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.corpora import Clip, Recording
from hooked_whisper.errors import ShapeError
from hooked_whisper.hooked import HookedWhisper
from sae_lens_audio.activations.options import CollectOptions
from sae_lens_audio.activations.reading import RowReader


def gather_rows(
    model: HookedWhisper,
    clips: Sequence[Clip],
    hooks: Sequence[str],
    most: int = 200_000,
    language: str = "en",
    seed: int = 0,
) -> dict[str, Float[Tensor, "row d"]]:
    """Return activations without padding (at decoder points: of the text) by canonical hook name.

    Rows of all hook points are in the same order: about ``most`` rows, drawn uniformly, the same for all.

    Raises:
        ShapeError: there is no row.
        HookedWhisperError: hook points without vectors, points of both tokens and positions, or NaN.
    """
    options = CollectOptions(dtype="float32", language=language)
    reader = RowReader(model, list(hooks), options)
    corpus = [Recording(str(i), c.samples, speaker=c.speaker, text=c.alignment.text) for i, c in enumerate(clips)]
    share = row_share(model, clips, most) if reader.unit == "position" else 1.0
    rng, parts = np.random.default_rng(seed), []
    for batch in reader.batches(corpus, failed=lambda failure: None):
        mask = torch.from_numpy(rng.random(len(batch.chunk.position)) < share)
        parts.append([x[mask] for x in batch.chunk.rows])
    if not parts or not len(parts[0][0]):
        raise ShapeError(f"{len(clips)} clips have no row at {', '.join(reader.hooks)}: give longer ones, with texts")
    return {hook: torch.cat([part[k] for part in parts]) for k, hook in enumerate(reader.hooks)}


def row_share(model: HookedWhisper, clips: Iterable[Clip], most: int) -> float:
    """Return the share of the clips' positions that gives about ``most`` rows."""
    clock = model.time
    total = sum(clock.n_positions(min(len(c.samples) / clock.sample_rate, clock.duration)) for c in clips)
    return min(1.0, most / max(total, 1))
