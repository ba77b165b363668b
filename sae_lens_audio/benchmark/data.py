"""Activations of labeled speech that the benchmark scores on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper.corpora import Clip
from hooked_whisper.errors import ArgumentError, closest
from hooked_whisper.features.baselines import shifted_labels
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.phones.labeled_rows import Track, collect_rows
from hooked_whisper.features.phones.position_labels import label_names, label_positions
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import SILENCE

MIN_TOKENS = 20  # of a phone; silence has no minimum
FOLDS = 4
UNLABELED = -1


@dataclass(frozen=True, eq=False)
class BenchmarkData:
    """Activations at every position of the clips, with phones and speakers.

    Attributes:
        model: its name.
        hook: the hook point of the SAEs.
        rows: activations by hook point: ``hook``, the point that transcoders predict, and the neurons of the block.
        fitted: activations at the same points of speech that is not scored, for means and principal directions.
        phones: names of the judged phones: said ``MIN_TOKENS`` times or more, without silence.
        phone: index into ``phones`` of each row, or -1.
        silent: whether a row lies in silence.
        speaker, clip: index of the speaker and of the clip of each row.
        fold: speakers are split into folds; what is fitted on the other folds is tested on one.
        speakers: names.
        token: number of the phone's interval in its clip, which separates two instances of a phone.
    """

    model: str
    hook: str
    rows: Mapping[str, Float[Tensor, "row _"]]
    fitted: Mapping[str, Float[Tensor, "fitted _"]]
    phones: tuple[str, ...]
    phone: Int[np.ndarray, "row"]
    silent: Bool[np.ndarray, "row"]
    speaker: Int[np.ndarray, "row"]
    clip: Int[np.ndarray, "row"]
    fold: Int[np.ndarray, "row"]
    token: Int[np.ndarray, "row"]
    speakers: tuple[str, ...]

    @property
    def n_rows(self) -> int:
        return len(self.phone)

    @property
    def n_folds(self) -> int:
        return int(self.fold.max()) + 1

    @cached_property
    def labeled(self) -> Bool[np.ndarray, "row"]:
        """Rows within a judged phone."""
        return self.phone != UNLABELED

    def at(self, hook: str) -> Float[Tensor, "row d"]:
        """Return the activations at a hook point.

        Raises:
            ArgumentError: they were not collected.
        """
        if hook not in self.rows:
            near = closest(hook, self.rows)
            raise ArgumentError(f"no activations at {hook!r}: there are {', '.join(near or self.rows)}")
        return self.rows[hook]

    def with_shifted_labels(self, seed: int = 0) -> BenchmarkData:
        """Return the same rows with the phones of each clip rotated by a random number of positions, as a control."""
        starts = np.flatnonzero(np.diff(self.clip, prepend=-1))
        labels = np.where(self.silent, len(self.phones), self.phone)
        parts = np.split(labels, starts[1:])
        turned = np.concatenate(shifted_labels(parts, np.random.default_rng(seed)))
        silent = turned == len(self.phones)
        return replace(self, phone=np.where(silent, UNLABELED, turned), silent=silent)


def benchmark_data(
    model: HookedWhisper,
    clips: Sequence[Clip],
    hooks: Sequence[str],
    fitted: Mapping[str, Float[Tensor, "fitted _"]],
    *,
    folds: int = FOLDS,
    min_tokens: int = MIN_TOKENS,
    seed: int = 0,
    track: Track | None = None,
    room: float | None = None,
) -> BenchmarkData:
    """Encode the clips once and return their labeled activations.

    Args:
        clips: with phones, of at least two speakers that nothing was trained on.
        hooks: the hook point of the SAEs first, then further encoder points.
        fitted: activations at the same points of other speech.
        room: fill this many seconds of a window with clips of one speaker, which is faster and changes activations
            slightly.

    Raises:
        ArgumentError: fewer than two speakers, or no phone occurs often enough.
        CacheSizeError, PatchError: as of :func:`~hooked_whisper.features.phones.labeled_rows.collect_rows`.
    """
    names = label_names([clip.alignment for clip in clips])
    speakers = tuple(sorted({_speaker(clip, i) for i, clip in enumerate(clips)}))
    if len(speakers) < 2:
        raise ArgumentError(
            f"{len(clips)} clips are of {len(speakers)} speaker ({', '.join(speakers) or 'none'}), but probes are "
            "tested on speakers that they were not fitted on: give clips of two or more speakers (--speaker-folders if "
            "each has a folder)"
        )
    points = [name for hook in dict.fromkeys(hooks) for name in model.hook_names(hook)]
    with torch.no_grad(), collect_rows(model, clips, points, track=track, room=room) as collected:
        parts = [[collected.features(HookBasis(point), i) for i in range(len(clips))] for point in points]
        lengths = np.diff(collected.starts)
    labels = [
        label_positions(clip.alignment, int(n), names, model.time, clip.offset)
        for clip, n in zip(clips, lengths, strict=True)
    ]
    tokens = np.sum([label.tokens() for label in labels], axis=0)
    judged = [i for i, name in enumerate(names) if name != SILENCE and tokens[i] >= min_tokens]
    if len(judged) < 2:
        raise ArgumentError(
            f"{len(judged)} phones are said {min_tokens} times or more in {len(clips)} clips, but 2 are needed: give "
            "more clips, or a smaller min_tokens"
        )
    number = np.full(len(names) + 1, UNLABELED)  # the last entry is for positions without a label
    number[judged] = np.arange(len(judged))
    ids = np.concatenate([label.ids for label in labels])
    silence = names.index(SILENCE) if SILENCE in names else len(names)
    of_clip = np.array([speakers.index(_speaker(clip, i)) for i, clip in enumerate(clips)])
    order = np.random.default_rng(seed).permutation(len(speakers))
    fold_of_speaker = np.empty(len(speakers), dtype=np.int64)
    fold_of_speaker[order] = np.arange(len(speakers)) % min(folds, len(speakers))
    speaker = np.repeat(of_clip, lengths)
    return BenchmarkData(
        model=model.cfg.name,
        hook=points[0],
        rows={point: torch.cat(rows).float() for point, rows in zip(points, parts, strict=True)},
        fitted={point: fitted[point] for point in points if point in fitted},
        phones=tuple(names[i] for i in judged),
        phone=number[ids],
        silent=ids == silence,
        speaker=speaker,
        clip=np.repeat(np.arange(len(clips)), lengths),
        fold=fold_of_speaker[speaker],
        token=np.concatenate([label.instance for label in labels]),
        speakers=speakers,
    )


def _speaker(clip: Clip, i: int) -> str:
    return clip.speaker or clip.alignment.speaker or f"#{i}"
