"""Names of version 0.1 in ``hooked_whisper.features`` and ``hooked_whisper.report.units`` still work and warn."""

from __future__ import annotations

import pytest

from hooked_whisper import features
from hooked_whisper._support.renamed import RenamedWarning
from hooked_whisper.corpora import Clip
from hooked_whisper.features import phones
from hooked_whisper.features.histogram_bins import HistogramBins
from hooked_whisper.report import units

RENAMED = {
    "Cells": HistogramBins,
    "Dream": features.MaximizedFeatures,
    "LabelledRows": features.LabeledRows,
    "Site": features.HookBasis,
    "SiteCounts": features.FeatureCounts,
    "SiteScan": features.FeatureScan,
    "dream_of": features.maximize_features,
    "evaluate_sites": features.evaluate_bases,
    "TopExamples": phones.TopExamples,
    "shifted_labels": phones.shifted_labels,
}


@pytest.mark.parametrize("name", RENAMED)
def test_old_names(name: str) -> None:
    with pytest.warns(RenamedWarning, match=name):
        assert getattr(features, name) is RENAMED[name]


def test_a_labeled_clip_is_an_aligned_clip() -> None:
    with pytest.warns(RenamedWarning, match="LabelledClip"):
        assert features.LabelledClip == Clip.aligned


def test_old_keywords() -> None:
    with pytest.warns(RenamedWarning, match="per_bin"):
        assert features.ScanOptions(per_cell=3).per_bin == 3  # type: ignore[call-arg]
    with pytest.warns(RenamedWarning, match="bins"):
        assert features.CountOptions(cells=HistogramBins(2)).bins == HistogramBins(2)  # type: ignore[call-arg]
    with pytest.warns(RenamedWarning, match="labeled"):
        assert units.PageOptions(labelled=7).labeled == 7  # type: ignore[call-arg]
    with pytest.warns(RenamedWarning, match="UnitExample"):
        assert units.Example is units.UnitExample
    with pytest.warns(RenamedWarning, match="indices"):
        assert features.axes(4, chosen=[2]).labels == ("2",)  # type: ignore[call-arg]
    counts = phones.JointCounter(3, ("s",)).result()
    with pytest.warns(RenamedWarning, match="select"):
        assert counts.at(slice(1, 3)).n_features == 2


def test_every_moved_name_exists() -> None:
    for name in features._MOVED_TO_PHONES:
        with pytest.warns(RenamedWarning, match=name):
            assert getattr(features, name) is getattr(phones, name)
