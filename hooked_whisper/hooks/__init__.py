"""Hook points, names, caching."""

from hooked_whisper.hooks.cache import ActivationCache
from hooked_whisper.hooks.module import HookedModule, Hooks
from hooked_whisper.hooks.names import Names, canonical_name, resolve_names
from hooked_whisper.hooks.point import HookHandle, HookPoint, StackClock, watched

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
