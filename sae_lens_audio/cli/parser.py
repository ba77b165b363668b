"""``sae-lens-audio``: collect activations, train SAEs on them, score them, browse their features."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hooked_whisper.cli.running import EXIT_CODES, SAME_COMMAND, Command, add_commands, make_parser, run
from sae_lens_audio.cli.bench import add_bench, run_bench
from sae_lens_audio.cli.collect import add_collect, run_collect
from sae_lens_audio.cli.evaluate import add_evaluate, run_evaluate
from sae_lens_audio.cli.features import add_features, run_features
from sae_lens_audio.cli.push import add_push, run_push
from sae_lens_audio.cli.train import add_train, run_train

COMMANDS = (
    Command(
        "collect",
        add_collect,
        run_collect,
        "write the activations of a corpus to a folder",
        "Run the model over recordings, up to the last hook point, and write the activations as shuffled, checksummed "
        "shards.",
        (
            "sae-lens-audio collect --model tiny.en --hook encoder.blocks.2 --audio packaged:prose --out acts",
            "torchrun --nproc-per-node 4 -m sae_lens_audio collect --hook encoder.blocks.2 --audio DIR --out acts",
        ),
        SAME_COMMAND,
        old_names=("harvest",),
    ),
    Command(
        "train",
        add_train,
        run_train,
        "train an SAE from a settings file",
        "Train an SAE from a TOML file. A run that was stopped resumes in the same folder.",
        (
            "sae-lens-audio train --example > topk.toml",
            "sae-lens-audio train topk.toml",
            "torchrun --nproc-per-node 4 -m sae_lens_audio train topk.toml",
        ),
        SAME_COMMAND,
    ),
    Command(
        "evaluate",
        add_evaluate,
        run_evaluate,
        "score SAEs beside neurons, principal and random directions",
        "Score reconstruction, the model with the SAE attached, and phones on held-out speakers: one JSON file and one "
        "sheet of figures. Model and hook point are those that the SAEs were trained on.",
        (
            "sae-lens-audio evaluate runs/topk/sae --audio packaged:prose --out scores",
            "sae-lens-audio evaluate runs/a/sae runs/b/sae --seeds --audio packaged:prose --out stability",
        ),
        "nothing was written; the same command starts again",
    ),
    Command(
        "bench",
        add_bench,
        run_bench,
        "score SAEs with every metric of the benchmark, beside controls",
        "Score reconstruction, the model with the SAE attached, phones that single latents detect, sparse probes, "
        "splitting and erasure, beside axes, neurons, principal and random directions, an untrained SAE and shifted "
        "labels, on speakers that nothing was fitted on. The audit marks the metrics that do not hold what they "
        "promise.",
        ("sae-lens-audio bench tiny.en/encoder.blocks.2 runs/topk/sae --audio DIR --alignments DIR --out bench",),
        SAME_COMMAND,
    ),
    Command(
        "features",
        add_features,
        run_features,
        "write a browsable site about the features of an SAE, with sound",
        "Write the pages that `hooked-whisper features` writes about neurons for the features of an SAE.",
        ("sae-lens-audio features runs/topk/sae --audio packaged:prose --units 0:50 --out pages",),
        SAME_COMMAND,
    ),
    Command(
        "push",
        add_push,
        run_push,
        "upload an SAE to the Hugging Face hub",
        "Upload an SAE in SAELens' format with a card: hook point, model, training settings and held-out scores. A new "
        "repository is private. The token is that of `hf auth login` or HF_TOKEN.",
        ("sae-lens-audio push runs/topk/sae me/whisper-saes --folder encoder.blocks.2/topk --dry-run",),
        "the hub is unchanged, or has an empty repository",
        reads_audio=False,
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    return run(_parser(), list(sys.argv[1:] if argv is None else argv))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "sae-lens-audio",
        "Train and evaluate sparse autoencoders, transcoders and crosscoders of speech models.",
        (
            "sae-lens-audio collect --model tiny.en --hook encoder.blocks.2 --audio packaged:prose --out acts",
            "sae-lens-audio train topk.toml",
            "sae-lens-audio evaluate runs/topk/sae --audio packaged:prose",
            "sae-lens-audio features runs/topk/sae --audio packaged:prose",
        ),
        EXIT_CODES,
    )
    add_commands(parser, COMMANDS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
