"""A folder of activations, opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from hooked_whisper._support.storage import AnyPath, Place, as_path
from hooked_whisper.corpora import Recording, Split, split_by_speaker
from hooked_whisper.errors import ArgumentError, CheckpointError, UnknownHookError, closest
from hooked_whisper.model import canonical_name
from sae_lens_audio.activations.manifest import Manifest, RecordingEntry, damage, read_manifest
from sae_lens_audio.activations.options import CollectOptions
from sae_lens_audio.activations.shards import RECORDING, Shard
from sae_lens_audio.activations.sources import ActivationChunk, selected_recordings
from sae_lens_audio.activations.statistics import Statistics, merged


def open_store(folder: Place, verify: bool = True) -> ActivationStore:
    """Open a finished store in a folder or at a URL (whose shards are copied to this machine on first access).

    Args:
        verify: compare the SHA-256 of every shard with the manifest. ``False`` compares sizes only.

    Raises:
        CheckpointError: there is no store, it is not complete, or shards are missing, truncated or damaged; the message
            names the file and the fix.
    """
    folder = as_path(folder)
    manifest = read_manifest(folder)
    if not manifest.complete:
        raise CheckpointError(
            f"{folder} is not complete: collecting stopped at recording {manifest.cursor[0]} of "
            f"{manifest.header['corpus_recordings']}; collect into it again with the same model, corpus and options "
            "to resume"
        )
    problems = [problem for entry in manifest.shards if (problem := damage(folder, entry, verify))]
    if problems:
        more = f" ({len(problems)} of {len(manifest.shards)} shards have problems)" if len(problems) > 1 else ""
        raise CheckpointError(problems[0] + more)
    return ActivationStore(folder, manifest)


class ActivationStore:
    """Activations on the disk, memory-mapped.

    Attributes:
        hooks, widths: canonical names of the hook points, and the width of their rows.
        rows: number of rows.
        unit: ``"position"`` or ``"token"``: what a row is.
        recordings: of the corpus, in order, including those without rows.
        failures: recordings that could not be read, with the reason.
        deviation: with ``window="sound"``, the difference to rows of full windows, see
            :func:`~sae_lens_audio.activations.deviation.measure_deviation`; else ``None``.
        header: model, weights, corpus and options of the store.
    """

    def __init__(self, folder: AnyPath, manifest: Manifest) -> None:
        self.folder, self._manifest = folder, manifest
        self.header: Mapping[str, Any] = manifest.header
        self.hooks: tuple[str, ...] = tuple(hook["name"] for hook in manifest.header["hooks"])
        self.widths: tuple[int, ...] = tuple(hook["width"] for hook in manifest.header["hooks"])
        self.unit: str = manifest.header["unit"]
        self.recordings: Sequence[RecordingEntry] = tuple(manifest.recordings)
        self.failures: Sequence[Mapping[str, Any]] = tuple(manifest.failures)
        self.deviation: Mapping[str, Any] | None = manifest.deviation
        self.rows = sum(entry.rows for entry in manifest.shards)

    @property
    def n_shards(self) -> int:
        return len(self._manifest.shards)

    @property
    def bytes(self) -> int:
        """Size of all shards on the disk."""
        return sum(entry.bytes for entry in self._manifest.shards)

    @property
    def ids(self) -> Sequence[str]:
        return [recording.id for recording in self.recordings]

    @property
    def seconds(self) -> float:
        """Seconds of sound that the rows are from."""
        return sum(recording.seconds for recording in self.recordings)

    @property
    def digest(self) -> str:
        """SHA-256 that identifies the rows, from the manifest's digests."""
        return self._manifest.digest

    @property
    def options(self) -> CollectOptions:
        return CollectOptions(**self.header["options"])

    @cached_property
    def statistics(self) -> dict[str, Statistics]:
        """Count, mean, variance and norms of the stored rows, by hook point."""
        shards = [self.shard(number) for number in range(self.n_shards)]
        return {hook: merged([shard.statistics(hook) for shard in shards]) for hook in self.hooks}

    def shard(self, number: int) -> Shard:
        """
        Raises:
            ArgumentError: there is no shard of this number.
        """
        if not 0 <= number < self.n_shards:
            raise ArgumentError(f"{self.folder} has {self.n_shards} shards, there is no {number}")
        return shard_of(self.folder, self._manifest, number)

    def hook_names(self, hooks: str | Sequence[str]) -> tuple[str, ...]:
        """Return canonical names of hook points of the store; published names are accepted.

        Raises:
            UnknownHookError: the store does not have a hook point.
        """
        names = tuple(map(canonical_name, [hooks] if isinstance(hooks, str) else hooks))
        for name in names:
            if name not in self.hooks:
                near = closest(name, self.hooks)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise UnknownHookError(f"{self.folder} has activations of {', '.join(self.hooks)}, not {name}{hint}")
        if not names:
            raise UnknownHookError(f"no hook point is given: {self.folder} has {', '.join(self.hooks)}")
        return names

    def width(self, hook: str) -> int:
        return self.widths[self.hooks.index(self.hook_names(hook)[0])]

    def split_by_speaker(self, share: float | int = 0.5, seed: int = 0) -> Split:
        """Split the recordings that have rows into two parts without a common speaker, as indices.

        See :func:`hooked_whisper.corpora.split_by_speaker` for ``share`` and the errors.
        """
        indices = np.array([k for k, entry in enumerate(self.recordings) if entry.rows], dtype=int)
        recordings = [Recording(self.recordings[k].id, None, speaker=self.recordings[k].speaker) for k in indices]
        train, test = split_by_speaker(recordings, share, seed)
        return Split(indices[train], indices[test])

    def read(
        self,
        hooks: str | Sequence[str],
        recordings: Sequence[int] | Int[np.ndarray, "selected"] | None = None,
        most: int | None = None,
        seed: int = 0,
    ) -> ActivationChunk:
        """Read rows into memory, in float32, sorted by recording and position.

        Args:
            hooks: one name or several, in the order of the result.
            recordings: indices in the corpus; all if ``None``.
            most: maximum number of rows, drawn uniformly.

        Raises:
            UnknownHookError: the store does not have a hook point.
            ArgumentError: recordings that are not in the corpus, or ``most`` below 1.
        """
        names = self.hook_names(hooks)
        indices = self._indices_of(recordings)
        counts = [len(rows) for rows in indices]
        total = sum(counts)
        if most is not None and most < 1:
            raise ArgumentError(f"most must be at least 1, got {most}")
        if most is not None and most < total:
            drawn = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
            ends = np.cumsum(counts)
            parts = np.split(drawn, np.searchsorted(drawn, ends[:-1]))
            indices = [rows[part - end + n] for rows, part, end, n in zip(indices, parts, ends, counts, strict=True)]
        chunks = [self.shard(number).chunk(names).select(rows) for number, rows in enumerate(indices) if len(rows)]
        recording = torch.cat([chunk.recording for chunk in chunks] or [torch.empty(0, dtype=torch.int32)])
        position = torch.cat([chunk.position for chunk in chunks] or [torch.empty(0, dtype=torch.int32)])
        order = torch.from_numpy(np.lexsort((position.numpy(), recording.numpy())))
        rows = tuple(
            torch.cat([chunk.rows[k] for chunk in chunks] or [torch.empty(0, self.width(name))])[order].float()
            for k, name in enumerate(names)
        )
        return ActivationChunk(rows, recording[order], position[order])

    def _indices_of(
        self, recordings: Sequence[int] | Int[np.ndarray, "selected"] | None
    ) -> list[Int[np.ndarray, "row"]]:
        """Return the rows of each shard that belong to the recordings."""
        entries = self._manifest.shards
        if recordings is None:
            return [np.arange(entry.rows) for entry in entries]
        selected = selected_recordings(recordings, len(self.recordings))
        indices = []
        for number, entry in enumerate(entries):
            # shards follow the order of the corpus: skip those outside the selection
            if not ((entry.start[0] <= selected) & (selected <= entry.end[0])).any():
                indices.append(np.arange(0))
                continue
            indices.append(np.flatnonzero(np.isin(self.shard(number).tensor(RECORDING).numpy(), selected)))
        return indices

    def __repr__(self) -> str:
        return f"ActivationStore({str(self.folder)!r}, {self.rows} rows of {', '.join(self.hooks)})"


def shard_of(folder: AnyPath, manifest: Manifest, number: int) -> Shard:
    entry, header = manifest.shards[number], manifest.header
    widths = {hook["name"]: hook["width"] for hook in header["hooks"]}
    dtype: torch.dtype = CollectOptions(**header["options"]).torch_dtype
    return Shard(folder / entry.file, entry.rows, widths, dtype)
