"""Warn if an SAE is attached to another model, or at another hook point, than its metadata records."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from hooked_whisper._support.files import tensors_sha256
from hooked_whisper.config import ALIASES, RELEASED
from hooked_whisper.errors import UnknownHookError

if TYPE_CHECKING:
    from hooked_whisper.hooks.root_module import HookedRootModule

# hashing takes 0.2 s for tiny.en: done once per model, and again after its weights change
_DIGESTS: WeakKeyDictionary[nn.Module, tuple[tuple[tuple[int, int], ...], str]] = WeakKeyDictionary()


class SAEModelWarning(UserWarning):
    """An SAE is used with another model, or at another hook point, than the one it was trained on."""


def warn_of_other_model(model: nn.Module, name: str, sae: Any, stacklevel: int) -> None:
    """Warn if ``sae.metadata`` records another model (``checkpoint``) or other weights (``checkpoint_sha256``).

    Weights are compared in float32 only, the dtype in which SAEs record them. An SAE without metadata passes.

    name: of the model, ``cfg.name``.
    """
    metadata = getattr(sae, "metadata", None)
    trained_on, recorded = getattr(metadata, "checkpoint", None), getattr(metadata, "checkpoint_sha256", None)
    if not isinstance(trained_on, str):
        return
    names = (_short(trained_on), _short(name))
    if names[0] != names[1] and RELEASED.keys() >= set(names):
        problem = f"{names[0]}, but is attached to {names[1]}"
    elif isinstance(recorded, str) and _comparable(model) and _digest(model) != recorded:
        problem = (
            f"{trained_on} with the weights {recorded[:12]}..., but is attached to {name} with the weights "
            f"{_digest(model)[:12]}... (another model, or fine-tuned, edited or processed)"
        )
    else:
        return
    warnings.warn(
        f"this SAE was trained on {problem}: its features mean little here. Load the model that it was trained on, or "
        "ignore SAEModelWarning if you compare models",
        SAEModelWarning,
        stacklevel=stacklevel + 1,
    )


def warn_of_other_hook(model: HookedRootModule, hook: object, sae: Any, stacklevel: int) -> None:
    """Warn if ``sae.metadata`` records another hook point (``hook_name``) than ``hook``.

    An SAE passes if it records none, several (a crosscoder), or one that this model lacks.
    """
    recorded = getattr(getattr(sae, "metadata", None), "hook_name", None)
    if not isinstance(recorded, str) or not isinstance(hook, str):
        return
    try:
        trained_at, attached_at = model.hook_names(recorded), model.hook_names(hook)
    except UnknownHookError:  # of the recorded point; attaching reports that of ``hook``
        return
    if trained_at != attached_at:
        warnings.warn(
            f"this SAE was trained at {trained_at[0]}, but is attached at {attached_at[0]}: its features mean little "
            f"there. Attach it at {trained_at[0]}, or ignore SAEModelWarning if you compare hook points",
            SAEModelWarning,
            stacklevel=stacklevel + 1,
        )


def _short(name: str) -> str:
    short = name.removeprefix("openai/").removeprefix("whisper-")
    return ALIASES.get(short, short)


def _comparable(model: nn.Module) -> bool:
    return all(p.dtype == torch.float32 and p.device.type != "meta" for p in model.parameters())


def _digest(model: nn.Module) -> str:
    versions = tuple((p.data_ptr(), p._version) for p in model.parameters())
    if _DIGESTS.get(model, (None, ""))[0] != versions:
        _DIGESTS[model] = versions, tensors_sha256(model.state_dict())
    return _DIGESTS[model][1]
