"""cfg.json of SAELens, any version, as one form: what changes the numbers is understood or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hooked_whisper.errors import CheckpointError, closest
from sae_lens_audio.architectures import (
    SAE,
    AbsTopK,
    BatchTopK,
    Gated,
    JumpReLU,
    JumpReLUTranscoder,
    Matryoshka,
    Standard,
    TopK,
    Transcoder,
)
from sae_lens_audio.formats.files import parse_dtype, positive
from sae_lens_audio.formats.metadata import BLOCK, Metadata, from_saelens

FORMAT_VERSION = "6.54.12"
"""The version of SAELens whose form is written; files without a version of 6 or later are read as the older form."""

_ARCHITECTURES: dict[str, tuple[type[SAE], bool]] = {
    "standard": (Standard, False),
    "topk": (TopK, False),
    "abstopk": (AbsTopK, False),
    "batchtopk": (BatchTopK, False),
    "matryoshka_batchtopk": (Matryoshka, False),
    "jumprelu": (JumpReLU, False),
    "gated": (Gated, False),
    "transcoder": (Transcoder, False),
    "skip_transcoder": (Transcoder, True),
    "jumprelu_transcoder": (JumpReLUTranscoder, False),
    "jumprelu_skip_transcoder": (JumpReLUTranscoder, True),
}
# their key -> our field; only those that the class has are used
_FIELDS = {
    "k": "k",
    "d_out": "d_out",
    "l1_coefficient": "l1_coefficient",
    "l0_coefficient": "l0_coefficient",
    "jumprelu_bandwidth": "bandwidth",
    "jumprelu_init_threshold": "initial_threshold",
    "aux_loss_coefficient": "aux_coefficient",
    "topk_threshold_lr": "threshold_rate",
    "matryoshka_widths": "widths",
}
_NUMBERS = ("l1_coefficient", "l0_coefficient", "bandwidth", "initial_threshold", "aux_coefficient", "threshold_rate")
_NORMALISATIONS = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm", "covariance_whitening")
# the rest of what version 6 writes: of training only, or read elsewhere
_HARMLESS = {
    "architecture", "d_in", "d_sae", "dtype", "device", "apply_b_dec_to_input", "normalize_activations",
    "reshape_activations", "metadata", "sae_lens_version", "sae_lens_training_version", "rescale_acts_by_decoder_norm",
    "decoder_init_norm", "l0_warm_up_steps", "l1_warm_up_steps", "lp_norm", "jumprelu_sparsity_loss_mode",
    "jumprelu_ste_to_input", "jumprelu_tanh_scale", "pre_act_loss_coefficient", "target_l0", "use_sparse_activations",
    "use_matryoshka_aux_loss",
}  # fmt: skip


@dataclass(frozen=True)
class SaeLensConfig:
    """cls and values: our class and its configuration; the rest as in the file, defaults filled in."""

    cls: type[SAE]
    values: dict[str, Any]
    dtype: torch.dtype
    normalisation: str
    rescaled_by_norm: bool
    finetuning_scale: bool
    metadata: Metadata


def parse(cfg: Mapping[str, Any], source: Path) -> SaeLensConfig:
    """Understand a cfg.json.

    Raises:
        CheckpointError: something missing, unknown, or not supported, named with the file.
    """
    data = cfg.get("metadata")
    if data is not None and not isinstance(data, Mapping):
        raise CheckpointError(f"{source}: 'metadata' must be an object, not {data!r}")
    version = cfg.get("sae_lens_version") or (data or {}).get("sae_lens_version")
    if _major(version, source) >= 6:
        unknown = sorted(set(cfg) - _HARMLESS - set(_FIELDS))
        if unknown:
            raise CheckpointError(
                f"{source}: unknown key {unknown[0]!r}, which may change the numbers "
                f"(known like it: {closest(unknown[0], _HARMLESS | set(_FIELDS))}): notes belong under 'metadata'"
            )
        flat, metadata = dict(cfg), from_saelens(data or {}, source)
    else:
        flat = _modernised(cfg, source)
        noted = {key: value for key, value in flat.items() if key not in _HARMLESS | set(_FIELDS)}
        metadata = from_saelens(noted, source)
    return _typed(flat, metadata, source)


def _major(version: object, source: Path) -> int:
    if version is None:
        return 0
    try:
        return int(str(version).split(".")[0])
    except ValueError:
        raise CheckpointError(f"{source}: 'sae_lens_version' is {version!r}, no version number: correct it") from None


def _modernised(cfg: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """The flat form before version 6, whose one object mixed the run and the dictionary."""
    renamed = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
    flat = {renamed.get(key, key): value for key, value in cfg.items() if key != "metadata"}
    flat.setdefault("architecture", "standard")
    function = flat.get("activation_fn", "relu")
    if function == "topk":
        extra = flat.get("activation_fn_kwargs")
        flat["architecture"] = "topk"
        flat["k"] = positive(extra if isinstance(extra, Mapping) else {}, "k", f"{source}: activation_fn_kwargs")
    elif function != "relu":
        raise CheckpointError(f"{source}: 'activation_fn' {function!r} is not supported: relu and topk are")
    if isinstance(flat.get("normalize_activations"), bool):
        flat["normalize_activations"] = "expected_average_only_in" if flat["normalize_activations"] else "none"
    if "hook_z" in str(flat.get("hook_name", "")):
        flat.setdefault("reshape_activations", "hook_z")
    return flat


def _typed(flat: dict[str, Any], metadata: Metadata, source: Path) -> SaeLensConfig:
    name = flat.get("architecture")
    if name not in _ARCHITECTURES:
        raise CheckpointError(
            f"{source}: 'architecture' {name!r} is not supported; these are: {', '.join(_ARCHITECTURES)}"
        )
    cls, skip = _ARCHITECTURES[name]
    names = cls.config_class.__dataclass_fields__
    values = {ours: flat[theirs] for theirs, ours in _FIELDS.items() if theirs in flat and ours in names}
    for ours in set(_NUMBERS) & set(values):
        if isinstance(values[ours], bool) or not isinstance(values[ours], (int, float)):
            raise CheckpointError(f"{source}: {ours!r} must be a number, not {values[ours]!r}")
    if "widths" in values:
        levels = values["widths"]
        if not isinstance(levels, list) or not all(type(width) is int for width in levels):
            raise CheckpointError(f"{source}: 'matryoshka_widths' must be a list of integers, not {levels!r}")
        values["widths"] = tuple(levels)
    values |= {key: positive(flat, key, source) for key in ("d_in", "d_sae")}
    centred = flat.get("apply_b_dec_to_input", True)
    rescaled = flat.get("rescale_acts_by_decoder_norm", name in ("batchtopk", "matryoshka_batchtopk"))
    for key, value in (("apply_b_dec_to_input", centred), ("rescale_acts_by_decoder_norm", rescaled)):
        if not isinstance(value, bool):
            raise CheckpointError(f"{source}: {key!r} must be true or false, not {value!r}")
    if issubclass(cls, Transcoder):
        values |= {"d_out": positive(flat, "d_out", source), "skip": skip}
        if centred:
            raise CheckpointError(f"{source}: 'apply_b_dec_to_input' must be false for a transcoder: correct it")
    elif "k" in names:
        values["k"] = flat.get("k") if issubclass(cls, BatchTopK) else positive(flat, "k", source)
        if isinstance(values["k"], bool) or not isinstance(values["k"], (int, float)):
            raise CheckpointError(f"{source}: 'k' must be a number, it is {values['k']!r}")
    values["apply_b_dec_to_input"] = centred
    normalisation = flat.get("normalize_activations") or "none"
    if normalisation not in _NORMALISATIONS:
        raise CheckpointError(
            f"{source}: 'normalize_activations' {normalisation!r} is unknown; known: {', '.join(_NORMALISATIONS)}"
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
        normalisation=normalisation,
        rescaled_by_norm=rescaled and "k" in names,
        finetuning_scale=bool(flat.get("finetuning_scaling_factor")),
        metadata=metadata,
    )


def our_block(cfg: Mapping[str, Any]) -> Mapping[str, Any]:
    """What :mod:`sae_lens_audio` wrote about itself, or an empty mapping."""
    data = cfg.get("metadata")
    block = data.get(BLOCK) if isinstance(data, Mapping) else None
    return block if isinstance(block, Mapping) else {}
