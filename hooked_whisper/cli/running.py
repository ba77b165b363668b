"""What every command line of ours does alike: one line for an error, exit codes, interruptions."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, not the usage."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Parse, and call ``parsed.run(parsed, arguments)``.

    Returns its exit code; 2 for an error of ours or of the system, told in a line; 130 if interrupted.
    """
    prog = parser.prog
    parsed = parser.parse_args(arguments)
    from hooked_whisper.errors import HookedWhisperError

    logging.basicConfig(level=logging.WARNING, format=f"{prog}: %(message)s", stream=sys.stderr)
    loggers = [logging.getLogger(package) for package in ("hooked_whisper", "sae_lens_audio")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.DEBUG if parsed.verbose else logging.WARNING)
        with _any_text_on_stdout():
            return int(parsed.run(parsed, list(arguments)))
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has seen enough; keep the interpreter from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (HookedWhisperError, OSError) as error:
        logging.getLogger(__name__).debug("error", exc_info=True)
        print(f"{prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finally:  # who calls this in a program of their own keeps their settings
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _any_text_on_stdout() -> Iterator[None]:
    """Characters that the output's encoding lacks (Japanese in a cp1252 pipe) are written as ``\\u65e5``."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper):  # of a notebook or a test
        yield
        return
    errors = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        with suppress(OSError):  # it first writes what waits, and a closed pipe refuses; the exit reports that
            stream.reconfigure(errors=errors)


def json_for_stdout(data: object) -> str:
    """JSON with the characters as they are, or with JSON's own escapes where the output's encoding lacks some."""
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
