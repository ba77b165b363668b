"""One process at a time in a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from hooked_whisper._support.storage import AnyPath, is_local
from hooked_whisper.errors import HookedWhisperError

log = logging.getLogger(__name__)


@contextmanager
def locked(folder: AnyPath, doing: str) -> Iterator[None]:
    """Lock an existing folder for this process; it is released when the process ends, however it ends.

    Does nothing for URLs, on Windows, and on file systems without locks.

    doing: what another process is doing then, such as ``"collecting into"``.

    Raises:
        HookedWhisperError: another process has locked the folder.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    if not is_local(folder):
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HookedWhisperError(
                f"another process is {doing} {folder}: wait for it, or choose another folder"
            ) from error
        except OSError:  # the file system has no locks
            log.debug("%s cannot be locked", folder)
        yield
    finally:
        os.close(handle)
