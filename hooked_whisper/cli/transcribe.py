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

    check_files(parsed.audio)
    named = find_model(parsed.model)
    check_language(named.shapes, parsed.language)
    model, _ = load_model(parsed, named.checkpoint)
    options = {"word_timestamps": parsed.word_timestamps, "language": parsed.language}
    results: list[dict[str, Any]] = []
    files: list[str] = []  # that could be read
    failures: list[tuple[str, str]] = []
    clips = _readable(parsed.audio, files, failures)
    try:
        for result, file in zip(transcribe_each(model, clips, **options), files, strict=True):  # files grow with clips
            results.append({"file": file, **result})
            if not parsed.json:
                _show(result, f"{file}: " if len(parsed.audio) > 1 else "")
    finally:  # also print the results from before an interruption
        if parsed.json and (results or failures):
            print(json_for_stdout(results))
    return report_failures(failures, len(parsed.audio))


def _readable(audio: list[str], files: list[str], failures: list[tuple[str, str]]) -> Iterator[Any]:
    """Yield the samples of each file that can be read, and note the files of both kinds. A single file's error is
    raised."""
    from hooked_whisper.audio import load_audio
    from hooked_whisper.errors import AudioError, MissingExtraError

    for file in audio:
        try:
            samples = load_audio(file)
        except (AudioError, MissingExtraError) as error:
            if len(audio) == 1:
                raise
            failures.append((file, str(error)))
        else:
            files.append(file)
            yield samples


def _show(result: Any, prefix: str) -> None:
    print(f"{prefix}{result.text.strip()}", flush=True)
    for word in result.words:
        print(f"  {word['start']:7.2f} {word['end']:7.2f}  {word['word'].strip()}")
