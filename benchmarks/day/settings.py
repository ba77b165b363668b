"""What both sides of a job are told to do."""

from __future__ import annotations

CLIPS, EXAMPLES = 20, 10  # of the pages: windows that are scanned, examples of each unit
FACTOR, K, BATCH, LR, STEPS_PER_WINDOW = 8, 32, 4096, 1e-3, 10  # of the SAE
