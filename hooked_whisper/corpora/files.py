"""Files of a corpus: which there are under a folder, and what a text file says."""

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
    """Files of some endings (lower case, with the dot; case in names does not matter) in a folder and all below it,
    sorted by their paths. What is hidden, by a dot, is left out; links to folders are not followed.

    Raises:
        ``error``: no such folder, or one that may not be read.
    """
    if not is_local(folder):
        return _remote(folder, endings, error)
    if not folder.is_dir():
        raise error(f"there is no folder {str(folder)!r}: check the path and the working folder")

    def refuse(problem: OSError) -> None:
        raise error(f"folder {str(problem.filename)!r} cannot be read: {problem.strerror}") from problem

    found: list[AnyPath] = []
    for parent, below, names in os.walk(folder, onerror=refuse):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [Path(parent, n) for n in names if not n.startswith(".") and Path(n).suffix.lower() in endings]
    return sorted(found, key=lambda path: inside(path, folder).as_posix())


def _remote(folder: UPath, endings: Collection[str], error: type[HookedWhisperError]) -> list[AnyPath]:
    """One listing of the whole tree: object stores have no folders to walk through."""
    try:
        names = folder.fs.find(folder.path)
    except Exception as problem:  # clients of object stores have errors of their own
        raise error(f"folder {str(folder)!r} cannot be read: {str(problem) or type(problem).__name__}") from problem
    if not names and not folder.exists():
        raise error(f"there is no folder {str(folder)!r}: check the URL")
    top = folder.path.rstrip("/")
    parts = [PurePosixPath(name.removeprefix(top).lstrip("/")) for name in names]
    shown = [part for part in parts if not any(one.startswith(".") for one in part.parts)]
    return [folder / str(part) for part in sorted(shown, key=str) if part.suffix.lower() in endings]


def inside(file: AnyPath, folder: AnyPath) -> PurePath:
    """The path of a file in a folder."""
    if isinstance(file, Path) and isinstance(folder, Path):
        return file.relative_to(folder)
    return PurePosixPath(str(file).removeprefix(str(folder)).lstrip("/"))


def names_of(files: Sequence[AnyPath], folder: AnyPath) -> list[str]:
    """A name for each file: its path in the folder without the ending; with it where two would have one name."""
    whole = [inside(path, folder).as_posix() for path in files]
    short = [name.removesuffix(Path(name).suffix) for name in whole]
    times = Counter(short)
    names = [s if times[s] == 1 else w for s, w in zip(short, whole, strict=True)]
    # "a.wav" may be the whole name of one file and the short name of "a.wav.flac"
    return names if len(set(names)) == len(names) else whole


def read_bytes(path: AnyPath, error: type[HookedWhisperError]) -> bytes:
    """The content of a file.

    Raises:
        ``error``: it cannot be opened.
    """
    try:
        return path.read_bytes()
    except Exception as problem:
        if is_local(path) and not isinstance(problem, OSError):
            raise
        why = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
        raise error(f"{str(path)!r} cannot be read: {why}") from problem


def read_text(path: AnyPath, error: type[HookedWhisperError]) -> str:
    """The text of a file in UTF-8 (with or without a byte order mark) or in UTF-16 with one, as Praat writes it; line
    ends are ``\\n``.

    Raises:
        ``error``: a file that cannot be opened, or another encoding.
    """
    return decode_text(read_bytes(path, error), path, error)


def decode_text(content: bytes, path: AnyPath, error: type[HookedWhisperError]) -> str:
    """The text of a file whose bytes were read: see :func:`read_text`."""
    try:
        text = content.decode("utf-16" if content.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        raise error(f"{str(path)!r}, line {line}: this is not UTF-8: save the file in that encoding") from problem
    return text.replace("\r\n", "\n").replace("\r", "\n")
