"""The second look at a corpus: only at recordings that an example is from, for its sound, mel and activations."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.audio import TimeMap
from hooked_whisper.corpora import Failure, Loader, Recording, windows_of
from hooked_whisper.errors import AlignmentError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import Alignment
from hooked_whisper.report.units.data import Clip, Example, Group
from hooked_whisper.report.units.excerpts import Excerpt, captions, excerpt_round
from hooked_whisper.report.units.site import SiteWriter

log = logging.getLogger(__name__)
_AROUND = 16  # mel frames on either side of a peak


@dataclass(frozen=True, slots=True)
class Wanted:
    """An example to show: unit number ``unit`` of those that get pages at a position of a recording."""

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
    """What the pages need beside the scan: examples by unit, and the mean log-mel round the strongest of them."""

    examples: Mapping[int, list[Example]]
    mean_mels: Mapping[int, Float[np.ndarray, "mel frame"]]


def gather(
    model: HookedWhisper,
    corpus: Sequence[Recording],
    hook: str,
    features: Callable[[Tensor], Tensor],
    wanted: Iterable[Wanted],
    writer: SiteWriter,
    track: Callable[[Iterable[int]], Iterable[int]],
) -> Gathered:
    """Write every clip that an example needs, recording by recording, and cut out the activations over it.

    features: ``[position, ...] of the hook -> [position, unit]``, the units that get pages.
    """
    by_recording: dict[int, list[Wanted]] = defaultdict(list)
    for one in wanted:
        by_recording[one.recording].append(one)
    order = sorted(by_recording)
    examples: dict[int, list[Example]] = defaultdict(list)
    sums: dict[int, tuple[np.ndarray, int]] = {}
    for item, _ in zip(Loader([corpus[i] for i in order]), track(order), strict=False):
        if isinstance(item, Failure):
            log.warning("%s could be scanned and cannot be read now: %s", item.path or item.id, item.reason)
            continue
        here = by_recording[order[item.index]]
        for excerpt, clip, acts, mel, some in _excerpts(model, item.recording, item.samples, hook, features, here):
            writer.add_clip(clip)
            for one in some:
                peak = one.position - excerpt.first
                trace = acts[:, one.unit].copy()
                examples[one.unit].append(
                    Example(
                        clip.id, trace, peak, one.group, rank=one.rank, bin_min=one.low, bin_max=one.high,
                        bin_contains=one.share,
                    )
                )  # fmt: skip
                patch = _patch(mel, 2 * peak)
                if one.group == "top" and patch is not None:
                    total, n = sums.get(one.unit, (np.zeros_like(patch), 0))
                    sums[one.unit] = (total + patch, n + 1)
    return Gathered(examples, {unit: (total / n).astype(np.float32) for unit, (total, n) in sums.items()})


@torch.no_grad()
def _excerpts(
    model: HookedWhisper,
    recording: Recording,
    samples: Float[Tensor, "sample"],
    hook: str,
    features: Callable[[Tensor], Tensor],
    wanted: Sequence[Wanted],
) -> Iterator[tuple[Excerpt, Clip, np.ndarray, np.ndarray, list[Wanted]]]:
    """Excerpts of one recording with their clips, activations ``[position, unit]``, mels, and the examples in them."""
    clock = model.time
    windows = windows_of(samples, clock.n_samples)
    filled = [clock.n_positions(int(n) / clock.sample_rate) for n in windows.lengths]
    total = (len(filled) - 1) * clock.n_ctx + filled[-1]
    alignment = _alignment(recording)
    shown: dict[Excerpt, list[Wanted]] = defaultdict(list)
    for one in wanted:
        shown[excerpt_round(one.recording, one.position, total, clock)].append(one)
    needed = sorted({e.first // clock.n_ctx for e in shown})
    for number in needed:
        mel = model.to_mel(windows.samples[number])
        _, cache = model.run_with_cache(mel, names=hook, return_type=None)
        acts = features(cache[hook][0, : filled[number]]).float().cpu().numpy()
        spectrum = mel[0].float().cpu().numpy()
        for excerpt, some in shown.items():
            if excerpt.first // clock.n_ctx != number:
                continue
            at = slice(excerpt.first - number * clock.n_ctx, excerpt.stop - number * clock.n_ctx)
            begin, end = (i * clock.samples_per_position for i in (excerpt.first, excerpt.stop))
            sound = samples[begin:end].float().cpu().numpy()
            frames = -(-len(sound) // clock.hop)
            part = spectrum[:, clock.stride * at.start : clock.stride * at.start + frames]
            yield excerpt, _clip(recording, alignment, excerpt, sound, part, clock), acts[at], part, some


def _clip(
    recording: Recording,
    alignment: Alignment | None,
    excerpt: Excerpt,
    sound: Float[np.ndarray, "sample"],
    mel: Float[np.ndarray, "mel frame"],
    clock: TimeMap,
) -> Clip:
    start = excerpt.first * clock.samples_per_position / clock.sample_rate
    end = start + len(sound) / clock.sample_rate
    words, phones = ((), ()) if alignment is None else captions(alignment, start, end)
    said = " ".join(word.label for word in words) or recording.text
    return Clip(f"{recording.id}@{start:g}", sound, mel, start, recording.id, recording.speaker, said, words, phones)


def _alignment(recording: Recording) -> Alignment | None:
    try:
        return recording.alignment()
    except AlignmentError as error:
        log.warning("%s: no captions, %s", recording.id, error)
        return None


def _patch(mel: Float[np.ndarray, "mel frame"], frame: int) -> Float[np.ndarray, "mel around"] | None:
    """Mel frames round a peak; nothing where the excerpt does not reach."""
    first = frame - _AROUND
    return mel[:, first : frame + _AROUND + 1] if first >= 0 and frame + _AROUND < mel.shape[1] else None


PEAK_FRAME = _AROUND
