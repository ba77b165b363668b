"""Load an SAE from a folder of any supported format."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from upath import UPath

from hooked_whisper._support.storage import Place, as_path, is_local
from hooked_whisper.errors import CheckpointError
from sae_lens_audio.formats import dictionary_learning, saelens, sparsify
from sae_lens_audio.formats.files import LoadedSAE

# every file that a reader looks at
FILES = ("cfg.json", "config.json", "*.safetensors", "ae.pt", "activation_scaler.json")


def load_sae(path: Place, scaling_factor: float | int | None = None) -> LoadedSAE:
    """Load an SAE from a folder or URL in the format of SAELens (ours too), sparsify or dictionary_learning.

    The format is recognized by the files. ``scaling_factor``: the factor of the activations, for SAELens files that
    need one and do not have it.

    Raises:
        CheckpointError: no such folder, or one that cannot be read; the message names the file and the fix.
    """
    folder = as_path(path)
    if not is_local(folder):
        return _load_remote(folder, scaling_factor)
    if folder.is_file() and folder.suffix == ".pt":
        return dictionary_learning.read_dictionary_learning(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: give the one that holds the SAE")
    if (folder / saelens.WEIGHTS).exists():
        return saelens.read_saelens(folder, scaling_factor)
    if (folder / sparsify.WEIGHTS).exists():
        return sparsify.read_sparsify(folder)
    if (folder / dictionary_learning.WEIGHTS).exists():
        return dictionary_learning.read_dictionary_learning(folder)
    names = (saelens.WEIGHTS, sparsify.WEIGHTS, dictionary_learning.WEIGHTS)
    below = sorted({str(p.parent.relative_to(folder)) for name in names for p in folder.glob(f"*/{name}")})
    hint = f"; its folders {', '.join(below[:5])} do" if below else ""
    raise CheckpointError(f"{folder} holds none of {', '.join(names)}{hint}: give a folder that does")


def _load_remote(place: UPath, scaling_factor: float | int | None) -> LoadedSAE:
    """Load through a local copy of the files that an SAE can have."""
    file = place.name if place.suffix == ".pt" and place.is_file() else ""
    folder = place.parent if file else place
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: give the one that holds the SAE")
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, folder.name or "folder")  # some readers use its name
        copy.mkdir()
        for remote in folder.iterdir():
            if any(fnmatch(remote.name, pattern) for pattern in (file, *FILES)):
                remote.fs.get_file(remote.path, str(copy / remote.name))
        config = folder.parent / dictionary_learning.CONFIG
        if any(copy.glob("*.pt")) and not (copy / config.name).exists() and config.is_file():
            config.fs.get_file(config.path, str(copy.parent / config.name))
        try:
            loaded = load_sae(copy / file, scaling_factor)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(copy), str(folder))) from None
        return replace(loaded, source=folder / loaded.source.name)
