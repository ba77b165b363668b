"""Architectures: one file each, with the loss of its paper. Importing a subclass of :class:`SAE` registers it."""

from hooked_whisper._support.renamed import renamed_names
from sae_lens_audio.architectures.base import ARCHITECTURES, SAE, DecodableBasis
from sae_lens_audio.architectures.batch_topk import BatchTopK, BatchTopKConfig
from sae_lens_audio.architectures.config import SAEConfig
from sae_lens_audio.architectures.crosscoder import Crosscoder, CrosscoderConfig
from sae_lens_audio.architectures.decoder import decoder_norms, normalize_rows_, remove_parallel_gradient_
from sae_lens_audio.architectures.gated import Gated, GatedConfig
from sae_lens_audio.architectures.jumprelu import JumpReLU, JumpReLUConfig
from sae_lens_audio.architectures.matryoshka import Matryoshka, MatryoshkaConfig
from sae_lens_audio.architectures.metadata import Metadata
from sae_lens_audio.architectures.normalized import NormalizedSAE
from sae_lens_audio.architectures.outputs import TrainStepOutput
from sae_lens_audio.architectures.saelens_names import SAECfg
from sae_lens_audio.architectures.standard import Standard, StandardConfig
from sae_lens_audio.architectures.tied import Tied, TiedConfig
from sae_lens_audio.architectures.topk import AbsTopK, TopK, TopKConfig
from sae_lens_audio.architectures.transcoder import (
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    TopKTranscoder,
    TopKTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)

__all__ = [
    "ARCHITECTURES",
    "SAE",
    "AbsTopK",
    "BatchTopK",
    "BatchTopKConfig",
    "Crosscoder",
    "CrosscoderConfig",
    "DecodableBasis",
    "Gated",
    "GatedConfig",
    "JumpReLU",
    "JumpReLUConfig",
    "JumpReLUTranscoder",
    "JumpReLUTranscoderConfig",
    "Matryoshka",
    "MatryoshkaConfig",
    "Metadata",
    "NormalizedSAE",
    "SAECfg",
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
    "Transcoder",
    "TranscoderConfig",
    "decoder_norms",
    "normalize_rows_",
    "remove_parallel_gradient_",
]

__getattr__ = renamed_names(
    __name__,
    {
        "Dictionary": "SAE",
        "DictionaryConfig": "SAEConfig",
        "Losses": "TrainStepOutput",
        "Normalised": "NormalizedSAE",
        "SparseDictionary": "DecodableBasis",
        "normalise_rows_": "normalize_rows_",
    },
)
