"""Recipes: what to train at a block of the encoder. ``recipes/<name>.toml`` has one each, for models of any width."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from hooked_whisper.errors import check_option, closest
from sae_lens_audio.errors import TrainingError
from sae_lens_audio.training.settings import Settings, parse_settings

FOLDER = Path(__file__).with_name("recipes")
BLOCKS: Mapping[str, tuple[int, ...]] = {"tiny.en": (0, 1, 2, 3), "base": (2, 3, 4, 5)}
"""Encoder blocks that are trained by default."""
Reads = Literal["resid", "mlp"]
_KEYS = {"reads", "expansion", "d_sae", "levels", "sae", "training"}


@dataclass(frozen=True)
class Recipe:
    """An SAE to train, without its block and the width of the model.

    Attributes:
        name: of the file; the variant in the SAE's id, such as ``"topk-x8"``.
        reads: ``"resid"``: the residual stream after a block. ``"mlp"``: a transcoder from the normalized input of
            the block's MLP to its output.
        expansion: features per dimension of the residual stream, unless ``d_sae`` is set.
        levels: shares of the features in each level of a Matryoshka SAE.
        sae, training: as in the settings of ``sae-lens-audio train``.
    """

    name: str
    reads: Reads
    sae: Mapping[str, Any]
    training: Mapping[str, Any]
    expansion: int = 0
    d_sae: int = 0
    levels: tuple[float, ...] = ()

    @property
    def architecture(self) -> str:
        return str(self.sae["architecture"])

    def hooks(self, block: int) -> tuple[str, ...]:
        """Return the hook points of a block: what is read and, for a transcoder, what is predicted."""
        return hooks_of(self.reads, block)

    def size(self, d_model: int) -> int:
        """Return the number of features for a model of this width."""
        return self.d_sae or self.expansion * d_model

    def settings(self, d_model: int, block: int, seed: int = 0, steps: int | None = None) -> Settings:
        """Return the settings of a run.

        seed: of the weights and of the order of rows. steps: fewer or more than the recipe's; warm-ups and decay
        change in proportion.
        """
        size, (hook, *hook_out) = self.size(d_model), self.hooks(block)
        sae = {**self.sae, "d_sae": size, "seed": seed}
        if self.levels:
            sae["widths"] = [round(share * size) for share in self.levels]
        activations = {"store": "activations", "hook": hook} | ({"hook_out": hook_out[0]} if hook_out else {})
        training = {**self.training, "seed": seed}
        if steps is not None:
            scale = steps / training["steps"]
            training |= {key: round(training[key] * scale) for key in training if key.endswith("steps")}
        return parse_settings({"activations": activations, "sae": sae, "training": training})


def hooks_of(reads: Reads, block: int) -> tuple[str, ...]:
    """Return the hook points of a block that a recipe reads and predicts."""
    check_option("reads", reads, get_args(Reads), TrainingError)
    base = f"encoder.blocks.{block}"
    return (base,) if reads == "resid" else (f"{base}.ln2.hook_normalized", f"{base}.hook_mlp_out")


def recipe_names() -> list[str]:
    """Return the names of the recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_recipe(name: str) -> Recipe:
    """Read a recipe by its name.

    Raises:
        TrainingError: there is no such recipe (the message has similar names), or its file has other keys.
    """
    path = FOLDER / f"{name}.toml"
    if not path.is_file():
        near = closest(name, recipe_names())
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise TrainingError(f"no recipe {name!r}: there are {', '.join(recipe_names())}{hint}")
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    if unknown := sorted(set(data) - _KEYS):
        raise TrainingError(f"{path} has no {unknown[0]!r}: a recipe has {', '.join(sorted(_KEYS))}")
    if data.get("reads") not in get_args(Reads) or ("expansion" in data) == ("d_sae" in data):
        raise TrainingError(f"{path} needs reads = {' or '.join(map(repr, get_args(Reads)))}, and expansion or d_sae")
    return Recipe(name=name, **data | {"levels": tuple(data.get("levels", ()))})


def read_recipes(names: Sequence[str] = ()) -> list[Recipe]:
    """Read some recipes, or all."""
    return [read_recipe(name) for name in names or recipe_names()]
