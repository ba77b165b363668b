"""File formats: read and write SAELens folders, read sparsify and dictionary_learning folders, use the hub."""

from hooked_whisper._support.renamed import renamed_names
from sae_lens_audio.formats.files import LoadedSAE
from sae_lens_audio.formats.hub import from_pretrained, push_to_hub
from sae_lens_audio.formats.load import load_sae
from sae_lens_audio.formats.metadata import Metadata
from sae_lens_audio.formats.saelens import save_sae

__all__ = ["LoadedSAE", "Metadata", "from_pretrained", "load_sae", "push_to_hub", "save_sae"]

__getattr__ = renamed_names(__name__, {"Loaded": "LoadedSAE"})
