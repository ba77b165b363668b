"""Snippets of markdown pages: found, run in a folder with sound, and compared with the output that is shown."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path

import soundfile

from hooked_whisper.corpora import to_textgrid
from hooked_whisper.synthetic import SyntheticCorpus

_FENCE = re.compile(r"^(?P<fence>```+)(?P<head>[^\n`]*)\n(?P<body>.*?)^(?P=fence)[ \t]*$", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d.,]*(?:e[-+]?\d+)?(?![\w])|(?<=\d)[\d.]+")
PROGRAMS = ("hooked-whisper", "sae-lens-audio")
_RAISES = re.compile(r"^(\w+Error): ")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text, the line it begins on, and the output shown behind it, if any."""

    language: str
    text: str
    line: int
    shown: str | None = None


def blocks(page: str) -> list[Block]:
    """In order. A ``text`` block directly behind a ``python`` block is its output."""
    listed: list[Block] = []
    end = 0
    for match in _FENCE.finditer(page):
        language, text = match["head"].strip(), match["body"]
        line = page.count("\n", 0, match.start()) + 1
        behind_python = listed and listed[-1].language == "python" and listed[-1].shown is None
        if language == "text" and behind_python and not page[end : match.start()].strip():
            listed[-1] = Block("python", listed[-1].text, listed[-1].line, text)
        else:
            listed.append(Block(language, text, line))
        end = match.end()
    return listed


def run_page(path: Path) -> Iterator[str]:
    """Run the page's Python in one namespace; yields what is wrong."""
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(path.read_text(encoding="utf-8")):
        if block.language != "python":
            continue
        where = f"{path.name}:{block.line}"
        printed, raised = io.StringIO(), ""
        try:
            with contextlib.redirect_stdout(printed), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exec(compile("\n" * block.line + block.text, str(path), "exec"), names)
        except Exception as error:
            raised = f"{type(error).__name__}: {error}"
        said = raised or printed.getvalue()
        expects_error = bool(block.shown and _RAISES.match(block.shown))
        if raised and not expects_error:
            yield f"{where} raised {raised}"
            return
        if block.shown is not None and bare(block.shown) != bare(said):
            yield f"{where} shows\n{block.shown}\nbut gave\n{said}"


def bare(text: str) -> str:
    """Without what differs from machine to machine: the values of numbers, and spaces."""
    return " ".join(_NUMBER.sub("0", text).split())


def only_parsed(path: Path) -> Iterator[str]:
    """Python that cannot run here must at least be Python."""
    for block in blocks(path.read_text(encoding="utf-8")):
        if block.language.replace(" ", "") == "{code-block}python":
            try:
                ast.parse(re.sub(r"^:\w.*$", "", block.text, flags=re.MULTILINE))
            except SyntaxError as error:
                yield f"{path.name}:{block.line} is no Python: {error}"


def commands(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Our command lines in ``bash`` and unmarked blocks, as (program, arguments)."""
    for block in blocks(path.read_text(encoding="utf-8")):
        if block.language not in ("bash", "sh", "console", ""):
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            words = list(takewhile(lambda word: word != ">", shlex.split(line.removeprefix("$ "), comments=True)))
            called = dict(pairwise(words)).get("-m", "").replace("_", "-")
            if words and words[0] in PROGRAMS:
                yield words[0], words[1:]
            elif called in PROGRAMS:
                yield called, words[words.index("-m") + 2 :]


def prepare(folder: Path) -> None:
    """``speech.wav``, ``other.wav``, and ``recordings/`` with TextGrids beside six sounds."""
    clips = SyntheticCorpus.default().clips()
    soundfile.write(folder / "speech.wav", clips[1].samples, 16000)
    soundfile.write(folder / "other.wav", clips[2].samples, 16000)
    (folder / "recordings").mkdir()
    for i, clip in enumerate(clips[3:9]):
        soundfile.write(folder / "recordings" / f"r{i}.wav", clip.samples, 16000)
        (folder / "recordings" / f"r{i}.TextGrid").write_text(to_textgrid(clip.alignment), encoding="utf-8")
