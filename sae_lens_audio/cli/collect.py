"""``sae-lens-audio collect``: write the activations of a corpus to a folder."""

from __future__ import annotations

import argparse
import sys

from hooked_whisper.cli.corpus_arguments import add_corpus, corpus_of, report_failures, texts_of
from hooked_whisper.cli.model_arguments import add_model, check_language, load_model, not_negative, positive

SPOKEN = 2000
_DTYPES = ("float16", "bfloat16", "float32")
_PADDINGS = ("drop", "keep")
_WINDOWS = ("full", "sound")


def add_collect(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model(parser)
    parser.add_argument(
        "--hook",
        action="append",
        required=True,
        dest="hooks",
        metavar="NAME",
        help="hook point, such as encoder.blocks.2, encoder.blocks.2.mlp.1 or decoder.blocks.3 (which is given the "
        "text); repeat it to collect several in one pass",
    )
    add_corpus(parser, sentences=SPOKEN, speakers="train", alignments=False)
    parser.add_argument("--out", default="activations", metavar="PLACE", help="folder or URL (default: activations)")
    parser.add_argument(
        "--dtype", choices=_DTYPES, default="float16", help="of the stored activations (default: float16)"
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
        default=50,
        metavar="N",
        help="with --window sound: number of positions of 20 ms (50)",
    )
    parser.add_argument("--batch", type=positive, default=8, metavar="N", help="windows encoded together (default: 8)")
    parser.add_argument("--language", default="en", metavar="L", help="of the texts, for decoder points (default: en)")
    parser.add_argument("--seed", type=not_negative, default=0, metavar="S", help="of sentences and shuffling (0)")


def run_collect(parsed: argparse.Namespace) -> int:
    """Collect activations and print a summary."""
    import torch

    from hooked_whisper._support.ranks import torchrun_ranks
    from sae_lens_audio.activations import CollectOptions, collect_activations

    options = CollectOptions(
        dtype=parsed.dtype,
        shard_rows=parsed.shard_rows,
        batch=parsed.batch,
        padding=parsed.padding,
        margin=parsed.margin,
        part=parsed.part,
        window=parsed.window,
        beyond=parsed.beyond,
        language=parsed.language,
        seed=parsed.seed,
    )
    corpus, described = corpus_of(parsed)
    model, _ = load_model(parsed)
    check_language(model, parsed.language)
    with torchrun_ranks(torch.device("cpu")) as ranks:  # processes only wait for each other
        first = ranks is None or ranks.rank == 0
        if first:
            print(f"collecting activations of {described}", file=sys.stderr)
        corpus = texts_of(parsed, model, corpus, ranks)
        store = collect_activations(
            model, corpus, parsed.hooks, parsed.out, options, progress=sys.stderr.isatty(), ranks=ranks
        )
    if not first:
        return 0
    for hook, width in zip(store.hooks, store.widths, strict=True):
        print(f"{hook}: {store.rows} rows of {width}, {parsed.dtype}")
    speakers = len({recording.speaker for recording in store.recordings if recording.rows and recording.speaker})
    print(
        f"{store.seconds / 60:.1f} minutes of sound by {speakers or 'unknown'} speakers, {store.bytes / 2**20:.1f} MiB "
        f"in {store.n_shards} shard{'s' if store.n_shards != 1 else ''}"
    )
    if store.deviation:
        encoded = store.deviation["encoded"]
        print(f"NOT the activations of full windows: {encoded:.0%} of their positions were encoded. Differences:")
        for hook, deviation in store.deviation["hooks"].items():
            print(
                f"  {hook}: {deviation['relative_rms']:.1%} of the size of the activations, above "
                f"{deviation['worst_5_percent']:.1%} at 5 % of positions, cosine {deviation['cosine']:.4f} "
                f"({store.deviation['windows']} windows compared)"
            )
    print(f"open with sae_lens_audio.activations.open_store({str(parsed.out)!r})")
    failures = [(failure["id"], failure["reason"]) for failure in store.failures]
    return report_failures(failures, len(corpus), f"{parsed.out}/manifest.json says why")
