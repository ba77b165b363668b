"""Several sources as one: every row once per epoch, mixed in every chunk."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hooked_whisper.errors import ArgumentError
from sae_lens_audio.activations import ActivationChunk, JoinedActivations, TensorActivations
from sae_lens_audio.activations.sources import DeprecatedSourceNames


class InChunks(DeprecatedSourceNames):
    """Rows ``first`` to ``last`` in a number of chunks, whose order changes with the epoch."""

    hooks, widths, ids = ("rows",), (1,), ("a", "b")

    def __init__(self, first: int, last: int, n: int) -> None:
        self.values, self.n = torch.arange(first, last).float()[:, None], n

    def describe(self) -> dict[str, object]:
        return {"source": "test", "first": float(self.values[0]), "n": self.n}

    def n_chunks(self, epoch: int) -> int:
        return self.n

    def chunk(self, epoch: int, index: int) -> ActivationChunk:
        rows = self.values.chunk(self.n)[(index + epoch) % self.n]
        number = torch.arange(len(rows), dtype=torch.int32)
        return ActivationChunk((rows,), number % 2, number)


def rows_of(joined: JoinedActivations, epoch: int) -> list[Tensor]:
    return [joined.chunk(epoch, index).rows[0].flatten() for index in range(joined.n_chunks(epoch))]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_each_row_occurs_once_per_epoch_and_every_chunk_is_mixed(n: int) -> None:
    joined = JoinedActivations([InChunks(0, 300, 5), InChunks(300, 400, n)])
    assert joined.n_chunks(0) == 5
    for epoch in range(2):
        chunks = rows_of(joined, epoch)
        assert torch.cat(chunks).sort().values.tolist() == list(range(400))
        assert all(60 <= len(chunk) <= 110 and (chunk >= 300).any() and (chunk < 300).any() for chunk in chunks)


def test_chunks_repeat_and_differ_between_epochs() -> None:
    joined = JoinedActivations([InChunks(0, 300, 5), InChunks(300, 400, 2)])
    assert torch.equal(rows_of(joined, 0)[1], rows_of(joined, 0)[1])
    assert not torch.equal(rows_of(joined, 0)[1], rows_of(joined, 1)[1])


def test_recordings_are_numbered_over_all_sources() -> None:
    joined = JoinedActivations([InChunks(0, 4, 1), InChunks(4, 8, 1)])
    chunk = joined.chunk(0, 0)
    assert joined.ids == ["a", "b", "a", "b"]
    assert chunk.recording[chunk.rows[0].flatten() >= 4].unique().tolist() == [2, 3]
    assert joined.describe()["sources"][1]["first"] == 4.0


def test_sources_with_other_points_are_refused() -> None:
    with pytest.raises(ArgumentError, match="rows; other"):
        JoinedActivations([InChunks(0, 4, 1), TensorActivations({"other": torch.zeros(4, 1)})])
    with pytest.raises(ArgumentError, match="none"):
        JoinedActivations([])
