"""``hooked-whisper align``: words and phones of recordings by forced alignment, as TextGrid and JSON files."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hooked_whisper.cli.corpus_arguments import add_texts
from hooked_whisper.cli.model_arguments import load_model, threads

if TYPE_CHECKING:
    from hooked_whisper.corpora import Recording

_SHOWN = 5  # problems and guesses named on the screen; the manifest has all


def add_align(parser: argparse.ArgumentParser) -> None:
    """All arguments of the command."""
    parser.add_argument(
        "corpus",
        metavar="CORPUS",
        help="a folder of audio with texts (a.wav and a.txt), LibriSpeech, TIMIT, or a table (.csv, .tsv, .jsonl)",
    )
    parser.add_argument("--out", type=Path, default=Path("aligned"), metavar="DIR", help="folder (default: aligned)")
    parser.add_argument("--layout", default="auto", metavar="L", help="of CORPUS (default: auto, recognized)")
    parser.add_argument(
        "--speaker-folders", action="store_true", help="in a plain folder: files in one folder have one speaker"
    )
    add_texts(parser)
    parser.add_argument(
        "--model", default="tiny.en", metavar="M", help="with --texts own: whose transcript (default: tiny.en)"
    )
    parser.add_argument(
        "--language", default="en", metavar="L", help="of the recordings: en only, as the acoustic model is English"
    )
    parser.add_argument(
        "--oov",
        choices=("guess", "skip"),
        default="guess",
        help="words outside the dictionary: guess their phones from their letters (default), or skip the recording",
    )
    parser.add_argument(
        "--format", choices=("textgrid", "json", "both"), default="both", help="files to write (default: both)"
    )
    parser.add_argument("--jobs", type=threads, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument(
        "--overwrite", action="store_true", help="also files in DIR that this command did not make (default: refuse)"
    )
    parser.add_argument("--device", metavar="D", help="of the model: cpu, cuda, ... (default: cuda if there is one)")
    parser.add_argument("--threads", type=threads, metavar="N", help="CPU threads of the model (default: PyTorch's)")
    parser.add_argument("--verbose", "-v", action="store_true", help="tracebacks and details on stderr")


def run_align(parsed: argparse.Namespace, arguments: list[str]) -> int:
    """Align, and say what was done; 1 if a recording failed."""
    from hooked_whisper.corpora import align_corpus, own_text_fact
    from hooked_whisper.corpora.aligning import MANIFEST

    check_english(parsed.language)
    corpus = _with_texts(parsed)
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
        f"aligned: {len(result.aligned)} recordings, {result.seconds / 60:.1f} minutes; {len(result.kept)} were there"
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
    print(f"read with --alignments {parsed.out}; {parsed.out / MANIFEST} lists every recording")
    return 1 if failures else 0


def check_english(language: str) -> None:
    """Raises ``HookedWhisperError`` for any other language."""
    from hooked_whisper.corpora.aligning import NOT_ENGLISH, is_english
    from hooked_whisper.errors import HookedWhisperError

    if not is_english(language):
        raise HookedWhisperError(NOT_ENGLISH.format(language))


def _with_texts(parsed: argparse.Namespace) -> list[Recording]:
    """The corpus; where only an alignment says what was said, its text."""
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
        except AlignmentError:  # a broken file beside the audio: the recording counts as one without text
            alignment = None
        text = "" if alignment is None else alignment.text
    return replace(recording, text=text, find_alignment=None)


def _own_texts(parsed: argparse.Namespace, corpus: list[Recording]) -> tuple[list[Recording], dict[str, str]]:
    """Texts of the model, and why recordings have none."""
    from hooked_whisper.corpora import Failure, with_own_texts

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
    silent = {one.id: f"{model.cfg.name} heard no words in it" for one in filled if not one.text and one.id not in lost}
    return filled, lost | silent
