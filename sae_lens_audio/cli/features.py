"""``sae-lens-audio features``: a browsable site about the features of an SAE."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import PurePath

from hooked_whisper.cli.features import add_site, write_site
from sae_lens_audio.cli.records import (
    add_record_arguments,
    check_weights,
    crosscoder_hooks,
    hooks_of,
    load_saes,
    model_of,
)


def add_features(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``features``."""
    parser.add_argument(
        "sae",
        metavar="FOLDER",
        help="an SAE or crosscoder (SAELens, sparsify, dictionary_learning), or a packaged one such as "
        "tiny.en/encoder.blocks.2",
    )
    add_site(parser)
    add_record_arguments(parser)


def run_features(parsed: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Scan the corpus, write the pages, and print where they are."""
    saes = load_saes([parsed.sae])
    (loaded,) = saes.values()
    shapes = model_of(parsed, saes).shapes
    several = loaded.sae.reads_several_hooks
    hook = crosscoder_hooks(parsed, saes, shapes) if several else hooks_of(parsed, saes, shapes).reads
    command = shlex.join(["sae-lens-audio", *arguments])
    return write_site(
        parsed,
        command,
        hook,
        lambda width: loaded.sae.float(),
        lambda model: check_weights(parsed, model, saes),
        f"{'crosscoder' if several else 'SAE'} {sae_name(parsed.sae)}",
    )


def sae_name(source: str) -> str:
    """Return the name of an SAE: the last folder of its path, without ``sae`` (``runs/topk/sae`` is ``topk``)."""
    parts = [part for part in PurePath(source).parts if part not in ("/", ".", "..")]
    if len(parts) > 1 and parts[-1] == "sae":
        parts = parts[:-1]
    return parts[-1] if parts else source
