"""``python -m sae_lens_audio.benchmark.audit``: audit the metrics of the benchmark.

Scores SAEs of several seeds, of other settings and their checkpoints with ``sae-lens-audio bench`` (or reads a finished
benchmark), scores SAEs on planted activations, prints the verdict about each metric and writes ``audit.json``. An
interrupted command resumes. Further options go to ``sae-lens-audio bench``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from hooked_whisper.cli.model_arguments import not_negative
from hooked_whisper.cli.running import exit_code_of

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, 2 if something is wrong."""
    parser = _parser()
    parsed, options = parser.parse_known_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if parsed.bench and (options or parsed.others or parsed.checkpoints):
        parser.error(f"--bench reads a finished benchmark: leave out {(options or ['--others, --checkpoints'])[0]}")
    if options and not parsed.seeds:
        parser.error(f"{options[0]} is an option of the benchmark: give SAEs with --seeds")
    return exit_code_of(parser.prog, lambda: _run(parsed, options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sae_lens_audio.benchmark.audit",
        description=(__doc__ or "").replace("``", "`"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--bench", metavar="DIR", help="a finished benchmark of the SAEs, instead of a new one")
    parser.add_argument("--seeds", nargs="+", default=[], metavar="SAE", help="SAEs that differ only in their seed")
    parser.add_argument(
        "--checkpoints", nargs="+", default=[], metavar="SAE", help="folders RUN/at-SHARE beside RUN/sae of --seeds"
    )
    parser.add_argument("--others", nargs="+", default=[], metavar="SAE", help="SAEs of other settings")
    parser.add_argument("--work", type=Path, default=Path("audit"), metavar="DIR", help="work folder (audit)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="output file (WORK/audit.json)")
    parser.add_argument(
        "--planted-seed", type=not_negative, default=0, metavar="S", help="seed of planted activations (0)"
    )
    return parser


def _run(parsed: argparse.Namespace, options: Sequence[str]) -> int:
    from tqdm import tqdm

    from sae_lens_audio.benchmark import families, load_benchmark
    from sae_lens_audio.benchmark.audit.scoring import PlantedPanel, audit_metrics
    from sae_lens_audio.cli import main as sae_lens_audio

    def track(names: Sequence[str], what: str) -> Iterable[str]:
        bar: Iterable[str] = tqdm(names, what, disable=not sys.stderr.isatty())
        return bar

    folder = parsed.bench
    if folder is None and parsed.seeds:
        folder = parsed.work / "bench"
        saes = [*parsed.seeds, *parsed.others, *parsed.checkpoints]
        code = sae_lens_audio(["bench", *saes, "--seeds", *parsed.seeds, "--out", str(folder), *options])
        if code:
            return code
    benchmark = None if folder is None else load_benchmark(folder)
    panel, scored_by = PlantedPanel(seed=parsed.planted_seed), families()
    # with --bench, the names of --seeds are those in the benchmark; else bench itself has named them
    seeds = [parsed.seeds] if parsed.bench and parsed.seeds else []
    audit = audit_metrics(benchmark, seeds, panel, scored_by, folder=parsed.work, track=track)
    out = parsed.out or parsed.work / "audit.json"
    audit.save(out)
    log.info("%s\n\n%s has all numbers", audit, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
