"""Read whisper.cpp ``ggml-*.bin`` checkpoints."""

from __future__ import annotations

from pathlib import Path

from hooked_whisper.weights.checkpoint import Checkpoint


def is_ggml(path: Path) -> bool:
    """Return whether a file starts like a whisper.cpp model."""
    raise NotImplementedError


def load_ggml(path: Path) -> Checkpoint:
    """Load a whisper.cpp model file."""
    raise NotImplementedError
