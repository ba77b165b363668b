"""Files that are either complete or absent, on this machine or at a URL.

A *place* is a path, or a URL of a file system that fsspec supports (``s3://bucket/activations``, ``gs://...``,
``sftp://...``; each needs its package, such as s3fs). Remote places have the methods of :class:`pathlib.Path`.
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
    """Return a local :class:`Path`, or for a URL a ``UPath``, which has the same methods.

    Raises:
        MissingExtraError: the package for this kind of URL is not installed.
        HookedWhisperError: fsspec does not support this kind of URL.
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
    """Return the permissions of a file created by ``open``; those of temporary files are for the owner only."""
    umask = os.umask(0o077)  # the umask cannot be read without setting it
    os.umask(umask)
    return 0o666 & ~umask


def write_atomic(path: AnyPath, data: bytes) -> None:
    """Write a file atomically: readers, also after a crash, see the old content or the new, never a part.

    Remote files are uploaded under another name and moved; object stores show an upload only once it is complete.

    Raises:
        OSError: of the system, such as a full disk; it names the file.
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
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk fails in write(), which has no name
            raise type(error)(error.errno, error.strerror, str(path)) from error
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
    """Return a local file as it is, or a local copy of a remote one, fetched again if the remote file changed.

    Several processes may call this for the same file at once: a copy gets its name once it is complete.

    cache: folder of the copies, by default a folder in the system's temporary folder that all runs share.
    """
    if is_local(path):
        return path
    folder = Path(tempfile.gettempdir(), "hooked_whisper") if cache is None else Path(cache)
    state = f"{path} {path.fs.ukey(path.path)}"  # changes with the file, if the file system reports changes
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
