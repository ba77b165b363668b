"""Words and phones of the recordings of a command, by forced alignment where a text has none."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hooked_whisper._support.ranks import TorchRanks
    from hooked_whisper.corpora import Recording

ALIGNED = "aligned"  # folder in --out


def add_align_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--align``."""
    parser.add_argument(
        "--align",
        choices=("auto", "never"),
        default="auto",
        help="auto: English recordings that have a text but no alignment file get words and phones by forced alignment "
        "(needs the extra align, about a tenth of the recordings' duration); never: their phones stay unknown "
        "(default: auto)",
    )


def with_phones(
    parsed: argparse.Namespace, corpus: Sequence[Recording], ranks: TorchRanks | None = None
) -> list[Recording]:
    """Return the corpus with alignments as set by ``--align``. The files are in ``--out``; a second run reads them.

    Recordings that cannot be aligned are returned unchanged.
    """
    from hooked_whisper.corpora import align_corpus, apply_alignments
    from hooked_whisper.corpora.aligning import is_english
    from hooked_whisper.errors import AlignmentError, MissingExtraError

    unaligned = [
        index
        for index, recording in enumerate(corpus)
        if recording.text.strip()
        and (recording.find_alignment is None or recording.text_source)  # own texts have words, but no phones
        and is_english(recording.language or parsed.language)
    ]
    if parsed.align == "never" or not unaligned:
        return list(corpus)
    folder, part = Path(parsed.out) / ALIGNED, [corpus[index] for index in unaligned]
    try:
        if ranks is None or not ranks.rank:
            align_corpus(part, folder, formats="json", progress=sys.stderr.isatty())
    except MissingExtraError as error:
        print(f"{len(part)} recordings have a text but no phones: {error}", file=sys.stderr)
        return list(corpus)
    finally:
        if ranks is not None:
            ranks.wait()
    result = list(corpus)
    try:
        aligned = apply_alignments(part, folder)
    except AlignmentError as error:  # not one recording could be aligned
        print(f"no phones: {error}", file=sys.stderr)
        return result
    for index, recording in zip(unaligned, aligned, strict=True):
        result[index] = recording
    return result
