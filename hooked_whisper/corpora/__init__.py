"""Corpora of recordings: folders, manifests, data sets; with words and phones where somebody aligned them."""

from hooked_whisper.corpora.records import Recording, fingerprint

__all__ = ["Recording", "fingerprint"]
