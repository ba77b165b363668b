"""Run a command line: one-line errors and warnings, exit codes, interruptions."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from hooked_whisper._support.audio_notices import AudioNotice

EXIT_CODES = (
    "Exit codes: 0 success; 1 done, but some recordings or findings failed; 2 a wrong argument or file, and nothing "
    "was done; 130 interrupted."
)
SAME_COMMAND = "the same command resumes"
_WIDTH = 110  # of help texts
NOTICES = "audio_warnings.txt"  # in the output folder
_LISTED = 3  # more files than this are listed in a file


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print one line instead of the usage."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


@dataclass(frozen=True)
class Command:
    """A command of a command line.

    Attributes:
        add: adds the arguments to the command's parser.
        run: runs the parsed command line, given also as a list of strings, and returns the exit code.
        help, description: one line for the list of commands, and a paragraph.
        examples: command lines.
        if_interrupted: how to resume.
        reads_audio: whether there may be warnings about audio to summarize.
        old_names: names of version 0.1, which are not listed.
    """

    name: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, list[str]], int]
    help: str
    description: str
    examples: tuple[str, ...] = ()
    if_interrupted: str = ""
    reads_audio: bool = True
    old_names: tuple[str, ...] = ()


def make_parser(prog: str, description: str, examples: Sequence[str], notes: str) -> argparse.ArgumentParser:
    """Return a parser with ``--version``, and examples and notes at the end of its help."""
    parser = Parser(
        prog=prog,
        description=fill(description, _WIDTH),
        epilog=f"{_listed(examples)}\n\n{fill(notes, _WIDTH)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version()}")
    return parser


def add_commands(parser: argparse.ArgumentParser, commands: Sequence[Command]) -> None:
    """Add the commands to a parser."""
    names = "|".join(command.name for command in commands)
    parsers = parser.add_subparsers(dest="command", required=True, metavar=names)
    for command in commands:
        for name in (command.name, *command.old_names):
            listed: dict[str, Any] = {"help": command.help} if name == command.name else {}
            inner = parsers.add_parser(
                name,
                description=fill(command.description, _WIDTH),
                epilog=_listed(command.examples),
                formatter_class=argparse.RawDescriptionHelpFormatter,
                **listed,
            )
            command.add(inner)
            inner.set_defaults(run=command.run, if_interrupted=command.if_interrupted, reads_audio=command.reads_audio)


def _listed(examples: Sequence[str]) -> str:
    return "\n".join(["examples:", *(f"  {example}" for example in examples)])


def run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Parse the arguments and call ``parsed.run(parsed, arguments)``.

    ``parsed.verbose`` prints every warning; otherwise warnings about audio are summarized at the end.
    ``parsed.if_interrupted`` says how to resume.

    Returns the exit code of that call, 2 after a ``HookedWhisperError`` or ``OSError`` (printed as one line), or 130
    after an interruption.
    """
    prog = parser.prog
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format=f"{prog}: %(message)s", stream=sys.stderr)
    loggers = [logging.getLogger(package) for package in ("hooked_whisper", "sae_lens_audio")]
    levels = [logger.level for logger in loggers]

    def call() -> int:
        try:
            with _any_text_on_stdout(), _warnings_in_a_line(prog), _audio_summary(prog, parsed):
                return int(parsed.run(parsed, list(arguments)))
        except BrokenPipeError:  # the reader, such as `head`, has closed the pipe: avoid an error message at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    try:
        for logger in loggers:
            logger.setLevel(logging.DEBUG if parsed.verbose else logging.WARNING)
        return exit_code_of(prog, call, getattr(parsed, "if_interrupted", ""))
    finally:  # restore the logging levels of a calling program
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def exit_code_of(prog: str, call: Callable[[], int | None], if_interrupted: str = SAME_COMMAND) -> int:
    """Call a function and return the exit code of the program: what it returns or 0, 2 after a ``HookedWhisperError``
    or ``OSError`` (printed as one line), or 130 after an interruption.

    if_interrupted: how to resume; may be empty.
    """
    from hooked_whisper.errors import HookedWhisperError

    try:
        return call() or 0
    except KeyboardInterrupt as interruption:
        hint = str(interruption) or if_interrupted
        print(f"{prog}: interrupted{f'; {hint}' if hint else ''}", file=sys.stderr)
        return 130
    except (HookedWhisperError, OSError) as error:
        logging.getLogger(__name__).debug("error", exc_info=True)
        print(f"{prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


@contextmanager
def _warnings_in_a_line(prog: str) -> Iterator[None]:
    """Print each warning once, as one line without the place in our code."""
    from hooked_whisper._support.audio_notices import ARRAY

    seen: set[str] = set()

    def show(message: Warning | str, *_: object) -> None:
        text = " ".join(str(message).split())
        if text not in seen and not text.startswith(f"{ARRAY}:"):  # samples of a file that has its own warning
            seen.add(text)
            print(f"{prog}: warning: {text}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield


@contextmanager
def _audio_summary(prog: str, parsed: argparse.Namespace) -> Iterator[None]:
    """Summarize the warnings about audio at the end: one line per problem, with the place of the full list."""
    if parsed.verbose or not getattr(parsed, "reads_audio", True):
        yield
        return
    from hooked_whisper._support.audio_notices import ARRAY, collected_notices

    with collected_notices() as notices:
        try:
            yield
        finally:
            of_files = [notice for notice in dict.fromkeys(notices) if notice.name != ARRAY]
            for line in _summary(of_files, getattr(parsed, "out", None)):
                print(f"{prog}: warning: {line}", file=sys.stderr)


def _summary(notices: list[AudioNotice], out: object) -> list[str]:
    """Return the summary, and write the full list into the output folder if there is one."""
    from hooked_whisper._support.audio_notices import summaries

    lines = summaries(notices)
    if len({notice.name for notice in notices}) <= _LISTED:
        return lines
    place = "--verbose lists all"
    if out is not None and "://" not in str(out) and Path(str(out)).is_dir():
        path = Path(str(out), NOTICES)
        with suppress(OSError):
            path.write_text("".join(f"{notice}\n" for notice in notices), encoding="utf-8")
            place = f"{path} lists all"
    return [f"{line} ({place})" for line in lines]


@contextmanager
def _any_text_on_stdout() -> Iterator[None]:
    """Write characters that the output encoding lacks (such as Japanese in cp1252) as escapes, ``\\u65e5``."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper):  # in a notebook or a test
        yield
        return
    errors = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        with suppress(OSError):  # reconfiguring flushes, which fails on a closed pipe; the exit reports that
            stream.reconfigure(errors=errors)


def json_for_stdout(data: object) -> str:
    """Return JSON with plain characters, or with JSON escapes if the output encoding lacks some of them."""
    text = json.dumps(data, indent=1, ensure_ascii=False, default=float)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(data, indent=1, default=float)
    return text


def version() -> str:
    try:
        return metadata.version("hooked-whisper")
    except metadata.PackageNotFoundError:
        return "0 (not installed)"
