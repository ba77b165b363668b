"""``sae-lens-audio push``: upload an SAE to the Hugging Face hub."""

from __future__ import annotations

import argparse

from hooked_whisper.cli.push import add_upload


def add_push(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``push``."""
    parser.add_argument("sae", metavar="FOLDER", help="an SAE (SAELens, sparsify, dictionary_learning)")
    parser.add_argument("repo_id", metavar="OWNER/NAME", help="repository, created if it does not exist")
    parser.add_argument("--folder", default="", metavar="NAME", help="folder in it, for repositories with several SAEs")
    add_upload(parser)


def run_push(parsed: argparse.Namespace, _: list[str]) -> int:
    """Upload the SAE with a card; print the files."""
    from sae_lens_audio.formats import load_sae, push_to_hub

    loaded = load_sae(parsed.sae)
    uploaded = push_to_hub(
        loaded.sae, parsed.repo_id, parsed.folder, log_sparsity=loaded.log_sparsity, private=not parsed.public,
        license=parsed.license, dry_run=parsed.dry_run,
    )  # fmt: skip
    print(uploaded)
    return 0
