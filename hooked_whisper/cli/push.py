"""``hooked-whisper push``: upload a model or a folder of pages to the Hugging Face hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from hooked_whisper.cli.model_arguments import add_verbose

KINDS = ("space", "dataset")
INDEX = "index.html"


def add_push(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``push``."""
    parser.add_argument(
        "source",
        metavar="PLACE",
        help="a folder of pages (with index.html), or a model: a folder, a file, or the name of a released one",
    )
    parser.add_argument("repo_id", metavar="OWNER/NAME", help="repository, created if it does not exist")
    parser.add_argument(
        "--kind", choices=KINDS, default="space", help="of pages: a static Space (default) or a dataset"
    )
    parser.add_argument("--title", default="", metavar="TEXT", help="of pages (default: the repository's name)")
    add_upload(parser)


def add_upload(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every upload. The token is that of ``hf auth login`` or ``HF_TOKEN``."""
    parser.add_argument("--license", metavar="NAME", help="for the card, such as mit or cc-by-4.0")
    parser.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    parser.add_argument("--dry-run", action="store_true", help="list the files and send nothing")
    add_verbose(parser)


def run_push(parsed: argparse.Namespace, _: list[str]) -> int:
    """Upload the pages or the model with a card; print the files."""
    from hooked_whisper.loading import push_model, push_site
    from hooked_whisper.loading.hub_upload import check_repo_id

    check_repo_id(parsed.repo_id)  # before loading a model
    options = {"license": parsed.license, "private": not parsed.public, "dry_run": parsed.dry_run}
    if (Path(parsed.source) / INDEX).is_file():
        print(push_site(parsed.source, parsed.repo_id, kind=parsed.kind, title=parsed.title, **options))
        return 0
    from hooked_whisper.hooked import HookedWhisper

    print(push_model(HookedWhisper.from_pretrained(parsed.source), parsed.repo_id, **options))
    return 0
