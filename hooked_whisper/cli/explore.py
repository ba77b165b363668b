"""``hooked-whisper explore``: serve the local page."""

from __future__ import annotations

import argparse
import socket

from hooked_whisper.cli.corpus_arguments import add_texts, report_failures
from hooked_whisper.cli.model_arguments import add_model, check_language, load_model, not_negative
from hooked_whisper.cli.prepare import check_files, find_model


def add_explore(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``explore``."""
    parser.add_argument("audio", nargs="*", metavar="FILE", help="recordings to start with (drop more onto the page)")
    add_model(parser)
    group = parser.add_argument_group("recordings")
    add_texts(group, default="own")
    group.add_argument("--language", default="en", metavar="L", help="language of the recordings (default: en)")
    group = parser.add_argument_group("page")
    group.add_argument("--port", type=not_negative, default=0, metavar="P", help="port (default: any free one)")
    group.add_argument("--no-browser", action="store_true", help="print the address, but do not open a browser")


def run_explore(parsed: argparse.Namespace, arguments: list[str]) -> int:
    """Serve the page until it is stopped. Return 1 if a recording could not be read."""
    from hooked_whisper._support.storage import as_path
    from hooked_whisper.errors import AudioError
    from hooked_whisper.explorer.app import Explorer
    from hooked_whisper.explorer.clips import Shelf
    from hooked_whisper.explorer.serve import serve

    if parsed.audio:
        check_files(parsed.audio)
    _check_port(parsed.port)
    named = find_model(parsed.model)
    check_language(named.shapes, parsed.language)
    model, _ = load_model(parsed, named.checkpoint)
    shelf = Shelf(model, parsed.language, texts=parsed.texts)
    failures: list[tuple[str, str]] = []
    for file in parsed.audio:
        try:
            shelf.add(as_path(file).read_bytes(), file, source=file)
        except (AudioError, OSError) as error:
            if len(parsed.audio) == 1:
                raise
            failures.append((file, str(error)))
    code = report_failures(failures, len(parsed.audio))
    explorer = Explorer(model, parsed.model, shelf, parsed.language)
    serve(
        explorer,
        parsed.port,
        lambda address: print(f"open {address}\nstop with Ctrl-C; nothing is saved", flush=True),
        browser=not parsed.no_browser,
    )
    print("stopped")
    return code


def _check_port(port: int) -> None:
    """Raise ``HookedWhisperError`` if the port is in use or no port."""
    from hooked_whisper.errors import HookedWhisperError

    if port > 65_535:
        raise HookedWhisperError(f"--port {port} does not exist, expected 1 to 65535: omit --port for a free one")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise HookedWhisperError(f"--port {port} cannot be used ({error.strerror}): omit --port") from error
