"""Read CTranslate2 (faster-whisper) checkpoints: ``model.bin``, with or without its ``config.json``.

Layout: binary version 6, ``WhisperSpec`` revisions 1 to 3, as CTranslate2's ``specs/model_spec.py`` writes it and
``src/models/model.cc`` reads it. Older binary versions predate Whisper. CTranslate2 is not imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hooked_whisper._support.files import read_json, reason
from hooked_whisper.config import DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.errors import CheckpointError
from hooked_whisper.loading.alignment_heads import with_listed_heads
from hooked_whisper.loading.binary import MAX_TENSORS, BinaryCursor, first_bytes
from hooked_whisper.loading.checkpoint import UNEMBED_BIAS, UNEMBED_WEIGHT, Checkpoint, make_checkpoint

MODEL, CONFIG = "model.bin", "config.json"
_BINARY_VERSION = 6
_REVISIONS = (1, 2, 3)
_DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)

_EMBEDDING, _PROJECTION = "decoder/embeddings/weight", "decoder/projection/weight"
_HEADS = ("encoder/num_heads", "decoder/num_heads")
_IGNORED_OPTIONS = ("decoder/alignment_layer", "decoder/alignment_heads")  # of CTranslate2's translators

# our names -> CTranslate2's
_NAMES = {
    "encoder.positional_embedding": "encoder/position_encodings/encodings",
    "decoder.positional_embedding": "decoder/position_encodings/encodings",
    "decoder.token_embedding.weight": _EMBEDDING,
    UNEMBED_WEIGHT: _PROJECTION,
    UNEMBED_BIAS: "decoder/projection/bias",
}
_MODULES = {
    "conv1.conv": "conv1",
    "conv2.conv": "conv2",
    "ln_post": "layer_norm",
    "ln_final": "layer_norm",
    "ln1": "self_attention/layer_norm",
    "ln_cross": "attention/layer_norm",
    "ln2": "ffn/layer_norm",
    "attn.query": "self_attention/linear_0",
    "attn.key": "self_attention/linear_0",
    "attn.value": "self_attention/linear_0",
    "attn.out": "self_attention/linear_1",
    "cross_attn.query": "attention/linear_0",
    "cross_attn.key": "attention/linear_1",
    "cross_attn.value": "attention/linear_1",
    "cross_attn.out": "attention/linear_2",
    "mlp.up": "ffn/linear_0",
    "mlp.down": "ffn/linear_1",
}
# suffix of a fused linear layer's name -> the projections that it combines
_FUSED = {
    "/self_attention/linear_0/weight": ("query", "key", "value"),
    "/self_attention/linear_0/bias": ("query", "key", "value"),
    "/attention/linear_1/weight": ("key", "value"),
    "/attention/linear_1/bias": ("key", "value"),
}


@dataclass(frozen=True)
class _Model:
    """The content of ``model.bin``, with dequantized tensors and resolved aliases. ``options`` has the scalars."""

    tensors: dict[str, Tensor]
    options: dict[str, float]
    revision: int
    quantization: str | None
    tied: bool


def is_ctranslate2(path: Path) -> bool:
    """Whether a file, or a folder's ``model.bin``, has the header of a CTranslate2 model (of any architecture)."""
    header = first_bytes(path / MODEL if path.is_dir() else path, 64)
    length = int.from_bytes(header[4:6], "little")
    spec = header[6 : 6 + length]
    return 2 <= int.from_bytes(header[:4], "little") < 256 and re.fullmatch(rb"\w{1,50}Spec\0", spec) is not None


def load_ctranslate2(path: Path, *, name: str | None = None) -> Checkpoint:
    """Load a folder with ``model.bin``, or such a file under any name.

    Sizes come from the tensors, so ``config.json`` may be absent. Alignment heads come from ``config.json``, else from
    the shape. ``metadata["quantization"]`` names the dequantized types; float16 and bfloat16 tensors keep theirs.

    Raises:
        CheckpointError: the file is truncated, has extra bytes, is inconsistent, or is not a CTranslate2 Whisper model.
    """
    path = Path(path)
    file = path / MODEL if path.is_dir() else path
    config_file = file.parent / CONFIG
    config = read_json(config_file) if config_file.is_file() else None
    folder = file.absolute().parent.name
    return _load([file], str(file), config, name or (folder if file.name == MODEL and folder else file.stem))


def load_ctranslate2_parts(parts: Sequence[Path], *, source: str, config: Mapping[str, Any] | None) -> Checkpoint:
    """Load a ``model.bin`` that is split into several files, in order, without joining them on disk.

    Args:
        parts: the files.
        source: their name in errors and in ``Checkpoint.source``.
        config: the content of ``config.json``, for the alignment heads.
    """
    return _load([Path(part) for part in parts], source, config, "whisper")


