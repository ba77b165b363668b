"""Recipes: complete for every width, found by name, scaled to other numbers of steps."""

from __future__ import annotations

import pytest

from hooked_whisper.config import RELEASED
from hooked_whisper.hooked import HookedWhisper
from sae_lens_audio.errors import TrainingError
from sae_lens_audio.pretrained.__main__ import _parser
from sae_lens_audio.pretrained.recipes import BLOCKS, read_recipe, read_recipes, recipe_names
from sae_lens_audio.pretrained.trainable import trainable_saes, training_command

WIDTHS = (128, 384, 512)


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("d_model", WIDTHS)
def test_recipe_makes_an_sae_of_any_width(name: str, d_model: int) -> None:
    recipe = read_recipe(name)
    settings = recipe.settings(d_model, block=2, seed=3)
    hooks = settings.activations.names
    sae = settings.make_sae((d_model,) * len(hooks))
    assert sae.n_features == recipe.size(d_model)
    assert settings.training.seed == 3
    assert sae.predicts_other_hook == (len(hooks) == 2)


def test_recipes_read_points_of_the_model() -> None:
    model = HookedWhisper.from_pretrained("demo", device="cpu")
    for recipe in read_recipes():
        for hook in recipe.hooks(2):
            assert len(model.hook_names(hook)) == 1


def test_fewer_steps_shorten_the_whole_schedule() -> None:
    recipe = read_recipe("jumprelu-x8")
    full, short = (
        recipe.settings(384, 2).training,
        recipe.settings(384, 2, steps=recipe.training["steps"] // 10).training,
    )
    for key in ("steps", "warmup_steps", "decay_steps", "sparsity_warmup_steps"):
        assert getattr(short, key) == round(getattr(full, key) / 10)
    assert short.lr == full.lr


def test_unknown_recipe_suggests_a_known_one() -> None:
    with pytest.raises(TrainingError, match="did you mean 'topk-x8'"):
        read_recipe("topk-8x")


def test_commands_of_trainable_saes_are_valid() -> None:
    saes = trainable_saes()
    assert {sae.release for sae in saes} == set(BLOCKS) <= set(RELEASED)
    assert len({(sae.release, sae.sae_id) for sae in saes}) == len(saes)
    for sae in saes:
        words = training_command(sae).split()
        parsed = _parser().parse_args(words[3:])
        assert parsed.model == sae.release
        assert read_recipe(parsed.recipes[0]).architecture == sae.architecture
        assert f"blocks.{parsed.blocks[0]}." in sae.hook_name
    assert {sae.release for sae in trainable_saes("base")} == {"base"}
