"""``hooked-whisper``: reproduce findings, write pages about neurons, transcribe, list hook points.

Exit codes: 0 for success; 1 if a finding failed or some recordings could not be read (the others were processed); 2 for
a wrong argument or file (nothing was done); 130 if interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hooked_whisper.cli.align import add_align, run_align
from hooked_whisper.cli.corpus_arguments import report_failures
from hooked_whisper.cli.explore import add_explore, run_explore
from hooked_whisper.cli.features import add_features, run_features
from hooked_whisper.cli.model_arguments import add_model, check_language, load_model
from hooked_whisper.cli.reproduce import add_reproduce, check_files, run_reproduce
from hooked_whisper.cli.running import Parser, json_for_stdout, run, version
from hooked_whisper.cli.scan import add_scan, run_scan

if TYPE_CHECKING:  # torch takes a second to import; --help and wrong arguments need not wait for it
    from hooked_whisper.hooked import HookedWhisper


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    return run(_parser(), list(sys.argv[1:] if argv is None else argv))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="hooked-whisper",
        description="Whisper with a named, causal hook point on every activation. Reproduce published findings, write "
        "pages about neurons with sound, align and transcribe recordings, list the hook points.",
        epilog="Examples: `hooked-whisper reproduce --out out/demo` (a page of findings on the packaged model); "
        "`hooked-whisper reproduce --model tiny.en --corpus recordings/`; `hooked-whisper transcribe speech.wav`.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version()}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="reproduce|explore|features|scan|align|transcribe|hooks"
    )
    _add_reproduce(commands)
    _add_explore(commands)
    _add_features(commands)
    _add_scan(commands)
    _add_align(commands)
    _add_transcribe(commands)
    _add_hooks(commands)
    return parser


def _add_reproduce(commands: Any) -> None:
    parser = commands.add_parser(
        "reproduce",
        help="run published findings and write a self-contained page",
        description="Run published findings about Whisper on a model, with controls and confidence intervals. "
        "Writes findings.json and index.html, which includes figures, transcripts and sound. Without --corpus and "
        "--audio, the packaged speech is used; the demo model hears new sentences spoken by espeak-ng.",
    )
    add_reproduce(parser)
    parser.set_defaults(run=run_reproduce)


def _add_explore(commands: Any) -> None:
    parser = commands.add_parser(
        "explore",
        help="open a local page to listen, cut and swap words, narrow attention, switch heads and neurons off",
        description="Serve a page on this machine only (127.0.0.1, with a token in the address). It shows the "
        "spectrogram, words and phones of a clip, how each change of the model changes the transcript, and Python code "
        "for the same change. Stop it with Ctrl-C or the button on the page.",
    )
    add_explore(parser)
    parser.set_defaults(run=run_explore)


def _add_features(commands: Any) -> None:
    parser = commands.add_parser(
        "features",
        help="write web pages that show and play what neurons or other features respond to",
        description="Scan a corpus and write web pages that open from disk: an index of all features, and a page for "
        "each with its strongest examples and a sample from every activation range, with spectrogram, activation, "
        "words, phones and sound. If the corpus is aligned, the page also has the phones in each range and a label "
        "with its evidence. An interrupted scan resumes.",
    )
    add_model(parser)
    add_features(parser)
    parser.set_defaults(run=_features)


def _add_scan(commands: Any) -> None:
    parser = commands.add_parser(
        "scan",
        help="write tables of what neurons or other features respond to",
        description="Scan a corpus and write parquet tables: the largest activations of every feature, samples from "
        "its whole range, moments and histograms. An interrupted scan resumes. To use several processes or machines, "
        "which must share a folder, run `torchrun --nproc-per-node N -m hooked_whisper scan ...`; it writes the "
        "same bytes.",
    )
    add_scan(parser)
    parser.set_defaults(run=run_scan)


def _add_align(commands: Any) -> None:
    parser = commands.add_parser(
        "align",
        help="find word and phone times by forced alignment, as TextGrid and JSON",
        description="Align English recordings with their texts or transcripts, using pocketsphinx (extra `align`), and "
        "write files that every command accepts with --alignments. Phones are the 39 of the CMU dictionary, and SIL. "
        "Recordings that are already aligned are skipped. If a recording fails, it is listed and the exit code is 1.",
    )
    add_align(parser)
    parser.set_defaults(run=run_align)


def _add_transcribe(commands: Any) -> None:
    parser = commands.add_parser(
        "transcribe",
        help="transcribe audio files",
        description="Transcribe audio files of any length, without ffmpeg.",
    )
    parser.add_argument("audio", nargs="+", metavar="FILE", help="wav, flac, mp3, ogg, opus, ...")
    add_model(parser)
    parser.add_argument("--language", metavar="L", help="such as en or german (default: detect it)")
    parser.add_argument("--word-timestamps", action="store_true", help="also print word times")
    parser.add_argument("--json", action="store_true", help="print one JSON array instead of text")
    parser.set_defaults(run=_transcribe)


def _add_hooks(commands: Any) -> None:
    parser = commands.add_parser(
        "hooks",
        help="list every hook point with its axes and shape",
        description="List the hook points in the order of the forward pass, with their axes and lengths for this "
        "model. For released models no weights are needed.",
    )
    add_model(parser, device=False)
    parser.add_argument("--names", metavar="GLOB", help="list only these, such as 'decoder.*.cross_attn.hook_pattern'")
    parser.add_argument("--json", action="store_true", help="print one JSON array instead of a table")
    parser.set_defaults(run=_hooks)


# --- features --------------------------------------------------------------------------------------------------------


def _features(parsed: argparse.Namespace, arguments: list[str]) -> int:
    return run_features(parsed, arguments, load_model(parsed)[0])


# --- transcribe ------------------------------------------------------------------------------------------------------


def _transcribe(parsed: argparse.Namespace, arguments: list[str]) -> int:
    from hooked_whisper.errors import AudioError, MissingExtraError

    check_files(parsed.audio)
    model, _ = load_model(parsed)
    check_language(model, parsed.language)
    results: list[dict[str, Any]] = []
    failures: list[tuple[str, str]] = []
    try:
        for file in parsed.audio:
            options = {"language": parsed.language} if parsed.language else {}
            try:
                result = model.transcribe(file, word_timestamps=parsed.word_timestamps, **options)
            except (AudioError, MissingExtraError) as error:
                if len(parsed.audio) == 1:
                    raise
                failures.append((file, str(error)))
                continue
            results.append({"file": file, **result})
            if parsed.json:
                continue
            prefix = f"{file}: " if len(parsed.audio) > 1 else ""
            print(f"{prefix}{result.text.strip()}", flush=True)
            for word in result.words:
                print(f"  {word['start']:7.2f} {word['end']:7.2f}  {word['word'].strip()}")
    finally:  # also print the results from before an interruption
        if parsed.json and (results or failures):
            print(json_for_stdout(results))
    return report_failures(failures, len(parsed.audio))


# --- hooks -----------------------------------------------------------------------------------------------------------


def _hooks(parsed: argparse.Namespace, arguments: list[str]) -> int:
    model = _shapes_only(parsed.model)
    rows = [_hook_row(model, name) for name in model.hook_names(parsed.names)]
    if parsed.json:
        print(json.dumps(rows, indent=1))
        return 0
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        lengths = (
            axis if size is None else f"{axis}={size}" for axis, size in zip(row["axes"], row["shape"], strict=True)
        )
        print(f"{row['name']:<{width}}  [{', '.join(lengths)}]{'  (optional)' if row['optional'] else ''}")
    return 0


def _shapes_only(name: str) -> HookedWhisper:
    """Return the model without weights. Only names that are not released models are loaded from disk."""
    import torch

    from hooked_whisper.config import ALIASES, RELEASED
    from hooked_whisper.hooked import HookedWhisper
    from hooked_whisper.loading import resolve

    short = name.removeprefix("openai/").removeprefix("whisper-")
    config = RELEASED.get(ALIASES.get(short, short)) or resolve(name).config
    with torch.device("meta"):
        return HookedWhisper(config)


def _hook_row(model: HookedWhisper, name: str) -> dict[str, Any]:
    """Return the axes and their lengths (``None`` for batch and tokens, which depend on the input)."""
    cfg, point = model.cfg.encoder, model.hook_dict[name]
    lengths = {"batch": -1, "token": -1, "frame": cfg.n_frames, "position": cfg.n_ctx}
    shape = [None if size < 0 else size for size in point.shape(lengths)]
    return {"name": name, "axes": list(point.axes), "shape": shape, "optional": point.optional}


if __name__ == "__main__":
    sys.exit(main())
