"""Scanning a corpus: what every feature responds to most, over its whole range, and how often."""

from hooked_whisper.features.scan.records import (
    FIRES,
    HISTOGRAM_CELLS,
    Examples,
    RangeExamples,
    Scan,
    ScanOptions,
    SiteScan,
)
from hooked_whisper.features.scan.scanner import scan
from hooked_whisper.features.scan.store import load_scan

__all__ = [
    "FIRES",
    "HISTOGRAM_CELLS",
    "Examples",
    "RangeExamples",
    "Scan",
    "ScanOptions",
    "SiteScan",
    "load_scan",
    "scan",
]
