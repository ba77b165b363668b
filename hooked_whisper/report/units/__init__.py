"""A site about units (neurons, directions, features of an SAE) with the sounds that activate each of them."""

from hooked_whisper._support.renamed import renamed_names
from hooked_whisper.report.units.build import PageOptions, build_site
from hooked_whisper.report.units.data import (
    POSITION_S,
    ActivationRange,
    Histogram,
    LogitEffects,
    MeanMel,
    OnsetMeans,
    PageClip,
    PhoneShare,
    SelectivityMeasure,
    SiteInfo,
    Unit,
    UnitExample,
    UnitStats,
)
from hooked_whisper.report.units.site import SiteWriter

__getattr__ = renamed_names(__name__, {"Clip": "PageClip", "Example": "UnitExample"})

__all__ = [
    "POSITION_S",
    "ActivationRange",
    "Histogram",
    "LogitEffects",
    "MeanMel",
    "OnsetMeans",
    "PageClip",
    "PageOptions",
    "PhoneShare",
    "SelectivityMeasure",
    "SiteInfo",
    "SiteWriter",
    "Unit",
    "UnitExample",
    "UnitStats",
    "build_site",
]
