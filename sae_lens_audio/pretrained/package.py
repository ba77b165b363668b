"""``python -m sae_lens_audio.pretrained.package RUNS --human DIR``: package the SAEs that ship from a folder of runs.

Scores each SAE of :data:`SHIPPED` on human speech and on the held-out neural voices, rounds it to float16, and writes
its folder and card. Running it again writes the same bytes; an SAE that ``RUNS`` lacks stays as it is.
"""

from __future__ import annotations

import argparse
import copy
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.cli.running import exit_code_of
from hooked_whisper.corpora import Recording, open_corpus, packaged_speech
from hooked_whisper.errors import CheckpointError
from hooked_whisper.features.phones.labeled_clips import labeled_clips
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.loading import weights_sha256
from sae_lens_audio.architectures import SAE, NormalizedSAE
from sae_lens_audio.evals.reconstruction import ReconstructionScores
from sae_lens_audio.evals.rows import gather_rows
from sae_lens_audio.formats import LoadedSAE, load_sae, save_sae
from sae_lens_audio.pretrained.benchmark_scores import store_benchmark_scores, without_folders
from sae_lens_audio.pretrained.cards import write_cards
from sae_lens_audio.pretrained.catalog import FOLDER, AvailableSAE, AvailableSAEs, real_saes, saes_in_runs

log = logging.getLogger(__name__)

MOST_BYTES = 4_000_000  # of all packaged SAEs of real Whisper, cards included
SHIPPED: Mapping[str, Sequence[str]] = {
    "tiny.en": (
        "encoder.blocks.2/tied-200",
        "encoder.blocks.2/topk-x2",
        "encoder.blocks.3/tied-200",
        "encoder.blocks.3/topk-x2",
    ),
    "base": ("encoder.blocks.4/tied-200", "encoder.blocks.5/tied-200"),
}
VOICES = "voices"  # key of the scores on packaged neural speech


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sae_lens_audio.pretrained.package", description=__doc__)
    parser.add_argument("runs", type=Path, metavar="RUNS", help="folder of training runs, RUNS/MODEL/NAME/sae")
    parser.add_argument("--human", metavar="PLACE", help="recordings of people to score on, such as TIMIT's sample")
    parser.add_argument(
        "--benchmark", type=Path, nargs="+", default=[], metavar="FILE", help="bench.json with scores for the cards"
    )
    parser.add_argument("--to", type=Path, default=FOLDER, metavar="DIR", help="output folder (default: the package's)")
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    return exit_code_of(
        parser.prog, lambda: package(parsed.runs, parsed.human, parsed.benchmark, parsed.to), "run it again"
    )


def package(runs: Path, human: str | None = None, benchmarks: Sequence[Path] = (), to: Path = FOLDER) -> None:
    """Write the folders of the SAEs that ship, from ``runs``, and their cards, below ``to``.

    human: corpus of human speech to score on. benchmarks: files of ``sae-lens-audio bench`` with scores for the cards.

    Raises:
        CheckpointError: ``runs`` has none of them, one was trained on other weights, or all are larger than
            :data:`MOST_BYTES`.
    """
    corpora = {VOICES: packaged_speech("prose", split="held-out")}
    names = {VOICES: "the packaged speech"}
    if human is not None:
        corpora["human"], names["human"] = open_corpus(human), Path(human).name
    described = {name: _described(corpus, names[name]) for name, corpus in corpora.items()}
    selected = select_runs(runs)
    if not selected:
        raise CheckpointError(f"{runs} has none of the SAEs that ship: SHIPPED in {__name__} lists them")
    for release in dict.fromkeys(sae.release for sae in selected):
        saes = [sae for sae in selected if sae.release == release]
        model = HookedWhisper.from_pretrained(release)
        hooks = list(dict.fromkeys(sae.hook_name for sae in saes))
        rows = {name: _rows(model, corpus, hooks) for name, corpus in corpora.items()}
        for sae in saes:
            loaded = _checked(sae, model)
            scored = {name: (rows[name][sae.hook_name], described[name]) for name in corpora}
            package_one(loaded, to / sae.release / sae.sae_id, scored)
    scored_ids = store_benchmark_scores(real_saes(to), benchmarks)
    if benchmarks:
        log.info("scores of the benchmark: %s", ", ".join(scored_ids) or "none of these SAEs is in the files")
    write_cards(to)
    log.info("%s", AvailableSAEs(tuple(real_saes(to))))
    total = packaged_bytes(to)
    log.info("%.2f MB of at most %.0f MB", total / 1e6, MOST_BYTES / 1e6)
    if total > MOST_BYTES:
        raise CheckpointError(f"the packaged SAEs have {total} bytes, at most {MOST_BYTES}: shorten SHIPPED")


