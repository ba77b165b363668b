"""Where results lie: files that are whole or absent, on this machine or behind an URL.

A *place* is a path, or an URL of a file system that fsspec knows (``s3://bucket/harvest``, ``gs://...``, ``sftp://...``;
each needs its own package, such as s3fs). Remote places have the methods of :class:`pathlib.Path`.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from pathlib import Path

from typing_extensions import TypeIs
from upath import UPath

from hooked_whisper.errors import HookedWhisperError, MissingExtraError

AnyPath = Path | UPath
Place = str | os.PathLike[str] | UPath


def as_path(place: Place) -> AnyPath:
    """A local :class:`Path`, or for an URL a ``UPath``, which has the same methods.

    Raises:
        MissingExtraError: a kind of URL whose package is not installed.
        HookedWhisperError: a kind of URL that nobody knows.
    """
    if isinstance(place, Path):
        return place
    if isinstance(place, UPath):
        path = place
    elif "://" not in (text := os.fspath(place)):
        return Path(text)
    else:
        try:
            path = UPath(text)
            _ = path.fs
        except ImportError as error:
            raise MissingExtraError(f"{place} cannot be reached: {error}") from error
        except ValueError as error:
            raise HookedWhisperError(f"{place} cannot be reached: {error}") from error
    return Path(path.path) if path.protocol in ("", "file", "local") else path


def is_local(path: AnyPath) -> TypeIs[Path]:
    return isinstance(path, Path)


def new_file_mode() -> int:
    """Permissions that a file made by ``open`` gets: what the umask leaves; temporary files are for the owner only."""
    umask = os.umask(0o077)  # there is no way to read it without setting it
    os.umask(umask)
    return 0o666 & ~umask


def write_atomic(path: AnyPath, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new one, never a part.

    Remote files are uploaded under another name and moved; object stores show an upload only once it is whole.
    """
    if not is_local(path):
        _upload(path, data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, new_file_mode())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _upload(path: UPath, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    try:
        path.fs.pipe_file(temporary.path, data)
        path.fs.mv(temporary.path, path.path)
    except BaseException:
        if path.fs.exists(temporary.path):
            path.fs.rm_file(temporary.path)
        raise


def local_copy(path: AnyPath, cache: str | os.PathLike[str] | None = None) -> Path:
    """The file itself if it is local; else a copy of it, fetched anew where the remote one has changed.

    Processes may ask for the same file at the same time: a copy takes its name once it is whole.

    cache: folder of the copies; by default one below the system's temporary folder that all runs share.
    """
    if is_local(path):
        return path
    folder = Path(tempfile.gettempdir(), "hooked_whisper") if cache is None else Path(cache)
    state = f"{path} {path.fs.ukey(path.path)}"  # changes with the file, where the file system can tell
    copy = folder / (hashlib.sha256(state.encode()).hexdigest()[:32] + path.suffix)
    if not copy.exists():
        folder.mkdir(parents=True, exist_ok=True)
        half = folder / f".{copy.name}.{uuid.uuid4().hex[:8]}"
        try:
            path.fs.get_file(path.path, str(half))
            os.replace(half, copy)
        finally:
            half.unlink(missing_ok=True)
    return copy
