"""sae_lens_audio: sparse autoencoders (SAEs) for speech activations, in SAELens' formats and vocabulary.

- ``SAE.from_pretrained("tiny.en", "encoder.blocks.2")``: packaged SAEs, which ``available_saes`` lists
- architectures with the losses of their papers; ``load_sae``, ``save_sae`` and the hub; ``load_demo``: the demo model's
- :mod:`sae_lens_audio.activations`: ``collect_activations``, ``open_store``, sources for training
- :mod:`sae_lens_audio.training`: ``Trainer``, or ``sae-lens-audio train settings.toml``
- :mod:`sae_lens_audio.evals`: ``evaluate`` scores SAEs beside neurons, principal and random directions
- in a model: ``with model.attach_sae(sae, hook)``; ``ablate_latents``, ``clamp_latents``, ``steer_latents``,
  ``latent_attribution``
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hooked_whisper._support.lazy import lazily
from hooked_whisper._support.renamed import renamed_names

if TYPE_CHECKING:
    from sae_lens_audio.activations import collect_activations, open_store
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
    from sae_lens_audio.demo import demo_names, load_demo
    from sae_lens_audio.errors import TrainingError
    from sae_lens_audio.evals import Evaluation, evaluate, load_evaluation
    from sae_lens_audio.formats import LoadedSAE, Metadata, from_pretrained, load_sae, push_to_hub, save_sae
    from sae_lens_audio.latents import (
        LatentAttribution,
        ablate_latents,
        clamp_latents,
        latent_attribution,
        steer_latents,
    )
    from sae_lens_audio.releases import available_saes, load_release
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
    "available_saes",
    "clamp_latents",
    "collect_activations",
    "demo_names",
    "evaluate",
    "from_pretrained",
    "latent_attribution",
    "load_demo",
    "load_evaluation",
    "load_release",
    "load_sae",
    "open_store",
    "push_to_hub",
    "save_sae",
    "steer_latents",
]

# training and loading SAEs needs no Whisper, and `sae-lens-audio --help` no torch
_lazy, __dir__ = lazily(
    __name__,
    {
        "ARCHITECTURES": "architectures",
        "AbsTopK": "architectures",
        "BatchTopK": "architectures",
        "BatchTopKConfig": "architectures",
        "Crosscoder": "architectures",
        "CrosscoderConfig": "architectures",
        "DecodableBasis": "architectures",
        "Gated": "architectures",
        "GatedConfig": "architectures",
        "JumpReLU": "architectures",
        "JumpReLUConfig": "architectures",
        "JumpReLUTranscoder": "architectures",
        "JumpReLUTranscoderConfig": "architectures",
        "LoadedSAE": "formats",
        "Matryoshka": "architectures",
        "MatryoshkaConfig": "architectures",
        "Metadata": "formats",
        "NormalizedSAE": "architectures",
        "SAE": "architectures",
        "SAEConfig": "architectures",
        "Standard": "architectures",
        "StandardConfig": "architectures",
        "Tied": "architectures",
        "TiedConfig": "architectures",
        "TopK": "architectures",
        "TopKConfig": "architectures",
        "TopKTranscoder": "architectures",
        "TopKTranscoderConfig": "architectures",
        "TrainStepOutput": "architectures",
        "TrainingError": "errors",
        "Transcoder": "architectures",
        "TranscoderConfig": "architectures",
        "from_pretrained": "formats",
        "load_sae": "formats",
        "save_sae": "formats",
        "Evaluation": "evals",
        "LatentAttribution": "latents",
        "Trainer": "training",
        "TrainingConfig": "training",
        "ablate_latents": "latents",
        "available_saes": "releases",
        "clamp_latents": "latents",
        "demo_names": "demo",
        "evaluate": "evals",
        "collect_activations": "activations",
        "latent_attribution": "latents",
        "load_demo": "demo",
        "load_evaluation": "evals",
        "load_release": "releases",
        "open_store": "activations",
        "push_to_hub": "formats",
        "steer_latents": "latents",
    },
)


def _find(name: str) -> Any:
    if name in ("architectures", "errors", "formats"):  # modules that `import sae_lens_audio` gave in version 0.1
        return import_module(f"{__name__}.{name}")
    return _lazy(name)


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
    fallback=_find,
)
