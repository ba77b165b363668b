"""Activations to train SAEs on: collected once to the disk, or streamed while the model runs.

- ``collect_activations`` writes a folder, ``open_store`` opens it: memory-mapped rows of one or several hook points,
  with statistics and a split by speaker
- ``StoredActivations``, ``StreamedActivations`` and ``TensorActivations`` are sources for training, all with the
  interface ``ActivationSource``; ``JoinedActivations`` makes one of several
"""

from typing import TYPE_CHECKING

from hooked_whisper._support.lazy import lazily
from hooked_whisper._support.renamed import renamed_names
from sae_lens_audio.activations.sources import ActivationChunk, ActivationSource, TensorActivations

if TYPE_CHECKING:
    from sae_lens_audio.activations.collecting import collect_activations
    from sae_lens_audio.activations.joined import JoinedActivations
    from sae_lens_audio.activations.options import CollectOptions
    from sae_lens_audio.activations.statistics import Statistics
    from sae_lens_audio.activations.store import ActivationStore, open_store
    from sae_lens_audio.activations.stored import StoredActivations
    from sae_lens_audio.activations.streamed import StreamedActivations

__all__ = [
    "ActivationChunk",
    "ActivationSource",
    "ActivationStore",
    "CollectOptions",
    "JoinedActivations",
    "Statistics",
    "StoredActivations",
    "StreamedActivations",
    "TensorActivations",
    "collect_activations",
    "open_store",
]

# training on tensors needs neither Whisper nor audio
_lazy, __dir__ = lazily(
    __name__,
    {
        "CollectOptions": "options",
        "JoinedActivations": "joined",
        "Statistics": "statistics",
        "ActivationStore": "store",
        "StoredActivations": "stored",
        "StreamedActivations": "streamed",
        "collect_activations": "collecting",
        "open_store": "store",
    },
)

__getattr__ = renamed_names(
    __name__,
    {
        "Block": "ActivationChunk",
        "Blocks": "ActivationSource",
        "HarvestOptions": "sae_lens_audio.activations.options:CollectOptions",
        "Store": "sae_lens_audio.activations.store:ActivationStore",
        "StoredBlocks": "sae_lens_audio.activations.stored:StoredActivations",
        "StreamedBlocks": "sae_lens_audio.activations.streamed:StreamedActivations",
        "TensorBlocks": "TensorActivations",
        "harvest": "sae_lens_audio.activations.collecting:collect_activations",
    },
    fallback=_lazy,
)
