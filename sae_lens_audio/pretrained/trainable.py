"""SAEs that the recipes in this package train, and the commands that do it."""

from __future__ import annotations

from sae_lens_audio.pretrained.catalog import AvailableSAE


def trainable_saes(release: str | None = None) -> list[AvailableSAE]:
    """Return the SAEs that a recipe trains, of one release or all."""
    return []


def training_command(sae: AvailableSAE) -> str:
    """Return the command that trains an SAE of :func:`trainable_saes`."""
    return f"python -m sae_lens_audio.pretrained {sae.release}"
