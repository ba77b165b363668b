"""Read MLX (mlx-community) Whisper folders."""

from __future__ import annotations

from pathlib import Path

from hooked_whisper.weights.checkpoint import Checkpoint


def is_mlx_folder(folder: Path) -> bool:
    """Return whether a folder holds an MLX Whisper model."""
    return False


def load_mlx_folder(folder: Path) -> Checkpoint:
    """Load an MLX Whisper folder."""
    raise NotImplementedError
