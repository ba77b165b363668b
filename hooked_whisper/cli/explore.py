"""``hooked-whisper explore``: serve the local page."""

from __future__ import annotations

import argparse

from hooked_whisper.cli.corpus_arguments import add_texts, report_failures
from hooked_whisper.cli.model_arguments import add_model, check_language, load_model, not_negative


def add_explore(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``explore``."""
    parser.add_argument("audio", nargs="*", metavar="FILE", help="recordings to start with (drop more onto the page)")
    add_model(parser)
    add_texts(parser, default="own")
    parser.add_argument("--language", default="en", metavar="L", help="language of the recordings (default: en)")
    parser.add_argument("--port", type=not_negative, default=0, metavar="P", help="port (default: any free one)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")


def run_explore(parsed: argparse.Namespace, arguments: list[str]) -> int:
    """Serve the page until it is stopped. Return 1 if a recording could not be read."""
    from hooked_whisper._support.storage import as_path
    from hooked_whisper.errors import AudioError
    from hooked_whisper.explorer.app import Explorer
    from hooked_whisper.explorer.clips import Shelf
    from hooked_whisper.explorer.serve import serve

    model, _ = load_model(parsed)
    check_language(model, parsed.language)
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
