"""A test per tutorial: ``NAME.toml`` has text of ``tutorials/NAME.py`` and its replacements, which need fewer clips.

``make tutorials`` runs the notebooks in full, in Jupyter.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import config

from tests.tutorials.cells import run_script

SCRIPTS = Path(__file__).resolve().parents[2] / "tutorials"


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    return TutorialFile.from_parent(parent, path=file_path) if file_path.suffix == ".toml" else None


class TutorialFile(pytest.File):
    def collect(self) -> Iterator[Tutorial]:
        yield Tutorial.from_parent(self, name="runs_on_fewer_clips")


class Tutorial(pytest.Item):
    def runtest(self) -> None:
        smaller = tomllib.loads(self.path.read_text(encoding="utf-8"))
        config.update("jaxtyping_disable", True)  # as for a reader
        try:
            run_script((SCRIPTS / self.path.name).with_suffix(".py"), smaller)
        finally:
            config.update("jaxtyping_disable", False)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.name
