"""Find an SAE by release and id: packaged SAEs, training runs, a local folder, or a repository on the hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
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

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def available_saes(release: str | None = None, runs: str | Path | None = None) -> AvailableSAEs:
    """Return the SAEs that :func:`load_release` finds without a network, and those that a recipe trains.

    release: name of a Whisper model, or ``"demo"``. Default: all.
    runs: folder of training runs, whose SAEs are listed too.

    Raises:
        CheckpointError: there is no such release; the message has similar names.
    """
    ready = _loadable(runs)
    packaged_or_run = {(sae.release, sae.sae_id) for sae in ready}
    saes = [*ready, *(sae for sae in _trainable() if (sae.release, sae.sae_id) not in packaged_or_run)]
    if release is None:
        return AvailableSAEs(tuple(saes))
    name = _release_name(release, saes)
    if name is None:
        raise CheckpointError(f"no SAEs of {release!r}: {_known_releases(release, saes)}")
    return AvailableSAEs(tuple(sae for sae in saes if sae.release == name))


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
    for argument, value in (("release", release), ("sae_id", sae_id)):
        if not isinstance(value, str | Path):
            raise CheckpointError(f"{argument} is {value!r}, expected a string such as 'tiny.en' or 'encoder.blocks.2'")
    release, sae_id = str(release), str(sae_id)
    path = Path(release).expanduser()
    if path.is_dir() and release != DEMO:
        return load_sae(path / sae_id)
    loadable = _loadable(runs)
    name = _release_name(release, loadable)
    sae = None if name is None else find_sae([sae for sae in loadable if sae.release == name], sae_id)
    if sae is not None and sae.folder is not None:
        loaded = load_sae(sae.folder)
        return replace(loaded, sae=loaded.sae.float())
    trainable = _trainable()
    name = name or _release_name(release, trainable)
    if name is not None:
        raise CheckpointError(_missing(name, sae_id, loadable, trainable))
    if _HUB_ID.fullmatch(release):
        return from_pretrained(release, sae_id, revision)
    raise CheckpointError(
        f"{release!r} is neither a local folder, nor a model with SAEs, nor a repository of the Hugging Face hub "
        f"(org/name): {_known_releases(release, (*loadable, *trainable))}. The short names in SAELens' own directory "
        "are not known here: give the repository that the name stands for"
    )


def load_named(place: Place) -> LoadedSAE:
    """Load an SAE that a command line names: a folder or URL, or ``RELEASE/SAE_ID`` of a packaged one
    (``tiny.en/encoder.blocks.2``).

    Raises:
        CheckpointError: there is no such folder or SAE, or it cannot be read.
    """
    text = str(place)
    release, _, sae_id = text.partition("/")
    if "://" in text or Path(text).expanduser().exists():
        return load_sae(place)
    known = (*packaged_saes(), *_trainable())
    if _release_name(release, known) is not None:
        return load_release(release, sae_id)
    try:
        return load_sae(place)
    except CheckpointError as error:
        raise CheckpointError(f"{error}, or name a packaged one; {_known_releases(release, known)}") from error


def _loadable(runs: str | Path | None) -> list[AvailableSAE]:
    return packaged_saes() + ([] if runs is None else saes_in_runs(Path(runs).expanduser()))


def _trainable() -> list[AvailableSAE]:
    from sae_lens_audio.pretrained.trainable import trainable_saes  # imports Whisper, which takes seconds

    return trainable_saes()


def _release_name(release: str, saes: Iterable[AvailableSAE]) -> str | None:
    """Return the release that a model's name stands for (``"openai/whisper-tiny.en"`` is ``"tiny.en"``), if any."""
    short = release.removeprefix("openai/").removeprefix("whisper-")
    return short if any(sae.release == short for sae in saes) else None


def _known_releases(release: str, saes: Iterable[AvailableSAE]) -> str:
    names = list(dict.fromkeys(sae.release for sae in saes))
    near = closest(release, names, 1)
    return f"there are SAEs of {', '.join(names)}" + (f"; did you mean {near[0]!r}?" if near else "")


def _missing(release: str, sae_id: str, loadable: Sequence[AvailableSAE], trainable: Sequence[AvailableSAE]) -> str:
    """Return the error message about an SAE that is not packaged."""
    saes, recipes = ([sae for sae in group if sae.release == release] for group in (loadable, trainable))
    listed = ", ".join(sae.sae_id for sae in saes) or "none"
    if not sae_id:
        return f"release {release!r} needs a sae_id: a hook point, or one of {listed}"
    message = f"no SAE {sae_id!r} of {release!r} is packaged or in the folder of runs= (there are: {listed})"
    recipe = find_sae(recipes, sae_id)
    if recipe is not None:
        from sae_lens_audio.pretrained.trainable import training_command

        return f"{message}. Train it with `{training_command(recipe)}`, and pass its RUNS as runs="
    near = similar_ids(sae_id, (*saes, *recipes))
    return message + (f"; did you mean {' or '.join(map(repr, near))}?" if near else "")
