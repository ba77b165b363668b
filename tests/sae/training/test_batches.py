"""Batches: every row at most once per epoch, determined by the cursor, shared among processes."""

from __future__ import annotations

import threading
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_audio.activations import ActivationChunk, TensorActivations
from sae_lens_audio.errors import TrainingError
from sae_lens_audio.training.batches import Batches, RowCursor


class Parts:
    """Numbered rows in chunks of given sizes."""

    hooks, widths, ids = ("rows",), (1,), ("r",)

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.loaded = sizes, 0

    def describe(self) -> dict:
        return {"sizes": self.sizes}

    def n_chunks(self, epoch: int) -> int:
        return len(self.sizes)

    def chunk(self, epoch: int, index: int) -> ActivationChunk:
        self.loaded += 1
        first, n = sum(self.sizes[:index]), self.sizes[index]
        numbers = torch.arange(first, first + n)
        return ActivationChunk((numbers[:, None].half(),), torch.zeros(n, dtype=torch.int32), numbers.int())


def take(batches: Batches, n: int, cursor: RowCursor = RowCursor()) -> list:  # noqa: B008 - frozen
    feed = batches.start(cursor)
    try:
        return list(islice(feed, n))
    finally:
        feed.close()


def values(batch) -> list[float]:
    return batch.rows[0].flatten().tolist()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 7), st.integers(0, 9))
def test_an_epoch_serves_each_row_at_most_once_and_drops_less_than_a_batch_per_chunk(
    sizes: list[int], size: int, seed: int
) -> None:
    full = sum(n // size for n in sizes)
    if not full:
        return
    served = take(Batches(Parts(sizes), size, seed), full + 1)
    rows = [v for batch in served[:full] for v in values(batch)]
    assert len(set(rows)) == len(rows) == full * size
    assert {batch.start.epoch for batch in served[:full]} == {0} and served[full].start.epoch == 1
    for batch in served:
        assert batch.rows[0].dtype == torch.float32
        torch.testing.assert_close(batch.chunk.position[batch.indices].float(), batch.rows[0].flatten())


@given(st.integers(0, 12), st.integers(0, 5))
def test_batches_from_a_place_continue_the_sequence(skip: int, seed: int) -> None:
    batches = Batches(Parts([20, 9, 14]), 4, seed)
    whole = take(batches, skip + 4)
    later = take(batches, 4, whole[skip - 1].end if skip else RowCursor())
    assert [values(b) for b in later] == [values(b) for b in whole[skip:]]


def test_epochs_and_seeds_have_different_orders() -> None:
    first, second = take(Batches(Parts([40]), 40), 2)
    assert sorted(values(first)) == sorted(values(second)) and values(first) != values(second)
    assert values(take(Batches(Parts([40]), 40, seed=1), 1)[0]) != values(first)


def test_processes_share_each_batch() -> None:
    whole = take(Batches(Parts([40]), 8), 5)
    parts = [take(Batches(Parts([40]), 8, 0, rank, 4), 5) for rank in range(4)]
    for i, batch in enumerate(whole):
        assert [v for part in parts for v in values(part[i])] == values(batch)
        assert parts[2][i].of_all_processes()[0].flatten().tolist() == values(batch)
    with pytest.raises(TrainingError, match="3 processes cannot share batches of 8"):
        Batches(Parts([40]), 8, 0, 0, 3)


def test_too_few_rows_for_a_batch_is_an_error_and_the_thread_is_gone() -> None:
    others = set(threading.enumerate())  # of tests before, which need not have closed theirs
    feed = Batches(Parts([3, 2]), 4).start(RowCursor())
    with pytest.raises(TrainingError, match="no chunk of the activations has the 4 rows"):
        next(feed)
    assert not [t for t in threading.enumerate() if t not in others and t.name == "batches"]


def test_an_error_of_the_source_is_raised_in_place_of_its_batch() -> None:
    class Broken(Parts):
        def chunk(self, epoch: int, index: int) -> ActivationChunk:
            if index:
                raise OSError("shard-00001.safetensors is truncated")
            return super().chunk(epoch, index)

    feed = Batches(Broken([8, 8]), 4).start(RowCursor())
    assert len(list(islice(feed, 2))) == 2
    with pytest.raises(OSError, match="truncated"):
        next(feed)


def test_chunks_are_read_as_they_are_needed() -> None:
    parts = Parts([4] * 50)
    take(Batches(parts, 4), 3)
    assert parts.loaded <= 8


def test_tensors_are_a_source() -> None:
    batch = take(Batches(TensorActivations({"a": torch.randn(6, 2), "b": torch.randn(6, 3)}), 6), 1)[0]
    assert [tuple(x.shape) for x in batch.rows] == [(6, 2), (6, 3)]


@pytest.mark.parametrize("sizes", [[20], [20, 3], [3, 20]])
def test_resuming_after_the_last_batch_of_an_epoch(sizes: list[int]) -> None:
    """The remaining rows of the epoch do not fill a batch, which is not an error."""
    batches = Batches(Parts(sizes), 8)
    whole = take(batches, 6)
    for k, batch in enumerate(whole[:-1]):
        (following,) = take(batches, 1, batch.end)
        assert torch.equal(following.rows[0], whole[k + 1].rows[0]), f"after {batch.end}"
