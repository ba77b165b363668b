"""``sae-lens-audio collect``: write the activations of a corpus to a folder."""

from __future__ import annotations

import argparse
import sys

from hooked_whisper.cli.corpus_arguments import add_corpus, report_failures
from hooked_whisper.cli.model_arguments import add_model, not_negative, positive
from hooked_whisper.cli.prepare import prepare

SPOKEN = 2000
BEYOND = 50
_DTYPES = ("float16", "bfloat16", "float32")
_PADDINGS = ("drop", "keep")
_WINDOWS = ("full", "sound")


def add_collect(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``collect``."""
    parser.add_argument(
        "--hook",
        action="append",
        required=True,
        dest="hooks",
        metavar="NAME",
        help="hook point, such as encoder.blocks.2, encoder.blocks.2.mlp.1 or decoder.blocks.3 (which needs the text); "
        "repeat it to collect several in one pass",
    )
    parser.add_argument("--out", default="activations", metavar="PLACE", help="folder or URL (default: activations)")
    parser.add_argument(
        "--dtype", choices=_DTYPES, default="float16", help="dtype of the stored activations (default: float16)"
    )
    parser.add_argument(
        "--shard-rows", type=positive, default=2**17, metavar="N", help=f"approximate rows per file (default: {2**17})"
    )
    parser.add_argument(
        "--padding",
        choices=_PADDINGS,
        default="drop",
        help="positions after the end of the sound: drop (default) or keep",
    )
    parser.add_argument(
        "--margin",
        type=not_negative,
        default=0,
        metavar="N",
        help="number of positions before the padding to drop too (0)",
    )
    parser.add_argument(
        "--part", type=positive, default=512, metavar="N", help="recordings per unit of work of a process (512)"
    )
    parser.add_argument(
        "--window",
        choices=_WINDOWS,
        default="full",
        help="input of the encoder: its full window (default), or the sound and --beyond positions after it, which is "
        "faster but changes the activations; the difference is measured and printed",
    )
    parser.add_argument(
        "--beyond",
        type=not_negative,
        metavar="N",
        help=f"with --window sound: number of positions of 20 ms to encode after the sound ({BEYOND})",
    )
    parser.add_argument("--batch", type=positive, default=8, metavar="N", help="windows encoded together (default: 8)")
    parser.add_argument(
        "--seed", type=not_negative, default=0, metavar="S", help="seed of sentences and of the order of rows (0)"
    )
    add_corpus(parser, sentences=SPOKEN, speakers="train", alignments=False)
    add_model(parser)


def run_collect(parsed: argparse.Namespace, arguments: list[str] | None = None) -> int:
    """Collect activations and print a summary."""
    if getattr(parsed, "command", "") == "harvest":
        print("`sae-lens-audio harvest` is now called `sae-lens-audio collect`", file=sys.stderr)
    _check_window(parsed)
    prepared = prepare(parsed)
    from hooked_whisper.activations.deviation import deviation_lines
    from sae_lens_audio.activations import CollectOptions, collect_activations
    from sae_lens_audio.activations.reading import RowReader

    options = CollectOptions(
        dtype=parsed.dtype,
        shard_rows=parsed.shard_rows,
        batch=parsed.batch,
        padding=parsed.padding,
        margin=parsed.margin,
        part=parsed.part,
        window=parsed.window,
        beyond=BEYOND if parsed.beyond is None else parsed.beyond,
        language=parsed.language,
        seed=parsed.seed,
    )
    RowReader(prepared.shapes, parsed.hooks, options)  # refuses hook points without vectors
    with prepared.start("collecting activations of") as session:
        progress = sys.stderr.isatty()
        store = collect_activations(
            session.model, session.corpus, parsed.hooks, parsed.out, options, progress=progress, ranks=session.ranks
        )
    if not session.first:
        return 0
    for hook, width in zip(store.hooks, store.widths, strict=True):
        print(f"{hook}: {store.rows} rows of {width}, {parsed.dtype}")
    speakers = len({recording.speaker for recording in store.recordings if recording.rows and recording.speaker})
    print(
        f"{store.seconds / 60:.1f} minutes of sound by {speakers or 'unknown'} speakers, {store.bytes / 2**20:.1f} MiB "
        f"in {store.n_shards} shard{'s' if store.n_shards != 1 else ''}"
    )
    for line in deviation_lines(store.deviation or {}):
        print(line)
    print(f"open with sae_lens_audio.activations.open_store({str(parsed.out)!r})")
    failures = [(failure["id"], failure["reason"]) for failure in store.failures]
    return report_failures(failures, len(session.corpus), f"{parsed.out}/manifest.json lists all")


def _check_window(parsed: argparse.Namespace) -> None:
    """Raise ``HookedWhisperError`` for options about padding that would have no effect."""
    from hooked_whisper.errors import HookedWhisperError

    if parsed.beyond is not None and parsed.window != "sound":
        raise HookedWhisperError(f"--beyond {parsed.beyond} has no effect without --window sound: add it, or omit both")
    if parsed.margin and parsed.padding == "keep":
        raise HookedWhisperError(f"--margin {parsed.margin} has no effect with --padding keep: omit one of them")
