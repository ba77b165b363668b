"""Folders of SAELens: ``cfg.json``, ``sae_weights.safetensors`` and perhaps ``sparsity.safetensors``.

What we write, ``SAE.load_from_disk`` of SAELens loads, with the same numbers; crosscoders and TopK transcoders, which
it does not know, have the same layout under their own architecture names. What we read takes raw activations: scales
kept beside the weights are folded into them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from hooked_whisper._support.files import read_json, read_safetensors
from hooked_whisper._support.storage import Place, as_path
from hooked_whisper.errors import CheckpointError
from sae_lens_audio.architectures import (
    ARCHITECTURES,
    SAE,
    BatchTopK,
    JumpReLU,
    NormalizedSAE,
    Tied,
    Transcoder,
)
from sae_lens_audio.formats.files import Loaded, build, check_tensors, dtype_name, parse_dtype, write_together
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
    """Write a dictionary to a folder, made if it is not there, whole or not at all.

    BatchTopK and Matryoshka become ``jumprelu`` with one threshold for all, a tied dictionary ``standard``, as SAELens
    has it; :func:`~sae_lens_audio.formats.load.load_sae` gives back what was saved. ``log_sparsity``: log10 of how
    often each feature fires.

    Raises:
        CheckpointError: weights that are not finite (a BatchTopK without a threshold too); nothing is written then.
    """
    folder = as_path(path)
    inner = sae.inner if isinstance(sae, NormalizedSAE) else sae
    form = _their_form(inner)
    check_tensors(form.tensors, {name: tuple(tensor.shape) for name, tensor in form.tensors.items()}, "this dictionary")
    digest = _digest(form.tensors)
    noted, ours = to_saelens(metadata or Metadata())
    ours |= {
        "version": _BLOCK_VERSION,
        "architecture": inner.architecture,
        "config": asdict(inner.config),
        "weights_sha256": digest,
    }
    if isinstance(inner, BatchTopK):
        ours["topk_threshold"] = inner.topk_threshold.item()  # float64; the tensor has the weights' precision
    cfg = _their_keys(sae, form) | {"metadata": noted | {"sae_lens_version": FORMAT_VERSION, BLOCK: ours}}
    files = {WEIGHTS: save(form.tensors, {"sha256": digest})}
    if log_sparsity is not None:
        check_tensors({"sparsity": log_sparsity}, {"sparsity": (inner.n_features,)}, "log_sparsity")
        files[SPARSITY] = save({"sparsity": log_sparsity.detach().cpu().contiguous()})
    files[CONFIG] = (json.dumps(cfg, indent=2) + "\n").encode()
    write_together(folder, files)
    if log_sparsity is None:
        (folder / SPARSITY).unlink(missing_ok=True)  # of another dictionary that was here


def _their_keys(sae: SAE | NormalizedSAE, form: _Form) -> dict[str, Any]:
    """What SAELens reads of our cfg.json."""
    inner = sae.inner if isinstance(sae, NormalizedSAE) else sae
    return {
        "architecture": form.architecture,
        "d_in": inner.d_in,
        "d_sae": inner.n_features,
        "dtype": dtype_name(inner.dtype),
        "device": "cpu",
        "apply_b_dec_to_input": inner.config.apply_b_dec_to_input,
        "normalize_activations": sae.normalisation if isinstance(sae, NormalizedSAE) else "none",
        "reshape_activations": "none",
        **form.extra,
    }


def _check_unedited(cfg: dict[str, Any], sae: SAE | NormalizedSAE, source: Path) -> None:
    """Refuse a cfg.json whose keys say something else than our block in it, which is what is read."""
    ours = _their_keys(sae, _their_form(sae.inner if isinstance(sae, NormalizedSAE) else sae))
    for key in sorted(set(cfg) - {"metadata", "device"}):
        if key not in ours or cfg[key] != ours[key]:
            says = f"{ours[key]!r} in" if key in ours else "not in"
            raise CheckpointError(
                f"{source}: {key!r} is {cfg[key]!r}, but {says} the block metadata.{BLOCK}, which is what is read: "
                f"the file was edited. Undo that, or remove the block to have {CONFIG} read as SAELens reads it"
            )


@dataclass(frozen=True)
class _Form:
    architecture: str
    extra: dict[str, Any]
    tensors: dict[str, Tensor]


def _their_form(sae: SAE) -> _Form:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sae.state_dict().items()}
    name, extra = sae.architecture, {}
    if isinstance(sae, Tied):
        name = "standard"
        tensors |= {"W_dec": tensors["W_enc"].T.clone(memory_format=torch.contiguous_format), "b_dec": sae.b_dec.cpu()}
    elif isinstance(sae, BatchTopK):
        if sae.topk_threshold.isnan():
            raise CheckpointError(
                f"this {name} dictionary has no threshold, so nothing can be encoded from its file: train it or "
                "calibrate_ it on activations first"
            )
        name = JumpReLU.architecture
        threshold = tensors.pop("topk_threshold").to(sae.dtype)
        tensors["threshold"] = threshold.repeat(sae.n_features)
    elif isinstance(sae, Transcoder):
        extra["d_out"] = sae.config.d_out
        if sae.config.skip:
            name = {"transcoder": "skip_transcoder", "jumprelu_transcoder": "jumprelu_skip_transcoder"}.get(name, name)
    if name in ("topk", "abstopk"):
        extra |= {"k": sae.config.k, "rescale_acts_by_decoder_norm": False}  # type: ignore[attr-defined]
    return _Form(name, extra, tensors)


def _digest(tensors: dict[str, Tensor]) -> str:
    return hashlib.sha256(save(tensors)).hexdigest()


def read_saelens(folder: Path, scaling_factor: float | int | None = None) -> Loaded:
    """A folder that SAELens or :func:`save_sae` wrote. ``scaling_factor``: of ``expected_average_only_in``, where the
    folder does not have it.

    Raises:
        CheckpointError: a file that is missing, damaged, not understood or that does not fit the others.
    """
    cfg, (tensors, header) = read_json(folder / CONFIG), read_safetensors(folder / WEIGHTS)
    block, digest = our_block(cfg), header.get("sha256")
    if digest is not None and block:
        if digest != block.get("weights_sha256"):
            raise CheckpointError(f"{folder / WEIGHTS} and {CONFIG} come from different saves: save it again")
        if digest != _digest(tensors):
            raise CheckpointError(f"{folder / WEIGHTS} is damaged, its digest differs: fetch or save it again")
        # a file without the digest was rewritten by somebody else: then only their keys hold
        sae, metadata = _own(cfg, block, tensors, folder)
        _check_unedited(cfg, sae, folder / CONFIG)
    else:
        config = parse(cfg, folder / CONFIG)
        sae, metadata = _foreign(config, tensors, folder, scaling_factor), config.metadata
    return Loaded(sae, metadata, folder / WEIGHTS, _log_sparsity(folder, sae.n_features))


def _own(
    cfg: dict[str, Any], block: Any, tensors: dict[str, Tensor], folder: Path
) -> tuple[SAE | NormalizedSAE, Metadata]:
    source = folder / CONFIG
    cls = ARCHITECTURES.get(str(block.get("architecture")))
    values = block.get("config")
    if block.get("version") != _BLOCK_VERSION or cls is None or not isinstance(values, dict):
        raise CheckpointError(
            f"{source}: the {BLOCK!r} block is not of version {_BLOCK_VERSION} or names no architecture of ours: "
            "read it with the version that wrote it"
        )
    if issubclass(cls, Tied):
        tensors = {name: tensors[name] for name in ("W_enc", "b_enc") if name in tensors}
    elif issubclass(cls, BatchTopK):
        threshold = block.get("topk_threshold")
        if not isinstance(threshold, float):
            raise CheckpointError(f"{source}: 'topk_threshold' must be a number, not {threshold!r}: save it again")
        tensors = {name: tensor for name, tensor in tensors.items() if name != "threshold"}
        tensors["topk_threshold"] = torch.tensor(threshold, dtype=torch.float64)
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    sae = build(cls, values, tensors, parse_dtype(cfg.get("dtype"), source), folder / WEIGHTS)
    normalisation = cfg.get("normalize_activations", "none")
    metadata = from_saelens(cfg["metadata"], source)
    extra = {key: value for key, value in metadata.extra.items() if key != "sae_lens_version"}
    return (sae if normalisation == "none" else NormalizedSAE(sae, normalisation)), replace(metadata, extra=extra)


def _foreign(
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
    # before folding, which would hide a wrong shape behind an error of torch
    build(config.cls, config.values, tensors, config.dtype, source)
    tensors = _folded(config, tensors, folder, scaling_factor)
    sae = build(config.cls, config.values, tensors, config.dtype, source)
    if config.normalisation in ("layer_norm", "constant_norm_rescale"):
        if isinstance(sae, Transcoder):
            raise CheckpointError(f"{folder / CONFIG}: 'normalize_activations' of a transcoder is not supported")
        return NormalizedSAE(sae, config.normalisation)  # type: ignore[arg-type]
    return sae


def _folded(
    config: SaeLensConfig, tensors: dict[str, Tensor], folder: Path, scaling_factor: float | int | None
) -> dict[str, Tensor]:
    if config.normalisation == "expected_average_only_in":
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
    elif config.normalisation == "covariance_whitening":
        statistics, _ = read_safetensors(folder / WHITENING)
        d = config.values["d_in"]
        shapes = {"mean": (d,), "matrix": (d, d), "inverse_matrix": (d, d)}
        check_tensors(statistics, shapes, folder / WHITENING)
        if config.rescaled_by_norm:  # whitening changes the norms that rank the features
            tensors = fold_decoder_norms(tensors, folder / WEIGHTS)
        centred = config.values["apply_b_dec_to_input"]
        return fold_whitening(tensors, statistics["mean"], statistics["matrix"], statistics["inverse_matrix"], centred)
    return fold_decoder_norms(tensors, folder / WEIGHTS) if config.rescaled_by_norm else tensors


def _log_sparsity(folder: Path, d_sae: int) -> Tensor | None:
    path = folder / SPARSITY
    if not path.is_file():
        return None
    tensors, _ = read_safetensors(path)
    check_tensors(tensors, {"sparsity": (d_sae,)}, path)
    return tensors["sparsity"]
