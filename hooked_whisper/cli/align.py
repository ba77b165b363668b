"""``hooked-whisper align``: words and phones of recordings by forced alignment, as TextGrid and JSON files."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hooked_whisper.cli.corpus_arguments import add_texts
from hooked_whisper.cli.model_arguments import add_verbose, load_model, threads
from hooked_whisper.cli.prepare import check_output, find_model

if TYPE_CHECKING:
    from hooked_whisper.corpora import Recording

TRANSCRIBER = "tiny.en"
_SHOWN = 5  # problems and guesses printed; the manifest lists all


def add_align(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``align``."""
    parser.add_argument(
        "corpus",
        metavar="CORPUS",
        help="a folder of audio files and texts (a.wav and a.txt), LibriSpeech, TIMIT, or a table (.csv, .tsv, .jsonl)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("aligned"), metavar="DIR", help="output folder (default: aligned)"
    )
    parser.add_argument(
        "--oov",
        choices=("guess", "skip"),
        default="guess",
        help="for words outside the dictionary: guess the phones from the spelling (default), or skip the recording",
    )
    parser.add_argument(
        "--format", choices=("textgrid", "json", "both"), default="both", help="files to write (default: both)"
    )
    parser.add_argument("--jobs", type=threads, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="overwrite files in DIR that this command did not write (default: refuse)",
    )
    group = parser.add_argument_group("recordings")
    group.add_argument("--layout", default="auto", metavar="L", help="layout of CORPUS (default: auto, detect it)")
    group.add_argument(
        "--speaker-folders", action="store_true", help="in a plain folder, each subfolder is one speaker"
    )
    add_texts(group)
    group.add_argument("--language", default="en", metavar="L", help="language of the recordings; only en is supported")
    group = parser.add_argument_group("model, for --texts own only")
    group.add_argument("--model", metavar="M", help=f"model that transcribes (default: {TRANSCRIBER})")
    group.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, ... (default: cuda if available)")
    group.add_argument("--threads", type=threads, metavar="N", help="CPU threads (default: PyTorch's)")
    add_verbose(parser)


def run_align(parsed: argparse.Namespace, arguments: list[str]) -> int:
    """Align the corpus and print a summary. Return 1 if a recording failed."""
    from hooked_whisper.corpora import align_corpus, own_text_fact
    from hooked_whisper.corpora.aligning import MANIFEST, check_ids

    _check(parsed)
    corpus = _with_texts(parsed)
    check_ids(corpus)
    lost: dict[str, str] = {}
    if parsed.texts == "own":
        corpus, lost = _own_texts(parsed, corpus)
    result = align_corpus(
        corpus,
        parsed.out,
        formats=parsed.format,
        oov=parsed.oov,
        jobs=parsed.jobs,
        overwrite=parsed.overwrite,
        progress=sys.stderr.isatty(),
    )
    failures = [*lost.items(), *result.failures]
    skipped = [(name, reason) for name, reason in result.skipped if name not in lost]
    print(
        f"aligned: {len(result.aligned)} recordings, {result.seconds / 60:.1f} minutes; "
        f"{len(result.unchanged)} were already aligned"
    )
    if fact := own_text_fact(corpus):
        print(f"texts: {fact}")
    for what, problems in (("skipped", skipped), ("failed", failures)):
        if problems:
            print(f"{what}: {len(problems)} recordings")
            for name, reason in problems[:_SHOWN]:
                print(f"  {name}: {reason}")
    if result.guessed:
        guesses = "; ".join(f"{word} {phones}" for word, phones in list(result.guessed.items())[:_SHOWN])
        print(f"guessed: {len(result.guessed)} words outside the dictionary, such as {guesses}")
    print(f"use the files with --alignments {parsed.out}; {parsed.out / MANIFEST} lists every recording")
    return 1 if failures else 0


def _check(parsed: argparse.Namespace) -> None:
    """Check everything but the corpus, which is opened next.

    Raises:
        HookedWhisperError: an argument is wrong, or has no effect without ``--texts own``.
        MissingExtraError: pocketsphinx is not installed.
    """
    from hooked_whisper.corpora.forced_alignment import aligner_name
    from hooked_whisper.errors import HookedWhisperError

    check_english(parsed.language)
    check_output(parsed.out)
    aligner_name()
    if parsed.texts == "own":
        find_model(parsed.model or TRANSCRIBER)
        return
    for name in ("model", "device", "threads"):
        if (value := getattr(parsed, name)) is not None:
            raise HookedWhisperError(
                f"--{name} {value} has no effect without --texts own: add --texts own, or omit --{name}"
            )


def check_english(language: str) -> None:
    """Raise ``HookedWhisperError`` for any language except English."""
    from hooked_whisper.corpora.aligning import NOT_ENGLISH, is_english
    from hooked_whisper.errors import HookedWhisperError

    if not is_english(language):
        raise HookedWhisperError(NOT_ENGLISH.format(language))


def _with_texts(parsed: argparse.Namespace) -> list[Recording]:
    """Open the corpus. Recordings without a text get the words of their alignment as text."""
    from hooked_whisper.corpora import open_corpus

    corpus = open_corpus(parsed.corpus, parsed.layout, speaker_folders=parsed.speaker_folders)
    return [_text_of_alignment(recording) for recording in corpus]


def _text_of_alignment(recording: Recording) -> Recording:
    from hooked_whisper.errors import AlignmentError

    if recording.find_alignment is None:
        return recording
    text = recording.text
    if not text.strip():
        try:
            alignment = recording.alignment()
        except AlignmentError:  # a broken alignment file: treat the recording as one without text
            alignment = None
        text = "" if alignment is None else alignment.text
    return replace(recording, text=text, find_alignment=None)


def _own_texts(parsed: argparse.Namespace, corpus: list[Recording]) -> tuple[list[Recording], dict[str, str]]:
    """Transcribe recordings without text. Return the corpus, and the reasons for recordings still without text."""
    from hooked_whisper.analysis import with_own_texts
    from hooked_whisper.corpora import Failure

    parsed.model = parsed.model or TRANSCRIBER
    model, _ = load_model(parsed)
    failures: list[Failure] = []
    filled = with_own_texts(
        model,
        corpus,
        language="en",
        cache=parsed.out,
        progress=sys.stderr.isatty(),
        failed=failures.append,
    )
    lost = {failure.id: failure.reason for failure in failures}
    silent = {
        recording.id: f"{model.cfg.name} found no words in it"
        for recording in filled
        if not recording.text and recording.id not in lost
    }
    return filled, lost | silent
