"""One loader for every folder."""

from __future__ import annotations

import tempfile
from dataclasses import replace

from hooked_whisper.errors import CheckpointError
from hooked_whisper.storage import Place, as_path, is_local
from sae_lens_audio.formats import dictionary_learning, saelens, sparsify
from sae_lens_audio.formats.files import Loaded


def load_sae(path: Place, scaling_factor: float | int | None = None) -> Loaded:
    """A dictionary from a folder or URL of ours, SAELens, sparsify or dictionary_learning, told apart by their files.

    ``scaling_factor``: what activations were multiplied by, for SAELens files that say so without saying by what.

    Raises:
        CheckpointError: no such folder, or one that cannot be read; the message names file and remedy.
    """
    folder = as_path(path)
    if not is_local(folder):
        with tempfile.TemporaryDirectory() as copy:
            if folder.exists():
                folder.fs.get(folder.path.rstrip("/") + "/", copy, recursive=True)
            try:
                found = load_sae(copy, scaling_factor)
            except CheckpointError as error:
                raise CheckpointError(str(error).replace(copy, str(folder))) from None
            return replace(found, source=folder / found.source.name)
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
