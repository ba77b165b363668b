"""Run every finding on several models, kinds of speech and seeds: ``python -m docs.tools.replicate --human PLACE``.

Each cell of the replication table becomes one file ``docs/findings/MODEL.SPEECH.SEED.json``, saved after every finding.
An interrupted run continues where it stopped. ``python -m docs.tools.readme_tables`` reads the files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.corpora import open_corpus
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.corpus_clips import clips_of
from hooked_whisper.findings.core.experiment import Experiment
from hooked_whisper.findings.core.finding import Finding
from hooked_whisper.findings.core.sources import make_context
from hooked_whisper.findings.registry import select_experiments
from hooked_whisper.findings.running import run_and_save

FOLDER = Path(__file__).resolve().parents[1] / "findings"
MODELS = ("tiny.en", "base")
SPEECH = ("packaged", "human")
SEEDS = (0, 1, 2)
FULL = (
    "tiny.en",
    "packaged",
    0,
)  # the run whose figures are in the documentation; of other runs only short measurements are saved
MOST_VALUES = 40  # most values of a measurement that is saved
UTTERANCES = 100


@dataclass(frozen=True)
class Cell:
    """A column of the replication table and a seed."""

    model: str
    speech: str
    seed: int

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.model}.{self.speech}.{self.seed}.json"

    @property
    def is_full(self) -> bool:
        return (self.model, self.speech, self.seed) == FULL


def cells(models: Sequence[str] = MODELS, speech: Sequence[str] = SPEECH, seeds: Sequence[int] = SEEDS) -> list[Cell]:
    return [Cell(model, kind, seed) for seed in seeds for model in models for kind in speech]


@dataclass(frozen=True)
class Human:
    """Corpora of human speech. ``languages`` is for the findings that compare languages; all others use ``english``."""

    english: str
    languages: str | None = None


def run_cell(
    cell: Cell, experiments: Sequence[Experiment[Any]], human: Human | None, again: bool, progress: bool
) -> None:
    """Run the experiments that depend on this cell's speech, and print a line for each.

    Findings that use fixed sentences run only with the packaged speech.
    """
    experiments = [e for e in experiments if cell.speech == "packaged" or not e.own_speech]
    context = _context(cell, human if cell.speech == "human" else None, progress)
    settings = {
        "model": cell.model,
        "speech": cell.speech,
        "corpus": Path(human.english).name if human and cell.speech == "human" else "packaged speech",
        "seed": cell.seed,
        "utterances": UTTERANCES,
    }
    shorten = None if cell.is_full else compact
    for finding in run_and_save(experiments, context, cell.path, settings, resume=True, again=again, shorten=shorten):
        print(
            f"{cell.path.stem} {finding.id:<4} {finding.status} ({finding.seconds} s, {finding.peak_mib} MiB)",
            flush=True,
        )


def _context(cell: Cell, human: Human | None, progress: bool) -> Context:
    model = HookedWhisper.from_pretrained(cell.model).eval()
    context = make_context(
        model,
        cell.model,
        corpus=open_corpus(human.english) if human else None,
        corpus_name=Path(human.english).name if human else "",
        utterances=UTTERANCES,
        seed=cell.seed,
        progress=progress,
    )
    if human is None or human.languages is None:
        return context
    languages = open_corpus(human.languages)
    return replace(context, language_speech=lambda: clips_of(model, languages, own_times=False).utterances)


def compact(finding: Finding) -> Finding:
    """Return the finding with only what the replication table needs: criteria, controls, and short measurements."""
    small = tuple(m for m in finding.measurements if m.values.size <= MOST_VALUES)
    return replace(finding, measurements=small, tables=(), published=(), examples=(), notes=(), extra={})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--human", metavar="PLACE", help="corpus of human speech with words and phones, such as TIMIT")
    parser.add_argument(
        "--human-languages", metavar="PLACE", help="clips of several languages, for F12, F13, F14 and F17"
    )
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="M")
    parser.add_argument("--speech", nargs="+", choices=SPEECH, default=None, help="default: both with --human")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, metavar="S")
    parser.add_argument("--only", metavar="IDS", help="some findings only, such as F2,F9")
    parser.add_argument("--again", action="store_true", help="run these findings again even if they are saved")
    parser.add_argument("--threads", type=int, metavar="N")
    parsed = parser.parse_args(arguments)
    if parsed.threads:
        torch.set_num_threads(parsed.threads)
    speech = parsed.speech or (SPEECH if parsed.human else SPEECH[:1])
    if "human" in speech and not parsed.human:
        parser.error("human speech is not packaged: pass its place with --human")
    human = Human(parsed.human, parsed.human_languages) if parsed.human else None
    FOLDER.mkdir(exist_ok=True)
    experiments = select_experiments(parsed.only)
    for cell in cells(parsed.models, speech, parsed.seeds):
        run_cell(cell, experiments, human, parsed.again, sys.stderr.isatty())


if __name__ == "__main__":
    main()
