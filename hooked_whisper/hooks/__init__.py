"""Hook points, names, caching."""

from hooked_whisper.hooks.activation_cache import ActivationCache
from hooked_whisper.hooks.hook_names import Names, canonical_name, resolve_names
from hooked_whisper.hooks.hook_point import HookHandle, HookPoint, StackClock, watched
from hooked_whisper.hooks.root_module import HookedModule, Hooks

__all__ = [
    "ActivationCache",
    "HookHandle",
    "HookPoint",
    "HookedModule",
    "Hooks",
    "Names",
    "StackClock",
    "canonical_name",
    "resolve_names",
    "watched",
]
