"""Recognize files of other formats, for error messages."""

from __future__ import annotations

from pathlib import Path


def describe_foreign(path: Path) -> str | None:
    """Return what a file is and what to do about it, or None if it is not recognized."""
    return None
