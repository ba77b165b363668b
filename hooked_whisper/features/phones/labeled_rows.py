"""Activations of labeled clips, from one encoder pass, and counts of them by blocks of features.

Counts of every feature, bin and label of a large model take tens of GiB. Here the activations are stored instead, in
memory or in temporary files, and a few hundred features are counted at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.activations import ActivationStream, row_width
from hooked_whisper.corpora import Clip, Recording
from hooked_whisper.corpora.packing import clip_starts, join_samples, window_groups
from hooked_whisper.errors import AudioError, PatchError
from hooked_whisper.features.baselines import MelBands, mel_bands
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.phones.counts import FeatureCounts
from hooked_whisper.features.phones.row_labels import CountOptions, RowLabels
from hooked_whisper.features.spool import MEMORY, Spool, check_disk, matrix_bytes
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import HookPoint

BATCH = 8  # largest number of clips encoded together
MEL = "encoder.hook_mel"
_ENCODING_BYTES = 512 << 20  # of the activations of a batch within one encoder block
Track = Callable[[Sequence[list[int]]], Iterable[list[int]]]


class LabeledRows:
    """Activations of some hook points at every position of the clips, without padding.

    Use it in a ``with`` statement, or close it. For ``encoder.hook_mel`` it holds the bands of the log-mel, read with
    ``HookBasis(MEL, mel_bands(model))``.

    Attributes:
        clips: in the order of the rows.
        starts: ``[clip + 1]``: clip i has the rows ``starts[i]`` to ``starts[i + 1]``.
    """

    def __init__(self, model: HookedWhisper, clips: Sequence[Clip], memory: int, folder: Path | None) -> None:
        self.model, self.clips = model, tuple(clips)
        lengths = [_n_positions(model, clip) for clip in clips]
        self.starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._memory, self._folder = memory, folder
        self._spools: dict[str, Spool] = {}

    def __enter__(self) -> LabeledRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free memory and disk."""
        for spool in self._spools.values():
            spool.close()

    @property
    def n_rows(self) -> int:
        return int(self.starts[-1])

    def labels(self, options: CountOptions, clips: Sequence[int] | None = None) -> RowLabels:
        """Label the positions of some clips (default: all)."""
        indices = range(len(self.clips)) if clips is None else clips
        return RowLabels.of(self.clips, self.starts, indices, self.model.time, options)

    def features(self, basis: HookBasis, clip: int) -> Float[Tensor, "position feature"]:
        """Features of one clip, on the CPU."""
        rows = self._raw(basis).rows(int(self.starts[clip]), int(self.starts[clip + 1]))
        return rows if basis.basis is None or isinstance(basis.basis, MelBands) else self._encoded(basis, rows)

    def sample(self, hook: str, share: float, seed: int = 0) -> Float[Tensor, "row d"]:
        """A share of the activations at a hook point, drawn at random: the same rows at every point for one seed."""
        rng, spool = np.random.default_rng(seed), self._raw(HookBasis(hook))
        parts = []
        for start, stop in zip(self.starts[:-1], self.starts[1:], strict=True):
            drawn = torch.from_numpy(rng.random(int(stop - start)) < share)
            parts.append(spool.rows(int(start), int(stop))[drawn])
        return torch.cat(parts).to(self.model.dtype)

    def blocks(self, basis: HookBasis, labels: RowLabels) -> Iterator[FeatureCounts]:
        """Count the features of a basis, one block of features after another.

        Raises:
            PatchError: the hook point was not collected, or an activation is NaN.
            CacheSizeError: there is not enough disk for the features of the basis.
        """
        spool, stored = self._spool_of(basis, labels), basis.basis is None or isinstance(basis.basis, MelBands)
        index = torch.from_numpy(labels.rows)
        try:
            for block in labels.blocks(spool.n_features):
                values = spool.columns(block)
                yield labels.count(values[index] if stored and not labels.every else values, block.start)
        finally:
            if not stored:
                spool.close()

    def counts(self, basis: HookBasis, labels: RowLabels) -> FeatureCounts:
        """Count all features of a basis at once, for bases with few features."""
        (counts,) = self.blocks(basis, replace(labels, size=max(1, self.width(basis))))
        return counts

    def _spool_of(self, basis: HookBasis, labels: RowLabels) -> Spool:
        """The activations, or the features of a basis in the labeled clips."""
        raw = self._raw(basis)
        if basis.basis is None or isinstance(basis.basis, MelBands):
            return raw
        spool: Spool | None = None
        for start, clip in zip(labels.starts, labels.clips, strict=False):
            features = self._encoded(basis, raw.rows(int(self.starts[clip]), int(self.starts[clip + 1])))
            if spool is None:
                spool = self._new_spool(len(labels.ids), features.shape[1], f"features at {basis.hook}")
            spool.write(int(start), features)
        assert spool is not None
        return spool

    def _encoded(self, basis: HookBasis, rows: Tensor) -> Float[Tensor, "position feature"]:
        assert basis.basis is not None
        return basis.basis.encode(rows.contiguous().to(device=self.model.device, dtype=self.model.dtype)).cpu()

    def _new_spool(self, n_rows: int, n_features: int, content: str) -> Spool:
        in_memory = sum(matrix_bytes(s.n_rows, s.n_features) for s in self._spools.values() if not s.on_disk)
        need = matrix_bytes(n_rows, n_features)
        on_disk = in_memory + need > self._memory
        if on_disk:
            check_disk(need, content, self._folder)
        return Spool(n_rows, n_features, on_disk=on_disk, folder=self._folder)

    def _raw(self, basis: HookBasis) -> Spool:
        hook = self.model.hook_names(basis.hook)[0]
        if (hook == MEL) != isinstance(basis.basis, MelBands):
            raise PatchError(
                f"{basis.hook} has no vector per position: use a point such as mlp.hook_post or a residual; mel bands "
                f"are read at {MEL}"
            )
        if hook not in self._spools:
            raise PatchError(
                f"{hook} was not collected, only {', '.join(self._spools)}: add it to hooks= of collect_rows"
            )
        return self._spools[hook]

    def width(self, basis: HookBasis) -> int:
        """Number of features of a basis."""
        if basis.basis is None or isinstance(basis.basis, MelBands):
            return self._raw(basis).n_features
        return basis.basis.n_features

    @torch.no_grad()
    def _collect(self, hooks: Sequence[str], track: Track | None, widest: int, room: float | None) -> None:
        model, size = self.model, _clips_at_once(self.model)
        points = [model.hook_dict[name] for name in model.hook_names(list(hooks))]
        self._make_spools(points, widest)
        per_position, rate = model.time.samples_per_position, model.time.sample_rate
        groups = [[i] for i in range(len(self.clips))] if room is None else window_groups(self.clips, room)
        starts = [clip_starts([self.clips[i] for i in group], multiple=per_position) for group in groups]
        sizes = [
            model.time.n_positions((first[-1] + len(self.clips[group[-1]].samples)) / rate)
            for group, first in zip(groups, starts, strict=True)
        ]
        batches = [list(range(first, min(first + size, len(groups)))) for first in range(0, len(groups), size)]
        n_read = 0  # windows

        def write(hook: str, rows: Tensor) -> None:
            for window, activations in enumerate(rows.split(sizes[n_read : n_read + size]), start=n_read):
                for clip, sample in zip(groups[window], starts[window], strict=True):
                    start, stop = int(self.starts[clip]), int(self.starts[clip + 1])
                    position = sample // per_position
                    self._spools[hook].write(start, activations[position : position + stop - start])

        stream = ActivationStream(model, [point.name for point in points if point.name != MEL], batch=size)
        activations = stream.batches([self._window(group) for group in groups], on_rows=write)
        with closing(activations):
            for _, batch in zip(batches if track is None else track(batches), activations, strict=True):
                if MEL in self._spools:
                    bands = mel_bands(model).encode(batch.mel)
                    write(MEL, torch.cat([x[:n] for x, n in zip(bands, batch.sizes, strict=True)]))
                n_read += len(batch.sizes)

    def _window(self, group: Sequence[int]) -> Recording:
        """Return a recording of the joined sound of clips, which each start at the start of a position."""
        clips = [self.clips[i] for i in group]
        per_position = self.model.time.samples_per_position
        return replace(clips[0].recording, source=lambda: join_samples(clips, multiple=per_position)[0])

    def _make_spools(self, points: Sequence[HookPoint], widest: int) -> None:
        widths = {point.name: _vector(self.model, point) for point in points}
        raw = sum(matrix_bytes(self.n_rows, width) for width in widths.values())
        projected = matrix_bytes(self.n_rows, max(widest, max(widths.values())) if widest else 0)
        on_disk = raw + projected > self._memory
        if on_disk:
            check_disk(
                raw + projected, f"activations of {len(points)} hook points, {self.n_rows} positions", self._folder
            )
        self._spools = {
            name: Spool(self.n_rows, width, on_disk=on_disk, folder=self._folder) for name, width in widths.items()
        }


