"""Scores of packaged SAEs from benchmark files, for their cards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from sae_lens_audio.benchmark.results import Benchmark, SubjectScores, load_benchmark
from sae_lens_audio.formats import load_sae, save_sae
from sae_lens_audio.pretrained.catalog import AvailableSAE

BENCHMARK = "benchmark"  # key of the metadata


def store_benchmark_scores(saes: Sequence[AvailableSAE], files: Sequence[Path]) -> list[str]:
    """Write the scores of packaged SAEs into their metadata, and return the ids of those that the files have.

    A subject is the SAE whose variant (``topk-x2``) or run (``encoder.blocks.2-topk-x2``) is a folder in its name.
    Metrics that the audit rejects are left out.

    Raises:
        CheckpointError: a file is no benchmark.
    """
    stored = []
    for benchmark in map(load_benchmark, files):
        for sae in saes:
            subject = _subject(benchmark, sae)
            if subject is None or sae.folder is None:
                continue
            loaded = load_sae(sae.folder)
            extra = {**loaded.metadata.extra, BENCHMARK: _texts(benchmark, subject)}
            save_sae(loaded.sae, sae.folder, replace(loaded.metadata, extra=extra), loaded.log_sparsity)
            stored.append(f"{sae.release}/{sae.sae_id}")
    return stored


def without_folders(text: str) -> str:
    """Remove the folders of absolute paths, which are those of the machine that ran the command."""
    return re.sub(r"(?<![^\s'\"])/\S*/", "", text)


def _subject(benchmark: Benchmark, sae: AvailableSAE) -> SubjectScores | None:
    if (benchmark.model, benchmark.hook) != (sae.release, sae.hook_name):
        return None
    variant = sae.sae_id.partition("/")[2]
    names = {variant, f"{sae.hook}-{variant}"}
    subjects = (s for s in benchmark.subjects if s.kind == "SAE" and names & set(PurePath(s.name).parts))
    return next(subjects, None)


def _texts(benchmark: Benchmark, subject: SubjectScores) -> dict[str, str]:
    """Return value and interval by title, with the unit."""
    texts = {"speech": without_folders(str(benchmark.inputs.get("corpus", "")))}
    for metric in benchmark.metrics:
        score = subject.scores.get(metric.name)
        if score is None or score.estimate.value is None or benchmark.verdicts.get(metric.name) == "fails":
            continue
        estimate = score.estimate
        interval = "" if estimate.low is None else f" [{estimate.low:.3g}, {estimate.high:.3g}]"
        weak = " (weak in the audit)" if benchmark.verdicts.get(metric.name) == "weak" else ""
        texts[f"{metric.title}{weak}"] = f"{estimate.value:.3g}{interval} {metric.unit}".strip()
    return texts
