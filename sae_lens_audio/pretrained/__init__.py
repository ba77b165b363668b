"""SAEs of real Whisper: packaged folders ``<model>/<hook point>/<variant>``, and recipes to train more.

``SAE.from_pretrained("tiny.en", "encoder.blocks.2")`` loads one; ``available_saes()`` lists all.
"""

from sae_lens_audio.pretrained.catalog import AvailableSAE, AvailableSAEs, packaged_saes

__all__ = ["AvailableSAE", "AvailableSAEs", "packaged_saes"]
