"""hooked_whisper: Whisper with a named, causal hook point on every activation and attention score."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hooked_whisper.config import DecoderConfig, EncoderConfig, WhisperConfig
    from hooked_whisper.errors import HookedWhisperError
    from hooked_whisper.hooked import HookedWhisper
    from hooked_whisper.hooks import ActivationCache, HookPoint
    from hooked_whisper.model import FactoredMatrix, local_window

__version__ = "0.1.0"

__all__ = [
    "ActivationCache",
    "DecoderConfig",
    "EncoderConfig",
    "FactoredMatrix",
    "HookPoint",
    "HookedWhisper",
    "HookedWhisperError",
    "WhisperConfig",
    "local_window",
]

_MODULES = {
    "ActivationCache": "hooks",
    "DecoderConfig": "config",
    "EncoderConfig": "config",
    "FactoredMatrix": "model",
    "HookPoint": "hooks",
    "HookedWhisper": "hooked",
    "HookedWhisperError": "errors",
    "WhisperConfig": "config",
    "local_window": "model",
}


def __getattr__(name: str) -> Any:
    """Imported when first asked for: sae_lens_audio trains with ``hooked_whisper.errors`` alone, without Whisper."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