def ctranslate2_name(name: str) -> str:
    """Return CTranslate2's name of one of our parameters; a part of a fused layer has a suffix such as ``[key]``."""
    if name in _NAMES:
        return _NAMES[name]
    match = re.fullmatch(r"(encoder|decoder)(?:\.blocks\.(\d+))?\.(.+)\.(weight|bias)", name)
    if match is None or match[3] not in _MODULES:
        return name
    stack, block, module, kind = match.groups()
    if module.rpartition(".")[2].startswith("ln"):
        kind = {"weight": "gamma", "bias": "beta"}[kind]
    layer = "" if block is None else f"layer_{block}/"
    path = f"{stack}/{layer}{_MODULES[module]}/{kind}"
    projection = module.rpartition(".")[2]
    fused = any(path.endswith(suffix) and projection in names for suffix, names in _FUSED.items())
    return f"{path}[{projection}]" if fused else path


def _load(parts: Sequence[Path], source: str, config: Mapping[str, Any] | None, name: str) -> Checkpoint:
    model = _read(BinaryCursor(parts, source))
    _check_options(model, source)
    whisper_config = _config(model, source, name)
    metadata = {"format": f"CTranslate2, binary version {_BINARY_VERSION}, WhisperSpec revision {model.revision}"}
    if model.quantization:
        metadata["quantization"] = f"{model.quantization}, dequantized to float32"
    checkpoint = make_checkpoint(
        whisper_config,
        _split_fused(model.tensors, source),
        source,
        metadata=metadata,
        foreign=ctranslate2_name,
        require=() if model.tied else (UNEMBED_WEIGHT,),
    )
    heads = None if config is None else config.get("alignment_heads")
    return replace(checkpoint, config=with_listed_heads(whisper_config, heads, name, source))


def _read(cursor: BinaryCursor) -> _Model:
    version = cursor.number("I", "the binary version")
    if not 2 <= version < 256:
        raise cursor.error(f"not a CTranslate2 model: it starts with {version}, expected binary version 6")
    spec = _string(cursor, "the name of the model's specification")
    if spec != "WhisperSpec":
        raise cursor.error(f"a CTranslate2 model of {spec!r}, expected 'WhisperSpec': it is not Whisper")
    if version != _BINARY_VERSION:
        raise cursor.error(
            f"binary version {version} of the CTranslate2 format, expected {_BINARY_VERSION}: convert the model again"
        )
    revision = cursor.number("I", "the revision of WhisperSpec")
    if revision not in _REVISIONS:
        raise cursor.error(f"revision {revision} of WhisperSpec, expected one of {_REVISIONS}")

    variables: dict[str, Tensor] = {}
    for _ in range(cursor.count("I", "the number of variables", MAX_TENSORS)):
        name = _string(cursor, "a variable's name")
        if name in variables:
            raise cursor.error(f"variable {name!r} is repeated")
        variables[name] = _variable(cursor, name)
    quantized = {name: variables.pop(name) for name, tensor in list(variables.items()) if _is_quantized(name, tensor)}
    for name, tensor in quantized.items():
        variables[name] = _dequantized(name, tensor, variables.pop(f"{name}_scale", None), cursor)

    tied = False
    for _ in range(cursor.count("I", "the number of aliases", MAX_TENSORS)):
        alias, target = _string(cursor, "an alias"), _string(cursor, "the target of an alias")
        if alias in variables or target not in variables:
            problem = "which already exists" if alias in variables else "which does not exist"
            raise cursor.error(f"alias {alias!r} for {target!r}: {alias if alias in variables else target}, {problem}")
        if alias == _PROJECTION and target == _EMBEDDING:
            tied = True
        else:
            variables[alias] = variables[target]
    cursor.finish()

    tensors = {name: tensor for name, tensor in variables.items() if tensor.ndim}
    options = {name: float(tensor) for name, tensor in variables.items() if not tensor.ndim}
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in quantized.values()})
    return _Model(tensors, options, revision, " and ".join(kinds) or None, tied)


def _string(cursor: BinaryCursor, content: str) -> str:
    """Read a string: its length including the final zero byte, then its bytes and the zero."""
    length = cursor.number("H", f"the length of {content}")
    if length < 2:
        raise cursor.error(f"{content} at byte {cursor.position} is empty")
    name = cursor.name(length - 1, content)
    if cursor.number("B", f"the end of {content}"):
        raise cursor.error(f"{content} {name!r} does not end in a zero byte")
    return name


def _variable(cursor: BinaryCursor, name: str) -> Tensor:
    shape = cursor.shape("I", cursor.number("B", f"the rank of {name}"), name)
    type_id = cursor.number("B", f"the type of {name}")
    if type_id >= len(_DTYPES):
        raise cursor.error(f"{name} has type {type_id}, expected 0 to {len(_DTYPES) - 1}")
    dtype = _DTYPES[type_id]
    n_bytes, expected = cursor.number("I", f"the size of {name}"), dtype.itemsize * int(torch.Size(shape).numel())
    if n_bytes != expected:
        raise cursor.error(f"{name} claims {n_bytes} bytes; {dtype} of shape {shape} takes {expected}")
    return cursor.tensor(dtype, shape, name)


