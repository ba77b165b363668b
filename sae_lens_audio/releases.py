"""Find an SAE by release and id: packaged SAEs, training runs, a local folder, or a repository on the hub."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from hooked_whisper._support.storage import Place
from hooked_whisper.errors import CheckpointError, closest
from sae_lens_audio.formats import LoadedSAE, from_pretrained, load_sae
from sae_lens_audio.pretrained.catalog import (
    DEMO,
    AvailableSAE,
    AvailableSAEs,
    find_sae,
    packaged_saes,
    saes_in_runs,
    similar_ids,
)
from sae_lens_audio.pretrained.trainable import training_command, trainable_saes

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def available_saes(release: str | None = None, runs: str | Path | None = None) -> AvailableSAEs:
    """Return the SAEs that :func:`load_release` finds without a network, and those that a recipe trains.

    release: name of a Whisper model, or ``"demo"``. Default: all.
    runs: folder of training runs, whose SAEs are listed too.

    Raises:
        CheckpointError: there is no such release; the message has similar names.
    """
    if release is not None:
        name = _release_name(release)
        if name is None:
            raise CheckpointError(f"no SAEs of {release!r}{_similar_releases(release)}")
        release = name
    ready = packaged_saes(release)
    if runs is not None:
        ready += saes_in_runs(Path(runs).expanduser(), release)
    names = {(sae.release, sae.sae_id) for sae in ready}
    others = [sae for sae in trainable_saes(release) if (sae.release, sae.sae_id) not in names]
    return AvailableSAEs((*ready, *others))


def load_release(
    release: str, sae_id: str = "", revision: str | None = None, runs: str | Path | None = None
) -> LoadedSAE:
    """Load the SAE ``sae_id`` of a release.

    Args:
        release: a local folder (which takes precedence); the name of a Whisper model with packaged SAEs, in float32
            (``"tiny.en"``, ``"base"``, ``"demo"``); or ``"org/name"`` on the Hugging Face hub.
        sae_id: folder of the SAE in the release; empty if the release itself is the SAE. In packaged releases the hook
            point with or without a variant: ``"encoder.blocks.2"``, ``"encoder.blocks.2/topk-x2"``;
            :func:`available_saes` lists them.
        runs: folder of training runs to search for SAEs that are not packaged.

    Raises:
        CheckpointError: there is no such release or SAE; the message lists those that exist, or has the command that
            trains it.
    """
    path = Path(release).expanduser()
    if path.is_dir() and release != DEMO:
        return load_sae(path / sae_id)
    name = _release_name(release)
    if name is not None:
        return _load_packaged(name, sae_id, runs)
    if _HUB_ID.fullmatch(release):
        return from_pretrained(release, sae_id, revision)
    raise CheckpointError(
        f"{release!r} is neither a local folder, nor a model with packaged SAEs, nor a repository of the Hugging Face "
        f"hub (org/name){_similar_releases(release)}. The short names in SAELens' own directory are not known here: "
        "give the repository that the name stands for"
    )


def load_named(place: Place) -> LoadedSAE:
    """Load an SAE that a command line names: a folder or URL, or ``RELEASE/SAE_ID`` of a packaged one
    (``tiny.en/encoder.blocks.2``).

    Raises:
        CheckpointError: there is no such folder or SAE, or it cannot be read.
    """
    text = str(place)
    release, _, sae_id = text.partition("/")
    if "://" in text or Path(text).expanduser().exists() or _release_name(release) is None:
        return load_sae(place)
    return load_release(release, sae_id)


def _releases() -> list[str]:
    return list(dict.fromkeys(sae.release for sae in (*packaged_saes(), *trainable_saes())))


def _release_name(release: str) -> str | None:
    """Return the release that a model's name stands for (``"openai/whisper-tiny.en"`` is ``"tiny.en"``), if any."""
    short = release.removeprefix("openai/").removeprefix("whisper-")
    return short if short in _releases() else None


def _similar_releases(release: str) -> str:
    names = _releases()
    near = closest(release, names, 1)
    hint = f". Did you mean {near[0]!r}?" if near else ""
    return f"; releases here are {', '.join(names)}{hint}"


def _load_packaged(release: str, sae_id: str, runs: str | Path | None) -> LoadedSAE:
    saes = packaged_saes(release)
    if runs is not None:
        saes = [*saes, *saes_in_runs(Path(runs).expanduser(), release)]
    if not sae_id:
        listed = ", ".join(sae.sae_id for sae in saes) or "none is packaged"
        raise CheckpointError(f"release {release!r} needs a sae_id, a hook point or one of: {listed}")
    sae = find_sae(saes, sae_id)
    if sae is None:
        raise CheckpointError(_missing(release, sae_id, saes, runs))
    assert sae.folder is not None
    loaded = load_sae(sae.folder)
    return replace(loaded, sae=loaded.sae.float())


def _missing(release: str, sae_id: str, saes: list[AvailableSAE], runs: str | Path | None) -> str:
    where = "is packaged" if runs is None else f"is packaged or in {runs}"
    recipe = find_sae(trainable_saes(release), sae_id)
    if recipe is not None:
        return (
            f"no SAE {sae_id!r} of {release!r} {where}. This command trains it: {training_command(recipe)}; then load "
            f"it with runs=, the folder of the runs, or by its folder with load_sae"
        )
    near = similar_ids(sae_id, (*saes, *trainable_saes(release)))
    hint = f". Did you mean {' or '.join(map(repr, near))}?" if near else ""
    listed = ", ".join(sae.sae_id for sae in saes) or "none"
    return f"no SAE {sae_id!r} of {release!r} {where}: there are {listed}{hint}"
