"""Checkpoints under our parameter names, strictly checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from hooked_whisper._support.files import reason
from hooked_whisper._support.showing import Showing
from hooked_whisper.config import WhisperConfig
from hooked_whisper.errors import CheckpointError
from hooked_whisper.loading.sniff import describe_names
from hooked_whisper.model import WhisperCore

UNEMBED_WEIGHT, UNEMBED_BIAS = "decoder.unembed.weight", "decoder.unembed.bias"

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, repr=False)
class Checkpoint(Showing):
    """A configuration and its tensors, under our parameter names.

    ``source`` names their origin. Tensors of a loaded model are shared with it until :func:`load_into` copies them.
    """

    config: WhisperConfig
    tensors: dict[str, Tensor]
    source: str
    metadata: dict[str, str] = field(default_factory=dict)


def parameter_shapes(config: WhisperConfig) -> Shapes:
    """Return the shape by name of every tensor that a model of this configuration always has.

    Raises:
        CheckpointError: torch cannot represent tensors of these sizes.
    """
    return dict(_shapes_on_meta(_shape_only(config)))


@lru_cache(maxsize=32)
def _shapes_on_meta(config: WhisperConfig) -> Shapes:
    """Take shapes from a model with one block per stack: all blocks are alike, and building the others takes time."""
    depths = {"encoder": config.encoder.n_layers, "decoder": config.decoder.n_layers}
    one_block = replace(config, **{stack: replace(getattr(config, stack), n_layers=1) for stack in depths})
    try:
        with torch.device("meta"):
            model = WhisperCore(one_block)
    except (RuntimeError, OverflowError, TypeError) as error:
        message = reason(error).splitlines()[0]
        raise CheckpointError(f"no tensors have the sizes of {config}: {message}") from None
    shapes: Shapes = {}
    for name, tensor in model.state_dict().items():
        stack, of_block, part = name.partition(".blocks.0.")
        names = [f"{stack}.blocks.{block}.{part}" for block in range(depths[stack])] if of_block else [name]
        shapes |= dict.fromkeys(names, tuple(tensor.shape))
    return shapes


def optional_shapes(config: WhisperConfig) -> Shapes:
    """Return the shape by name of the tensors that exist only if the unembedding is untied or has a bias."""
    return {UNEMBED_WEIGHT: (config.decoder.n_vocab, config.decoder.d_model), UNEMBED_BIAS: (config.decoder.n_vocab,)}


def make_checkpoint(
    config: WhisperConfig,
    tensors: Mapping[str, Tensor],
    source: str,
    *,
    metadata: Mapping[str, str] | None = None,
    foreign: Callable[[str], str] = str,
    require: Iterable[str] = (),
) -> Checkpoint:
    """Make a checkpoint after checking that ``tensors`` are exactly those of ``config``.

    Args:
        foreign: converts one of our names into the name that ``tensors`` and error messages use.
        require: optional tensors that must be present.

    Raises:
        CheckpointError: a name is missing or unexpected, or a shape or type is wrong. The message lists all of them.
    """
    n_blocks = config.encoder.n_layers + config.decoder.n_layers
    if n_blocks > max(256, len(tensors)):  # avoid an error message with a million missing names
        raise CheckpointError(f"{source}: its configuration has {n_blocks} blocks, but it holds {len(tensors)} tensors")
    try:
        required, optional = parameter_shapes(config), optional_shapes(config)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    required |= {name: optional[name] for name in require}
    expected = {foreign(name): (name, shape) for name, shape in (optional | required).items()}

    problems = _listed("missing", [foreign(name) for name in required if foreign(name) not in tensors])
    problems += _listed("unexpected", [name for name in tensors if name not in expected])
    by_name: dict[str, Tensor] = {}
    for name in tensors.keys() & expected.keys():
        tensor, (our_name, shape) = tensors[name], expected[name]
        if tuple(tensor.shape) != shape:
            problems.append(f"{name} has shape {tuple(tensor.shape)} instead of {shape}")
        elif not tensor.is_floating_point():
            problems.append(f"{name} is {tensor.dtype}, not floating point")
        by_name[our_name] = tensor
    if problems:
        description = describe_names(tensors.keys(), expected.keys())
        if description is not None:
            raise CheckpointError(f"{source} holds {description}")
        raise CheckpointError(f"{source} does not fit its configuration: {'; '.join(problems)}")
    return Checkpoint(config, by_name, source, dict(metadata or {}))


def from_core(model: WhisperCore) -> Checkpoint:
    """Return the weights of one of our models (shared, not copied)."""
    return make_checkpoint(model.cfg, model.state_dict(), f"{type(model).__name__} {model.cfg.name!r} in memory")


@torch.no_grad()
def load_into(model: WhisperCore, checkpoint: Checkpoint, dtype: torch.dtype | None = None) -> None:
    """Copy the weights into ``model``, converted to its dtype, or convert the model to ``dtype`` first.

    Tie or untie the unembedding as in the checkpoint. A model on the meta device is allocated here, on the CPU.

    Raises:
        CheckpointError: the checkpoint's configuration differs from the model's.
    """
    if _shape_only(model.cfg) != _shape_only(checkpoint.config):
        raise CheckpointError(
            f"{checkpoint.source} does not fit this model: it is for {_shape_only(checkpoint.config)}, "
            f"the model is {_shape_only(model.cfg)}"
        )
    if dtype is not None:
        model.to(dtype)
    for name in optional_shapes(model.cfg):
        tensor = checkpoint.tensors.get(name)
        empty = None if tensor is None else torch.empty(tensor.shape, dtype=model.dtype, device=model.device)
        set_unembed(model, name.rpartition(".")[2], empty)
    if model.device.type == "meta":
        copies = {
            name: torch.empty(tensor.shape, dtype=model.dtype).copy_(tensor)
            for name, tensor in checkpoint.tensors.items()
        }
        model.load_state_dict(copies, assign=True)
        return
    for name, parameter in model.state_dict().items():
        parameter.copy_(checkpoint.tensors[name])


def set_unembed(model: WhisperCore, which: str, value: Tensor | None) -> None:
    """Give the unembedding a separate ``weight`` or ``bias``, or remove it (``None``)."""
    setattr(model.decoder.unembed, which, None if value is None else nn.Parameter(value))


def _shape_only(config: WhisperConfig) -> WhisperConfig:
    return replace(config, name="", alignment_heads=None, vocabulary=None)


def _listed(what: str, names: list[str]) -> list[str]:
    return [f"{what} {', '.join(sorted(names))}"] if names else []
