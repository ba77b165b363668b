"""No snippet is untested: Python is run and its output compared, commands are parsed, settings are read."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hooked_whisper.cli import parser as cli
from sae_lens_audio.cli import parser as sae_cli
from sae_lens_audio.training.settings import read_settings
from tests.docs.snippets import bare, blocks, commands, only_parsed, prepare, run_page

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
PARSERS = {"hooked-whisper": cli._parser, "sae-lens-audio": sae_cli._parser}


# A process for the pages of each folder: they run as a reader would run them, without this process's checks of types.
_RUN = """
import os, pathlib, sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from tests.docs.snippets import run_page
wrong = []
for folder, page in zip(sys.argv[2::2], sys.argv[3::2]):
    os.chdir(folder)
    wrong += run_page(pathlib.Path(page))
print("\\n".join(wrong))
sys.exit(bool(wrong))
"""


FOLDERS = sorted({page.parent for page in PAGES})


@pytest.mark.parametrize("pages", FOLDERS, ids=[str(folder.relative_to(ROOT)) for folder in FOLDERS])
def test_snippet_prints_what_the_page_shows(pages: Path, tmp_path: Path) -> None:
    work = [ROOT.as_posix()]
    for page in PAGES:
        if page.parent == pages and any(b.language == "python" for b in blocks(page.read_text(encoding="utf-8"))):
            (folder := tmp_path / page.stem).mkdir()
            prepare(folder)
            work += [str(folder), str(page)]
    env = {**os.environ, "MPLBACKEND": "agg", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", _RUN, *work], capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_and_settings_exist(page: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    assert not list(only_parsed(page))
    for program, arguments in commands(page):
        try:
            PARSERS[program]().parse_args([a for a in arguments if a != "..."])
        except SystemExit as stop:  # 0: the command printed its help or an example
            if stop.code == 0:
                continue
            pytest.fail(f"{page.name}: {program} {' '.join(arguments)}: {capsys.readouterr().err}")
    for i, block in enumerate(blocks(page.read_text(encoding="utf-8"))):
        if block.language == "toml":
            (tmp_path / f"{i}.toml").write_text(block.text, encoding="utf-8")
            assert tomllib.loads(block.text)
            if "[sae]" in block.text:
                read_settings(tmp_path / f"{i}.toml")


def test_snippet_check_detects_errors(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint('a', 1)\n```\n\n```text\nb 1\n```\n\n```python\n1 / 0\n```\n")
    wrong = list(run_page(page))
    assert "page.md:1 shows" in wrong[0] and "page.md:9 raised ZeroDivisionError" in wrong[1]
    page.write_text("```python\nint('x')\n```\n```text\nTypeError: no\n```\n")
    assert "but gave\nValueError" in next(run_page(page))
    page.write_text("```{code-block} python\nprint 1\n```\n")
    assert "is no Python" in next(only_parsed(page))
    page.write_text(
        "```bash\nhooked-whisper hooks \\\n  --model x  # why\ntorchrun -n 2 -m sae_lens_audio train a\n```\n"
    )
    assert list(commands(page)) == [
        ("hooked-whisper", ["hooks", "--model", "x"]),
        ("sae-lens-audio", ["train", "a"]),
    ]
    assert bare("0.81 [0.79, 1e-3] x2 F10") == bare("0.82  [0.1, 2e-4]\nx2 F10") != bare("0.82 [0.1, 2e-4] x3 F10")
