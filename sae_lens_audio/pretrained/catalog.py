"""Which SAEs exist by name: the packaged ones, those in a folder of training runs, and those that a recipe trains.

An SAE's id is ``<hook point>/<variant>``, such as ``encoder.blocks.2/topk-x2``; the hook point alone is its default
variant. The demo model's ids are names such as ``topk-2``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hooked_whisper._support.files import read_json
from hooked_whisper._support.showing import Summary, Tabular
from hooked_whisper.errors import CheckpointError, closest
from sae_lens_audio.demo import FOLDER as DEMO_FOLDER
from sae_lens_audio.formats.metadata import Metadata, from_saelens
from sae_lens_audio.formats.saelens_cfg import our_block

FOLDER = Path(__file__).parent
DEMO = "demo"
MOST_ACTIVE = 0.1
HUMAN, HELD_OUT = "human speech", "held-out speakers"  # what an SAE was scored on
DEFAULT_RULE = (
    "the SAE with the highest explained variance on human speech, among those with an L0 of at most a tenth of their "
    "features if there are any"
)
_RESID = ".hook_resid_post"


@dataclass(frozen=True)
class AvailableSAE:
    """An SAE that can be loaded by name.

    release: name of the Whisper model. sae_id: id in the release. hook_name: hook point that it reads.
    l0, explained_variance: on human speech if it was scored there, else on held-out speakers; ``scored_on`` says which.
    n_bytes: of the folder's weights. folder: ``None`` if it must be trained first. is_packaged: whether it is part of
    this installation.
    """

    release: str
    sae_id: str
    hook_name: str
    architecture: str
    d_in: int
    d_sae: int
    l0: float | int | None = None
    explained_variance: float | int | None = None
    scored_on: str = ""
    n_bytes: int | None = None
    folder: Path | None = None
    is_packaged: bool = False

    @classmethod
    def in_folder(cls, folder: Path, release: str = "", sae_id: str = "") -> AvailableSAE:
        """Describe the SAE in a SAELens folder of ours. Reads only ``cfg.json``.

        release, sae_id: of a packaged SAE. Default: the model that it records, and :func:`sae_id_of`.

        Raises:
            CheckpointError: ``cfg.json`` is missing or was not written by this library.
        """
        source = folder / "cfg.json"
        cfg = read_json(source)
        block, metadata = our_block(cfg), from_saelens(cfg.get("metadata") or {}, source)
        architecture = block.get("architecture")
        if not isinstance(architecture, str) or not metadata.hook_name or not {"d_in", "d_sae"} <= set(cfg):
            raise CheckpointError(
                f"{source} was not written by sae_lens_audio with a hook point: load it by its folder"
            )
        scored_on, scores = scores_of(metadata)
        return cls(
            release=release or str(metadata.checkpoint),
            sae_id=sae_id or sae_id_of(metadata, architecture, cfg["d_in"], cfg["d_sae"]),
            hook_name=metadata.hook_name,
            architecture=architecture,
            d_in=cfg["d_in"],
            d_sae=cfg["d_sae"],
            l0=scores.get("l0"),
            explained_variance=scores.get("explained_variance"),
            scored_on=scored_on,
            n_bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
            folder=folder,
            is_packaged=bool(release),
        )

    @property
    def hook(self) -> str:
        """The hook point as ids have it, without the name of the residual stream's point."""
        return self.hook_name.removesuffix(_RESID)

    @property
    def is_sparse(self) -> bool:
        return self.l0 is not None and self.l0 <= MOST_ACTIVE * self.d_sae


def sae_id_of(metadata: Metadata, architecture: str, d_in: int, d_sae: int) -> str:
    """Return the id of an SAE: ``encoder.blocks.2/topk-x2`` is a TopK with twice as many features as inputs.

    The variant is that of the metadata (``extra["recipe"]``), else architecture and size: a multiple of ``d_in``, or
    the number of features (``tied-200``); ``-seed1`` is added for another seed than 0.
    """
    variant = metadata.extra.get("recipe")
    if not isinstance(variant, str):
        size = f"x{d_sae // d_in}" if d_sae % d_in == 0 else str(d_sae)
        variant = f"{architecture}-{size}"
    training = metadata.extra.get("training")
    seed = training.get("seed") if isinstance(training, Mapping) else None
    return f"{str(metadata.hook_name).removesuffix(_RESID)}/{variant}" + (f"-seed{seed}" if seed else "")


def scores_of(metadata: Metadata) -> tuple[str, Mapping[str, Any]]:
    """Return what the SAE was scored on, human speech if possible, and the scores; empty if it was not."""
    for key, described in (("human", HUMAN), ("held_out", HELD_OUT)):
        scores = metadata.extra.get(key)
        if isinstance(scores, Mapping):
            return described, scores
    return "", {}


def packaged_saes() -> list[AvailableSAE]:
    """Return the packaged SAEs: those of real Whisper, then those of the demo model."""
    demo = [AvailableSAE.in_folder(cfg.parent, DEMO, cfg.parent.name) for cfg in DEMO_FOLDER.glob("*/cfg.json")]
    return [*real_saes(), *sorted(demo, key=lambda sae: sae.sae_id)]


