"""``sae-lens-audio features``: the same pages for a dictionary's features as for neurons."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from hooked_whisper.cli.features import add_site, write_site
from hooked_whisper.cli.model_arguments import add_model, load_model


def add_features(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dictionary", metavar="FOLDER", help="a dictionary (SAELens, sparsify, dictionary_learning)")
    add_model(parser)
    parser.add_argument("--hook", metavar="NAME", help="hook point (default: the one that the folder names)")
    add_site(parser)


def run_features(parsed: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Scan, write, say where."""
    from hooked_whisper.errors import HookedWhisperError
    from sae_lens_audio.formats import load_sae

    loaded = load_sae(parsed.dictionary)
    hook = parsed.hook or loaded.metadata.hook_name
    if not hook:
        raise HookedWhisperError(f"{parsed.dictionary} does not say which hook point it reads: name it with --hook")
    if loaded.sae.reads_several_hooks:
        raise HookedWhisperError("a crosscoder reads several hook points together, pages are of one: there are none")
    model, _ = load_model(parsed)
    command = shlex.join(["sae-lens-audio", *arguments])
    return write_site(parsed, command, model, hook, loaded.sae.float())
