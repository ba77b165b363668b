"""``hooked-whisper transcribe``: the texts of audio files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from hooked_whisper.cli.corpus_arguments import report_failures
from hooked_whisper.cli.model_arguments import add_model, check_language, load_model
from hooked_whisper.cli.prepare import check_files, find_model
from hooked_whisper.cli.running import json_for_stdout


def add_transcribe(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``transcribe``."""
    parser.add_argument("audio", nargs="+", metavar="FILE", help="wav, flac, mp3, ogg, opus, ...")
    parser.add_argument("--language", metavar="L", help="such as en or german (default: detect it)")
    parser.add_argument("--word-timestamps", action="store_true", help="also print word times")
    parser.add_argument("--json", action="store_true", help="print one JSON array instead of text")
    add_model(parser)


def run_transcribe(parsed: argparse.Namespace, arguments: list[str]) -> int:
    """Print the transcripts as they are finished. Return 1 if a file could not be read."""
    from hooked_whisper.decoding import transcribe_each
    from hooked_whisper.decoding.transcribe import BATCH

    check_files(parsed.audio)
    named = find_model(parsed.model)
    check_language(named.shapes, parsed.language)
    model, _ = load_model(parsed, named.checkpoint)
    options = {"word_timestamps": parsed.word_timestamps, "language": parsed.language}
    results: list[dict[str, Any]] = []
    failures: list[tuple[str, str]] = []
    try:
        for first in range(0, len(parsed.audio), BATCH):
            clips = list(_readable(parsed.audio[first : first + BATCH], failures, alone=len(parsed.audio) == 1))
            texts = transcribe_each(model, [clip for _, clip in clips], **options)
            for (file, _), result in zip(clips, texts, strict=True):
                results.append({"file": file, **result})
                if not parsed.json:
                    _show(result, f"{file}: " if len(parsed.audio) > 1 else "")
    finally:  # also print the results from before an interruption
        if parsed.json and (results or failures):
            print(json_for_stdout(results))
    return report_failures(failures, len(parsed.audio))


def _readable(files: list[str], failures: list[tuple[str, str]], alone: bool) -> Iterator[tuple[str, Any]]:
    """Yield the samples of each file; note those that cannot be read, or raise the error of a single file."""
    from hooked_whisper.audio import load_audio
    from hooked_whisper.errors import AudioError, MissingExtraError

    for file in files:
        try:
            yield file, load_audio(file)
        except (AudioError, MissingExtraError) as error:
            if alone:
                raise
            failures.append((file, str(error)))


def _show(result: Any, prefix: str) -> None:
    print(f"{prefix}{result.text.strip()}", flush=True)
    for word in result.words:
        print(f"  {word['start']:7.2f} {word['end']:7.2f}  {word['word'].strip()}")
