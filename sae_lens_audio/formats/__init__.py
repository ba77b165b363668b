"""File formats: read and write SAELens folders, read sparsify and dictionary_learning folders, use the hub."""

from typing import TYPE_CHECKING

from hooked_whisper._support.lazy import lazily
from hooked_whisper._support.renamed import renamed_names
from sae_lens_audio.formats.files import LoadedSAE
from sae_lens_audio.formats.hub import from_pretrained
from sae_lens_audio.formats.load import load_sae
from sae_lens_audio.formats.metadata import Metadata
from sae_lens_audio.formats.saelens import save_sae

if TYPE_CHECKING:
    from sae_lens_audio.formats.push import push_to_hub

__all__ = ["LoadedSAE", "Metadata", "from_pretrained", "load_sae", "push_to_hub", "save_sae"]

_lazy, __dir__ = lazily(__name__, {"push_to_hub": "push"})  # loading SAEs needs no Whisper

__getattr__ = renamed_names(__name__, {"Loaded": "LoadedSAE"}, fallback=_lazy)
