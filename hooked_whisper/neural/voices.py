"""Voices of Kokoro, from the npm package ``kokoro-js``: fetched by ``npm pack``, each file checked by SHA-256."""

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
    """Put the voices of ``voices.tsv`` into ``folder``, those that are not there yet, and return it.

    Raises:
        MissingExtraError: voices are missing and ``npm`` is not installed, or cannot reach its registry.
        CheckpointError: a file has another SHA-256 than the one pinned in ``voices.tsv``.
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
    """Content of one voice file.

    Raises:
        CheckpointError: a voice that ``voices.tsv`` does not list, no such file, or not the pinned SHA-256.
    """
    voices = {voice.name: voice for voice in voice_table()}
    if name not in voices:
        near = closest(name, voices)
        hint = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
        raise CheckpointError(f"there is no voice {name!r} in voices.tsv{hint}")
    path = folder / f"{name}.bin"
    if not path.is_file():
        raise CheckpointError(f"there is no voice file {str(path)!r}: fetch the voices with `npm pack {PACKAGE}`")
    return _checked(path.read_bytes(), voices[name], repr(str(path)))


def _checked(content: bytes, voice: Voice, source: str) -> bytes:
    actual = hashlib.sha256(content).hexdigest()
    if actual != voice.sha256:
        raise CheckpointError(f"{source} has the SHA-256 {actual}, expected {voice.sha256}: fetch {PACKAGE} again")
    return content


def _pack(folder: Path) -> Path:
    """The package's archive, by npm's own client."""
    advice = f"run `npm pack {PACKAGE}` where there is npm, unpack it, and give its folder of voices with --voices"
    npm = shutil.which("npm")
    if npm is None:
        raise MissingExtraError(f"npm is not installed, it fetches Kokoro's voices: {advice}")
    run = subprocess.run([npm, "pack", PACKAGE, "--silent"], cwd=folder, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.tgz"))
    if run.returncode or len(archives) != 1:
        reason = (run.stderr or run.stdout).strip()[-300:]
        raise MissingExtraError(f"`npm pack {PACKAGE}` failed ({reason}): {advice}")
    return archives[0]
