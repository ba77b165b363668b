"""What was published about F6."""

from __future__ import annotations

from hooked_whisper.findings.core.published import BLOG
from hooked_whisper.findings.core.records import Table

CLAIM = "Directions that a sparse autoencoder finds in the encoder's residual stream are phonetic."
TIED_FEATURES_BY_EAR = Table(
    "Features of the tied autoencoder, tiny",
    f"{BLOG}, by listening",
    ("block", "feature", "sound"),
    (
        ("3", "131", "r"), ("3", "1", "n"), ("3", "2", "p"),
        ("2", "3", "an, in, on"), ("2", "4", "I (time, try)"), ("2", "6", "l"),
    ),
)  # fmt: skip
SUMMARY = "tiny, blocks 2 and 3, tied L1, 200 features: single phones, by listening; no measure, no controls"
