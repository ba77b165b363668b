"""Read CTranslate2 (faster-whisper) checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hooked_whisper.weights.checkpoint import Checkpoint


def is_ctranslate2(path: Path) -> bool:
    """Return whether a file starts like a CTranslate2 Whisper model."""
    raise NotImplementedError


def load_ctranslate2(path: Path) -> Checkpoint:
    """Load a folder with ``model.bin``, or the file itself."""
    raise NotImplementedError


def load_ctranslate2_parts(parts: Sequence[Path], *, source: str, config: Mapping[str, Any] | None) -> Checkpoint:
    """Load a ``model.bin`` that is split into several files, without joining them on disk."""
    raise NotImplementedError
