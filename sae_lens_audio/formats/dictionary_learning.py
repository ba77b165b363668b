"""Reader of dictionary_learning folders (``ae.pt``, ``config.json``), the form of AudioSAE's SAEs for Whisper."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hooked_whisper._support.files import as_tensors, read_json, read_pickle
from hooked_whisper.errors import CheckpointError, closest
from sae_lens_audio.architectures import ARCHITECTURES
from sae_lens_audio.architectures.conversion import DictionaryLearningForm
from sae_lens_audio.formats.files import LoadedSAE, build, check_tensors
from sae_lens_audio.formats.folding import fold_decoder_norms
from sae_lens_audio.formats.metadata import Metadata

CONFIG, WEIGHTS = "config.json", "ae.pt"
_SETTINGS = ("k", "threshold", "group_sizes")  # tensors of a file that are not weights


def read_dictionary_learning(path: Path) -> LoadedSAE:
    """Read a folder with ``ae.pt``, or such a file under another name with ``config.json`` beside it or in the folder
    above (``checkpoints/ae_1000.pt``). The pickle may hold tensors only; nothing in it is executed.

    As in the library's own loader, a plain ``AutoEncoder`` gets decoder rows of norm 1. A BatchTopK SAE whose file has
    no threshold is read without one: call ``calibrate_`` with activations.

    Raises:
        CheckpointError: an unknown class, a training backup, code in the file, or weights that do not fit.
    """
    weights = path / WEIGHTS if path.is_dir() else path
    config_path = next((p / CONFIG for p in (weights.parent, weights.parent.parent) if (p / CONFIG).is_file()), None)
    if config_path is None:
        raise CheckpointError(f"{weights.parent / CONFIG} does not exist: it says which class {weights.name} holds")
    config = read_json(config_path)
    classes = {name: cls for cls in ARCHITECTURES.values() for name in cls.dictionary_learning_forms}
    trainer = config.get("trainer")
    name = trainer.get("dict_class") if isinstance(trainer, dict) else None
    if not isinstance(trainer, dict) or not isinstance(name, str) or name not in classes:
        raise CheckpointError(
            f"{config_path}: 'dict_class' {name!r} is not supported "
            f"(nearest: {closest(str(name), classes)}); supported are: {', '.join(classes)}"
        )
    data = read_pickle(weights)
    if isinstance(data, dict) and "ae" in data:
        raise CheckpointError(f"{weights} is a training backup, with activations scaled: give the final ae.pt")
    state, cls = as_tensors(data, weights), classes[name]
    form = cls.dictionary_learning_forms[name]
    tensors, values = _converted(form, state, weights)
    values |= cls.values_from_dictionary_learning(state, trainer, config_path)
    if form.unit_rows:
        norms = tensors["W_dec"].norm(dim=1)
        if not torch.allclose(norms, torch.ones_like(norms)):
            tensors = fold_decoder_norms(tensors, weights)
    sae = build(cls, values, tensors, tensors["W_enc"].dtype, weights, with_buffers=False)
    sae.load_dictionary_learning_buffers_(state, weights)
    return LoadedSAE(sae, Metadata(extra={"dictionary_learning": config}), weights)


def _converted(
    form: DictionaryLearningForm, state: Mapping[str, Tensor], source: Path
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors in our layout, and the sizes as configuration values."""
    encoder = state.get("encoder.weight", state.get("W_enc"))
    if encoder is None or encoder.ndim != 2:
        raise CheckpointError(
            f"{source}: no encoder.weight or W_enc of two axes: it is of another class than its config"
        )
    d, f = encoder.shape[::-1] if "encoder.weight" in state else encoder.shape
    ours = {"W_enc": (d, f), "W_dec": (f, d), "b_dec": (d,)}
    shapes = {
        theirs: ours.get(name, (f,))[::-1] if theirs.endswith(".weight") else ours.get(name, (f,))
        for theirs, name in form.names.items()
    }
    weights = {name: tensor for name, tensor in state.items() if name in shapes or name not in _SETTINGS}
    check_tensors(weights, shapes, source)
    tensors = {
        name: state[theirs].T if theirs.endswith(".weight") else state[theirs] for theirs, name in form.names.items()
    }
    return tensors, {"d_in": int(d), "d_sae": int(f), "apply_b_dec_to_input": form.centered}
