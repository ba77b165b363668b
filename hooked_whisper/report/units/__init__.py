"""A browsable site about units (neurons, directions, latents): what they fire on, to be seen and heard."""

from hooked_whisper.report.units.build import PageOptions, build_site
from hooked_whisper.report.units.data import (
    POSITION_S,
    ActivationRange,
    Example,
    Histogram,
    LogitEffects,
    MeanMel,
    OnsetMeans,
    PageClip,
    PhoneShare,
    SiteInfo,
    Unit,
    UnitStats,
)
from hooked_whisper.report.units.site import SiteWriter

__all__ = [
    "POSITION_S",
    "ActivationRange",
    "Example",
    "Histogram",
    "LogitEffects",
    "MeanMel",
    "OnsetMeans",
    "PageClip",
    "PageOptions",
    "PhoneShare",
    "SiteInfo",
    "SiteWriter",
    "Unit",
    "UnitStats",
    "build_site",
]
