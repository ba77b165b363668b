"""Hook points, their names, hooks, and caches of activations."""

from hooked_whisper._support.renamed import renamed_names
from hooked_whisper.hooks.activation_cache import ActivationCache
from hooked_whisper.hooks.hook_names import Names, resolve_names
from hooked_whisper.hooks.hook_point import HookHandle, HookPoint, StackClock
from hooked_whisper.hooks.root_module import HookedRootModule, Hooks
from hooked_whisper.hooks.sae_origin import SAEModelWarning

__all__ = [
    "ActivationCache",
    "HookHandle",
    "HookPoint",
    "HookedRootModule",
    "Hooks",
    "Names",
    "SAEModelWarning",
    "StackClock",
    "resolve_names",
]

__getattr__ = renamed_names(
    __name__,
    {
        "HookedModule": "HookedRootModule",
        "canonical_name": "hooked_whisper.model:canonical_name",
        "watched": "hooked_whisper.model.kernels:watched",
    },
)