def real_saes(folder: Path = FOLDER) -> list[AvailableSAE]:
    """Return the SAEs of real Whisper in ``folder``, ``MODEL/HOOK/VARIANT``, sorted by release and id."""
    saes = [
        AvailableSAE.in_folder(cfg.parent, *cfg.parent.relative_to(folder).as_posix().split("/", 1))
        for cfg in folder.glob("*/*/*/cfg.json")
    ]
    return sorted(saes, key=lambda sae: (sae.release, sae.sae_id))


def saes_in_runs(runs: Path, release: str | None = None) -> list[AvailableSAE]:
    """Return the SAEs that training runs wrote, of one model or all: folders ``sae`` at most three levels down.

    Raises:
        CheckpointError: ``runs`` is not a folder, or a file in it cannot be read.
    """
    if not runs.is_dir():
        raise CheckpointError(f"runs={str(runs)!r} is not a folder: give the one that training wrote its runs to")
    paths = sorted(path for depth in range(4) for path in runs.glob(f"{'*/' * depth}sae/cfg.json"))
    saes = [AvailableSAE.in_folder(path.parent) for path in paths]
    return [sae for sae in saes if release in (None, sae.release)]


def default_of(saes: Sequence[AvailableSAE]) -> AvailableSAE:
    """Return the default among SAEs of one hook point, by :data:`DEFAULT_RULE`."""
    candidates = [sae for sae in saes if sae.is_sparse] or saes
    return max(candidates, key=lambda sae: (sae.explained_variance or float("-inf"), sae.sae_id))


def find_sae(saes: Sequence[AvailableSAE], sae_id: str) -> AvailableSAE | None:
    """Return the SAE with an id, or the default of a hook point (``encoder.blocks.2``) or of an architecture there
    (``encoder.blocks.2/topk``); ``None`` if there is none.
    """
    hook, _, variant = sae_id.strip("/").partition("/")
    hook = hook.removesuffix(_RESID)
    for sae in saes:
        if sae.sae_id == (f"{hook}/{variant}" if variant else hook):
            return sae
    candidates = [sae for sae in saes if sae.hook == hook and variant in ("", sae.architecture)]
    return default_of(candidates) if candidates else None


def similar_ids(sae_id: str, saes: Iterable[AvailableSAE]) -> list[str]:
    """Return ids and hook points like a name that does not exist, best first."""
    names = {name: None for sae in saes for name in (sae.sae_id, sae.hook)}
    return closest(sae_id, names)


@dataclass(frozen=True, repr=False)
class AvailableSAEs(Tabular):
    """SAEs by release and id, with size and scores; ``available_saes()`` returns all."""

    saes: tuple[AvailableSAE, ...]

    def __iter__(self) -> Any:
        return iter(self.saes)

    def __len__(self) -> int:
        return len(self.saes)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per SAE. ``default``: whether the hook point alone names it."""
        defaults = self._defaults()
        return [
            {
                "release": sae.release,
                "sae_id": sae.sae_id,
                "architecture": sae.architecture,
                "d_sae": sae.d_sae,
                "l0": sae.l0,
                "explained_variance": sae.explained_variance,
                "scored_on": sae.scored_on,
                "bytes": sae.n_bytes,
                "source": "packaged" if sae.is_packaged else "recipe" if sae.folder is None else str(sae.folder),
                "default": sae in defaults,
            }
            for sae in self.saes
        ]

    def summary(self) -> Summary:
        columns = ("release", "sae_id", "source", "d_sae", "MB", "L0", "expl. var.", "on")
        rows = tuple(
            (
                row["release"],
                row["sae_id"],
                (row["source"] if row["source"] in ("packaged", "recipe") else "run") + ("*" if row["default"] else ""),
                row["d_sae"],
                row["bytes"] and row["bytes"] / 1e6,
                row["l0"],
                row["explained_variance"],
                {HUMAN: "human", HELD_OUT: "held out"}.get(row["scored_on"]),
            )
            for row in self.to_rows()
        )
        notes: tuple[str, ...] = (f"*: the hook point alone names it, {DEFAULT_RULE}",)
        if any(sae.folder is None for sae in self.saes):
            notes += ("recipe: python -m sae_lens_audio.pretrained trains it; it is not packaged",)
        scored_on = {sae.scored_on for sae in self.saes}
        if HELD_OUT in scored_on:
            notes += ("L0 and explained variance on human speech, or on held-out speakers of the training speech",)
        n = sum(sae.is_packaged for sae in self.saes)
        return Summary(f"{len(self)} SAEs for SAE.from_pretrained(release, sae_id), {n} packaged", notes, columns, rows)

    def _defaults(self) -> set[AvailableSAE]:
        loadable = [sae for sae in self.saes if sae.folder is not None]
        hooks = {(sae.release, sae.hook) for sae in loadable}
        return {default_of([sae for sae in loadable if (sae.release, sae.hook) == hook]) for hook in hooks}