def collect_rows(
    model: HookedWhisper,
    clips: Sequence[Clip],
    hooks: Sequence[str],
    *,
    track: Track | None = None,
    widest: int = 0,
    memory: int = MEMORY,
    folder: Path | None = None,
    room: float | None = None,
) -> LabeledRows:
    """Run every clip through the encoder once and store its activations at some hook points.

    Args:
        hooks: encoder points with a vector per position, and ``encoder.hook_mel`` for the bands of the mel.
        track: wraps the batches, for instance in a progress bar.
        widest: features of the widest basis that will be read, to estimate the disk; 0: none.
        memory: bytes of activations held in memory; more are written to temporary files.
        folder: for temporary files (default: the system's, ``TMPDIR``).
        room: fill this many seconds of a window with clips of one speaker, which is faster and changes activations
            slightly. Default: one window per clip.

    Raises:
        AudioError: a clip is longer than the window.
        CacheSizeError: there is not enough disk.
        PatchError: a hook point has no vector per position.
    """
    rows = LabeledRows(model, clips, memory, folder)
    try:
        rows._collect(hooks, track, widest, room)
    except BaseException:
        rows.close()
        raise
    return rows


def _clips_at_once(model: HookedWhisper) -> int:
    """Batch size that one encoder block's activations allow: 8 up to ``base``, 1 or 2 for ``large-v3``."""
    encoder = model.cfg.encoder
    per_clip = encoder.n_ctx * (3 * encoder.d_mlp + 8 * encoder.d_model) * 4
    return max(1, min(BATCH, _ENCODING_BYTES // per_clip))


def _vector(model: HookedWhisper, point: HookPoint) -> int:
    """Width of a point's rows."""
    if point.name == MEL:
        return model.cfg.encoder.n_mels
    if point.axes[:2] != ("batch", "position") or len(point.axes) != 3 or point.stack != "encoder":
        raise PatchError(f"{point.name} has no vector per position: use mlp.hook_post or a residual")
    return row_width(model, point.name)


def _n_positions(model: HookedWhisper, clip: Clip) -> int:
    seconds = len(clip.samples) / model.time.sample_rate
    if seconds > model.time.duration:
        raise AudioError(
            f"{clip.alignment.utterance} lasts {seconds:.1f} s, more than a window of {model.time.duration:g} s: "
            "cut it into clips, with offset="
        )
    return model.time.n_positions(seconds)
