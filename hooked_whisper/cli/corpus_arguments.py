"""Command line arguments that say which recordings: a user's own, or new sentences of the model's synthetic corpus."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hooked_whisper.cli.model_arguments import positive

if TYPE_CHECKING:
    from hooked_whisper._support.ranks import TorchRanks
    from hooked_whisper.corpora import Recording
    from hooked_whisper.hooked import HookedWhisper

_NAMED = 8  # more speakers are counted
_FAILURES = 3  # named on the screen, where a file has them all


def add_corpus(parser: argparse.ArgumentParser, sentences: int, speakers: str, alignments: bool = True) -> None:
    """``--audio`` and what belongs to it; ``sentences`` and ``speakers`` of the synthetic corpus are the defaults."""
    parser.add_argument(
        "--audio",
        metavar="PLACE",
        help="a folder of audio, LibriSpeech, TIMIT, Common Voice, FLEURS, Asterisk's prompts, or a table (.csv, .tsv, "
        ".jsonl), by path or URL; or packaged, "
        "packaged:prose, packaged:prose,window ..., the speech that is in the package. Without it the "
        f"demo model hears new sentences spoken by espeak-ng ({sentences} unless --sentences says otherwise)",
    )
    add_layout(parser, alignments)
    add_texts(parser)
    parser.add_argument(
        "--speaker-folders", action="store_true", help="in a plain folder: files in one folder have one speaker"
    )
    parser.add_argument(
        "--sentences",
        type=positive,
        default=sentences,
        metavar="N",
        help=f"without --audio: how many sentences are spoken (default: {sentences})",
    )
    parser.add_argument(
        "--speakers",
        choices=("train", "held-out"),
        default=speakers,
        help=f"without --audio: who speaks, voices of the model's training or others (default: {speakers})",
    )


def add_layout(parser: argparse.ArgumentParser, alignments: bool = True) -> None:
    """``--layout``, ``--phones`` and, if wanted, ``--alignments``: how the files of a corpus are read."""
    parser.add_argument(
        "--layout",
        default="auto",
        metavar="L",
        help="auto, folder, librispeech, timit, common-voice, fleurs, asterisk, manifest or packaged",
    )
    parser.add_argument(
        "--phones",
        type=int,
        choices=(39, 61),
        help="of TIMIT: 39 classes with closures joined to their stops (default), or its own 61 labels",
    )
    if alignments:
        parser.add_argument(
            "--alignments", metavar="PLACE", help="TextGrid, CTM, TIMIT or JSON files (default: those beside the audio)"
        )


def add_texts(parser: argparse.ArgumentParser, default: str = "given") -> None:
    """``--texts``."""
    parser.add_argument(
        "--texts",
        choices=("given", "own"),
        default=default,
        help="where no text is given: none (given), or the model's own transcript with word times from its "
        f"cross-attention (own). What is computed with it says so (default: {default})",
    )


def texts_of(
    parsed: argparse.Namespace, model: HookedWhisper, corpus: list[Recording], ranks: TorchRanks | None = None
) -> list[Recording]:
    """The recordings with the texts that ``--texts`` says; transcripts are kept in ``--out``."""
    if getattr(parsed, "texts", "given") != "own":
        return corpus
    from hooked_whisper.corpora import with_own_texts

    language = getattr(parsed, "language", "en")
    return with_own_texts(model, corpus, language=language, cache=parsed.out, progress=sys.stderr.isatty(), ranks=ranks)


def report_failures(failures: Sequence[tuple[str, str]], n: int, details: str = "") -> int:
    """Name on stderr the recordings that could not be read, of ``n``, with the reasons; ``details`` says where all are.

    Returns the exit code: 0 without any, 1 if others were done, 2 if none was.
    """
    if not failures:
        return 0
    print(f"{len(failures)} of {n} recordings could not be used{f', {details}' if details else ''}:", file=sys.stderr)
    shown = failures[:_FAILURES] if details else failures
    for name, reason in shown:
        print(f"  {name}: {' '.join(reason.split())}", file=sys.stderr)
    return 1 if len(failures) < n else 2


def corpus_of(parsed: argparse.Namespace) -> tuple[list[Recording], str]:
    """The recordings, and a phrase that says what they are. ``parsed`` has ``model`` and ``seed`` too.

    Raises:
        HookedWhisperError: no ``--audio`` and no synthetic corpus, or no synthesizer.
        AudioError, AlignmentError: as :func:`hooked_whisper.corpora.open_corpus`.
    """
    from hooked_whisper.errors import HookedWhisperError

    if parsed.audio:
        from hooked_whisper.corpora import open_corpus

        corpus = open_corpus(
            parsed.audio,
            parsed.layout,
            alignments=getattr(parsed, "alignments", None),
            speaker_folders=parsed.speaker_folders,
            phones=getattr(parsed, "phones", None),
        )
        return corpus, f"{len(corpus)} recordings of {Path(parsed.audio).name}"
    from hooked_whisper.findings.core.sources import synthetic_corpus_of
    from hooked_whisper.synthetic import synthetic_recordings

    synthetic = synthetic_corpus_of(parsed.model)
    if synthetic is None:
        raise HookedWhisperError(
            f"{parsed.model} has no synthetic corpus of its own: say with --audio what it should hear"
        )
    corpus = synthetic_recordings(synthetic, parsed.sentences, parsed.seed, parsed.speakers)
    names = sorted({one.speaker for one in corpus})
    who = "held-out" if parsed.speakers == "held-out" else "training"
    by = f"{who} speakers {', '.join(names)}" if len(names) <= _NAMED else f"{len(names)} {who} speakers"
    return corpus, f"{len(corpus)} new sentences of the synthetic corpus, by {by}"
