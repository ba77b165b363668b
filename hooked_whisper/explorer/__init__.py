"""A local page to listen to clips and intervene: cut and swap words, narrow attention, switch heads and neurons off."""

from hooked_whisper.explorer.clips import HeardClip, Shelf
from hooked_whisper.explorer.edits import Edits, Swap

__all__ = ["Edits", "HeardClip", "Shelf", "Swap"]
