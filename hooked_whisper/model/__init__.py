"""The model: parts, stacks, masks, weights by name."""

from typing import TYPE_CHECKING

from hooked_whisper._support.lazy import lazily

if TYPE_CHECKING:
    from hooked_whisper.model.attention import Attention
    from hooked_whisper.model.decoder import Decoder
    from hooked_whisper.model.encoder import Encoder
    from hooked_whisper.model.factored_matrix import FactoredMatrix
    from hooked_whisper.model.kv_cache import KVCache
    from hooked_whisper.model.masks import LocalWindow, local_window
    from hooked_whisper.model.names import canonical_name
    from hooked_whisper.model.whisper import WhisperCore

__all__ = [
    "Attention",
    "Decoder",
    "Encoder",
    "FactoredMatrix",
    "KVCache",
    "LocalWindow",
    "WhisperCore",
    "canonical_name",
    "local_window",
]

# lazy: sae_lens_audio imports the kernels without the model and its dependencies
__getattr__, __dir__ = lazily(
    __name__,
    {
        "Attention": "attention",
        "Decoder": "decoder",
        "Encoder": "encoder",
        "FactoredMatrix": "factored_matrix",
        "KVCache": "kv_cache",
        "LocalWindow": "masks",
        "WhisperCore": "whisper",
        "canonical_name": "names",
        "local_window": "masks",
    },
)
