"""Human speech: the telephone prompts of Asterisk, which Debian packages in five languages with their texts.

The packages are pinned in ``prompts.tsv``, downloaded with ``apt-get``, and checked by SHA-256. The recordings are
under CC BY-SA 3.0, those in Russian under CC BY 3.0; the ``copyright`` file of each package names the speakers.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hooked_whisper.corpora import Recording, asterisk
from hooked_whisper.errors import CheckpointError, ConfigError, MissingExtraError, check_option
from hooked_whisper.neural.tables import read_table

log = logging.getLogger(__name__)

PromptLanguage = Literal["en", "es", "fr", "it", "ru"]
PROMPT_LANGUAGES: tuple[PromptLanguage, ...] = get_args(PromptLanguage)
TABLE = Path(__file__).with_name("prompts.tsv")


@dataclass(frozen=True)
class DebianPackage:
    """A pinned Debian package of prompts or of their texts."""

    language: str
    name: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        return f"{self.name}_{self.version}_all.deb"


def prompt_packages(languages: Sequence[str] = PROMPT_LANGUAGES) -> list[DebianPackage]:
    """Return the packages of some languages: sounds and texts of each.

    Raises:
        ConfigError: an unknown language.
    """
    languages = (languages,) if isinstance(languages, str) else languages
    for language in languages:
        check_option("language of the prompts", language, PROMPT_LANGUAGES, ConfigError)
    packages = [
        DebianPackage(row["language"], row["package"], row["version"], row["sha256"]) for row in read_table(TABLE)
    ]
    return [package for package in packages if package.language in languages]


def fetch_prompts(packages: Sequence[DebianPackage], folder: Path) -> list[Path]:
    """Download the packages that ``folder`` lacks with ``apt-get download``, and return their files.

    Raises:
        MissingExtraError: a package is missing, and ``apt-get`` is not installed or cannot download it.
        CheckpointError: the SHA-256 of a file is not the pinned one.
    """
    missing = [package for package in packages if not (folder / package.file).is_file()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        _download(missing, folder)
    return find_prompts(packages, folder)


def find_prompts(packages: Sequence[DebianPackage], folder: Path) -> list[Path]:
    """Return the files of the packages in ``folder``.

    Raises:
        MissingExtraError: a file does not exist.
        CheckpointError: the SHA-256 of a file is not the pinned one.
    """
    files = [folder / package.file for package in packages]
    if missing := [file.name for file in files if not file.is_file()]:
        raise MissingExtraError(f"{str(folder)!r} has no {', '.join(missing)}: {_advice(packages)}")
    for file, package in zip(files, packages, strict=True):
        actual = hashlib.sha256(file.read_bytes()).hexdigest()
        if actual != package.sha256:
            raise CheckpointError(
                f"{str(file)!r} has the SHA-256 {actual}, expected {package.sha256}: delete it and download "
                f"{package.name} {package.version} again"
            )
    return files


def open_prompts(files: Sequence[Path], folder: Path) -> list[Recording]:
    """Unpack Debian packages to ``folder`` and return the spoken prompts.

    Sounds without words in the list of texts, such as beeps, tones and silence, are left out.

    Raises:
        MissingExtraError: ``dpkg-deb`` or the decoder of G.722 is not installed.
        CheckpointError: a package cannot be unpacked.
    """
    dpkg = shutil.which("dpkg-deb")
    if dpkg is None:
        raise MissingExtraError("dpkg-deb, which unpacks the prompts, is not installed: run this on Debian or Ubuntu")
    if importlib.util.find_spec("G722") is None:
        raise MissingExtraError("the prompts are G.722, which needs a decoder: pip install hooked-whisper[g722]")
    for file in files:
        run = subprocess.run([dpkg, "-x", str(file), str(folder)], capture_output=True, text=True, check=False)
        if run.returncode:
            raise CheckpointError(f"{str(file)!r} cannot be unpacked ({run.stderr.strip()[-200:]}): download it again")
    prompts = asterisk(folder)
    spoken = [recording for recording in prompts if recording.text]
    log.info("%d prompts with words, %d without a text are left out", len(spoken), len(prompts) - len(spoken))
    return spoken


def _download(packages: Sequence[DebianPackage], folder: Path) -> None:
    apt = shutil.which("apt-get")
    if apt is None:
        raise MissingExtraError(f"apt-get, which downloads the prompts, is not installed: {_advice(packages)}")
    names = [f"{package.name}={package.version}" for package in packages]
    run = subprocess.run([apt, "download", *names], cwd=folder, capture_output=True, text=True, check=False)
    if run.returncode:
        reason = (run.stderr or run.stdout).strip()[-300:]
        raise MissingExtraError(f"`apt-get download {' '.join(names)}` failed ({reason}): {_advice(packages)}")


def _advice(packages: Sequence[DebianPackage]) -> str:
    names = " ".join(f"{package.name}={package.version}" for package in packages)
    return f"run `apt-get download {names}` on a Debian machine and pass the folder with --prompts-from"
