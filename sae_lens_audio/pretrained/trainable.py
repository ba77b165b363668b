"""SAEs that the recipes in this package train, and the commands that do it."""

from __future__ import annotations

import re

from hooked_whisper.config import RELEASED
from hooked_whisper.model import canonical_name
from sae_lens_audio.formats import Metadata
from sae_lens_audio.pretrained.catalog import AvailableSAE, sae_id_of
from sae_lens_audio.pretrained.recipes import BLOCKS, Recipe, read_recipes


def trainable_saes(release: str | None = None) -> list[AvailableSAE]:
    """Return the SAEs that a recipe trains, of one release or all."""
    return [
        _described(model, recipe, block)
        for model, blocks in BLOCKS.items()
        if release in (None, model)
        for block in blocks
        for recipe in read_recipes()
    ]


def training_command(sae: AvailableSAE) -> str:
    """Return the command that trains an SAE of :func:`trainable_saes`."""
    recipe, block = sae.sae_id.partition("/")[2], re.findall(r"blocks\.(\d+)", sae.sae_id)[0]
    return (
        f"python -m sae_lens_audio.pretrained --model {sae.release} --audio SPEECH --runs RUNS --recipes {recipe} "
        f"--blocks {block}"
    )


def _described(model: str, recipe: Recipe, block: int) -> AvailableSAE:
    d_model = RELEASED[model].encoder.d_model
    hook = canonical_name(recipe.hooks(block)[0])
    metadata = Metadata(hook_name=hook, extra={"recipe": recipe.name})
    size = recipe.size(d_model)
    sae_id = sae_id_of(metadata, recipe.architecture, d_model, size)
    return AvailableSAE(model, sae_id, hook, recipe.architecture, d_model, size)
