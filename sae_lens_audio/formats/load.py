"""One loader for every folder."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from upath import UPath

from hooked_whisper._support.storage import Place, as_path, is_local
from hooked_whisper.errors import CheckpointError
from sae_lens_audio.formats import dictionary_learning, saelens, sparsify
from sae_lens_audio.formats.files import Loaded

# whatever a reader looks at
FILES = ("cfg.json", "config.json", "*.safetensors", "ae.pt", "activation_scaler.json")


def load_sae(path: Place, scaling_factor: float | int | None = None) -> Loaded:
    """A dictionary from a folder or URL of ours, SAELens, sparsify or dictionary_learning, told apart by their files.

    ``scaling_factor``: what activations were multiplied by, for SAELens files that say so without saying by what.

    Raises:
        CheckpointError: no such folder, or one that cannot be read; the message names file and remedy.
    """
    folder = as_path(path)
    if not is_local(folder):
        return _load_remote(folder, scaling_factor)
    if folder.is_file() and folder.suffix == ".pt":
        return dictionary_learning.read_dictionary_learning(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: give the one that holds the dictionary")
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


def _load_remote(place: UPath, scaling_factor: float | int | None) -> Loaded:
    """Through a copy of the files that a dictionary can have, whatever else lies there."""
    file = place.name if place.suffix == ".pt" and place.is_file() else ""
    folder = place.parent if file else place
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: give the one that holds the dictionary")
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, folder.name or "folder")  # some readers go by its name
        copy.mkdir()
        for one in folder.iterdir():
            if any(fnmatch(one.name, pattern) for pattern in (file, *FILES)):
                one.fs.get_file(one.path, str(copy / one.name))
        above = folder.parent / dictionary_learning.CONFIG
        if any(copy.glob("*.pt")) and not (copy / above.name).exists() and above.is_file():
            above.fs.get_file(above.path, str(copy.parent / above.name))
        try:
            found = load_sae(copy / file, scaling_factor)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(copy), str(folder))) from None
        return replace(found, source=folder / found.source.name)
