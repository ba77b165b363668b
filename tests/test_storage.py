"""Places: local paths and URLs under one set of methods."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from upath import UPath

from hooked_whisper._support.storage import as_path, is_local, local_copy, write_atomic
from hooked_whisper.errors import HookedWhisperError, MissingExtraError


def test_local_places_are_plain_paths(tmp_path: Path) -> None:
    for place in (str(tmp_path), tmp_path, tmp_path.as_uri(), UPath(tmp_path)):
        path = as_path(place)
        assert is_local(path) and path == tmp_path
    assert as_path("relative/folder") == Path("relative/folder")


def test_urls_have_the_methods_of_paths() -> None:
    place = as_path("memory://test_storage/one") / "two.bin"
    assert not is_local(place) and str(place) == "memory://test_storage/one/two.bin"
    write_atomic(place, b"old")
    write_atomic(place, b"new")
    assert place.read_bytes() == b"new"
    assert [p.name for p in place.parent.iterdir()] == ["two.bin"]


def test_failed_upload_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch) -> None:
    place = as_path("memory://test_storage/fails/a.bin")
    write_atomic(place, b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(type(place.fs), "mv", full)
    with pytest.raises(OSError, match="no room"):
        write_atomic(place, b"new")
    assert place.read_bytes() == b"old"
    assert [p.name for p in place.parent.iterdir()] == ["a.bin"]


def test_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hooked_whisper._support.storage.os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.bin") as caught:
        write_atomic(path, b"new")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_local_copy_follows_the_remote_file(tmp_path: Path) -> None:
    place = as_path("memory://test_storage/copied/a.bin")
    write_atomic(place, b"first")
    copy = local_copy(place, tmp_path)
    assert copy.read_bytes() == b"first" and copy.is_relative_to(tmp_path)
    assert local_copy(place, tmp_path) == copy
    write_atomic(place, b"second, and longer")
    assert local_copy(place, tmp_path).read_bytes() == b"second, and longer"
    assert local_copy(copy) == copy


def test_unknown_url_scheme_is_refused() -> None:
    with pytest.raises(HookedWhisperError, match=r"nosuch://bucket/x cannot be reached.*nosuch"):
        as_path("nosuch://bucket/x")
    with pytest.raises((MissingExtraError, HookedWhisperError), match="cannot be reached"):
        as_path("adl://bucket/x")
