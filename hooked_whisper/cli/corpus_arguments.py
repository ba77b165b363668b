"""Command-line arguments that select recordings: the user's, or new sentences of the demo model's synthetic corpus."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hooked_whisper.cli.model_arguments import positive

if TYPE_CHECKING:
    from hooked_whisper._support.ranks import TorchRanks
    from hooked_whisper.corpora import Failure, Recording
    from hooked_whisper.hooked import HookedWhisper

Arguments = argparse.ArgumentParser | argparse._ArgumentGroup

_NAMED = 8  # up to so many speakers are named; more are counted
_FAILURES = 3  # failures printed if a file lists all of them


def add_corpus(
    parser: argparse.ArgumentParser, sentences: int, speakers: str, alignments: bool = True, texts: str = "given"
) -> None:
    """Add the arguments about the recordings, with the defaults for ``--sentences``, ``--speakers`` and ``--texts``."""
    group = parser.add_argument_group("recordings")
    group.add_argument(
        "--audio",
        metavar="PLACE",
        help="path or URL of a folder of audio files, LibriSpeech, TIMIT, Common Voice, FLEURS, Asterisk's prompts, or "
        "a table (.csv, .tsv, .jsonl); or the packaged speech: packaged, packaged:prose, packaged:prose,window ... "
        "(default, for the demo model only: --sentences new sentences spoken by espeak-ng)",
    )
    add_layout(group, alignments)
    add_texts(group, texts)
    group.add_argument(
        "--speaker-folders", action="store_true", help="in a plain folder, each subfolder is one speaker"
    )
    group.add_argument(
        "--sentences",
        type=positive,
        metavar="N",
        help=f"without --audio: number of sentences (default: {sentences})",
    )
    group.add_argument(
        "--speakers",
        choices=("train", "held-out"),
        help=f"without --audio: voices that the model was trained on, or held-out voices (default: {speakers})",
    )
    group.add_argument(
        "--language", default="en", metavar="L", help="language of recordings that do not name theirs (default: en)"
    )
    parser.set_defaults(default_sentences=sentences, default_speakers=speakers)


def check_corpus_options(parsed: argparse.Namespace) -> None:
    """Refuse options of :func:`add_corpus` that would have no effect.

    Raises:
        HookedWhisperError: an option for files without ``--audio``, or one for the synthetic corpus with ``--audio``.
    """
    from hooked_whisper.errors import HookedWhisperError

    if parsed.audio:
        for name in ("sentences", "speakers"):
            if getattr(parsed, name) is not None:
                raise HookedWhisperError(f"--{name} is for the synthetic corpus, but --audio {parsed.audio} is given")
        return
    refuse_without(parsed, "--audio")


def refuse_without(parsed: argparse.Namespace, source: str) -> None:
    """Refuse the arguments of :func:`add_layout` and ``--speaker-folders`` if there are no files to read.

    source: the missing argument that would name the files.

    Raises:
        HookedWhisperError: one of them is given.
    """
    from hooked_whisper.errors import HookedWhisperError

    for name in ("layout", "alignments", "phones", "speaker_folders"):
        value = getattr(parsed, name, None)
        if value not in (None, False, "auto"):
            option = f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            raise HookedWhisperError(f"{option} has no effect without {source}: add {source}, or omit it")


def add_layout(parser: Arguments, alignments: bool = True) -> None:
    """Add ``--layout``, ``--phones`` and optionally ``--alignments``: how to read the files of a corpus."""
    parser.add_argument(
        "--layout",
        default="auto",
        metavar="L",
        help="layout of the corpus: auto (default), folder, librispeech, timit, common-voice, fleurs, asterisk, "
        "manifest or packaged",
    )
    parser.add_argument(
        "--phones",
        type=int,
        choices=(39, 61),
        help="labels for TIMIT: 39 classes with closures merged into their stops (default), or the original 61 labels",
    )
    if alignments:
        parser.add_argument(
            "--alignments",
            metavar="PLACE",
            help="TextGrid, CTM, TIMIT or JSON files (default: those next to the audio)",
        )


def add_texts(parser: Arguments, default: str = "given") -> None:
    """Add ``--texts``."""
    parser.add_argument(
        "--texts",
        choices=("given", "own"),
        default=default,
        help="own: recordings without a text get the model's transcript, with word times from cross-attention, and the "
        f"results say so; given: they stay without a text (default: {default})",
    )


def texts_of(
    parsed: argparse.Namespace, model: HookedWhisper, corpus: list[Recording], ranks: TorchRanks | None = None
) -> list[Recording]:
    """Return the corpus with texts as set by ``--texts``. Transcripts are saved in ``--out``."""
    if getattr(parsed, "texts", "given") != "own":
        return corpus
    from hooked_whisper.analysis import with_own_texts

    language = getattr(parsed, "language", "en")
    return with_own_texts(
        model,
        corpus,
        language=language,
        cache=parsed.out,
        progress=sys.stderr.isatty(),
        ranks=ranks,
        failed=_reported_later,
    )


def _reported_later(failure: Failure) -> None:
    """Say nothing: the pass that follows reports each recording that cannot be read."""


def report_failures(failures: Sequence[tuple[str, str]], n: int, details: str = "") -> int:
    """Print on stderr which of ``n`` recordings failed and why. ``details`` says where all failures are listed.

    Returns the exit code: 0 without failures, 1 if some recordings failed, 2 if all failed.
    """
    if not failures:
        return 0
    print(f"{len(failures)} of {n} recordings could not be used{f', {details}' if details else ''}:", file=sys.stderr)
    shown = failures[:_FAILURES] if details else failures
    for name, reason in shown:
        print(f"  {name}: {' '.join(reason.split())}", file=sys.stderr)
    return 1 if len(failures) < n else 2


def corpus_of(parsed: argparse.Namespace) -> tuple[list[Recording], str]:
    """Return the recordings and a phrase that describes them. ``parsed`` must also have ``model`` and ``seed``.

    Raises:
        HookedWhisperError: without ``--audio``, if the model has no synthetic corpus or no synthesizer is installed.
        AudioError, AlignmentError: as for :func:`hooked_whisper.corpora.open_corpus`.
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
            f"{parsed.model} has no synthetic corpus: give recordings with --audio, such as --audio packaged"
        )
    sentences = parsed.default_sentences if parsed.sentences is None else parsed.sentences
    speakers = parsed.default_speakers if parsed.speakers is None else parsed.speakers
    corpus = synthetic_recordings(synthetic, sentences, parsed.seed, speakers)
    names = sorted({recording.speaker for recording in corpus})
    kind = "held-out" if speakers == "held-out" else "training"
    by = f"{kind} speakers {', '.join(names)}" if len(names) <= _NAMED else f"{len(names)} {kind} speakers"
    return corpus, f"{len(corpus)} new sentences of the synthetic corpus, by {by}"
