"""List the files of a corpus folder and read text files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path, PurePath, PurePosixPath

from upath import UPath

from hooked_whisper._support.storage import AnyPath, is_local
from hooked_whisper.errors import HookedWhisperError

_SNDFILE = ".wav .flac .ogg .oga .opus .mp3 .aiff .aif .aifc .au .caf .w64 .rf64 .sph .mp2"
_RAW = ".g722"
_PYAV = ".m4a .mp4 .aac .webm .mka .wma .amr"
AUDIO_ENDINGS = frozenset(f"{_SNDFILE} {_PYAV} {_RAW}".split())
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def files_under(folder: AnyPath, endings: Collection[str], error: type[HookedWhisperError]) -> list[AnyPath]:
    """List the files with these endings in a folder and its subfolders, sorted by path.

    Hidden files (``.name``) are left out, and links to folders are not followed.

    Args:
        endings: in lower case, with the dot; the case of file names is ignored.

    Raises:
        ``error``: the folder does not exist or cannot be read.
    """
    if not is_local(folder):
        return _remote(folder, endings, error)
    if not folder.is_dir():
        raise error(f"there is no folder {str(folder)!r}: check the path and the working folder")

    def refuse(problem: OSError) -> None:
        raise error(f"folder {str(problem.filename)!r} cannot be read: {problem.strerror}") from problem

    files: list[AnyPath] = []
    for parent, below, names in os.walk(folder, onerror=refuse):
        below[:] = [name for name in below if not name.startswith(".")]
        files += [Path(parent, n) for n in names if not n.startswith(".") and Path(n).suffix.lower() in endings]
    return sorted(files, key=lambda path: inside(path, folder).as_posix())


def _remote(folder: UPath, endings: Collection[str], error: type[HookedWhisperError]) -> list[AnyPath]:
    """List the whole tree with one request: object stores have no folders."""
    try:
        names = folder.fs.find(folder.path)
    except Exception as problem:  # clients of object stores raise other types too
        raise error(f"folder {str(folder)!r} cannot be read: {str(problem) or type(problem).__name__}") from problem
    if not names and not folder.exists():
        raise error(f"there is no folder {str(folder)!r}: check the URL")
    top = folder.path.rstrip("/")
    parts = [PurePosixPath(name.removeprefix(top).lstrip("/")) for name in names]
    shown = [part for part in parts if not any(name.startswith(".") for name in part.parts)]
    return [folder / str(part) for part in sorted(shown, key=str) if part.suffix.lower() in endings]


def inside(file: AnyPath, folder: AnyPath) -> PurePath:
    """Return the path of a file relative to a folder."""
    if isinstance(file, Path) and isinstance(folder, Path):
        return file.relative_to(folder)
    return PurePosixPath(str(file).removeprefix(str(folder)).lstrip("/"))


def names_of(files: Sequence[AnyPath], folder: AnyPath) -> list[str]:
    """Name each file by its path in the folder, without the ending unless two names would be equal."""
    whole = [inside(path, folder).as_posix() for path in files]
    short = [name.removesuffix(Path(name).suffix) for name in whole]
    times = Counter(short)
    names = [s if times[s] == 1 else w for s, w in zip(short, whole, strict=True)]
    # "a.wav" may be the whole name of one file and the short name of "a.wav.flac"
    return names if len(set(names)) == len(names) else whole


def read_bytes(path: AnyPath, error: type[HookedWhisperError]) -> bytes:
    """Read a file.

    Raises:
        ``error``: the file cannot be opened.
    """
    try:
        return path.read_bytes()
    except Exception as problem:
        if is_local(path) and not isinstance(problem, OSError | ValueError):
            raise
        why = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
        raise error(f"{str(path)!r} cannot be read: {why}") from problem


def read_text(path: AnyPath, error: type[HookedWhisperError]) -> str:
    """Read a text file in UTF-8, or in UTF-16 with a byte order mark, as Praat writes it; line ends become ``\\n``.

    Raises:
        ``error``: the file cannot be opened or has another encoding.
    """
    return decode_text(read_bytes(path, error), path, error)


def decode_text(content: bytes, path: AnyPath, error: type[HookedWhisperError]) -> str:
    """Decode the bytes of a text file, as :func:`read_text` does."""
    try:
        text = content.decode("utf-16" if content.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        raise error(f"{str(path)!r}, line {line}: the text is not UTF-8: save the file as UTF-8") from problem
    return text.replace("\r\n", "\n").replace("\r", "\n")
