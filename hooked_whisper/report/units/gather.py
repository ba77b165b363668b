"""The second pass over a corpus: sound, mel and activations of the windows that contain an example."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.activations import ActivationStream
from hooked_whisper.audio import TimeMap
from hooked_whisper.corpora import Clip, Cursor, Failure, Recording, Window
from hooked_whisper.corpora.windows import Part
from hooked_whisper.errors import AlignmentError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import Alignment
from hooked_whisper.report.units.data import Group, PageClip, UnitExample
from hooked_whisper.report.units.excerpts import Excerpt, captions, excerpt_round
from hooked_whisper.report.units.site import SiteWriter

log = logging.getLogger(__name__)
_AROUND = 16  # mel frames on either side of a peak


@dataclass(frozen=True, slots=True)
class Wanted:
    """An example to show: a position of a recording.

    ``unit`` counts the units that get a page; the other attributes are those of
    :class:`~hooked_whisper.report.units.data.UnitExample`.
    """

    unit: int
    recording: int
    position: int
    group: Group
    rank: int
    low: float | None = None
    high: float | None = None
    share: float | None = None


@dataclass(frozen=True, eq=False)
class Gathered:
    """What the pages need beside the scan: examples by unit, and the mean log-mel around the strongest ones."""

    examples: Mapping[int, list[UnitExample]]
    mean_mels: Mapping[int, Float[np.ndarray, "mel frame"]]


@torch.no_grad()
def gather(
    model: HookedWhisper,
    corpus: Sequence[Recording],
    hook: str,
    features: Callable[[Tensor], Tensor],
    wanted: Iterable[Wanted],
    writer: SiteWriter,
    track: Callable[[Iterable[Cursor]], Iterable[Cursor]],
) -> Gathered:
    """Write every clip that an example needs, and cut out the activations over it.

    features: maps activations ``[position, ...]`` at the hook point to ``[position, unit]``, the units that get pages.
    """
    by_window: dict[Cursor, list[Wanted]] = defaultdict(list)
    n_ctx = model.time.n_ctx
    for example in wanted:
        by_window[example.recording, example.position // n_ctx].append(example)
    order = sorted({recording for recording, _ in by_window})
    examples: dict[int, list[UnitExample]] = defaultdict(list)
    sums: dict[int, tuple[np.ndarray, int]] = {}

    def needed(window: Window) -> bool:
        return (order[window.recording], window.number) in by_window

    def failed(failure: Failure) -> None:
        log.warning("%s was scanned and cannot be read now: %s", failure.path or failure.id, failure.reason)

    # one window at a time: the last digit may depend on the batch
    stream = ActivationStream(model, hook, batch=1)
    batches = stream.batches(Part(corpus, order), failed=failed, select=needed)
    alignments = _Alignments(corpus)
    for batch, _ in zip(batches, track(sorted(by_window)), strict=False):
        window = batch.windows[0]
        recording = order[window.recording]
        activations = features(batch.rows[stream.hooks[0]]).float().cpu().numpy()
        spectrum = batch.mel[0].float().cpu().numpy()
        shown: dict[Excerpt, list[Wanted]] = defaultdict(list)
        stop = window.number * n_ctx + len(activations)
        for example in by_window[recording, window.number]:
            shown[excerpt_round(recording, example.position, stop, model.time)].append(example)
        for excerpt, inside in shown.items():
            part = slice(excerpt.first - window.number * n_ctx, excerpt.stop - window.number * n_ctx)
            clip, mel = _clip(corpus[recording], alignments.of(recording), excerpt, part, window, spectrum, model.time)
            writer.add_clip(clip)
            for example in inside:
                peak = example.position - excerpt.first
                trace = activations[part, example.unit].copy()
                examples[example.unit].append(
                    UnitExample(
                        clip.id, trace, peak, example.group, rank=example.rank, bin_min=example.low,
                        bin_max=example.high, bin_contains=example.share,
                    )
                )  # fmt: skip
                patch = _patch(mel, 2 * peak)
                if example.group == "top" and patch is not None:
                    total, n = sums.get(example.unit, (np.zeros_like(patch), 0))
                    sums[example.unit] = (total + patch, n + 1)
    return Gathered(examples, {unit: (total / n).astype(np.float32) for unit, (total, n) in sums.items()})


def _clip(
    recording: Recording,
    alignment: Alignment | None,
    excerpt: Excerpt,
    part: slice,
    window: Window,
    spectrum: Float[np.ndarray, "mel frame"],
    time: TimeMap,
) -> tuple[PageClip, Float[np.ndarray, "mel excerpt_frame"]]:
    """The clip of an excerpt, which is the ``part`` of a window's positions, and its log-mel."""
    begin, end = (position * time.samples_per_position for position in (part.start, part.stop))
    samples = window.samples[: window.length][begin:end].float().cpu().numpy()
    n_frames = -(-len(samples) // time.hop)
    mel = spectrum[:, time.stride * part.start : time.stride * part.start + n_frames]
    start_s = excerpt.first * time.samples_per_position / time.sample_rate
    words, phones = (
        ((), ()) if alignment is None else captions(alignment, start_s, start_s + len(samples) / time.sample_rate)
    )
    text = " ".join(word.label for word in words) or recording.text
    return PageClip(f"{recording.id}@{start_s:g}", Clip(recording, samples, start_s), mel, text, words, phones), mel


class _Alignments:
    """Alignments of a corpus's recordings; the last one read is kept for the recording's other windows."""

    def __init__(self, corpus: Sequence[Recording]) -> None:
        self._corpus = corpus
        self._last: tuple[int, Alignment | None] = (-1, None)

    def of(self, index: int) -> Alignment | None:
        """The alignment of a recording; ``None`` if it has none, or a broken one (a warning is logged)."""
        if self._last[0] != index:
            recording = self._corpus[index]
            try:
                self._last = (index, recording.alignment())
            except AlignmentError as error:
                log.warning("%s: no captions, %s", recording.id, error)
                self._last = (index, None)
        return self._last[1]


def _patch(mel: Float[np.ndarray, "mel frame"], frame: int) -> Float[np.ndarray, "mel around"] | None:
    """Mel frames around a peak; ``None`` if the excerpt is too short."""
    first = frame - _AROUND
    return mel[:, first : frame + _AROUND + 1] if first >= 0 and frame + _AROUND < mel.shape[1] else None


PEAK_FRAME = _AROUND
