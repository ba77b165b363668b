"""hooked_whisper: Whisper with a named, causal hook point on every activation and attention score."""

from typing import TYPE_CHECKING

from hooked_whisper._support.lazy import lazily

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

# sae_lens_audio trains with hooked_whisper.errors alone, without Whisper
__getattr__, __dir__ = lazily(
    __name__,
    {
        "ActivationCache": "hooks",
        "DecoderConfig": "config",
        "EncoderConfig": "config",
        "FactoredMatrix": "model",
        "HookPoint": "hooks",
        "HookedWhisper": "hooked",
        "HookedWhisperError": "errors",
        "WhisperConfig": "config",
        "local_window": "model",
    },
)