def _is_quantized(name: str, tensor: Tensor) -> bool:
    return tensor.ndim > 0 and not tensor.is_floating_point() and not name.endswith("_scale")


def _dequantized(name: str, tensor: Tensor, scale: Tensor | None, cursor: BinaryCursor) -> Tensor:
    """Return ``integer / scale`` in float32. The scale is one number (int16), or one per row (int8)."""
    if scale is None or tensor.dtype not in (torch.int8, torch.int16):
        raise cursor.error(
            f"{name} is {tensor.dtype} {'without' if scale is None else 'with'} {name}_scale, expected floating point, "
            "or int8 or int16 with a scale: other quantizations (AWQ) are not read"
        )
    if not scale.is_floating_point() or scale.shape not in ((), tensor.shape[:1]):
        raise cursor.error(
            f"{name}_scale is {scale.dtype} of shape {tuple(scale.shape)}, expected one floating-point number, or one "
            f"for each of the {tensor.shape[0]} rows of {name}"
        )
    scale = scale.float()
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise cursor.error(f"{name}_scale has values that are not positive and finite; fetch the file again")
    return tensor.float().div_(scale.reshape(scale.shape + (1,) * (tensor.ndim - scale.ndim)))


def _check_options(model: _Model, source: str) -> None:
    """Reject options that would change the forward pass."""
    gelu = 3 if model.revision >= 3 else 1  # the numbers of the activations changed with revision 3
    expected = {"decoder/pre_norm": 1, "decoder/activation": gelu}
    for name, value in model.options.items():
        if name in _HEADS or name in _IGNORED_OPTIONS:
            continue
        if value != expected.get(name, 0):
            raise CheckpointError(
                f"{source}: option {name} is {value:g}, expected {expected.get(name, 0)} for a Whisper model"
            )


def _config(model: _Model, source: str, name: str) -> WhisperConfig:
    """Build the configuration from the sizes of the tensors and the stored numbers of heads."""

    def size(tensor: str, rank: int, axis: int) -> int:
        if tensor not in model.tensors or model.tensors[tensor].ndim != rank:
            state = "absent" if tensor not in model.tensors else f"of shape {tuple(model.tensors[tensor].shape)}"
            raise CheckpointError(f"{source}: {tensor} is {state}, expected a tensor of rank {rank}")
        return model.tensors[tensor].shape[axis]

    def heads(option: str) -> int:
        value = model.options.get(option, 0.0)
        if not 1 <= value < 2**15 or value != int(value):
            state = f"{value:g}" if option in model.options else "absent"
            raise CheckpointError(f"{source}: {option} is {state}, expected the number of attention heads")
        return int(value)

    def layers(stack: str) -> int:
        matches = (re.match(rf"{stack}/layer_(\d{{1,6}})/", tensor) for tensor in model.tensors)
        indices = {int(match[1]) for match in matches if match}
        if indices != set(range(len(indices))) or not indices:
            raise CheckpointError(f"{source}: the {stack} has {len(indices)} layers, expected layers 0, 1, 2, ...")
        return len(indices)

    try:
        encoder = EncoderConfig(
            n_mels=size("encoder/conv1/weight", 3, 1),
            n_ctx=size(_NAMES["encoder.positional_embedding"], 2, 0),
            d_model=size("encoder/conv1/weight", 3, 0),
            n_heads=heads("encoder/num_heads"),
            n_layers=layers("encoder"),
            d_mlp=size("encoder/layer_0/ffn/linear_0/weight", 2, 0),
        )
        decoder = DecoderConfig(
            n_vocab=size(_EMBEDDING, 2, 0),
            n_ctx=size(_NAMES["decoder.positional_embedding"], 2, 0),
            d_model=size(_EMBEDDING, 2, 1),
            n_heads=heads("decoder/num_heads"),
            n_layers=layers("decoder"),
            d_mlp=size("decoder/layer_0/ffn/linear_0/weight", 2, 0),
        )
        return WhisperConfig(encoder, decoder, name)
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{source}: {reason(error)}") from None


def _split_fused(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Split fused layers into query, key and value, named as in :func:`ctranslate2_name`; drop the key's zero bias."""
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        projections = next((parts for suffix, parts in _FUSED.items() if name.endswith(suffix)), None)
        if projections is None:
            split[name] = tensor
            continue
        if tensor.shape[0] % len(projections):
            raise CheckpointError(
                f"{source}: {name} has {tensor.shape[0]} rows, expected a multiple of {len(projections)}, for "
                f"{', '.join(projections)}"
            )
        rows = dict(zip(projections, tensor.chunk(len(projections)), strict=True))
        if name.endswith("/bias"):
            key = rows.pop("key")
            if bool((key != 0).any()):  # NaN differs from 0 as well
                raise CheckpointError(
                    f"{source}: {name} has a key bias of up to {float(key.abs().max()):g}, expected zeros: Whisper's "
                    "key projections have none"
                )
        split |= {f"{name}[{projection}]": part for projection, part in rows.items()}
    return split
