"""Folders of dictionary_learning, to read: ``ae.pt`` and ``config.json``; AudioSAE's for Whisper have this form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from hooked_whisper._support.files import as_tensors, read_json, read_pickle
from hooked_whisper.errors import CheckpointError, closest
from sae_lens_audio.architectures import SAE, BatchTopK, Gated, JumpReLU, Matryoshka, Standard, TopK
from sae_lens_audio.formats.files import Loaded, build, check_tensors
from sae_lens_audio.formats.folding import fold_decoder_norms
from sae_lens_audio.formats.metadata import Metadata

CONFIG, WEIGHTS = "config.json", "ae.pt"


@dataclass(frozen=True)
class _Class:
    """cls: ours; names: their tensor -> our tensor, transposed if it ends in ``.weight``."""

    cls: type[SAE]
    names: Mapping[str, str]
    centred: bool = True


_LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
_PLAIN = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
_GATED = {
    "encoder.weight": "W_enc", "decoder.weight": "W_dec", "decoder_bias": "b_dec",
    "r_mag": "r_mag", "gate_bias": "b_gate", "mag_bias": "b_mag",
}  # fmt: skip
_CLASSES: Mapping[str, _Class] = MappingProxyType(
    {
        "AutoEncoder": _Class(Standard, _LINEAR | {"bias": "b_dec"}),
        "AutoEncoderNew": _Class(Standard, _LINEAR | {"decoder.bias": "b_dec"}, centred=False),
        "AutoEncoderTopK": _Class(TopK, _LINEAR | {"b_dec": "b_dec"}),
        "BatchTopKSAE": _Class(BatchTopK, _LINEAR | {"b_dec": "b_dec"}),
        "MatryoshkaBatchTopKSAE": _Class(Matryoshka, _PLAIN),
        "JumpReluAutoEncoder": _Class(JumpReLU, _PLAIN | {"threshold": "threshold"}, centred=False),
        "GatedAutoEncoder": _Class(Gated, _GATED),
    }
)


def read_dictionary_learning(path: Path) -> Loaded:
    """A folder with ``ae.pt``, or such a file under another name with ``config.json`` beside it or in the folder above
    (``checkpoints/ae_1000.pt``). The pickle may hold tensors only; nothing in it is executed.

    As their own loader does, a plain ``AutoEncoder`` gets decoder rows of norm 1. A BatchTopK dictionary whose file has
    no threshold is read without one: ``calibrate_`` it.

    Raises:
        CheckpointError: an unknown class, a training backup, code in the file, or weights that do not fit.
    """
    weights = path / WEIGHTS if path.is_dir() else path
    config_path = next((p / CONFIG for p in (weights.parent, weights.parent.parent) if (p / CONFIG).is_file()), None)
    if config_path is None:
        raise CheckpointError(f"{weights.parent / CONFIG} does not exist: it says which class {weights.name} holds")
    config = read_json(config_path)
    trainer = config.get("trainer")
    name = trainer.get("dict_class") if isinstance(trainer, dict) else None
    if not isinstance(trainer, dict) or not isinstance(name, str) or name not in _CLASSES:
        raise CheckpointError(
            f"{config_path}: 'dict_class' {name!r} is not supported "
            f"(nearest: {closest(str(name), _CLASSES)}); these are: {', '.join(_CLASSES)}"
        )
    data = read_pickle(weights)
    if isinstance(data, dict) and "ae" in data:
        raise CheckpointError(f"{weights} is a training backup, with activations scaled: give the final ae.pt")
    state = as_tensors(data, weights)
    kind = _CLASSES[name]
    tensors, values = _ours(kind, state, weights)
    values |= _settings(kind.cls, state, trainer, config_path)
    if issubclass(kind.cls, BatchTopK):
        threshold = state.get("threshold", torch.tensor(-1.0)).double()
        # -1 is their word for none; ours is NaN, which the check of weights would take for a broken file
        tensors["topk_threshold"] = threshold if threshold.numel() == 1 and threshold >= 0 else torch.tensor(0.0)
        sae = build(kind.cls, values, tensors, tensors["W_enc"].dtype, weights)
        if not (threshold >= 0).all():
            sae.topk_threshold.fill_(torch.nan)  # type: ignore[operator,union-attr]
    else:
        sae = build(kind.cls, values, tensors, tensors["W_enc"].dtype, weights)
        if name == "AutoEncoder" and not torch.allclose(
            sae.W_dec.norm(dim=1), torch.ones(sae.n_features, dtype=sae.dtype)
        ):
            sae = build(kind.cls, values, fold_decoder_norms(tensors, weights), sae.dtype, weights)
    return Loaded(sae, Metadata(extra={"dictionary_learning": config}), weights)


def _ours(kind: _Class, state: Mapping[str, Tensor], source: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors in our layout, and the sizes."""
    encoder = state.get("encoder.weight", state.get("W_enc"))
    if encoder is None or encoder.ndim != 2:
        raise CheckpointError(
            f"{source}: no encoder.weight or W_enc of two axes: it is of another class than its config"
        )
    d, f = encoder.shape[::-1] if "encoder.weight" in state else encoder.shape
    ours = {"W_enc": (d, f), "W_dec": (f, d), "b_dec": (d,)}
    shapes = {
        theirs: ours.get(name, (f,))[::-1] if theirs.endswith(".weight") else ours.get(name, (f,))
        for theirs, name in kind.names.items()
    }
    found = {name: tensor for name, tensor in state.items() if name in shapes or name not in _SETTINGS}
    check_tensors(found, shapes, source)
    tensors = {
        name: state[theirs].T if theirs.endswith(".weight") else state[theirs] for theirs, name in kind.names.items()
    }
    return tensors, {"d_in": int(d), "d_sae": int(f), "apply_b_dec_to_input": kind.centred}


_SETTINGS = ("k", "threshold", "group_sizes")


def _settings(cls: type[SAE], state: Mapping[str, Tensor], trainer: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """``k`` and the widths, from the file's buffers or else from the configuration."""
    values: dict[str, Any] = {}
    if issubclass(cls, (TopK, BatchTopK)):
        stored = state.get("k")
        k = int(stored) if stored is not None and stored.numel() == 1 else trainer.get("k")
        if isinstance(k, bool) or not isinstance(k, int):
            raise CheckpointError(f"{source}: 'k' must be an integer, it is {k!r}")
        values["k"] = k
    if issubclass(cls, Matryoshka):
        sizes = state.get("group_sizes")
        if sizes is None or sizes.ndim != 1:
            raise CheckpointError(
                f"{source.parent / WEIGHTS}: no list 'group_sizes', which a Matryoshka dictionary has"
            )
        values["widths"] = tuple(accumulate(map(int, sizes.tolist())))
    return values
