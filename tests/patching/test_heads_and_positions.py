"""One way to name a head, and one to name a span of time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper._support.heads import read_heads
from hooked_whisper.errors import ArgumentError, PatchError
from hooked_whisper.patching import HeadRef, Positions, read_positions
from hooked_whisper.protocols import STACKS


@given(st.sampled_from(STACKS), st.integers(0, 40), st.integers(0, 40))
def test_every_form_of_a_head_is_the_same_head(stack: str, block: int, head: int) -> None:
    ref = HeadRef(stack, block, head)
    for form in (ref, str(ref), ref.label, ref.label.lower(), str(ref).upper(), (stack, block, head)):
        assert HeadRef.parse(form) == ref
        assert HeadRef.is_head(form) == (not isinstance(form, tuple))
    assert HeadRef.parse((block, head), stack) == ref


@pytest.mark.parametrize("value", ["encoder", "E1", "encoder 1", (1,), (1.0, 2), ("middle", 1, 2), 3, None, (True, 1)])
def test_other_values_are_not_heads(unchecked, value: object) -> None:
    with pytest.raises(ArgumentError, match="attention head"):
        HeadRef.parse(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("label", ["L3H1", "l3h1", "3.1"])
def test_a_label_of_transformer_lens_needs_a_stack(label: str) -> None:
    with pytest.raises(ArgumentError, match=r"write 'encoder 3\.1' or 'decoder 3\.1' or 'cross 3\.1'"):
        HeadRef.parse(label)


def test_heads_are_checked_against_the_model(model) -> None:
    assert read_heads(["E1.1", (0, -1)], model.cfg) == [HeadRef("encoder", 1, 1), HeadRef("encoder", 0, 1)]
    assert len(read_heads(None, model.cfg, "cross")) == 4
    for wrong in ("cross 2.0", "D0.2"):
        with pytest.raises(ArgumentError, match="0 to 1"):
            read_heads([wrong], model.cfg)


def test_labels_do_not_count_when_positions_are_compared() -> None:
    assert read_positions((3, 7), label="word") == Positions(((3, 7),))
    both = read_positions([(1, 3), Positions(((5, 6),), "x")])
    assert both.spans == ((1, 3), (5, 6)) and both.indices(10) == (1, 2, 5) and (both.start, both.stop) == (1, 6)
    assert read_positions(None).mask(torch.arange(3)).all()
    for positions in (Positions(None), Positions(())):
        with pytest.raises(ArgumentError, match="no span"):
            _ = positions.start
    with pytest.raises(PatchError, match="24"):
        read_positions(Positions(((3, 30),)), n=24)


@pytest.mark.parametrize("unit", ["positions", "seconds"])
def test_a_word_is_not_a_position(unchecked, unit: str) -> None:
    for positions in ("driver", ["driver"]):
        with pytest.raises(
            PatchError, match=r"'driver' is a string, not a position: .*find_word\(alignment, 'driver'\)"
        ):
            read_positions(positions, unit=unit)  # type: ignore[arg-type]
