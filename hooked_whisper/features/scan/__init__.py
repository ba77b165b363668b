"""Scan a corpus for the largest activations of every feature, samples of its whole range, and statistics."""

from hooked_whisper.features.scan.records import (
    FIRES,
    HISTOGRAM_BINS,
    Examples,
    FeatureScan,
    RangeExamples,
    Scan,
    ScanOptions,
)
from hooked_whisper.features.scan.scanner import scan
from hooked_whisper.features.scan.store import load_scan

__all__ = [
    "FIRES",
    "HISTOGRAM_BINS",
    "Examples",
    "FeatureScan",
    "RangeExamples",
    "Scan",
    "ScanOptions",
    "load_scan",
    "scan",
]
