"""``sae-lens-audio train``: train an SAE from a settings file."""

from __future__ import annotations

import argparse
import sys

from hooked_whisper.cli.model_arguments import add_verbose, device_of, threads
from hooked_whisper.cli.prepare import check_output
from hooked_whisper.cli.running import SAME_COMMAND

EXAMPLE = """\
[activations]
store = "acts"               # what `sae-lens-audio collect --out acts` wrote
hook = "encoder.blocks.2"    # transcoders: hook and hook_out; crosscoders: hooks, a list
held_out = 0.1               # share of the recordings, split by speaker, kept for evaluation

[sae]
architecture = "topk"
d_sae = 1024
k = 32

[training]
steps = 5000
batch = 2048
lr = 1e-3
warmup_steps = 100
decay_steps = 1500

[run]
folder = "runs/topk"
"""


class _PrintExample(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(EXAMPLE, end="")
        parser.exit()


def add_train(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``train``."""
    parser.add_argument("settings", metavar="CONFIG.toml", help="settings of the run; --example prints some")
    parser.add_argument("--example", action=_PrintExample, nargs=0, help="print a settings file and exit")
    parser.add_argument("--out", metavar="DIR", help="output folder or URL, overrides the file")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, ...; overrides the file (default: cuda if available)")
    parser.add_argument("--threads", type=threads, metavar="N", help="CPU threads, overrides the file")
    add_verbose(parser)


def run_train(parsed: argparse.Namespace, arguments: list[str] | None = None) -> int:
    """Start or resume training. The SAE is in ``sae/`` of the folder, with held-out scores in its metadata."""
    import torch

    from hooked_whisper._support.ranks import OF_STEPS, torchrun_ranks
    from hooked_whisper._support.storage import as_path
    from sae_lens_audio.formats import load_sae
    from sae_lens_audio.training.runs import alone, source_of, trainer_of
    from sae_lens_audio.training.settings import read_settings

    settings = read_settings(parsed.settings)
    n_threads = parsed.threads or settings.run.threads
    if n_threads:
        torch.set_num_threads(n_threads)
    check_output(parsed.out or settings.run.folder)
    device = device_of(parsed.device or settings.run.device)
    folder = as_path(parsed.out or settings.run.folder)
    with torchrun_ranks(device, OF_STEPS) as ranks, alone(folder, ranks):
        trainer = trainer_of(settings, source_of(settings.activations, device), folder, device=device, ranks=ranks)
        first = ranks is None or ranks.rank == 0
        if trainer.number and first:
            print(f"resuming after step {trainer.number}", file=sys.stderr)
        try:
            trainer.fit(progress=sys.stderr.isatty(), checkpoint_s=settings.run.checkpoint_s)
        except KeyboardInterrupt:
            # one process reports the step
            hint = f"stopped after step {trainer.number}; {SAME_COMMAND} from there" if first else ""
            raise KeyboardInterrupt(hint) from None
        if first:
            loaded = load_sae(folder / "sae")
            scores = loaded.metadata.extra.get("held_out")
            if scores:
                print(
                    f"held-out speakers: explained variance {scores['explained_variance']:.3f}, L0 {scores['l0']:.1f} "
                    f"of {loaded.sae.n_features}, dead {scores['dead']:.1%} ({scores['rows']} rows)"
                )
            print(f"open with sae_lens_audio.load_sae({str(folder / 'sae')!r})")
    return 0
