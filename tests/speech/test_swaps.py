"""Minimal pairs as recordings: equal outside the slot, the right words, deterministic."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from hooked_whisper.speech.swaps import RATE, WordSwap, carriers, word_swaps
from hooked_whisper.speech.world import SpokenWorld

pytest.importorskip("espeakng_loader")


@pytest.fixture(scope="module")
def world() -> SpokenWorld:
    return SpokenWorld.default()


@pytest.fixture(scope="module")
def swaps(world: SpokenWorld) -> list[WordSwap]:
    return list(islice(word_swaps(world), 8))


def test_carriers_are_grammatical_with_either_word(world: SpokenWorld) -> None:
    found = carriers(world)
    assert len(found) >= 50 and len({(c.pair.a, c.pair.b) for c in found}) == len(found)
    index, matrix = world.grammar.index, world.transition_matrix
    for one in found:
        before = one.words[one.index - 1]
        for word, log_prob in zip((one.a, one.b), one.log_prob, strict=True):
            assert np.isclose(np.log(matrix[index[before], index[word]]), log_prob)
            if one.index + 1 < len(one.words):
                assert matrix[index[word], index[one.words[one.index + 1]]] > 0
    assert {c.swapped for c in found} == {False, True}
    assert all(c.pair.place == "vowel" for c in carriers(world, "vowel"))


def test_recordings_differ_in_the_slot_alone(swaps: list[WordSwap]) -> None:
    for one in swaps:
        first, last = round(one.span.start * RATE), round(one.span.end * RATE)
        assert len({one.carrier.a, one.carrier.b, one.third}) == 3
        for other in (one.b, one.c):
            assert np.array_equal(one.a[:first], other[:first]) and np.array_equal(one.a[last:], other[last:])
            assert not np.array_equal(one.a[first:last], other[first:last])
            loud = [np.sqrt(np.mean(x[first:last] ** 2)) for x in (one.a, other)]
            assert 0.2 < loud[1] / loud[0] < 5


def test_a_recording_that_leaks_is_refused(swaps: list[WordSwap]) -> None:
    one = swaps[0]
    b = one.b.copy()
    b[0] += 0.1
    with pytest.raises(ValueError, match="differ outside"):
        WordSwap(one.carrier, one.speaker, one.third, one.a, b, one.c, one.alignment, one.span, one.stretch)


def test_the_same_seed_gives_the_same(world: SpokenWorld, swaps: list[WordSwap]) -> None:
    again = next(word_swaps(world))
    assert again.carrier == swaps[0].carrier and again.third == swaps[0].third and np.array_equal(again.b, swaps[0].b)
    assert next(word_swaps(world, seed=1)).carrier != swaps[0].carrier
