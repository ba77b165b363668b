"""sae_lens_audio: sparse autoencoders (SAEs) for speech activations, in SAELens' formats and vocabulary.

- architectures with the losses of their papers; ``load_sae``, ``save_sae`` and the hub; ``load_demo``: packaged SAEs
- :mod:`sae_lens_audio.activations`: ``collect_activations``, ``open_store``, sources for training
- :mod:`sae_lens_audio.training`: ``Trainer``, or ``sae-lens-audio train settings.toml``
- :mod:`sae_lens_audio.evals`: ``evaluate`` scores SAEs beside neurons, principal and random directions
- in a model: ``with model.attach_sae(sae, hook)``; ``ablate_latents``, ``clamp_latents``, ``steer_latents``,
  ``latent_attribution``
"""

from typing import TYPE_CHECKING

from hooked_whisper._support.lazy import lazily
from hooked_whisper._support.renamed import renamed_names
from sae_lens_audio.architectures import (
    ARCHITECTURES,
    SAE,
    AbsTopK,
    BatchTopK,
    BatchTopKConfig,
    Crosscoder,
    CrosscoderConfig,
    DecodableBasis,
    Gated,
    GatedConfig,
    JumpReLU,
    JumpReLUConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    Matryoshka,
    MatryoshkaConfig,
    NormalizedSAE,
    SAEConfig,
    Standard,
    StandardConfig,
    Tied,
    TiedConfig,
    TopK,
    TopKConfig,
    TopKTranscoder,
    TopKTranscoderConfig,
    TrainStepOutput,
    Transcoder,
    TranscoderConfig,
)
from sae_lens_audio.errors import TrainingError
from sae_lens_audio.formats import LoadedSAE, Metadata, from_pretrained, load_sae, push_to_hub, save_sae

if TYPE_CHECKING:
    from sae_lens_audio.activations import collect_activations, open_store
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
    "SAE",
    "AbsTopK",
    "BatchTopK",
    "BatchTopKConfig",
    "Crosscoder",
    "CrosscoderConfig",
    "DecodableBasis",
    "Evaluation",
    "Gated",
    "GatedConfig",
    "JumpReLU",
    "JumpReLUConfig",
    "JumpReLUTranscoder",
    "JumpReLUTranscoderConfig",
    "LatentAttribution",
    "LoadedSAE",
    "Matryoshka",
    "MatryoshkaConfig",
    "Metadata",
    "NormalizedSAE",
    "SAEConfig",
    "Standard",
    "StandardConfig",
    "Tied",
    "TiedConfig",
    "TopK",
    "TopKConfig",
    "TopKTranscoder",
    "TopKTranscoderConfig",
    "TrainStepOutput",
    "Trainer",
    "TrainingConfig",
    "TrainingError",
    "Transcoder",
    "TranscoderConfig",
    "ablate_latents",
    "clamp_latents",
    "collect_activations",
    "demo_names",
    "evaluate",
    "from_pretrained",
    "latent_attribution",
    "load_demo",
    "load_evaluation",
    "load_sae",
    "open_store",
    "push_to_hub",
    "save_sae",
    "steer_latents",
]

# training and loading SAEs needs no Whisper
_lazy, __dir__ = lazily(
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
        "collect_activations": "activations",
        "latent_attribution": "latents",
        "load_demo": "demo",
        "load_evaluation": "evals",
        "open_store": "activations",
        "steer_latents": "latents",
    },
)

__getattr__ = renamed_names(
    __name__,
    {
        "Dictionary": "SAE",
        "DictionaryConfig": "SAEConfig",
        "Loaded": "LoadedSAE",
        "Losses": "TrainStepOutput",
        "Normalised": "NormalizedSAE",
        "SparseDictionary": "DecodableBasis",
        "harvest": "collect_activations",
    },
    fallback=_lazy,
)
