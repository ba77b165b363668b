"""A folder of harvested activations, opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from hooked_whisper._support.storage import AnyPath, Place, as_path
from hooked_whisper.corpora import Recording, Split, split_by_speaker
from hooked_whisper.errors import CheckpointError, HookedWhisperError, UnknownHookError, closest
from hooked_whisper.model import canonical_name
from sae_lens_audio.activations.manifest import Manifest, RecordingEntry, damage, read_manifest
from sae_lens_audio.activations.options import CollectOptions
from sae_lens_audio.activations.shards import RECORDING, Shard
from sae_lens_audio.activations.sources import ActivationChunk, chosen_recordings
from sae_lens_audio.activations.statistics import Statistics, merged


def open_store(folder: Place, verify: bool = True) -> ActivationStore:
    """A finished store, in a folder or behind an URL (shards are then copied here when they are first read).

    Args:
        verify: read every shard once and compare its SHA-256 with the manifest's. ``False`` compares sizes only.

    Raises:
        CheckpointError: no store, one that is not complete, or shards that are missing, truncated or damaged. The
            message names the file and what to do.
    """
    folder = as_path(folder)
    manifest = read_manifest(folder)
    if not manifest.complete:
        raise CheckpointError(
            f"{folder} is not complete: collecting stopped at recording {manifest.cursor[0]} of "
            f"{manifest.header['corpus_recordings']}; collect into it again with the same model, corpus and options, "
            "and it goes on from there"
        )
    problems = [found for entry in manifest.shards if (found := damage(folder, entry, verify))]
    if problems:
        more = f" ({len(problems)} of {len(manifest.shards)} shards are so)" if len(problems) > 1 else ""
        raise CheckpointError(problems[0] + more)
    return ActivationStore(folder, manifest)


class ActivationStore:
    """Rows of activations on the disk, memory-mapped.

    Attributes:
        hooks: canonical names of the hook points; widths: entries of a row of each.
        rows: how many there are.
        unit: ``"position"`` or ``"token"``: what a row stands for.
        recordings: all of the corpus in its order, also those without rows.
        failures: recordings that were passed over, with the reason.
        deviation: with ``window="sound"``, how far rows are from those of whole windows, see
            :func:`~sae_lens_audio.activations.deviation.measure_deviation`; else ``None``.
        header: model, weights, corpus and options that it was made from.
    """

    def __init__(self, folder: AnyPath, manifest: Manifest) -> None:
        self.folder, self._manifest = folder, manifest
        self.header: Mapping[str, Any] = manifest.header
        self.hooks: tuple[str, ...] = tuple(one["name"] for one in manifest.header["hooks"])
        self.widths: tuple[int, ...] = tuple(one["width"] for one in manifest.header["hooks"])
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
        """Of all shards on the disk."""
        return sum(entry.bytes for entry in self._manifest.shards)

    @property
    def ids(self) -> Sequence[str]:
        return [one.id for one in self.recordings]

    @property
    def seconds(self) -> float:
        """Of sound that rows are from."""
        return sum(one.seconds for one in self.recordings)

    @property
    def digest(self) -> str:
        """SHA-256 that changes with any row: from the manifest's digests."""
        return self._manifest.digest

    @property
    def options(self) -> CollectOptions:
        return CollectOptions(**self.header["options"])

    @cached_property
    def statistics(self) -> dict[str, Statistics]:
        """Count, mean, variance and norms of each hook's rows, as they are stored."""
        shards = [self.shard(number) for number in range(self.n_shards)]
        return {hook: merged([shard.statistics(hook) for shard in shards]) for hook in self.hooks}

    def shard(self, number: int) -> Shard:
        """Raises ``HookedWhisperError`` if there is none of this number."""
        if not 0 <= number < self.n_shards:
            raise HookedWhisperError(f"{self.folder} has {self.n_shards} shards, there is no {number}")
        return shard_of(self.folder, self._manifest, number)

    def hook_names(self, hooks: str | Sequence[str]) -> tuple[str, ...]:
        """Canonical names of points that the store has; published names are understood.

        Raises:
            UnknownHookError: a point that was not collected.
        """
        found = tuple(map(canonical_name, [hooks] if isinstance(hooks, str) else hooks))
        for name in found:
            if name not in self.hooks:
                near = closest(name, self.hooks)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise UnknownHookError(f"{self.folder} has activations of {', '.join(self.hooks)}, not {name}{hint}")
        if not found:
            raise UnknownHookError(f"name a hook point at least: {self.folder} has {', '.join(self.hooks)}")
        return found

    def width(self, hook: str) -> int:
        return self.widths[self.hooks.index(self.hook_names(hook)[0])]

    def split_by_speaker(self, share: float | int = 0.5, seed: int = 0) -> Split:
        """Places of recordings in two parts without a common speaker, those that have rows alone.

        See :func:`hooked_whisper.corpora.split_by_speaker` for ``share`` and the errors.
        """
        there = np.array([k for k, one in enumerate(self.recordings) if one.rows], dtype=int)
        known = [Recording(self.recordings[k].id, None, speaker=self.recordings[k].speaker) for k in there]
        train, test = split_by_speaker(known, share, seed)
        return Split(there[train], there[test])

    def read(
        self,
        hooks: str | Sequence[str],
        recordings: Sequence[int] | Int[np.ndarray, "chosen"] | None = None,
        most: int | None = None,
        seed: int = 0,
    ) -> ActivationChunk:
        """Rows in memory, in float32, sorted by recording and position.

        Args:
            hooks: one name or several, whose rows come in this order.
            recordings: places in the corpus; all if ``None``.
            most: at most so many rows, each with the same chance to be among them.

        Raises:
            UnknownHookError: a point that was not collected.
            HookedWhisperError: recordings that are not in the corpus, or ``most`` below 1.
        """
        names = self.hook_names(hooks)
        places = self._rows_of(recordings)
        counts = [len(rows) for rows in places]
        total = sum(counts)
        if most is not None and most < 1:
            raise HookedWhisperError(f"read at least one row, not {most}")
        if most is not None and most < total:
            drawn = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
            ends = np.cumsum(counts)
            parts = np.split(drawn, np.searchsorted(drawn, ends[:-1]))
            places = [rows[part - end + n] for rows, part, end, n in zip(places, parts, ends, counts, strict=True)]
        found = [self.shard(number).chunk(names).taken(rows) for number, rows in enumerate(places) if len(rows)]
        recording = torch.cat([block.recording for block in found] or [torch.empty(0, dtype=torch.int32)])
        position = torch.cat([block.position for block in found] or [torch.empty(0, dtype=torch.int32)])
        order = torch.from_numpy(np.lexsort((position.numpy(), recording.numpy())))
        rows = tuple(
            torch.cat([block.rows[k] for block in found] or [torch.empty(0, self.width(name))])[order].float()
            for k, name in enumerate(names)
        )
        return ActivationChunk(rows, recording[order], position[order])

    def _rows_of(self, recordings: Sequence[int] | Int[np.ndarray, "chosen"] | None) -> list[Int[np.ndarray, "row"]]:
        """Rows of each shard that belong to some recordings, in the shard's order."""
        entries = self._manifest.shards
        if recordings is None:
            return [np.arange(entry.rows) for entry in entries]
        chosen = chosen_recordings(recordings, len(self.recordings))
        found = []
        for number, entry in enumerate(entries):
            # recordings lie in the order of the corpus: most shards have none of a few
            if not ((entry.start[0] <= chosen) & (chosen <= entry.end[0])).any():
                found.append(np.arange(0))
                continue
            found.append(np.flatnonzero(np.isin(self.shard(number).tensor(RECORDING).numpy(), chosen)))
        return found

    def __repr__(self) -> str:
        return f"ActivationStore({str(self.folder)!r}, {self.rows} rows of {', '.join(self.hooks)})"


def shard_of(folder: AnyPath, manifest: Manifest, number: int) -> Shard:
    entry, header = manifest.shards[number], manifest.header
    widths = {one["name"]: one["width"] for one in header["hooks"]}
    dtype: torch.dtype = CollectOptions(**header["options"]).torch_dtype
    return Shard(folder / entry.file, entry.rows, widths, dtype)
