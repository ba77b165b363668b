"""The model: parts, stacks, masks, weights by name."""

from hooked_whisper.model.attention import Attention, KVCache
from hooked_whisper.model.decoder import Decoder
from hooked_whisper.model.encoder import Encoder
from hooked_whisper.model.factored_matrix import FactoredMatrix
from hooked_whisper.model.masks import LocalWindow, local_window
from hooked_whisper.model.whisper import WhisperCore

__all__ = ["Attention", "Decoder", "Encoder", "FactoredMatrix", "KVCache", "LocalWindow", "WhisperCore", "local_window"]
