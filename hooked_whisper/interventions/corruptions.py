"""The name that :mod:`hooked_whisper.patching.corruptions` had in version 0.1. Imports from here still warn."""

from hooked_whisper._support.renamed import renamed_names
from hooked_whisper.patching import corruptions

__getattr__ = renamed_names(
    __name__, {name: f"hooked_whisper.patching.corruptions:{name}" for name in corruptions.__all__}
)
