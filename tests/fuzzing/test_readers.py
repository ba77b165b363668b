"""Damaged files of every kind: our errors and no others, no hang, bounded memory."""

from __future__ import annotations

import resource
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest

from hooked_whisper.errors import HookedWhisperError
from tests.fuzzing.mutations import mutated
from tests.fuzzing.readers import Reader, readers

FEW, MANY = 6, 480  # of each kind; MANY is 20,000 of all
LONGEST_S = 2.0
MOST_MIB = 300  # that the peak of the process may grow


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return readers(tmp_path_factory.mktemp("valid"))


def test_few(kinds: dict[str, Reader], capsys: pytest.CaptureFixture[str], unchecked: None) -> None:
    _run(kinds, FEW, capsys)


@pytest.mark.slow
def test_many(kinds: dict[str, Reader], capsys: pytest.CaptureFixture[str], unchecked: None) -> None:
    assert _run(kinds, MANY, capsys) >= 20_000


def _run(kinds: dict[str, Reader], n: int, capsys: pytest.CaptureFixture[str]) -> int:
    """How many files were read; the counts are printed."""
    for kind, reader in kinds.items():
        _outcome(kind, reader.path.read_bytes(), reader)  # the valid one
    before = _peak_mib()
    lines, total, slowest = [], 0, 0.0
    for kind, reader in kinds.items():
        valid, counts = reader.path.read_bytes(), Counter[str]()
        for content in mutated(valid, n, kind):
            name, seconds = _timed(kind, content, reader)
            if seconds > LONGEST_S:  # was it the file, or the machine?
                name, seconds = _timed(kind, content, reader)
            counts[name] += 1
            slowest = max(slowest, seconds)
            assert seconds < LONGEST_S, f"{kind}: {seconds:.1f} s for {_kept(reader, content)}"
        _replace(reader.path, valid)
        total += n
        lines.append(f"{kind}: {n} files, " + ", ".join(f"{count} {name}" for name, count in counts.most_common()))
    grown = _peak_mib() - before
    with capsys.disabled():
        print("", *lines, f"{total} files, the slowest {slowest:.2f} s, {grown:.0f} MiB more at most", sep="\n")  # noqa: T201
    assert grown < MOST_MIB
    return total


def _timed(kind: str, content: bytes, reader: Reader) -> tuple[str, float]:
    began = time.perf_counter()
    return _outcome(kind, content, reader), time.perf_counter() - began


def _outcome(kind: str, content: bytes, reader: Reader) -> str:
    """``"read"``, or the name of our error."""
    _replace(reader.path, content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            reader.read(reader.path)
        except HookedWhisperError as error:
            assert str(error).strip(), f"{kind}: an error without a message"
            return type(error).__name__
        except BaseException as error:
            raise AssertionError(f"{kind}: {type(error).__name__}: {error}, for {_kept(reader, content)}") from error
    return "read"


def _replace(path: Path, content: bytes) -> None:
    """Another file of that name: readers may have mapped the old one."""
    path.unlink()
    path.write_bytes(content)


def _kept(reader: Reader, content: bytes) -> Path:
    path = reader.path.with_name(f"fuzzed-{reader.path.name}")
    path.write_bytes(content)
    return path


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
