"""sae_lens_audio: sparse dictionaries for speech activations, in SAELens' formats and vocabulary.

- architectures with their papers' losses; ``load_sae``, ``save_sae`` and the hub; ``load_demo``: packaged dictionaries
- :mod:`sae_lens_audio.activations`: ``harvest``, ``open_store``, rows for training
- :mod:`sae_lens_audio.training`: ``Trainer``; or ``sae-lens-audio train settings.toml``
- :mod:`sae_lens_audio.evals`: ``evaluate``, every score beside neurons, principal and random directions
- in a model: ``with model.splice(sae, hook)``; ``ablate_latents``, ``clamp_latents``, ``steer_latents``,
  ``latent_attribution``
"""

from typing import TYPE_CHECKING

from hooked_whisper._support.lazy import lazily
from sae_lens_audio.architectures import (
    ARCHITECTURES,
    AbsTopK,
    BatchTopK,
    BatchTopKConfig,
    Crosscoder,
    CrosscoderConfig,
    Dictionary,
    DictionaryConfig,
    Gated,
    GatedConfig,
    JumpReLU,
    JumpReLUConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    Losses,
    Matryoshka,
    MatryoshkaConfig,
    Normalised,
    SparseDictionary,
    Standard,
    StandardConfig,
    Tied,
    TiedConfig,
    TopK,
    TopKConfig,
    TopKTranscoder,
    TopKTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)
from sae_lens_audio.errors import TrainingError
from sae_lens_audio.formats import Loaded, Metadata, from_pretrained, load_sae, push_to_hub, save_sae

if TYPE_CHECKING:
    from sae_lens_audio.activations import harvest, open_store
    from sae_lens_audio.demo import demo_names, load_demo
    from sae_lens_audio.evals import Evaluation, evaluate, load_evaluation
    from sae_lens_audio.latents import (
        LatentAttribution,
        ablate_latents,
        clamp_latents,
        latent_attribution,
        steer_latents,
    )
    from sae_lens_audio.training import Trainer, TrainingConfig

__all__ = [
    "ARCHITECTURES",
    "AbsTopK",
    "BatchTopK",
    "BatchTopKConfig",
    "Crosscoder",
    "CrosscoderConfig",
    "Dictionary",
    "DictionaryConfig",
    "Evaluation",
    "Gated",
    "GatedConfig",
    "JumpReLU",
    "JumpReLUConfig",
    "JumpReLUTranscoder",
    "JumpReLUTranscoderConfig",
    "LatentAttribution",
    "Loaded",
    "Losses",
    "Matryoshka",
    "MatryoshkaConfig",
    "Metadata",
    "Normalised",
    "SparseDictionary",
    "Standard",
    "StandardConfig",
    "Tied",
    "TiedConfig",
    "TopK",
    "TopKConfig",
    "TopKTranscoder",
    "TopKTranscoderConfig",
    "Trainer",
    "TrainingConfig",
    "TrainingError",
    "Transcoder",
    "TranscoderConfig",
    "ablate_latents",
    "clamp_latents",
    "demo_names",
    "evaluate",
    "from_pretrained",
    "harvest",
    "latent_attribution",
    "load_demo",
    "load_evaluation",
    "load_sae",
    "open_store",
    "push_to_hub",
    "save_sae",
    "steer_latents",
]

# what only trains or loads dictionaries needs no Whisper
__getattr__, __dir__ = lazily(
    __name__,
    {
        "Evaluation": "evals",
        "LatentAttribution": "latents",
        "Trainer": "training",
        "TrainingConfig": "training",
        "ablate_latents": "latents",
        "clamp_latents": "latents",
        "demo_names": "demo",
        "evaluate": "evals",
        "harvest": "activations",
        "latent_attribution": "latents",
        "load_demo": "demo",
        "load_evaluation": "evals",
        "open_store": "activations",
        "steer_latents": "latents",
    },
)
