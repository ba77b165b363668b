"""``hooked-whisper``: reproduce findings, write pages about neurons, align, transcribe, list hook points."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hooked_whisper.cli.align import add_align, run_align
from hooked_whisper.cli.explore import add_explore, run_explore
from hooked_whisper.cli.features import add_features, run_features
from hooked_whisper.cli.hooks import add_hooks, run_hooks
from hooked_whisper.cli.push import add_push, run_push
from hooked_whisper.cli.reproduce import add_reproduce, run_reproduce
from hooked_whisper.cli.running import EXIT_CODES, SAME_COMMAND, Command, add_commands, make_parser, run
from hooked_whisper.cli.scan import add_scan, run_scan
from hooked_whisper.cli.transcribe import add_transcribe, run_transcribe

COMMANDS = (
    Command(
        "reproduce",
        add_reproduce,
        run_reproduce,
        "run published findings and write a self-contained page",
        "Run published findings about Whisper on a model, with controls and confidence intervals. Writes "
        "findings.json and index.html, which includes figures, transcripts and sound. Without --corpus and --audio, "
        "the packaged speech is used; the demo model hears new sentences spoken by espeak-ng.",
        (
            "hooked-whisper reproduce --model tiny.en --only F9,F4 --out out/some",
            "hooked-whisper reproduce --model base --corpus recordings/ --out out/base",
        ),
        "the same command with --resume keeps the finished findings",
    ),
    Command(
        "explore",
        add_explore,
        run_explore,
        "open a local page to listen, cut and swap words, narrow attention, switch heads and neurons off",
        "Serve a page on this machine only (127.0.0.1, with a token in the address). It shows the spectrogram, "
        "words and phones of a clip, how each change of the model changes the transcript, and Python code for the "
        "same change. Stop it with Ctrl-C or the button on the page.",
        (
            "hooked-whisper explore --model tiny.en",
            "hooked-whisper explore speech.wav --model tiny --language en",
        ),
        "nothing was saved",
    ),
    Command(
        "features",
        add_features,
        run_features,
        "write web pages that show and play what neurons or other features respond to",
        "Scan a corpus and write web pages that open from disk: an index of all features, and a page for each with "
        "its strongest examples and a sample from every activation range, with spectrogram, activation, words, "
        "phones and sound. If the corpus is aligned, the page also has the phones in each range and a label with "
        "its evidence.",
        ("hooked-whisper features --model tiny.en --units 0:20 --audio packaged:prose --out out/neurons",),
        SAME_COMMAND,
    ),
    Command(
        "scan",
        add_scan,
        run_scan,
        "write tables of what neurons or other features respond to",
        "Scan a corpus and write parquet tables: the largest activations of every feature, samples from its whole "
        "range, moments and histograms. Several processes or machines, which must share a folder, write the same "
        "bytes.",
        (
            "hooked-whisper scan --model tiny.en --hook encoder.blocks.2.mlp.1 --audio packaged:prose",
            "torchrun --nproc-per-node 4 -m hooked_whisper scan --model tiny.en --hook encoder.blocks.2 --audio DIR",
        ),
        SAME_COMMAND,
    ),
    Command(
        "align",
        add_align,
        run_align,
        "find word and phone times by forced alignment, as TextGrid and JSON",
        "Align English recordings with their texts or transcripts, using pocketsphinx (extra `align`), and write "
        "files that every command accepts with --alignments. Phones are the 39 of the CMU dictionary, and SIL. "
        "Recordings that are already aligned are skipped. If a recording fails, it is listed and the exit code is 1.",
        (
            "hooked-whisper align recordings/ --out aligned --jobs 2",
            "hooked-whisper align recordings/ --out aligned --texts own --model tiny.en",
        ),
        SAME_COMMAND,
    ),
    Command(
        "transcribe",
        add_transcribe,
        run_transcribe,
        "transcribe audio files",
        "Transcribe audio files of any length, without ffmpeg.",
        ("hooked-whisper transcribe speech.wav --model tiny.en --word-timestamps",),
        "the transcripts above are complete",
    ),
    Command(
        "hooks",
        add_hooks,
        run_hooks,
        "list every hook point with its axes and shape",
        "List the hook points in the order of the forward pass, with their axes and lengths for this model. For "
        "released models no weights are needed.",
        ("hooked-whisper hooks --model large-v3 --names 'decoder.blocks.0.*'",),
        reads_audio=False,
    ),
    Command(
        "push",
        add_push,
        run_push,
        "upload a model or a folder of pages to the Hugging Face hub",
        "Upload a model in transformers' format, or the pages that `features` or `reproduce` wrote, with a card. A new "
        "repository is private. Files that look like secrets are refused. The token is that of `hf auth login` or "
        "HF_TOKEN.",
        (
            "hooked-whisper push out/neurons me/neurons-of-tiny --dry-run",
            "hooked-whisper push my_model me/my-whisper --license mit",
        ),
        "the hub is unchanged, or has an empty repository",
        reads_audio=False,
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    return run(_parser(), list(sys.argv[1:] if argv is None else argv))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "hooked-whisper",
        "Whisper with a named, causal hook point on every activation. Reproduce published findings, write pages "
        "about neurons with sound, align and transcribe recordings, list the hook points.",
        (
            "hooked-whisper reproduce --out out/demo      a page of findings on the packaged model",
            "hooked-whisper reproduce --model tiny.en --corpus recordings/",
            "hooked-whisper transcribe speech.wav --model tiny.en",
        ),
        EXIT_CODES,
    )
    add_commands(parser, COMMANDS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
