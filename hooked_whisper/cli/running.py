"""Run a command line: one-line errors, exit codes, interruptions."""

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
        """Print one line instead of the usage."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Parse the arguments and call ``parsed.run(parsed, arguments)``.

    Returns the exit code of that call, 2 after a ``HookedWhisperError`` or ``OSError`` (printed as one line), or 130
    after an interruption.
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
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe: avoid an error message at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (HookedWhisperError, OSError) as error:
        logging.getLogger(__name__).debug("error", exc_info=True)
        print(f"{prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finally:  # restore the logging levels of a calling program
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


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
