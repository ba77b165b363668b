"""What both sides of a job are told to do."""

from __future__ import annotations

CLIPS, EXAMPLES = 20, 10  # of the pages: windows that are scanned, examples of each unit
FACTOR, K, BATCH, LR, STEPS_PER_WINDOW = 8, 32, 4096, 1e-3, 10  # of the SAE
WINDOWS, HEAD_WINDOW = (10, 20, 50, 75, 100, 200, 400), 10  # of the findings: positions to either side, in F2 and F3
