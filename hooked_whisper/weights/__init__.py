"""The name that :mod:`hooked_whisper.loading` had in version 0.1. Imports from here still work and warn."""

from hooked_whisper import loading
from hooked_whisper._support.renamed import renamed_names

__getattr__ = renamed_names(__name__, {name: f"{loading.__name__}:{name}" for name in loading.__all__})
