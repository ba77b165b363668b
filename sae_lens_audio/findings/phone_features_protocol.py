"""The protocol of F6 on released models, in words."""

from __future__ import annotations

from collections.abc import Iterable

from sae_lens_audio.findings.packaged_saes import Origin
from sae_lens_audio.findings.phone_features_scores import MIN_TOKENS
from sae_lens_audio.findings.published_names import RULE
from sae_lens_audio.findings.trained_saes import (
    TIED_FEATURES,
    TIED_TRAINING,
    TOPK_K,
    TOPK_TRAINING,
    TOPK_WIDTH,
)

_OBJECTS = (
    "Two sparse autoencoders (SAEs) of the residual stream after each of the last two encoder blocks (2 and 3 of tiny, "
    f"as published). The published form is tied, without decoder bias: {TIED_FEATURES} features, loss 1e4 times the "
    "mean squared error plus L1, RAdam with a cosine schedule. The other is a TopK SAE. "
)
_PACKAGED = (
    "Packaged SAEs, named with their hash among the parameters, were trained beforehand on hours of speech without the "
    "held-out voices; they are the same for every seed. "
)
_TRAINED = (
    "SAEs of this run were trained on the packaged speech by the training voices, in five languages, several per "
    "30 s window, at positions within phones (the original included padding): the published form with "
    f"{TIED_TRAINING.steps:,} steps of {TIED_TRAINING.batch:,} positions and learning rate {TIED_TRAINING.lr:g} "
    f"(original: 20,000 steps of 50 files, 0.0004); TopK with {TOPK_WIDTH} features per dimension, k {TOPK_K}, and "
    f"{TOPK_TRAINING.steps:,} steps. "
)
_EVALUATION = (
    "Evaluation: clips with other voices and sentences, several per window. The phone, sign and threshold of a "
    "feature come from speakers other than those its F1 is computed on. Phones with fewer than "
    f"{MIN_TOKENS} tokens, silence, and features that never fire are excluded. The claim is about the published form, "
    "so that is judged, each criterion in the block where it does worse; TopK is shown for comparison. The number of "
    "principal directions is that of the published form's features: later ones have almost no variance and would lower "
    "the mean. Controls, each in the block where it does best: as many random directions through a ReLU, the published "
    "form with its initial weights, and the trained features with labels rotated within each window. Intervals: 95 %, "
    "bootstrap over features. The best feature of a phone is selected on the data that it is scored on; the best of as "
    "many random directions shows the effect of that selection. A sparse feature is 0 at most positions: these ties "
    "keep its AUC below about (1 + recall)/2, so phones are counted as covered by F1. Features published by name: "
    f"{RULE}."
)
PROTOCOL = (
    f"{_OBJECTS}SAEs that are packaged for the checkpoint are used, and the others are trained in the run. {_PACKAGED}"
    f"{_TRAINED}{_EVALUATION}"
)


def protocol_of(origins: Iterable[Origin]) -> str:
    """Return the protocol of a run, which names only the kinds of SAEs that it used."""
    kinds = {origin.is_loaded for origin in origins}
    if len(kinds) == 2:
        return PROTOCOL
    return f"{_OBJECTS}{_PACKAGED if True in kinds else _TRAINED}{_EVALUATION}"
