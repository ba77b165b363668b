"""Clips and activations for an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.audio import TimeMap
from hooked_whisper.corpora import Clip, Recording, Window, windows_from
from hooked_whisper.errors import AlignmentError, AudioError, ShapeError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import Alignment
from sae_lens_audio.activations.options import CollectOptions
from sae_lens_audio.activations.reading import RowReader

LEAST_S = 0.1  # windows with less sound are skipped


class Clips(NamedTuple):
    """Clips, and the recordings that could not be read: id and reason."""

    clips: list[Clip]
    failures: list[tuple[str, str]]


def labeled_clips(model: HookedWhisper, corpus: Sequence[Recording], most: int) -> Clips:
    """Return the first clips of a corpus: whole recordings, or windows of recordings longer than the model's window.

    A recording without alignment becomes a clip with text but no phones.
    """
    clock = model.time
    clips: list[Clip] = []
    failures: list[tuple[str, str]] = []
    cached: tuple[int, Alignment | None] = (-1, None)
    for window in windows_from(corpus, clock.n_samples, failed=lambda f: failures.append((f.id, f.reason))):
        recording = corpus[window.recording]
        if cached[0] != window.recording:
            cached = (window.recording, _alignment(recording, window, clock, failures))
        alignment = cached[1]
        if alignment is None or window.length < LEAST_S * clock.sample_rate:
            continue
        offset, speaker = window.number * clock.duration, recording.speaker or alignment.speaker or recording.id
        clips.append(Clip.aligned(window.samples[: window.length].numpy(), alignment, speaker, offset))
        if len(clips) == most:
            break
    return Clips(clips, failures)


def _alignment(
    recording: Recording, first: Window, clock: TimeMap, failures: list[tuple[str, str]]
) -> Alignment | None:
    """Return the alignment, or one with the text only; ``None`` (and a failure) if it cannot be read."""
    try:
        alignment = recording.alignment()
    except (AlignmentError, AudioError, OSError) as error:
        failures.append((recording.id, str(error)))
        return None
    if alignment is not None:
        return alignment
    # for a longer recording it is enough to know that it is longer
    seconds = first.length / clock.sample_rate if first.last else 2 * clock.duration
    return Alignment(recording.id, recording.speaker, recording.text, seconds)


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
