"""Activations for dictionaries: harvested once to the disk, or as the model runs.

- ``harvest`` writes a folder, ``open_store`` opens it: rows of one or several hook points, memory-mapped, with
  statistics and a split by speaker
- ``StoredBlocks``, ``StreamedBlocks`` and ``TensorBlocks`` give training its rows, all as ``Blocks``
"""

from typing import TYPE_CHECKING

from hooked_whisper._support.lazy import lazily
from sae_lens_audio.activations.blocks import Block, Blocks, TensorBlocks

if TYPE_CHECKING:
    from sae_lens_audio.activations.collecting import harvest
    from sae_lens_audio.activations.options import HarvestOptions
    from sae_lens_audio.activations.statistics import Statistics
    from sae_lens_audio.activations.store import Store, open_store
    from sae_lens_audio.activations.stored import StoredBlocks
    from sae_lens_audio.activations.streamed import StreamedBlocks

__all__ = [
    "Block",
    "Blocks",
    "HarvestOptions",
    "Statistics",
    "Store",
    "StoredBlocks",
    "StreamedBlocks",
    "TensorBlocks",
    "harvest",
    "open_store",
]

# training on tensors needs neither Whisper nor audio
__getattr__, __dir__ = lazily(
    __name__,
    {
        "HarvestOptions": "options",
        "Statistics": "statistics",
        "Store": "store",
        "StoredBlocks": "stored",
        "StreamedBlocks": "streamed",
        "harvest": "collecting",
        "open_store": "store",
    },
)
