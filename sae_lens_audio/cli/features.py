"""``sae-lens-audio features``: a browsable site about the features of an SAE."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from hooked_whisper.cli.features import add_site, write_site
from hooked_whisper.cli.model_arguments import add_model, load_model


def add_features(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sae", metavar="FOLDER", help="an SAE (SAELens, sparsify, dictionary_learning)")
    add_model(parser)
    parser.add_argument("--hook", metavar="NAME", help="hook point (default: as the folder says)")
    add_site(parser)


def run_features(parsed: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Scan the corpus, write the site, print its address."""
    from hooked_whisper.errors import HookedWhisperError
    from sae_lens_audio.formats import load_sae

    loaded = load_sae(parsed.sae)
    hook = parsed.hook or loaded.metadata.hook_name
    if not hook:
        raise HookedWhisperError(f"{parsed.sae} does not say which hook point it reads: name it with --hook")
    if loaded.sae.reads_several_hooks:
        raise HookedWhisperError(
            "this SAE reads several hook points at once (crosscoder); feature pages need an SAE of one"
        )
    model, _ = load_model(parsed)
    command = shlex.join(["sae-lens-audio", *arguments])
    return write_site(parsed, command, model, hook, loaded.sae.float())