def select_runs(runs: Path) -> list[AvailableSAE]:
    """Return the SAEs in ``runs`` that ship, in the order of :data:`SHIPPED`."""
    by_id = {(sae.release, sae.sae_id): sae for sae in saes_in_runs(runs)}
    selected = []
    for key in ((release, sae_id) for release, ids in SHIPPED.items() for sae_id in ids):
        if key in by_id:
            selected.append(by_id[key])
        else:
            log.warning("%s has no %s of %s: its packaged folder, if there is one, stays", runs, key[1], key[0])
    return selected


def package_one(
    loaded: LoadedSAE,
    folder: Path,
    scored: Mapping[str, tuple[Float[Tensor, "row d"], str]],
) -> None:
    """Write one SAE to its folder in float16, with scores of the rounded weights on each corpus.

    scored: rows and a description of the corpus by name. ``extra["float16"]`` has what rounding changed in the last
    one's scores, unless the run's weights have float16 already.
    """
    is_half = loaded.sae.inner.dtype == torch.float16
    exact = loaded.sae.float()
    half = copy.deepcopy(exact).to_dtype(torch.float16)
    rounded = copy.deepcopy(half).float()
    extra = dict(loaded.metadata.extra)
    if isinstance(extra.get("command"), str):
        extra["command"] = without_folders(extra["command"])
    for name, (rows, described) in scored.items():
        before, after = (_scores(sae, rows) for sae in (exact, rounded))
        if not is_half:
            extra["float16"] = {key: after[key] - before[key] for key in ("explained_variance", "l0")}
        extra[name] = {**{key: round(value, 5) for key, value in after.items()}, "corpus": described}
    sparsity = None if loaded.log_sparsity is None else loaded.log_sparsity.half()
    save_sae(half, folder, replace(loaded.metadata, extra=extra), sparsity)


def packaged_bytes(folder: Path = FOLDER) -> int:
    """Return the size of all files of the packaged SAEs of real Whisper."""
    folders = [sae.folder for sae in real_saes(folder) if sae.folder is not None]
    return sum(file.stat().st_size for folder in folders for file in folder.iterdir())


def _checked(sae: AvailableSAE, model: HookedWhisper) -> LoadedSAE:
    """Load an SAE that was trained on these weights."""
    assert sae.folder is not None
    loaded, digest = load_sae(sae.folder), weights_sha256(model)
    if loaded.metadata.checkpoint_sha256 != digest:
        raise CheckpointError(
            f"{sae.folder} was trained on {sae.release} with the weights {loaded.metadata.checkpoint_sha256}, but "
            f"{model.cfg.name} has {digest} here: train it on these weights"
        )
    return loaded


def _rows(model: HookedWhisper, corpus: Sequence[Recording], hooks: Sequence[str]) -> dict[str, Tensor]:
    return gather_rows(model, labeled_clips(model, corpus, len(corpus)).clips, hooks)


def _scores(sae: SAE | NormalizedSAE, rows: Float[Tensor, "row d"]) -> dict[str, Any]:
    scores = ReconstructionScores.of(sae, rows)
    return {
        "rows": scores.n_rows,
        "explained_variance": scores.explained_variance,
        "l0": scores.l0,
        "dead": scores.dead_fraction,
    }


def _described(corpus: Sequence[Recording], name: str) -> str:
    speakers = len({recording.speaker for recording in corpus if recording.speaker})
    return f"{len(corpus)} sentences of {name} by {speakers} speakers"


if __name__ == "__main__":
    sys.exit(main())
