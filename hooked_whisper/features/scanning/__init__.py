"""The name of :mod:`hooked_whisper.features.scan` in version 0.1. Imports from here still work and warn."""

from hooked_whisper._support.renamed import renamed_names

__getattr__ = renamed_names(
    __name__,
    {
        "FIRES": "hooked_whisper.features.scan:FIRES",
        "HISTOGRAM_CELLS": "hooked_whisper.features.scan:HISTOGRAM_BINS",
        "Examples": "hooked_whisper.features.scan:Examples",
        "RangeExamples": "hooked_whisper.features.scan:RangeExamples",
        "Scan": "hooked_whisper.features.scan:Scan",
        "ScanOptions": "hooked_whisper.features.scan:ScanOptions",
        "SiteScan": "hooked_whisper.features.scan:FeatureScan",
        "load_scan": "hooked_whisper.features.scan:load_scan",
        "scan": "hooked_whisper.features.scan:scan",
    },
)
