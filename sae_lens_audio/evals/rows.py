"""Clips and their activations for an evaluation: recordings to labelled clips, clips to rows."""

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

LEAST_S = 0.1  # a window with less sound than this is left out


class Clips(NamedTuple):
    """Clips, and what was passed over: name and reason."""

    clips: list[Clip]
    failures: list[tuple[str, str]]


def labelled_clips(model: HookedWhisper, corpus: Sequence[Recording], most: int) -> Clips:
    """The first clips of a corpus: whole recordings, or windows of those that are longer than the model's.

    A recording that nobody aligned counts as one with its text and without phones. What cannot be read is passed over.
    """
    clock = model.time
    clips: list[Clip] = []
    failures: list[tuple[str, str]] = []
    known: tuple[int, Alignment | None] = (-1, None)
    for window in windows_from(corpus, clock.n_samples, failed=lambda one: failures.append((one.id, one.reason))):
        recording = corpus[window.recording]
        if known[0] != window.recording:
            known = (window.recording, _alignment(recording, window, clock, failures))
        alignment = known[1]
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
    """Broken ones are told of; without one, the text alone."""
    try:
        found = recording.alignment()
    except (AlignmentError, AudioError, OSError) as error:
        failures.append((recording.id, str(error)))
        return None
    if found is not None:
        return found
    # of a longer recording only that it is longer need be known
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
    """Activations without padding (at points with tokens: of the text alone) of every hook point, by canonical name;
    rows of all points are in the same order. At most about ``most``, drawn evenly, by the same draw for all.

    Raises:
        ShapeError: there is no row.
        HookedWhisperError: points without vectors, of tokens and of positions both, or NaN there.
    """
    options = CollectOptions(dtype="float32", language=language)
    reader = RowReader(model, list(hooks), options)
    corpus = [Recording(str(i), c.samples, speaker=c.speaker, text=c.alignment.text) for i, c in enumerate(clips)]
    share = row_share(model, clips, most) if reader.unit == "position" else 1.0
    rng, parts = np.random.default_rng(seed), []
    for batch in reader.batches(corpus, failed=lambda failure: None):
        chosen = torch.from_numpy(rng.random(len(batch.block.position)) < share)
        parts.append([x[chosen] for x in batch.block.rows])
    if not parts or not len(parts[0][0]):
        raise ShapeError(f"{len(clips)} clips have no row at {', '.join(reader.hooks)}: give longer ones, with texts")
    return {hook: torch.cat([part[k] for part in parts]) for k, hook in enumerate(reader.hooks)}


def row_share(model: HookedWhisper, clips: Iterable[Clip], most: int) -> float:
    """Share of the clips' positions that makes about so many rows."""
    clock = model.time
    total = sum(clock.n_positions(min(len(c.samples) / clock.sample_rate, clock.duration)) for c in clips)
    return min(1.0, most / max(total, 1))
