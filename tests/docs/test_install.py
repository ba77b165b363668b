"""What a reader installs: the table of extras is that of pyproject.toml; the badges open a notebook that exists."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
COLAB = "https://colab.research.google.com/github/"
TUTORIAL = ROOT / "tutorials" / "01_meet_hooked_whisper.py"


def test_the_table_has_every_extra_once() -> None:
    page = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
    table = page[page.index("| extra |") :].split("\n\n")[0]
    rows = re.findall(r"^\| `([\w-]+)` \| (\S.*\S) \|$", table, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(EXTRAS)


def test_messages_name_extras_that_exist() -> None:
    sources = [*ROOT.glob("hooked_whisper/**/*.py"), *ROOT.glob("sae_lens_audio/**/*.py"), *ROOT.glob("docs/**/*.md")]
    for path in [*sources, ROOT / "README.md", *ROOT.glob("tutorials/*.py")]:
        for extras in re.findall(r"hooked-whisper\[([\w,-]+)\]", path.read_text(encoding="utf-8")):
            assert set(extras.split(",")) <= set(EXTRAS), f"{path}: {extras}"


@pytest.mark.parametrize("path", [ROOT / "README.md", TUTORIAL], ids=lambda path: path.name)
def test_badges_open_the_first_tutorial(path: Path) -> None:
    repository = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
    (link,) = re.findall(rf"\(({re.escape(COLAB)}[^)]+)\)", path.read_text(encoding="utf-8"))
    assert link == f"{COLAB}{repository}/blob/main/tutorials/{TUTORIAL.stem}.ipynb"
    assert TUTORIAL.with_suffix(".ipynb").is_file()


@pytest.mark.parametrize("installed", [True, False])
def test_the_first_cell_installs_only_where_the_package_is_absent(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = next(cell for cell in jupytext.read(TUTORIAL).cells if cell.cell_type == "code")
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "check_call", commands.append)
    if not installed:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(cell.source, {})
    assert [command[1:4] for command in commands] == ([] if installed else [["-m", "pip", "install"]])
