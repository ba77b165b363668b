"""Command line of the synthetic corpus: ``python -m hooked_whisper.synthetic build|train|evaluate|export``."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any


def _threads(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:  # more threads can crash the interpreter
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 1024")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hooked_whisper.synthetic",
        description="Rebuild the synthetic corpus and its demo model: synthesize the corpus, train, evaluate, package. "
        "The results of each command depend only on its seed. An interrupted command resumes if it is run again.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="build|train|evaluate|export")

    build = commands.add_parser(
        "build", help="sample sentences, synthesize them, and save audio, alignments and grammar"
    )
    _add_corpus(build)
    build.add_argument("--seed", type=int, default=0)
    build.add_argument("--utterances", type=int, default=20_000, help="training utterances (default: %(default)s)")
    build.add_argument("--tests", type=int, default=300, help="utterances per test split (default: %(default)s)")
    build.add_argument("--shard", type=int, default=500, help="utterances per shard (default: %(default)s)")
    build.add_argument("--processes", type=int, default=2)
    build.set_defaults(run=_build)

    train = commands.add_parser(
        "train",
        help="train the demo model on a built corpus",
        description="The defaults are the settings of the packaged model (recipe.py).",
    )
    _add_corpus(train)
    train.add_argument("--run", type=Path, default=Path("runs/demo"), dest="folder", help="folder of the run")
    train.add_argument("--seed", type=int)
    train.add_argument("--steps", type=int, help="length of the whole schedule")
    train.add_argument("--batch", type=int, help="utterances per step")
    train.add_argument("--lr", type=float, help="peak learning rate")
    train.add_argument("--clean", type=float, help="share of clips without noise")
    train.add_argument("--snr-high", type=float, help="largest signal-to-noise ratio in dB (the smallest is 0)")
    train.add_argument("--speed-low", type=float, help="slowest resampling of the voice (1: unchanged)")
    train.add_argument("--tilt", type=float, help="largest random spectral tilt, 0 to 1")
    train.add_argument(
        "--equalizer",
        "--equaliser",
        dest="equaliser",
        type=float,
        help="standard deviation of a random frequency response in dB",
    )
    train.add_argument("--flite-weight", type=int, help="how often each of flite's utterances occurs in an epoch")
    train.add_argument(
        "--drop-silenced",
        type=float,
        help="share of the words replaced by silence that are removed from the transcript",
    )
    train.add_argument("--mask-all", type=float, help="share of clips with every word masked and the transcript kept")
    train.add_argument("--empty", type=float, help="share of clips without speech")
    train.add_argument("--bare-share", type=float, help="share of prefixes that end with <|transcribe|>")
    train.add_argument("--full-window-start", type=float, help="share of the steps that use short windows")
    train.add_argument("--threads", type=_threads, default=1, help="CPU threads (default: %(default)s)")
    train.add_argument("--stop-at", type=int, help="stop after this step; run again without it to resume")
    train.add_argument("--start-from", type=Path, help="another run to start from")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser(
        "evaluate", help="write word error rates of a run on the test splits to metrics.json"
    )
    _add_corpus(evaluate)
    evaluate.add_argument("--run", type=Path, default=Path("runs/demo"), dest="folder", help="folder of the run")
    evaluate.add_argument("--limit", type=int, help="utterances per split (default: all)")
    evaluate.add_argument("--threads", type=_threads, default=1, help="CPU threads (default: %(default)s)")
    evaluate.set_defaults(run=_evaluate)

    export = commands.add_parser("export", help="package a run: weights with metadata, grammar and clips")
    _add_corpus(export)
    export.add_argument("--run", type=Path, default=Path("runs/demo"), dest="folder", help="folder of the run")
    export.add_argument("--to", type=Path, help="folder to write (default: the demo folder of the package)")
    export.add_argument(
        "--clips", type=int, default=24, help="number of held-out recordings to add (default: %(default)s)"
    )
    export.add_argument(
        "--align-on",
        type=int,
        help="number of utterances for choosing the alignment heads; 0 skips this (default: 120)",
    )
    export.add_argument("--note", default="", help="a line for the weights' metadata")
    export.set_defaults(run=_export)
    return parser


def _add_corpus(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--corpus",
        "--world",
        dest="corpus_folder",
        type=Path,
        default=Path("corpus"),
        help="folder of the corpus (default: %(default)s)",
    )


def _build(arguments: argparse.Namespace) -> dict[str, Any]:
    from hooked_whisper.synthetic.corpus import CorpusConfig, build

    tests = arguments.tests
    config = CorpusConfig(
        arguments.seed, arguments.utterances, tests, tests, round(tests * 2 / 3), shard=arguments.shard
    )
    manifest = build(arguments.corpus_folder, config, arguments.processes)
    shards = manifest["shards"].values()
    return {
        "folder": str(arguments.corpus_folder),
        "utterances": sum(s["utterances"] for s in shards),
        "skipped": sum(s["skipped"] for s in shards),
        "hours": round(sum(s["seconds"] for s in shards) / 3600, 2),
    }


def _train(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from hooked_whisper.synthetic.recipe import TrainConfig
    from hooked_whisper.synthetic.train import train

    torch.set_num_threads(arguments.threads)
    names = (field.name for field in fields(TrainConfig))
    options = {name: getattr(arguments, name) for name in names if getattr(arguments, name, None) is not None}
    config = TrainConfig(**options)
    train(config, arguments.corpus_folder, arguments.folder, arguments.stop_at, arguments.start_from)
    return {"run": str(arguments.folder), "steps": arguments.stop_at or config.steps, "recipe": config.describe()}


def _evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from hooked_whisper._support.storage import write_atomic
    from hooked_whisper.synthetic.evaluate import evaluate
    from hooked_whisper.synthetic.export import load_run

    torch.set_num_threads(arguments.threads)
    run = load_run(arguments.folder)
    metrics = {"steps": run.steps, **evaluate(run.model, arguments.corpus_folder, limit=arguments.limit)}
    write_atomic(arguments.folder / "metrics.json", json.dumps(metrics, indent=1).encode())
    return metrics


def _export(arguments: argparse.Namespace) -> dict[str, Any]:
    from hooked_whisper.synthetic.export import UTTERANCES, export
    from hooked_whisper.synthetic.synthetic_corpus import DEMO

    path = arguments.folder / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    folder = arguments.to or DEMO
    align_on = UTTERANCES if arguments.align_on is None else arguments.align_on
    return export(arguments.folder, arguments.corpus_folder, folder, metrics, arguments.clips, arguments.note, align_on)


def main(argv: list[str] | None = None) -> int:
    """Run the command. Return 0, 2 after an error (printed as one line), or 130 after an interruption."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        result = arguments.run(arguments)
    except (ValueError, RuntimeError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped; run the same command again to resume\n")
        return 130
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
