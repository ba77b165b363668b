"""Names of version 0.1 still work, and warn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from hooked_whisper import interventions
from hooked_whisper._support.renamed import RenamedWarning
from hooked_whisper.interventions import ablate
from hooked_whisper.patching import CleanCorruptPair, HeadRef, Positions, patch, token_spans

OLD_SWEEPS = {
    "patch_encoder_resid": ("resid_pre", "encoder", {}),
    "patch_decoder_heads": ("z", "decoder", {"over": ("block", "span", "head")}),
    "patch_cross_values": ("v", "cross", {}),
    "patch_encoder_out": ("encoder.hook_out", "encoder", {}),
}


def old(name: str):
    with pytest.warns(RenamedWarning, match=name):
        return getattr(interventions, name)


@pytest.mark.parametrize("name", OLD_SWEEPS)
def test_old_sweeps_are_the_new_ones(model, pair, name: str) -> None:
    component, stack, options = OLD_SWEEPS[name]
    spans = token_spans(["x"] * 6)
    new = patch(model, [pair], component, stack, token_spans=spans, **options)
    same = old(name)(model, [pair], token_spans=spans)
    np.testing.assert_array_equal(same.values, new.values)
    assert [axis.name for axis in same.axes] == [axis.name for axis in new.axes]


def test_old_options_of_sweeps(model, pair) -> None:
    estimate = old("attribute_pairs")(model, [pair], "mlp_post", "encoder", by_span=False, units=[1, 2])
    new = patch(model, [pair], "mlp_post", over=("block", "unit"), units=[1, 2], method="attribution")
    np.testing.assert_array_equal(estimate.values, new.values)


def test_old_classes_and_arguments(model) -> None:
    assert old("Pair") is CleanCorruptPair
    assert old("Head")("decoder", 1, 0, cross=True) == HeadRef("cross", 1, 0)
    assert old("Span")("word", 3, 7) == Positions(((3, 7),), "word")
    with pytest.warns(RenamedWarning, match="where"):
        ablate(model, "encoder.hook_out", where=(0, 3))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = interventions.no_such_name


def test_new_names_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in interventions.__all__:
            getattr(interventions, name)
