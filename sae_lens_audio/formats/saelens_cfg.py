"""``cfg.json`` of SAELens, any version, in one form. Keys that change the numbers are either understood or refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hooked_whisper.errors import CheckpointError, closest
from sae_lens_audio.architectures import ARCHITECTURES, SAE
from sae_lens_audio.architectures.conversion import read_flag, read_size
from sae_lens_audio.formats.files import parse_dtype
from sae_lens_audio.formats.metadata import BLOCK, Metadata, from_saelens

FORMAT_VERSION = "6.54.12"
"""The version of SAELens whose format is written. Files without a version of 6 or later have the older format."""

_NORMALIZATIONS = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm", "covariance_whitening")
# keys of version 6 that concern training only or are read elsewhere
_OTHER_KEYS = {
    "architecture", "d_in", "d_sae", "dtype", "device", "apply_b_dec_to_input", "normalize_activations",
    "reshape_activations", "metadata", "sae_lens_version", "sae_lens_training_version", "rescale_acts_by_decoder_norm",
    "decoder_init_norm", "l0_warm_up_steps", "l1_warm_up_steps", "lp_norm", "jumprelu_sparsity_loss_mode",
    "jumprelu_ste_to_input", "jumprelu_tanh_scale", "pre_act_loss_coefficient", "target_l0", "use_sparse_activations",
    "use_matryoshka_aux_loss",
}  # fmt: skip


@dataclass(frozen=True)
class SaeLensConfig:
    """cls, values: our class and its configuration. The other fields are as in the file, with defaults filled in."""

    cls: type[SAE]
    values: dict[str, Any]
    dtype: torch.dtype
    normalization: str
    rescaled_by_norm: bool
    finetuning_scale: bool
    metadata: Metadata


def known_keys() -> set[str]:
    """Keys of ``cfg.json`` that are understood: the common ones and those of each architecture."""
    return _OTHER_KEYS.union(*(cls.saelens_fields for cls in ARCHITECTURES.values()))


def parse(cfg: Mapping[str, Any], source: Path) -> SaeLensConfig:
    """Read a cfg.json.

    Raises:
        CheckpointError: something is missing, unknown or not supported; the message names it and the file.
    """
    data = cfg.get("metadata")
    if data is not None and not isinstance(data, Mapping):
        raise CheckpointError(f"{source}: 'metadata' must be an object, not {data!r}")
    version = cfg.get("sae_lens_version") or (data or {}).get("sae_lens_version")
    if _major(version, source) >= 6:
        unknown = sorted(set(cfg) - known_keys())
        if unknown:
            raise CheckpointError(
                f"{source}: unknown key {unknown[0]!r}, which may change the numbers "
                f"(similar known keys: {closest(unknown[0], known_keys())}): notes belong under 'metadata'"
            )
        flat, metadata = dict(cfg), from_saelens(data or {}, source)
    else:
        flat = _modernized(cfg, source)
        notes = {key: value for key, value in flat.items() if key not in known_keys()}
        metadata = from_saelens(notes, source)
    return _typed(flat, metadata, source)


def _major(version: object, source: Path) -> int:
    if version is None:
        return 0
    try:
        return int(str(version).split(".")[0])
    except ValueError:
        raise CheckpointError(f"{source}: 'sae_lens_version' is {version!r}, no version number: correct it") from None


def _modernized(cfg: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Convert the flat form before version 6, whose one object mixed the run and the SAE."""
    renamed = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
    flat = {renamed.get(key, key): value for key, value in cfg.items() if key != "metadata"}
    flat.setdefault("architecture", "standard")
    function = flat.get("activation_fn", "relu")
    if function == "topk":
        options = flat.get("activation_fn_kwargs")
        flat["architecture"] = "topk"
        flat["k"] = read_size(options if isinstance(options, Mapping) else {}, "k", f"{source}: activation_fn_kwargs")
    elif function != "relu":
        raise CheckpointError(f"{source}: 'activation_fn' {function!r} is not supported: relu and topk are")
    if isinstance(flat.get("normalize_activations"), bool):
        flat["normalize_activations"] = "expected_average_only_in" if flat["normalize_activations"] else "none"
    if "hook_z" in str(flat.get("hook_name", "")):
        flat.setdefault("reshape_activations", "hook_z")
    return flat


def _typed(flat: dict[str, Any], metadata: Metadata, source: Path) -> SaeLensConfig:
    classes = {
        name: (cls, values) for cls in ARCHITECTURES.values() for name, values in cls.saelens_architectures.items()
    }
    name = flat.get("architecture")
    if name not in classes:
        raise CheckpointError(
            f"{source}: 'architecture' {name!r} is not supported; supported are: {', '.join(classes)}"
        )
    cls, implied = classes[name]
    rescaled = read_flag(flat, "rescale_acts_by_decoder_norm", cls.saelens_ranks_by_decoder_norm, source)
    values = cls.values_from_saelens(flat, source) | dict(implied)
    normalization = flat.get("normalize_activations") or "none"
    if normalization not in _NORMALIZATIONS:
        raise CheckpointError(
            f"{source}: 'normalize_activations' {normalization!r} is unknown; known: {', '.join(_NORMALIZATIONS)}"
        )
    if flat.get("reshape_activations", "none") != "none":
        raise CheckpointError(
            f"{source}: 'reshape_activations' {flat['reshape_activations']!r} is not supported: flatten the heads "
            'yourself (x.flatten(-2)) and set it to "none"'
        )
    return SaeLensConfig(
        cls=cls,
        values=values,
        dtype=parse_dtype(flat.get("dtype", "float32"), source),
        normalization=normalization,
        rescaled_by_norm=rescaled and "k" in cls.saelens_fields,
        finetuning_scale=bool(flat.get("finetuning_scaling_factor")),
        metadata=metadata,
    )


def our_block(cfg: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the block that :mod:`sae_lens_audio` wrote into the metadata, or an empty mapping."""
    data = cfg.get("metadata")
    block = data.get(BLOCK) if isinstance(data, Mapping) else None
    return block if isinstance(block, Mapping) else {}
