"""SAELens folders: ``cfg.json``, ``sae_weights.safetensors`` and optionally ``sparsity.safetensors``.

SAELens' ``SAE.load_from_disk`` loads what we write, with the same numbers. Crosscoders and TopK transcoders, which it
does not have, use the same layout under our architecture names. SAEs that we read take raw activations: scales kept
beside the weights are folded into them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from hooked_whisper._support.files import read_json, read_safetensors
from hooked_whisper._support.storage import Place, as_path
from hooked_whisper.errors import CheckpointError
from sae_lens_audio.architectures import ARCHITECTURES, SAE, NormalizedSAE
from sae_lens_audio.architectures.conversion import SAELensForm
from sae_lens_audio.formats.files import LoadedSAE, build, check_tensors, dtype_name, parse_dtype, write_together
from sae_lens_audio.formats.folding import fold_decoder_norms, fold_scaling, fold_whitening
from sae_lens_audio.formats.metadata import BLOCK, Metadata, from_saelens, to_saelens
from sae_lens_audio.formats.saelens_cfg import FORMAT_VERSION, SaeLensConfig, our_block, parse

CONFIG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"
SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"
_BLOCK_VERSION = 1


def save_sae(
    sae: SAE | NormalizedSAE,
    path: Place,
    metadata: Metadata | None = None,
    log_sparsity: Float[Tensor, "d_sae"] | None = None,
) -> None:
    """Write an SAE to a folder, completely or not at all. The folder is created if needed.

    In SAELens' vocabulary, BatchTopK and Matryoshka become ``jumprelu`` with one threshold for all features, and a tied
    SAE becomes ``standard``; :func:`~sae_lens_audio.formats.load.load_sae` returns what was saved.

    metadata: default: ``sae.metadata``.
    log_sparsity: log10 of each feature's firing frequency.

    Raises:
        CheckpointError: weights that are not finite, or a BatchTopK without a threshold; nothing is written then.
    """
    folder = as_path(path)
    inner, form = sae.inner, sae.inner.to_saelens()
    check_tensors(form.tensors, {name: tuple(tensor.shape) for name, tensor in form.tensors.items()}, "this SAE")
    digest = _digest(form.tensors)
    shared, block = to_saelens(metadata or sae.metadata)
    block |= {
        "version": _BLOCK_VERSION,
        "architecture": inner.architecture,
        "config": asdict(inner.config),
        "weights_sha256": digest,
        **form.saved,
    }
    cfg = _saelens_keys(sae, form) | {"metadata": shared | {"sae_lens_version": FORMAT_VERSION, BLOCK: block}}
    files = {WEIGHTS: save(form.tensors, {"sha256": digest})}
    if log_sparsity is not None:
        check_tensors({"sparsity": log_sparsity}, {"sparsity": (inner.n_features,)}, "log_sparsity")
        files[SPARSITY] = save({"sparsity": log_sparsity.detach().cpu().contiguous()})
    files[CONFIG] = (json.dumps(cfg, indent=2) + "\n").encode()
    write_together(folder, files)
    if log_sparsity is None:
        (folder / SPARSITY).unlink(missing_ok=True)  # of an SAE saved here before


def _saelens_keys(sae: SAE | NormalizedSAE, form: SAELensForm) -> dict[str, Any]:
    """Return what SAELens reads of our cfg.json."""
    inner = sae.inner
    return {
        "architecture": form.architecture,
        "d_in": inner.d_in,
        "d_sae": inner.n_features,
        "dtype": dtype_name(inner.dtype),
        "device": "cpu",
        "apply_b_dec_to_input": inner.config.apply_b_dec_to_input,
        "normalize_activations": sae.normalization,
        "reshape_activations": "none",
        **form.keys,
    }


def _check_unedited(cfg: dict[str, Any], sae: SAE | NormalizedSAE, source: Path) -> None:
    """Check that the keys for SAELens agree with our block, which is what we read.

    Raises:
        CheckpointError: the file was edited.
    """
    expected = _saelens_keys(sae, sae.inner.to_saelens())
    for key in sorted(set(cfg) - {"metadata", "device"}):
        if key not in expected or cfg[key] != expected[key]:
            says = f"{expected[key]!r} in" if key in expected else "not in"
            raise CheckpointError(
                f"{source}: {key!r} is {cfg[key]!r}, but {says} the block metadata.{BLOCK}, which is what is read: "
                f"the file was edited. Undo that, or remove the block to have {CONFIG} read as SAELens reads it"
            )


def _digest(tensors: dict[str, Tensor]) -> str:
    return hashlib.sha256(save(tensors)).hexdigest()


def read_saelens(folder: Path, scaling_factor: float | int | None = None) -> LoadedSAE:
    """Read a folder that SAELens or :func:`save_sae` wrote.

    scaling_factor: of ``expected_average_only_in``, if the folder does not have it.

    Raises:
        CheckpointError: a file is missing, damaged or not understood, or does not fit the others.
    """
    cfg, (tensors, header) = read_json(folder / CONFIG), read_safetensors(folder / WEIGHTS)
    block, digest = our_block(cfg), header.get("sha256")
    if digest is not None and block:
        if digest != block.get("weights_sha256"):
            raise CheckpointError(f"{folder / WEIGHTS} and {CONFIG} come from different saves: save it again")
        if digest != _digest(tensors):
            raise CheckpointError(f"{folder / WEIGHTS} is damaged, its digest differs: fetch or save it again")
        sae, metadata = _read_ours(cfg, block, tensors, folder)
        _check_unedited(cfg, sae, folder / CONFIG)
    else:
        # a file without the digest was rewritten by another program, so only SAELens' keys count
        config = parse(cfg, folder / CONFIG)
        sae, metadata = _read_foreign(config, tensors, folder, scaling_factor), config.metadata
    return LoadedSAE(sae, metadata, folder / WEIGHTS, _log_sparsity(folder, sae.n_features))


def _read_ours(
    cfg: dict[str, Any], block: Mapping[str, Any], tensors: dict[str, Tensor], folder: Path
) -> tuple[SAE | NormalizedSAE, Metadata]:
    source = folder / CONFIG
    cls = ARCHITECTURES.get(str(block.get("architecture")))
    values = block.get("config")
    if block.get("version") != _BLOCK_VERSION or cls is None or not isinstance(values, dict):
        raise CheckpointError(
            f"{source}: the {BLOCK!r} block is not of version {_BLOCK_VERSION} or names no architecture of ours: "
            "read it with the version that wrote it"
        )
    tensors = cls.tensors_from_saelens(tensors, block, source)
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    sae = build(cls, values, tensors, parse_dtype(cfg.get("dtype"), source), folder / WEIGHTS)
    normalization = cfg.get("normalize_activations", "none")
    metadata = from_saelens(cfg["metadata"], source)
    extra = {key: value for key, value in metadata.extra.items() if key != "sae_lens_version"}
    return (sae if normalization == "none" else NormalizedSAE(sae, normalization)), replace(metadata, extra=extra)


def _read_foreign(
    config: SaeLensConfig, tensors: dict[str, Tensor], folder: Path, scaling_factor: float | int | None
) -> SAE | NormalizedSAE:
    source = folder / WEIGHTS
    tensors = {n: t if n == "topk_threshold" else t.to(config.dtype) for n, t in tensors.items()}
    scale = tensors.pop("scaling_factor", None)
    if scale is not None and not torch.allclose(scale, torch.ones_like(scale)):
        raise CheckpointError(
            f"{source}: 'scaling_factor' (finetuning_scaling_factor) is not 1 everywhere, which is not supported: "
            "multiply the rows of W_dec by it and remove it"
        )
    if "log_threshold" in tensors:  # training files of some versions
        tensors["threshold"] = tensors.pop("log_threshold").exp()
    # check shapes before folding, which would fail on a wrong one with an error of torch
    build(config.cls, config.values, tensors, config.dtype, source)
    tensors = _folded(config, tensors, folder, scaling_factor)
    sae = build(config.cls, config.values, tensors, config.dtype, source)
    if config.normalization in ("layer_norm", "constant_norm_rescale"):
        if sae.predicts_other_hook:
            raise CheckpointError(f"{folder / CONFIG}: 'normalize_activations' of a transcoder is not supported")
        return NormalizedSAE(sae, config.normalization)  # type: ignore[arg-type]
    return sae


def _folded(
    config: SaeLensConfig, tensors: dict[str, Tensor], folder: Path, scaling_factor: float | int | None
) -> dict[str, Tensor]:
    if config.normalization == "expected_average_only_in":
        if scaling_factor is None:
            if not (folder / SCALER).is_file():
                raise CheckpointError(
                    f"{folder / CONFIG}: 'normalize_activations' is 'expected_average_only_in', but the factor is not "
                    f"in the folder ({SCALER}): give it as scaling_factor="
                )
            scaling_factor = read_json(folder / SCALER).get("scaling_factor")
        if not isinstance(scaling_factor, (int, float)) or not 0 < scaling_factor < float("inf"):
            raise CheckpointError(f"{folder / SCALER}: 'scaling_factor' must be above 0, not {scaling_factor!r}")
        tensors = fold_scaling(tensors, scaling_factor, config.rescaled_by_norm)
    elif config.normalization == "covariance_whitening":
        statistics, _ = read_safetensors(folder / WHITENING)
        d = config.values["d_in"]
        shapes = {"mean": (d,), "matrix": (d, d), "inverse_matrix": (d, d)}
        check_tensors(statistics, shapes, folder / WHITENING)
        if config.rescaled_by_norm:  # before whitening, which changes the norms that rank the features
            tensors = fold_decoder_norms(tensors, folder / WEIGHTS)
        centered = config.values["apply_b_dec_to_input"]
        return fold_whitening(tensors, statistics["mean"], statistics["matrix"], statistics["inverse_matrix"], centered)
    return fold_decoder_norms(tensors, folder / WEIGHTS) if config.rescaled_by_norm else tensors


def _log_sparsity(folder: Path, d_sae: int) -> Tensor | None:
    path = folder / SPARSITY
    if not path.is_file():
        return None
    tensors, _ = read_safetensors(path)
    check_tensors(tensors, {"sparsity": (d_sae,)}, path)
    return tensors["sparsity"]
