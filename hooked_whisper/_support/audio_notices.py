"""Notices about audio that was read but may not be what the user expects: clipping, a wrong header, lost pages.

A notice is a warning, unless the caller collects notices: a pass over a corpus then warns once, with a summary.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

_NAMED = 3  # files named in a summary
ARRAY = "audio array"  # the name of samples that are in no file


class AudioWarning(UserWarning):
    """Audio was read but may not be what the user expects."""


@dataclass(frozen=True)
class AudioNotice:
    """A problem of one file that did not prevent reading.

    Attributes:
        name: the file, or the recording's id.
        problem: what is wrong, without numbers, so that notices of many files can be counted together.
        detail: the numbers of this file.
        advice: the fix.
    """

    name: str
    problem: str
    detail: str
    advice: str

    def __str__(self) -> str:
        return f"{self.name}: {self.problem} ({self.detail}): {self.advice}"


_collector: ContextVar[list[AudioNotice] | None] = ContextVar("audio notices", default=None)


def notify(*notices: AudioNotice) -> None:
    """Warn about each notice, or add them to the list of :func:`collected_notices`."""
    collector = _collector.get()
    if collector is not None:
        collector.extend(notices)
        return
    for notice in notices:
        warnings.warn(str(notice), AudioWarning, stacklevel=3)


@contextmanager
def collected_notices() -> Iterator[list[AudioNotice]]:
    """Collect the notices of this thread in a list instead of warning."""
    notices: list[AudioNotice] = []
    token = _collector.set(notices)
    try:
        yield notices
    finally:
        _collector.reset(token)


@contextmanager
def without_notices() -> Iterator[None]:
    """Drop the notices of this thread: the samples were loaded before, and their file has its notice."""
    with collected_notices():
        yield


def warn_of_all(notices: Iterable[AudioNotice]) -> None:
    """Warn once per problem with a summary of its files, or pass the notices to :func:`collected_notices`."""
    notices = list(dict.fromkeys(notices))
    collector = _collector.get()
    if collector is not None:
        collector.extend(notices)
        return
    for line in summaries(notices):
        warnings.warn(line, AudioWarning, stacklevel=3)


def summaries(notices: Iterable[AudioNotice]) -> list[str]:
    """Return one line per problem: the number of files, the first three names, and the advice.

    A problem of a single file is the notice itself.
    """
    by_problem: dict[str, dict[str, AudioNotice]] = {}
    for notice in notices:
        by_problem.setdefault(notice.problem, {}).setdefault(notice.name, notice)
    lines = []
    for problem, by_name in by_problem.items():
        first = next(iter(by_name.values()))
        if len(by_name) == 1:
            lines.append(str(first))
            continue
        names = ", ".join(f"{_short(notice.name)} ({notice.detail})" for notice in list(by_name.values())[:_NAMED])
        others = f" and {len(by_name) - _NAMED} more" if len(by_name) > _NAMED else ""
        lines.append(f"{len(by_name)} files: {problem}: {names}{others}: {first.advice}")
    return lines


def _short(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2] or name
